"""The past of a run, for synapses with delays."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ctsigprop.solvers.base import State
from ctsigprop.system import System

__all__ = ["History"]


class History:
    """States at accepted steps; between them the cubic through four neighbours, order 4.

    The start, and every jump of a signal, is a kink that returns after each delay, one derivative
    higher; steps end at these `breaks`, and neighbours are taken from one side of them only.

    Before the start, the state is that of `past`, or the initial one. Only as much is kept as the
    longest delay can reach.
    """

    def __init__(
        self,
        system: System,
        y0: State,
        t: Tensor,
        jumps: list[float],
        past: Callable[[Tensor], State] | None,
    ) -> None:
        self.start = float(t[0])
        stop, delays = float(t[-1]), {c.delay for c in system.currents if c.delay}
        found = fresh = {self.start, *jumps}
        for _ in range(4):
            fresh = {b + d for b in fresh for d in delays if b + d < stop}
            found = found | fresh
        self.breaks = sorted(found)
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
        piece = bisect.bisect_right(self.breaks, at)
        low = bisect.bisect_left(times, self.breaks[piece - 1])
        after = self.breaks[piece] if piece < len(self.breaks) else math.inf
        high = bisect.bisect_right(times, after)
        first = max(min(right - 2, high - 4), low)
        nodes = range(first, min(first + 4, high))
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
