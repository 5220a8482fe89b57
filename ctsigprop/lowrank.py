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

__all__ = ["Alike", "Factors", "LowRank", "Products"]

REMEMBERED = 4
"""How many products with W_0 are kept."""


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
class Products:
    """W_0 x for some x, remembered: plasticity asks for what the neurons have asked for.

    And a held input asks for the same product in every stage.

    Parameters
    ----------
    base : Tensor
        W_0, ``(post, pre)``.
    """

    def __init__(self, base: Tensor) -> None:
        self.base = base
        self.known: list[tuple[Alike, Tensor]] = []

    def __call__(self, x: Tensor) -> Tensor:
        """Return W_0 x for activities ``(pre,)`` or ``(batch, pre)``."""
        for k, (known, product) in enumerate(self.known):
            if known.same(x, k == 0):
                return product
        product = torch.mv(self.base, x) if x.dim() == 1 else x @ self.base.T
        self.known = [(Alike(x), product), *self.known[: REMEMBERED - 1]]
        return product


@final
class Alike:
    """A tensor's values, and where they lay, to be found again without looking at all of them."""

    def __init__(self, values: Tensor) -> None:
        self.place, self.values = values.data_ptr(), values.clone()

    def same(self, other: Tensor, elsewhere: bool) -> bool:
        """Say whether another tensor has these values; by default only one in their old place."""
        near = elsewhere or other.data_ptr() == self.place
        return near and torch.equal(self.values, other)


@final
class LowRank:
    """W = diag(d) W_0 + M Fᵀ, or W_0 diag(d) + F Mᵀ, as far as neurons and rules need it.

    Parameters
    ----------
    through : Products
        W_0 times activities.
    by_row : bool
        Whether d scales the rows.
    d : Tensor
        ``(post,)`` or ``(pre,)``.
    M, F : Tensor
        What moves, on the side of d, ``(post or pre, rank)``; and what stays, on the other.
    """

    def __init__(self, through: Products, by_row: bool, d: Tensor, M: Tensor, F: Tensor) -> None:
        self.through, self.by_row, self.d, self.M, self.F = through, by_row, d, M, F

    @property
    def dtype(self) -> torch.dtype:
        """The type of the numbers."""
        return self.M.dtype

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.M.device

    def new_full(self, size: tuple[int, ...], value: float) -> Tensor:
        """Return a tensor of one value, in the type of the weights."""
        return self.M.new_full(size, value)

    def apply(self, x: Tensor) -> Tensor:
        """Return W x for activities ``(pre,)`` or ``(batch, pre)``."""
        if self.by_row:
            return self.through(x) * self.d + (x @ self.F) @ self.M.T
        return self.through(x * self.d) + (x @ self.M) @ self.F.T
