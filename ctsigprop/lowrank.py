"""Weights and their derivatives as plasticity makes them: a matrix, scaled, and outer products.

While a rule is a sum of outer products and a decay of rows, every stage of a Runge-Kutta step is

    W = diag(d) W_0 + M Fᵀ

with the matrix W_0 that the step began with. A product W x then costs one product with W_0, and
nothing of the size of W has to be written before the step is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

__all__ = ["Factors", "LowRank"]


@final
@dataclass(frozen=True)
class Factors:
    """dW/dt = Σ_k post_k ⊗ pre_k + decay · W, without a matrix of that size.

    Parameters
    ----------
    outer : tuple of (Tensor, Tensor)
        Columns of post ``(post, r)`` and of pre ``(pre, r)``.
    decay : Tensor or None
        A number, or one for each row, ``(post,)``, or for each column, ``(pre,)``: of one kind in
        all rules of a synapse.
    """

    outer: tuple[tuple[Tensor, Tensor], ...]
    decay: Tensor | None = None

    def __add__(self, other: Factors) -> Factors:
        """Return the sum of two rules."""
        decays = [f.decay for f in (self, other) if f.decay is not None]
        decay = None if not decays else decays[0] if len(decays) == 1 else decays[0] + decays[1]
        return Factors(self.outer + other.outer, decay)

    def scaled(self, factor: Tensor) -> Factors:
        """Return the rule times a number, as a gate has it."""
        outer = tuple((post * factor, pre) for post, pre in self.outer)
        return Factors(outer, None if self.decay is None else self.decay * factor)


@final
class LowRank:
    """W = diag(d) W_0 + M Fᵀ, or W_0 diag(d) + F Mᵀ, as far as neurons and rules need it.

    Parameters
    ----------
    base : Tensor
        W_0, ``(post, pre)``.
    by_row : bool
        Whether d scales the rows.
    d : Tensor or None
        ``(post,)`` or ``(pre,)``; None is one.
    M, F : Tensor
        What moves, on the side of d, ``(post or pre, rank)``; and what stays, on the other.
    """

    def __init__(self, base: Tensor, by_row: bool, d: Tensor | None, M: Tensor, F: Tensor) -> None:
        self.base, self.by_row, self.d, self.M, self.F = base, by_row, d, M, F
        self.products: list[tuple[Tensor, Tensor]] = []

    @property
    def dtype(self) -> torch.dtype:
        """The type of the numbers."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.base.device

    def apply(self, x: Tensor) -> Tensor:
        """Return W x for activities ``(pre,)`` or ``(batch, pre)``."""
        if self.by_row:
            through = self.through(x)
            scaled = through if self.d is None else through * self.d
            return scaled + (x @ self.F) @ self.M.T
        scaled = x if self.d is None else x * self.d
        return self.through(scaled) + (x @ self.M) @ self.F.T

    def through(self, x: Tensor) -> Tensor:
        """Return W_0 x, remembered: plasticity often asks for what the neurons have asked for."""
        for known, product in self.products:
            if known is x or (known.shape == x.shape and known.data_ptr() == x.data_ptr()):
                return product
        product = torch.mv(self.base, x) if x.dim() == 1 else x @ self.base.T
        self.products.append((x, product))
        return product
