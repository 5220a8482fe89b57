"""Extrapolation of a fixed-point iteration from its last iterates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsigprop.terms import State

__all__ = ["Anderson"]


class Anderson:
    """Extrapolation of a fixed-point iteration y -> g(y) of each sample from its last sweeps.

    The next y is the mixture of the last g(y) whose residuals g(y) − y, mixed alike, are smallest.

    Parameters
    ----------
    depth : int
        How many sweeps are remembered.
    """

    def __init__(self, depth: int = 5) -> None:
        self.depth = depth
        self._values: list[Tensor] = []
        self._residuals: list[Tensor] = []

    def extrapolate(self, before: State, after: State) -> State:
        """Return where to go on from, given y and g(y)."""
        if not after:
            return after
        shapes = {name: value.shape for name, value in after.items()}
        y, g = (torch.cat([v.flatten(1) for v in s.values()], 1) for s in (before, after))
        self._values.append(g)
        self._residuals.append(g - y)
        del self._values[: -self.depth], self._residuals[: -self.depth]
        if len(self._values) < 2:
            return after
        latest = self._residuals[-1]
        steps = torch.stack([latest - r for r in self._residuals[:-1]], -1)
        gram = steps.mT @ steps
        scale = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        ridge = torch.eye(gram.shape[-1], dtype=g.dtype, device=g.device)
        gram = gram + (1e-6 * scale + torch.finfo(g.dtype).tiny ** 0.5) * ridge
        weights = torch.linalg.solve(gram, steps.mT @ latest.unsqueeze(-1))
        moves = torch.stack([g - v for v in self._values[:-1]], -1)
        mixed = g - (moves @ weights).squeeze(-1)
        parts = mixed.split([math.prod(shape[1:]) for shape in shapes.values()], 1)
        return {n: p.reshape(shapes[n]) for n, p in zip(after, parts, strict=True)}
