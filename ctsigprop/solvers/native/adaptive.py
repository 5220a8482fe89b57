"""Steps with control of their error by the kernel: those of `explicit.solo`, natively."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from ctsigprop.solvers.base import Problem
from ctsigprop.solvers.explicit.control import Control, Pace
from ctsigprop.solvers.explicit.march import EVERY, ROUNDINGS, STRETCH, March
from ctsigprop.solvers.explicit.onestep import RungeKutta
from ctsigprop.solvers.explicit.structured import CANCELLED
from ctsigprop.solvers.native.runs import Output, Run
from ctsigprop.solvers.native.schedule import REFOLD, Norm, Phase, Schedule
from ctsigprop.solvers.native.tape import CLOCK, RTOL
from ctsigprop.solvers.stops import landings

if TYPE_CHECKING:
    from ctsigprop.solvers.explicit.methods import AdaptiveMethod

__all__ = ["Adaptive"]


@final
class Adaptive(Run):
    """A run with control of its error."""

    def __init__(self, problem: Problem, schedule: Schedule, solver: AdaptiveMethod) -> None:
        super().__init__(problem, schedule)
        self.solver, self.cell = solver, self.memory.cell
        self._tolerate()
        self.spans = problem.t.reshape(-1, problem.t.shape[-1]).tolist()
        self.jumps = problem.jumps.tolist()
        self.nodes = schedule.tableau.c
        self.polynomials = np.array(schedule.tableau.dense)

    def _tolerate(self) -> None:
        """Write the tolerances; a component at zero for good is no error."""
        cell, schedule, atol = self.cell, self.schedule, self.solver.atol
        least = self.memory.dtype.tiny

        def of(name: str) -> float:
            return max(atol[name] if isinstance(atol, Mapping) else atol, least)

        cell[RTOL] = self.solver.rtol
        for i, v in enumerate(schedule.network.variables):
            cell[schedule.atol + i] = of(v.name)
        for i, w in enumerate(schedule.weights):
            cell[schedule.atol_of_weights + i] = of(w.w.name)

    def load(self, sample: int) -> None:
        """Make ready for a sample, at its start."""
        super().load(sample)
        self.times = self.spans[sample if len(self.spans) > 1 else 0]
        self.stops = _stops(self.times, self.jumps)
        self.t, self.sign = self.times[0], math.copysign(1.0, self.times[-1] - self.times[0])
        self.pace = Pace(0.0, 1 / self.schedule.tableau.order)
        self.pointer, self.next_row, self.phase, self.since = 0, 1, 0, 0
        self.entered = True  # whether the state is that with which the next step begins
        self.memory.hold(self.stops[0][1])

    def run(self, output: Output) -> bool:
        """Take steps; return whether the end was reached."""
        schedule, memory, solver = self.schedule, self.memory, self.solver
        most, end, sign, stages = solver.max_steps, self.times[-1], self.sign, schedule.stages
        nodes, timed, cell = self.nodes, schedule.network.tape.timed, self.cell
        pace = self.pace
        self._begin(first=True)
        target, low, high = self.stops[0]
        while True:
            turn = self.tried + 1
            if turn >= most:
                return False
            if turn % EVERY == 0 and abs(end - self.t) / pace.h > most - self.tried:
                return False
            remaining = target - self.t
            landing = pace.h * STRETCH >= abs(remaining)
            size = remaining if landing else pace.h * sign
            np.multiply(self.coefficients, size, out=self.table)
            if timed:
                for i in range(1, stages):
                    at = self.t + nodes[i] * size
                    cell[schedule.times + i] = min(max(at, low), high)
            phase = schedule.phases[self.phase]
            memory.call(phase.step if self.entered else (phase.enter[0], phase.step[1]))
            self.entered = True
            error = self._largest(schedule.norms[self.phase])
            if not error < math.inf:
                return False
            before = pace.h, pace.previous, pace.retried
            pace.follow(abs(size), error, landing)
            if pace.h < ROUNDINGS * math.ulp(self.t):
                pace.h, pace.previous, pace.retried = before  # this step is to be taken again
                return False
            self.tried += 1
            self.evaluations += stages - 1
            if error <= 1:
                reached = target if landing else self.t + size
                self._record(output, reached, size, phase)
                self.t = reached
                if output.heard:
                    output.reached(reached)
                if landing:
                    if target == end:
                        return True
                    memory.call(phase.land)
                    self.pointer += 1
                    target, low, high = self.stops[self.pointer]
                    memory.hold(low)
                    self._begin(first=False)
                    continue
                self._enter()
            else:
                self.rejected += 1

    def _enter(self) -> None:
        """Go on to the next phase; what leads to it is run with its step."""
        schedule = self.schedule
        self.since += 1
        self.phase = (self.phase + 1) % schedule.steps
        self.entered = False
        if self.since >= REFOLD and schedule.weights and not schedule.folds:
            self.memory.call(schedule.refold)
            self.since, self.entered = 0, True

    def _begin(self, *, first: bool) -> None:
        """Take the derivative at the start, or after a jump, and choose the first step."""
        schedule, memory, cell = self.schedule, self.memory, self.cell
        target, low, high = self.stops[self.pointer]
        self.phase = self.since = 0
        self.entered = True
        cell[CLOCK] = min(max(self.t, low), high)
        memory.call(schedule.begin)
        self.evaluations += 1
        at = schedule.slopes
        if not math.isfinite(float(memory.m[at : at + schedule.size].sum())):
            f = memory.row(schedule.phases[0].slope)
            self.problem.require_finite(
                torch.tensor(self.t, dtype=torch.float64), f, "the derivative"
            )
        if not first:
            return
        if self.solver.first_step is not None:
            self.pace.h = self.solver.first_step
            return
        state, slope, difference = schedule.first_norms
        memory.call(schedule.weigh)
        d0, d1 = self._largest(state), self._largest(slope)
        h0 = self.pace.trial(d0, d1, abs(target - self.t))
        ahead = cell[schedule.ahead] = h0 * self.sign
        cell[CLOCK] = min(max(self.t + ahead, low), high)
        memory.call(schedule.trial)
        self.evaluations += 1
        self.pace.start(h0, d1, self._largest(difference) / h0)

    def _largest(self, norm: Norm) -> float:
        """Return the largest norm of any variable, NaN if there is one."""
        cell, largest, rtol = self.cell, 0.0, self.solver.rtol
        found = [math.sqrt(cell[place]) for place in norm.plain]
        for value, state, end, n, atol in norm.matrices:
            scale = cell[atol] + rtol * math.sqrt(max(cell[state], cell[end]) / n)
            found.append(math.sqrt(cell[value] / n) / scale)
        for value, state, end, n, atol in norm.weights:
            square = max(self._sum(state), self._sum(end)) if end != state else self._sum(state)
            scale = cell[atol] + rtol * math.sqrt(square / n)
            found.append(math.sqrt(self._sum(value) / n) / scale)
        for one in found:
            if not one <= largest:
                largest = one
                if math.isnan(one):
                    return math.nan
        return float(largest)

    def _sum(self, cells: int) -> float:
        """Return the sum of the squares of a matrix, from its three parts."""
        cell = self.cell
        own, mixed, outer = cell[cells], 2.0 * cell[cells + 1], cell[cells + 2]
        total = own + mixed + outer
        if total < CANCELLED * (own + abs(mixed) + abs(outer)):
            self.memory.call(self.schedule.exact[cells])
            total = cell[cells]
        return float(total)

    def _record(self, output: Output, reached: float, size: float, phase: Phase) -> None:
        """Hand over the rows that lie in a step."""
        last, sign = len(self.times) - 1, self.sign
        while self.next_row <= last and self.times[self.next_row] * sign <= reached * sign:
            time = self.times[self.next_row]
            if self.next_row == last and time == reached:
                row = self.memory.row(phase.end)
            else:
                theta = (time - self.t) / size
                powers = theta ** np.arange(1, self.polynomials.shape[1] + 1)
                at = self.schedule.weights_inside
                weights = self.memory.m[at : at + self.schedule.stages]
                weights[:] = size * (self.polynomials @ powers)
                row = self.memory.row(phase.inside)
            output.row(self.next_row, row)
            self.next_row += 1

    def give_up(self) -> str:
        """Let the path in torch go on from here: it says what is wrong, or finds a way."""
        problem, schedule, solver = self.problem, self.schedule, self.solver
        y = problem.layout.pack(problem.y0)
        method = RungeKutta(solver.tableau, y)
        control = Control(method, problem.layout, y, solver.rtol, solver.atol, solver.first_step)
        march = March(problem, method, landings(problem), control, solver.max_steps)
        phase = schedule.phases[self.phase]
        if not self.entered:
            self.memory.call(phase.enter)
        state, slope = self.memory.row(phase.now), self.memory.row(phase.slope)
        control.resume(self.pace)
        # the march counts all steps; what the kernel evaluated it does not know
        own = replace(self.statistics, steps=0, rejections=0)
        problem.recorder.statistics.add(own)
        march.go_on(self.t, state, slope, self.pointer, self.next_row, self.tried, self.rejected)
        return ""


def _stops(times: list[float], jumps: list[float]) -> list[tuple[float, float, float]]:
    """Return where steps have to end, and between which times the field is continuous there."""
    start, end = times[0], times[-1]
    inside = sorted(jump for jump in jumps if min(start, end) < jump < max(start, end))
    edges = [start, *(inside if end >= start else inside[::-1]), end]
    return [(b, min(a, b), math.nextafter(max(a, b), -math.inf)) for a, b in pairwise(edges)]
