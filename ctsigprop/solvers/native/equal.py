"""Equal steps of a network by the kernel: those of `explicit.fixed`, natively."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from ctsigprop.solvers.base import Problem
from ctsigprop.solvers.native.lanes import TROUBLE
from ctsigprop.solvers.native.runs import Output, Run
from ctsigprop.solvers.native.schedule import REFOLD, Schedule
from ctsigprop.solvers.stops import Interval, edges, intervals, require_steps

if TYPE_CHECKING:
    from ctsigprop.solvers.explicit.methods import Method

__all__ = ["Equal"]

CHUNK = 64
"""Steps between the looks at whether the state is finite."""


@final
class Equal(Run):
    """A run with equal steps of at most `dt` between rows and jumps."""

    def __init__(self, problem: Problem, schedule: Schedule, solver: Method) -> None:
        super().__init__(problem, schedule)
        self.solver = solver
        self.spans = problem.t.reshape(-1, problem.t.shape[-1])
        self.grids = [self._grid(t) for t in self.spans]
        self.nodes = schedule.tableau.c[: schedule.stages]

    def _grid(self, t: torch.Tensor) -> list[tuple[Interval, tuple[float, float]]]:
        """Return the stretches, and between which times the field may be evaluated in each."""
        assert self.solver.dt is not None
        stretches = list(intervals(t, self.problem.jumps, self.solver.dt))
        return list(zip(stretches, edges(stretches), strict=True))

    def load(self, sample: int) -> None:
        """Make ready for a sample, at its start."""
        super().load(sample)
        self.grid = self.grids[sample if len(self.grids) > 1 else 0]
        self.memory.hold(self.grid[0][1][0])
        self.next = self.since = 0
        self.phase = self.schedule.phases[0]

    def run(self, output: Output) -> bool:
        """Take the steps of all stretches; return whether the state stayed finite."""
        memory, schedule = self.memory, self.schedule
        steps = sum(stretch.steps for stretch, _ in self.grid)
        require_steps(steps, self.solver.max_steps, float(self.grid[0][0].start))
        held = self.grid[0][1]
        for stretch, between in self.grid:
            if between != held:
                self._land()
                memory.hold(between[0])
                held = between
            if not self._take(stretch, *between, output):
                return False
            if stretch.row is not None:
                # with W_0 written, a run that begins with this row has the same numbers
                self._land()
                memory.call(schedule.settle)
                output.row(stretch.row, memory.row(schedule.phases[0].now))
        return True

    def give_up(self) -> str:
        """Let the path in torch take the run from its start: it finds the step that failed."""
        return TROUBLE

    def _land(self) -> None:
        """Write W_0; the columns are free again."""
        self.memory.call(self.phase.land)
        self.next = self.since = 0

    def _take(self, stretch: Interval, low: float, high: float, output: Output) -> bool:
        """Take the steps of a stretch; tell whether the state is finite."""
        start, stop = float(stretch.start), float(stretch.stop)
        h = (stop - start) / stretch.steps
        np.multiply(self.coefficients, h, out=self.table)
        memory, schedule = self.memory, self.schedule
        now = memory.m[schedule.now : schedule.now + schedule.size]
        timed = schedule.network.tape.timed
        for first in range(0, stretch.steps, CHUNK):
            last = min(first + CHUNK, stretch.steps)
            for k in range(first, last):
                if timed:
                    for i, node in enumerate(self.nodes):
                        t = start + h * (k + node)
                        memory.cell[schedule.times + i] = min(max(t, low), high)
                self._step()
            self.tried += last - first
            self.evaluations += (last - first) * schedule.stages
            if not (math.isfinite(float(now.sum())) or bool(np.isfinite(now).all())):
                return False
            if output.heard:
                output.reached(stop if last == stretch.steps else start + h * last)
        return True

    def _step(self) -> None:
        schedule = self.schedule
        full = self.next == 0 and self.since > 0 and schedule.folds
        if full or self.since >= REFOLD:
            self.memory.call(schedule.phases[0].enter)
            self.next = self.since = 0
        self.phase = schedule.phases[self.next]
        self.memory.call(self.phase.step)
        self.since += 1
        self.next = (self.next + 1) % schedule.steps
