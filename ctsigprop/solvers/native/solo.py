"""One sample, stepped by the kernel: the steps of `explicit.solo`, natively."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast, final
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ctsigprop.models.synapses import Synapse
from ctsigprop.solvers.base import Problem, unheard
from ctsigprop.solvers.explicit import control as control_
from ctsigprop.solvers.explicit.control import Control, Pace
from ctsigprop.solvers.explicit.march import EVERY, ROUNDINGS, STRETCH, March
from ctsigprop.solvers.explicit.onestep import RungeKutta
from ctsigprop.solvers.explicit.structured import CANCELLED
from ctsigprop.solvers.explicit.tableaus import Tableau
from ctsigprop.solvers.native.compiled import LETTERS
from ctsigprop.solvers.native.equal import equal_steps
from ctsigprop.solvers.native.memory import Memory
from ctsigprop.solvers.native.networks import Network
from ctsigprop.solvers.native.schedule import (
    REFOLD,
    Norm,
    Phase,
    Schedule,
)
from ctsigprop.solvers.native.tape import CLOCK, RTOL, UnfitError
from ctsigprop.solvers.stops import landings

if TYPE_CHECKING:
    from ctsigprop.solvers.explicit.methods import AdaptiveMethod, Method
    from ctsigprop.system import System

__all__ = ["resting", "solo"]

LARGEST = 4_000_000
"""Numbers in a state above which the torch path is no slower."""

MOST_FIXED = 1_000_000
"""Weights that rest above which torch's products are no slower, on a few threads."""

_SCHEDULES: WeakKeyDictionary[System, dict[Any, Schedule | str]] = WeakKeyDictionary()


def solo(problem: Problem, solver: Method) -> str:
    """Integrate a system of one sample; or return why not.

    Its neurons and plasticity are written as text; its gates are held between their
    jumps, and its sources, too, or they are rhythms. A batch that shares the weights that learn is
    one sample.
    """
    layout, system = problem.layout, problem.system
    dtype = next(iter(problem.y0.values())).dtype
    if layout.samples != 1 or problem.t.dim() > 1:
        return "there is more than one sample"
    if solver.native is None and resting(system) > MOST_FIXED:
        return f"more than {MOST_FIXED:,} weights rest"
    if layout.size > LARGEST:
        return f"the state has more than {LARGEST:,} numbers"
    if dtype not in LETTERS:
        return f"the state is of {dtype}"
    if solver.dt is not None:
        found = _scheduled(problem, solver.tableau, solver.low_rank, False)
        return found if isinstance(found, str) else equal_steps(problem, found, solver)
    solver = cast("AdaptiveMethod", solver)  # steps that are not fixed adapt
    least = control_.LEAST_RTOL * torch.finfo(dtype).eps
    names = set(layout.names)
    if 0 < solver.rtol < least or (isinstance(solver.atol, Mapping) and set(solver.atol) != names):
        return "the tolerances do not fit the state"
    found = _scheduled(problem, solver.tableau.closed(), solver.low_rank, True)
    if isinstance(found, str):
        return found
    try:
        run = _Adaptive(problem, found, solver)
    except UnfitError as reason:
        return str(reason)
    run.run()
    return ""


def resting(system: System) -> int:
    """Return how many weights do not learn."""
    still = [c for c in system.currents if isinstance(c, Synapse) and not c.plasticity]
    return sum(synapse.weight.numel() for synapse in still)


def _scheduled(
    problem: Problem, tableau: Tableau, low_rank: bool, measured: bool
) -> Schedule | str:
    """Return the instructions of a system, made once, or why there are none."""
    system, layout, given = problem.system, problem.layout, problem.inputs
    signals = [given.get(source.name, source.signal) for source in system.sources]
    rules = [
        (id(rule.gate), id(rule.modulator), synapse.bounds, synapse.sign is None)
        for synapse in system.currents
        if isinstance(synapse, Synapse)
        for rule in synapse.plasticity
    ]
    key = (
        tuple(layout.shapes.items()),
        layout.batch,
        tableau.c,
        tableau.b,
        low_rank,
        measured,
        tuple(map(type, signals)),
        tuple(rules),
    )
    known = _SCHEDULES.setdefault(system, {})
    if key not in known:
        try:
            network = Network(system, layout, low_rank, given)
            known[key] = Schedule(network, tableau, measured)
        except UnfitError as reason:
            known[key] = str(reason)
    found = known[key]
    dtype = next(iter(problem.y0.values())).dtype
    if isinstance(found, Schedule) and found.network.rhythms and dtype != torch.float64:
        return f"a rhythm needs a clock of float64, and the state is of {dtype}"
    return found


