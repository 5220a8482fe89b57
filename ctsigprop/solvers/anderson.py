"""Extrapolation of a fixed-point iteration from its last iterates."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Anderson"]

RIDGE = 1e-6  # of the squared length of each step, by which they are held apart


class Anderson:
    """Extrapolation of a fixed-point iteration y -> g(y) of each sample from its last sweeps.

    With residuals r = g(y) − y, and Δ for what changed from one sweep to the next, the next y is

        y = g_n − Σ γ_k Δg_k,    γ least squares of r_n = Σ γ_k Δr_k

    Parameters
    ----------
    depth : int
        How many changes are remembered.

    Attributes
    ----------
    sweeps : int
        How many it was told of.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.sweeps = 0
        self._value = torch.empty(0)

    def remember(self, y: Tensor, g: Tensor) -> None:
        """Take note of a sweep from y to g(y), ``(samples, n)``; g is not to be written again."""
        residual = g - y
        if self.sweeps:  # what is not yet remembered is zero, and has no share
            place = (self.sweeps - 1) % self.depth
            torch.sub(residual, self._residual, out=self._rows[place])
            torch.sub(g, self._value, out=self._changes[:, place])
        else:
            self._begin(g)
        self._residual.copy_(residual)
        self._value = g
        self.sweeps += 1

    def extrapolate(self) -> Tensor:
        """Return where to go on from, ``(samples, n)``, once a sweep is remembered."""
        g = self._value
        if self.sweeps == 1:
            return g
        torch.bmm(self._known, self._known.mT, out=self._products)
        self._own.mul_(1 + RIDGE).add_(torch.finfo(g.dtype).tiny ** 0.5)
        shares = torch.linalg.solve_ex(self._gram, self._onto)[0]
        return torch.baddbmm(g.unsqueeze(-1), self._changes.mT, shares, alpha=-1).squeeze(-1)

    def _begin(self, like: Tensor) -> None:
        samples, n = like.shape
        self._known = like.new_zeros(samples, self.depth + 1, n)  # Δr, and r at the end
        *self._rows, self._residual = self._known.unbind(1)
        self._changes = like.new_zeros(samples, self.depth, n)
        self._products = like.new_zeros(samples, self.depth + 1, self.depth + 1)
        self._gram = self._products[:, :-1, :-1]
        self._own = self._gram.diagonal(dim1=-2, dim2=-1)
        self._onto = self._products[:, :-1, -1:]
