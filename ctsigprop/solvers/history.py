"""The past of a run, for synapses with delays."""

from __future__ import annotations

import bisect
from collections.abc import Callable

import torch
from torch import Tensor

from ctsigprop.solvers.base import State
from ctsigprop.system import System

__all__ = ["History"]


class History:
    """States at accepted steps; between them the cubic through four neighbours, order 4.

    Before the start, the state is that of `past`, or the initial one. Only as much is kept as the
    longest delay can reach.
    """

    def __init__(
        self, system: System, y0: State, t: Tensor, past: Callable[[Tensor], State] | None
    ) -> None:
        self.start = float(t[0])
        self.delay = system.delay
        self._past = past if past is not None else lambda _t: y0
        self._times = [self.start]
        self._states = [y0]

    def append(self, t: Tensor, state: State, derivative: State | None) -> None:
        """Take an accepted step into memory."""
        del derivative
        now = float(t)
        self._times.append(now)
        self._states.append(state)
        keep = bisect.bisect_left(self._times, now - self.delay) - 4
        if keep > 64:
            del self._times[:keep], self._states[:keep]

    def __call__(self, t: Tensor) -> State:
        """Return the state at a past time of shape ``()``."""
        at = float(t)
        if at <= self.start:
            return self._past(t)
        times = self._times
        if at > times[-1] + 1e-12 * max(1.0, abs(at)):
            raise ValueError(
                f"a delay shorter than the step: the state at t={at:g} is not known yet "
                f"at t={times[-1]:g}; take a smaller dt"
            )
        right = min(bisect.bisect_left(times, at), len(times) - 1)
        if times[right] == at:
            return self._states[right]
        first = min(max(right - 2, 0), max(len(times) - 4, 0))
        nodes = range(first, min(first + 4, len(times)))
        weights = [_lagrange(at, [times[j] for j in nodes], k) for k in range(len(nodes))]
        return {
            name: torch.stack(
                [w * self._states[j][name] for w, j in zip(weights, nodes, strict=True)]
            ).sum(0)
            for name in self._states[-1]
        }


def _lagrange(at: float, nodes: list[float], k: int) -> float:
    weight = 1.0
    for j, node in enumerate(nodes):
        if j != k:
            weight *= (at - node) / (nodes[k] - node)
    return weight