@final
class _Adaptive:
    """A run with control of its error, of one sample."""

    def __init__(self, problem: Problem, schedule: Schedule, solver: AdaptiveMethod) -> None:
        self.problem, self.schedule, self.solver = problem, schedule, solver
        self.machine = Memory(problem, schedule)
        self.cell = cell = self.machine.cell
        cell[RTOL] = solver.rtol
        table, coefficients = schedule.table, schedule.coefficients
        self.table = self.machine.m[table : table + len(coefficients)]
        self.coefficients = coefficients.astype(self.table.dtype)
        least = self.machine.dtype.tiny
        atol = solver.atol

        def of(name: str) -> float:
            return max(atol[name] if isinstance(atol, Mapping) else atol, least)

        for i, v in enumerate(schedule.network.variables):
            cell[schedule.atol + i] = of(v.name)
        for i, w in enumerate(schedule.weights):
            cell[schedule.atol_of_weights + i] = of(w.w.name)
        self.times = problem.t.tolist()
        self.stops = _stops(self.times, problem.jumps.tolist())
        self.nodes = schedule.tableau.c
        self.polynomials = np.array(schedule.tableau.dense)
        self.t, self.sign = self.times[0], math.copysign(1.0, self.times[-1] - self.times[0])
        self.pace = Pace(0.0, 1 / schedule.tableau.order)
        self.tried = self.rejected = self.evaluations = 0
        self.pointer, self.next_row, self.phase, self.since = 0, 1, 0, 0
        self.entered = True  # whether the state is that with which the next step begins
        self.machine.hold(self.stops[0][1])

    def run(self) -> None:
        """Step to the end of the span; what the kernel cannot end well, the torch path does."""
        problem = self.problem
        problem.recorder.row(0, problem.y0)
        statistics = problem.recorder.statistics
        statistics.native = True
        statistics.low_rank = tuple(w.w.name for w in self.schedule.weights)
        counted = True
        try:
            counted = self._march()  # if not, the torch path counts on from here
        finally:
            statistics.evaluations += self.evaluations
            if counted:
                statistics.rejections += self.rejected
                statistics.steps += self.tried - self.rejected
        if not counted:
            self._hand_over()

    def _march(self) -> bool:
        """Take steps; return whether the end was reached."""
        problem, schedule, machine, solver = self.problem, self.schedule, self.machine, self.solver
        heard = problem.accepted is not unheard
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
            machine.call(phase.step if self.entered else (phase.enter[0], phase.step[1]))
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
                self._record(reached, size, phase)
                self.t = reached
                if heard:
                    problem.accepted(torch.tensor(reached, dtype=torch.float64), {}, None)
                if landing:
                    if target == end:
                        return True
                    machine.call(phase.land)
                    self.pointer += 1
                    target, low, high = self.stops[self.pointer]
                    machine.hold(low)
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
            self.machine.call(schedule.refold)
            self.since, self.entered = 0, True

    def _begin(self, *, first: bool) -> None:
        """Take the derivative at the start, or after a jump, and choose the first step."""
        schedule, machine, cell = self.schedule, self.machine, self.cell
        target, low, high = self.stops[self.pointer]
        self.phase = self.since = 0
        self.entered = True
        cell[CLOCK] = min(max(self.t, low), high)
        machine.call(schedule.begin)
        self.evaluations += 1
        at = schedule.slopes
        if not math.isfinite(float(machine.m[at : at + schedule.size].sum())):
            f = machine.row(schedule.phases[0].slope)
            self.problem.require_finite(
                torch.tensor(self.t, dtype=torch.float64), f, "the derivative"
            )
        if not first:
            return
        if self.solver.first_step is not None:
            self.pace.h = self.solver.first_step
            return
        state, slope, difference = schedule.first_norms
        machine.call(schedule.weigh)
        d0, d1 = self._largest(state), self._largest(slope)
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        h0 = min(h0, abs(target - self.t))
        ahead = cell[schedule.ahead] = h0 * self.sign
        cell[CLOCK] = min(max(self.t + ahead, low), high)
        machine.call(schedule.trial)
        self.evaluations += 1
        steepest = max(d1, self._largest(difference) / h0)
        h1 = (
            max(h0 * 0.001, 1e-06) if steepest <= 1e-15 else (0.01 / steepest) ** self.pace.exponent
        )
        h = min(100 * h0, h1)
        self.pace.h = h if math.isfinite(h) and h > 0 else h0

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
            self.machine.call(self.schedule.exact[cells])
            total = cell[cells]
        return float(total)

    def _record(self, reached: float, size: float, phase: Phase) -> None:
        """Hand over the rows that lie in a step."""
        last, sign = len(self.times) - 1, self.sign
        recorder = self.problem.recorder
        while self.next_row <= last and self.times[self.next_row] * sign <= reached * sign:
            time = self.times[self.next_row]
            if self.next_row == last and time == reached:
                row = self.machine.row(phase.end)
            else:
                theta = (time - self.t) / size
                powers = theta ** np.arange(1, self.polynomials.shape[1] + 1)
                at = self.schedule.weights_inside
                weights = self.machine.m[at : at + self.schedule.stages]
                weights[:] = size * (self.polynomials @ powers)
                row = self.machine.row(phase.inside)
            recorder.packed(self.next_row, row)
            self.next_row += 1

    def _hand_over(self) -> None:
        """Let the torch path go on from here: it says what is wrong, or finds a way."""
        problem, schedule, solver = self.problem, self.schedule, self.solver
        y = problem.layout.pack(problem.y0)
        method = RungeKutta(solver.tableau, y)
        control = Control(method, problem.layout, y, solver.rtol, solver.atol, solver.first_step)
        march = March(problem, method, landings(problem), control, solver.max_steps)
        phase = schedule.phases[self.phase]
        if not self.entered:
            self.machine.call(phase.enter)
        state, slope = self.machine.row(phase.now), self.machine.row(phase.slope)
        control.resume(self.pace)
        march.go_on(self.t, state, slope, self.pointer, self.next_row, self.tried, self.rejected)


def _stops(times: list[float], jumps: list[float]) -> list[tuple[float, float, float]]:
    """Return where steps have to end, and between which times the field is continuous there."""
    start, end = times[0], times[-1]
    inside = sorted(jump for jump in jumps if min(start, end) < jump < max(start, end))
    edges = [start, *(inside if end >= start else inside[::-1]), end]
    return [(b, min(a, b), math.nextafter(max(a, b), -math.inf)) for a, b in pairwise(edges)]
