"""Ensembles of small systems, each orbit with steps of its own, in vector lanes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from ctsigprop.solvers.base import Layout, Problem
from ctsigprop.solvers.explicit.control import Control
from ctsigprop.solvers.explicit.march import March
from ctsigprop.solvers.explicit.onestep import RungeKutta
from ctsigprop.solvers.native.compiled import Kernel, compiled
from ctsigprop.solvers.native.kernels import (
    DRIVER,
    FAILED,
    FIELD,
    FINISHED,
    LANES,
    MEMORY,
    TURN,
    driver_source,
    field_source,
    turn_source,
)
from ctsigprop.solvers.native.scalars import NotScalarError, Scalars
from ctsigprop.solvers.native.unrolled import scalars
from ctsigprop.solvers.stops import landings

if TYPE_CHECKING:
    from ctsigprop.solvers.explicit.methods import AdaptiveMethod

__all__ = ["FEWEST", "TROUBLE", "ensemble"]

TROUBLE = "a sample met trouble"
"""What is returned where the solver in torch is to say what became of a run."""

FEWEST = 100
"""From how many samples on a kernel is chosen by itself."""

SHORTEST, LONGEST = 0.05, 0.2
"""Seconds between the looks at whether the user wants to stop."""

FIRST_TURNS = 1000

FASTMATH = ("contract", "arcp", "reassoc", "nsz")

MOST_HELD = 2**26
"""Numbers in the table of held signals."""


def ensemble(problem: Problem, solver: AdaptiveMethod) -> str:
    """Integrate every sample of a problem by a kernel; or return why not.

    An orbit that meets trouble (a derivative that is not finite, too many steps, no headway) leaves
    the whole problem to the solver that says what it is.
    """
    layout = problem.layout
    reason = _unfit(problem, solver)
    if reason:
        return reason
    try:
        text = scalars(problem.system, layout, problem.inputs)
    except NotScalarError as error:
        return str(error)
    stops = landings(problem)
    if stops.count * len(text.channels) * layout.samples > MOST_HELD:
        return "the table of held signals would be too large"
    field = compiled(field_source(text), "evaluate", FIELD, FASTMATH)
    turn = compiled(turn_source(solver.tableau), "advance", TURN, FASTMATH)
    driver = compiled(driver_source(solver.tableau), "drive", DRIVER, FASTMATH, effort=1)
    counted = problem.recorder.statistics.evaluations
    if _Run(problem, solver, text, (field, turn, driver)).finish():
        return ""
    problem.recorder.statistics.evaluations = counted
    return TROUBLE


def _unfit(problem: Problem, solver: AdaptiveMethod) -> str:
    layout = problem.layout
    if solver.dt is not None:
        return "the steps are fixed"
    if solver.native is None and layout.samples < FEWEST:
        return f"there are fewer than {FEWEST} samples"
    if layout.coupled:
        return "the batch shares a variable, so that it is one sample"
    if any(value.dtype != torch.float64 for value in problem.y0.values()):
        return "the state is not float64"
    return ""


def _parts(layout: Layout) -> list[int]:
    return [
        number
        for name, part in layout.slices.items()
        if part.stop > part.start
        for number in (part.start, part.stop, int(len(layout.dims[name]) > 1))
    ]


class _Run:
    """A kernel's memory, and what it is given."""

    def __init__(
        self,
        problem: Problem,
        solver: AdaptiveMethod,
        text: Scalars,
        kernels: tuple[Kernel, Kernel, Kernel],
    ) -> None:
        self.problem, self.layout, self.kernels = problem, problem.layout, kernels
        layout, stops = problem.layout, landings(problem)
        self.y0 = layout.pack(problem.y0).contiguous()
        method = RungeKutta(solver.tableau, self.y0)
        tolerances = solver.rtol, solver.atol
        control = Control(method, layout, self.y0, *tolerances, solver.first_step)
        march = March(problem, method, stops, control, solver.max_steps)
        march.begin()
        times = problem.t.reshape(-1, problem.t.shape[-1]).contiguous()
        self.times = times
        held = text.held(stops.low, layout)
        samples, rows = layout.samples, times.shape[-1]
        self.out = self.y0.new_full((rows, samples, layout.size), torch.nan)
        self.out[0] = self.y0
        self.done = torch.ones(samples, dtype=torch.long)
        floats = MEMORY.constants + len(text.split[0])
        self.floats = torch.zeros(floats, dtype=torch.float64)
        self.integers = torch.zeros(MEMORY.whole, dtype=torch.long)
        own_stops = stops.times.dim() > 1
        options = {
            "direction": 1.0 if bool(times[0, -1] >= times[0, 0]) else -1.0,
            "rtol": solver.rtol,
        }
        for name, number in options.items():
            self.floats[MEMORY.floats[name]] = number
        told = {
            "samples": samples,
            "rows": rows,
            "max_steps": solver.max_steps,
            "size": layout.size,
            "channels": len(text.channels),
            "parts": len(_parts(layout)) // 3,
            "rows_apart": rows if len(times) > 1 else 0,
            "stops_apart": stops.count if own_stops else 0,
            "held_by_stop": held.stride(0) if len(held) > 1 else 0,
            "held_by_sample": held.stride(1) if held.shape[1] > 1 else 0,
        }
        for name, integer in told.items():
            self.integers[MEMORY.integers[name]] = integer
        for k, number in enumerate(_parts(layout)):
            self.integers[MEMORY.parts + k] = number
        first = {"used": LANES, "sample": -1, "in_use": 1}  # all lanes are about to begin
        for name, integer in first.items():
            place = MEMORY.integers[name]
            self.integers[place : place + (1 if name == "used" else LANES)] = integer
        atol = control.atol.expand(layout.size).contiguous()
        self.given = [
            *(self.floats, self.integers, self.y0, march.f.contiguous(), control.h, times),
            *(stops.times.contiguous(), stops.low.contiguous(), stops.high.contiguous()),
            *(held, text.parameters, atol, self.out, self.done),
        ]
        kernels[0](self.floats.data_ptr(), text.parameters.data_ptr(), 0.0, -1)

    def finish(self) -> bool:
        """Run the kernel to its end, or until it fails; record what was reached."""
        addresses = [tensor.data_ptr() for tensor in self.given]
        field, turn, driver = self.kernels
        turns = FIRST_TURNS
        status = 0
        try:
            while not status:
                self.integers[MEMORY.integers["turns"]] = turns
                started = time.perf_counter()
                status = driver(*addresses, field.address, turn.address)
                seconds = time.perf_counter() - started
                if seconds < SHORTEST:
                    turns *= 2
                elif seconds > LONGEST:
                    turns = max(turns // 2, 1)
                self._tell()
        finally:
            if status != FAILED:
                self._record(status)
        return status == FINISHED

    def _tell(self) -> None:
        over = self.done == self.out.shape[0]
        first, last = self.times[:, 0], self.times[:, -1]
        clock = torch.where(over, last, first)
        state = torch.where(over[:, None], self.out[-1], self.y0)
        self.problem.accepted(self.layout.clock(clock), self.layout.unpack(state), None)

    def _record(self, status: int) -> None:
        recorder, statistics = self.problem.recorder, self.problem.recorder.statistics
        integers = {name: int(self.integers[k]) for name, k in MEMORY.integers.items()}
        statistics.native = True
        statistics.steps += integers["steps"]
        statistics.rejections += integers["rejections"]
        statistics.evaluations += integers["evaluations"]
        if status == FINISHED:
            for row, values in enumerate(self.out):
                recorder.row(row, self.layout.unpack(values))
            return
        reached = torch.arange(len(self.out))[:, None] < self.done
        index, sample = torch.nonzero(reached).unbind(1)
        recorder.scatter(index, sample, self.out[index, sample])
