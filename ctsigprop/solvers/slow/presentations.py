"""Presentations drawn at random: windows of successive ones, and the error of their mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch

from ctsigprop.solvers.base import Problem
from ctsigprop.solvers.slow.cycle import Panels, graded
from ctsigprop.solvers.slow.macro import Macro, Piece
from ctsigprop.solvers.slow.motion import Motion
from ctsigprop.solvers.slow.split import Split

__all__ = ["WINDOWS", "Presentations"]

WINDOWS = 8
QUANTILE = 2.365  # of Student's distribution with one degree less, for 95 %


@final
class Presentations:
    """The presentations of a run, and the windows of successive ones that an average is made of.

    A window comes round as if its first presentation followed its last: where they are drawn one
    by one, that is one more order in which they may come.

    Parameters
    ----------
    problem : Problem
        What is solved.
    count : int
        How many presentations to take.

    Raises
    ------
    ValueError
        Where the sources hold too few within the span.
    """

    def __init__(self, problem: Problem, count: int) -> None:
        self.problem = problem
        start, end = float(problem.t[0]), float(problem.t[-1])
        found: set[float] = set()
        for source in problem.system.sources:
            signal = problem.inputs.get(source.name, source.signal)
            if signal is not None:
                found.update(signal.jumps(start, end))
        if len(found) + 1 < 2 * WINDOWS:
            raise ValueError(
                f"presentations={count}: the sources hold {len(found) + 1} within the span; "
                "give period=..., or a longer span"
            )
        self.begins = [start, *sorted(found), end]
        total = len(self.begins) - 1
        size = min(count, total) // WINDOWS
        firsts = [(total - size) * k // (WINDOWS - 1) for k in range(WINDOWS)]
        self.windows = [(self.begins[k], self.begins[k + size]) for k in firsts]
        self.taken = size * WINDOWS
        self.hold = (end - start) / total

    def cycle(self, tau: float) -> Panels:
        """Return all windows as one cycle, with panels for a leak of time constant tau."""
        return Panels([self._edges(a, b, tau) for a, b in self.windows])

    def lately(self, t: float, memory: float, tau: float) -> Panels:
        """Return those just before a time, as far back as memory reaches."""
        return Panels([self._edges(max(self.begins[0], t - memory), t, tau)])

    def _edges(self, a: float, b: float, tau: float) -> list[float]:
        return graded([a, *self.problem.system.jumps(a, b, self.problem.inputs), b], tau)

    def error(
        self,
        motion_on: Callable[[Panels], Motion],
        split: Split,
        tol: float,
        pieces: list[Piece],
        scale: torch.Tensor,
        tau: float,
    ) -> float:
        """Return half the width of the 95 % interval around the mean, relative to the sizes.

        Every window learns alone; how far they come apart is the error of their mean. That of the
        mean over the presentations that had come by then, at each of which the full run is, is
        added.
        """
        runs = []
        for a, b in self.windows:
            motion = motion_on(Panels([self._edges(a, b, tau)]))
            runs.append(self._alone(motion, split, tol))
        worst = 0.0
        for piece in pieces:
            t = piece.t + piece.h
            ends = torch.stack([_interpolated(run, t) for run in runs])
            spread = split.sizes(ends.std(0) / WINDOWS**0.5) / scale
            came = max((t - self.begins[0]) / self.hold, 1.0)
            worst = max(worst, float(spread.max()) * math.sqrt(1 + self.taken / came))
        return QUANTILE * worst

    def _alone(self, motion: Motion, split: Split, tol: float) -> list[Piece]:
        kept: list[Piece] = []
        macro = Macro(
            motion.rate, split.sizes, tol, max_steps=1000, twin=False, project=motion.project
        )
        start = split.pack(self.problem.y0)
        macro.run(self.begins[0], self.begins[-1], start, lambda pieces, _: kept.extend(pieces))
        return kept


def _interpolated(pieces: list[Piece], t: float) -> torch.Tensor:
    found = next((p for p in pieces if t <= p.t + p.h), pieces[-1])
    return found.at(t)
