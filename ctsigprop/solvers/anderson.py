"""Extrapolation of a fixed-point iteration from its last iterates."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Anderson"]

RIDGE = 1e-6  # of the steps' squared lengths, by which they are held apart


class Anderson:
    """Extrapolation of a fixed-point iteration y -> g(y) of each sample from its last sweeps.

    The next y is the mixture of the last g(y) whose residuals r = g(y) − y, mixed alike, are
    smallest,

        y = g_n − Σ γ_k (g_n − g_k),    γ least squares of r_n = Σ γ_k (r_n − r_k)

    Parameters
    ----------
    depth : int
        How many sweeps are remembered.
    """

    def __init__(self, depth: int = 5) -> None:
        self.depth = depth
        self._residuals: list[Tensor] = []
        self._values: list[Tensor] = []

    def remember(self, y: Tensor, g: Tensor) -> None:
        """Take note of a sweep, y and g(y), ``(samples, n)``; they are not to be written again."""
        self._residuals.append(g - y)
        self._values.append(g)
        del self._residuals[: -self.depth], self._values[: -self.depth]

    def extrapolate(self) -> Tensor:
        """Return where to go on from, ``(samples, n)``, once a sweep is remembered."""
        residual, value = self._residuals[-1], self._values[-1]
        if len(self._values) < 2:
            return value
        steps = residual.unsqueeze(-1) - torch.stack(self._residuals[:-1], -1)
        moves = value.unsqueeze(-1) - torch.stack(self._values[:-1], -1)
        gram = steps.mT @ steps
        own = gram.diagonal(dim1=-2, dim2=-1)
        own += RIDGE * own.sum(-1, keepdim=True) + torch.finfo(gram.dtype).tiny ** 0.5
        shares = torch.linalg.solve(gram, steps.mT @ residual.unsqueeze(-1))
        return torch.baddbmm(value.unsqueeze(-1), moves, shares, alpha=-1).squeeze(-1)
