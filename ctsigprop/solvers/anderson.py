"""Extrapolation of a fixed-point iteration from its last iterates."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Anderson"]

RIDGE = 1e-6
"""By which share of each the steps are held apart, where they point the same way."""


class Anderson:
    """Extrapolation of a fixed-point iteration y -> g(y) of each sample from its last sweeps.

    The next y is the mixture of the last g(y) whose residuals r = g(y) − y, mixed alike, are
    smallest,

        y = g_n − Σ γ_k (g_k − g_{k−1}),    γ least squares of r_n = Σ γ_k (r_k − r_{k−1})

    Parameters
    ----------
    depth : int
        How many sweeps are remembered.
    """

    def __init__(self, depth: int = 5) -> None:
        self.depth = depth
        self._last: tuple[Tensor, Tensor] | None = None
        self._steps: list[tuple[Tensor, Tensor]] = []

    def remember(self, y: Tensor, g: Tensor) -> None:
        """Take note of a sweep, y and g(y), ``(samples, n)``; they are not to be written again."""
        r = g - y
        if self._last is not None:
            residual, value = self._last
            self._steps.append((r - residual, g - value))
            del self._steps[: 1 - self.depth]
        self._last = r, g

    def extrapolate(self) -> Tensor:
        """Return where to go on from, ``(samples, n)``, once a sweep is remembered."""
        assert self._last is not None
        residual, value = self._last
        if not self._steps:
            return value
        residuals, values = (torch.stack(steps, 1) for steps in zip(*self._steps, strict=True))
        gram = residuals @ residuals.mT
        gram.diagonal(dim1=-2, dim2=-1).mul_(1 + RIDGE).add_(torch.finfo(gram.dtype).tiny ** 0.5)
        shares = torch.linalg.solve(gram, residuals @ residual.unsqueeze(-1))
        return torch.baddbmm(value.unsqueeze(1), shares.mT, values, alpha=-1).squeeze(1)
