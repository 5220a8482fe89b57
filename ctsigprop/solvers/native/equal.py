"""Equal steps of a network by the kernel: those of `explicit.fixed`, natively."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctsigprop.solvers.base import Problem
from ctsigprop.solvers.native.lanes import TROUBLE
from ctsigprop.solvers.native.memory import Memory
from ctsigprop.solvers.native.schedule import REFOLD, Schedule
from ctsigprop.solvers.native.tape import UnfitError
from ctsigprop.solvers.stops import Interval, edges, intervals, require_steps

if TYPE_CHECKING:
    from ctsigprop.solvers.explicit.methods import Method

__all__ = ["equal_steps"]

CHUNK = 64
"""Steps between the looks at whether the state is finite."""


def equal_steps(problem: Problem, schedule: Schedule, solver: Method) -> str:
    """Take equal steps of at most `dt` between rows and jumps; or return why not.

    Where the state does not stay finite, the torch path takes the run from its start: it finds the
    step that failed, and says what became of it.
    """
    assert solver.dt is not None
    recorder, statistics = problem.recorder, problem.recorder.statistics
    stretches = list(intervals(problem.t, problem.jumps, solver.dt))
    between = edges(stretches)
    try:
        memory = Memory(problem, schedule)
        memory.hold(between[0][0])
    except UnfitError as reason:
        return str(reason)
    recorder.row(0, problem.y0)
    times = problem.t.tolist()
    require_steps(sum(s.steps for s in stretches), solver.max_steps, times[0])
    run = _Equal(problem, schedule, memory)
    before = statistics.steps, statistics.evaluations
    statistics.native = True
    statistics.low_rank = tuple(w.w.name for w in schedule.weights)
    held = between[0]
    for stretch, (low, high) in zip(stretches, between, strict=True):
        if (low, high) != held:
            run.land()
            memory.hold(low)
            held = low, high
        if not run.take(stretch, low, high):
            statistics.steps, statistics.evaluations = before
            statistics.native, statistics.low_rank = False, ()
            return TROUBLE
        if stretch.row is not None:
            # with W_0 written, a run that begins with this row has the same numbers
            run.land()
            memory.call(schedule.settle)
            recorder.packed(stretch.row, memory.row(schedule.phases[0].now))
    return ""


class _Equal:
    """A run in progress."""

    def __init__(self, problem: Problem, schedule: Schedule, memory: Memory) -> None:
        self.problem, self.schedule, self.memory = problem, schedule, memory
        table, coefficients = schedule.table, schedule.coefficients
        self.table = memory.m[table : table + len(coefficients)]
        self.coefficients = coefficients.astype(self.table.dtype)
        self.next = self.since = 0
        self.phase = schedule.phases[0]
        self.nodes = schedule.tableau.c[: schedule.stages]

    def land(self) -> None:
        """Write W_0; the columns are free again."""
        self.memory.call(self.phase.land)
        self.next = self.since = 0

    def take(self, stretch: Interval, low: float, high: float) -> bool:
        """Take the steps of a stretch; tell whether the state is finite."""
        start, stop = float(stretch.start), float(stretch.stop)
        h = (stop - start) / stretch.steps
        np.multiply(self.coefficients, h, out=self.table)
        memory, schedule, statistics = self.memory, self.schedule, self.problem.recorder.statistics
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
            statistics.steps += last - first
            statistics.evaluations += (last - first) * schedule.stages
            if not (math.isfinite(float(now.sum())) or bool(np.isfinite(now).all())):
                return False
            t = stop if last == stretch.steps else start + h * last
            self.problem.accepted(torch.tensor(t, dtype=torch.float64), {}, None)
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
