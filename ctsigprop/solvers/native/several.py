"""A few samples, each by itself by the kernel: faster than a batch in torch, and never compiled."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ctsigprop.errors import IntegrationError
from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Constant, Held, Signal
from ctsigprop.solvers.base import Layout, Problem, Recorder, State, unheard
from ctsigprop.solvers.explicit.tableaus import EULER
from ctsigprop.solvers.native.lanes import TROUBLE
from ctsigprop.solvers.native.solo import resting, solo
from ctsigprop.solvers.native.tape import UnfitError

if TYPE_CHECKING:
    from ctsigprop.solvers.explicit.methods import Method

__all__ = ["MOST", "several"]

MOST, MOST_EQUAL = 32, 8
"""Samples above which a batch in torch may be as fast; the second of equal steps."""

MOST_NUMBERS = 500_000
"""Variables and resting weights, counted for every sample, above which a batch is as fast."""


def several(problem: Problem, solver: Method) -> str:
    """Integrate each sample of a problem by itself; or return why not.

    A sample that meets trouble leaves the whole problem to the solver that says what it is.
    """
    layout = problem.layout
    if layout.coupled or layout.samples < 2:
        return "there is one sample"
    reason = "" if solver.native else _slower(problem, solver)
    if reason:
        return reason
    run = _Run(problem, solver)
    try:
        return run.finish()
    except UnfitError as unfit:
        return str(unfit)
    except IntegrationError:
        return TROUBLE
    except BaseException:
        run.record()
        raise


def _slower(problem: Problem, solver: Method) -> str:
    """Return why a batch in torch may be as fast."""
    samples, system = problem.layout.samples, problem.system
    weights = resting(system)
    learns = any(isinstance(c, Synapse) and c.plasticity for c in system.currents)
    most = MOST if learns or solver.dt is None else MOST_EQUAL
    if samples > most:
        return f"there are more than {most} samples"
    if samples * (problem.layout.size + weights) > MOST_NUMBERS:
        return f"all samples have more than {MOST_NUMBERS:,} variables and weights"
    if weights and not learns and solver.tableau is EULER:
        return "a batch relaxes in place"
    return ""


class _Run:
    """Samples one after another."""

    def __init__(self, problem: Problem, solver: Method) -> None:
        self.problem, self.solver, self.layout = problem, solver, problem.layout
        self.times = problem.t.reshape(-1, problem.t.shape[-1])
        self.clock = self.times[:, 0].expand(self.layout.samples).clone()
        self.recorders: list[Recorder] = []

    def finish(self) -> str:
        """Step all samples to the end and record them; or return why not."""
        for sample in range(self.layout.samples):
            reason = solo(self._part(sample), self.solver)
            if reason:
                return reason
        self.record()
        return ""

    def record(self) -> None:
        """Hand over what was reached."""
        recorder, statistics = self.problem.recorder, self.problem.recorder.statistics
        recorder.row(0, self.problem.y0)
        for sample, own in enumerate(self.recorders):
            rows = own.states().values()
            values = torch.cat([value.flatten(1) for value in rows], 1)
            index = torch.arange(len(values))
            recorder.scatter(index, torch.full_like(index, sample), values)
            for name in ("steps", "rejections", "evaluations"):
                most = max(getattr(statistics, name), getattr(own.statistics, name))
                setattr(statistics, name, most)
            statistics.low_rank = own.statistics.low_rank
        statistics.native = True

    def _part(self, sample: int) -> Problem:
        """Return the problem of one sample."""
        problem, layout, system = self.problem, self.layout, self.problem.system
        y0 = {
            name: value.reshape(layout.samples, *layout.dims[name])[sample]
            for name, value in problem.y0.items()
        }
        inputs = dict(problem.inputs)
        for source in system.sources:
            signal = inputs.get(source.name, source.signal)
            assert signal is not None
            inputs[source.name] = self._signal(signal, sample, source.name)

        def field(t: torch.Tensor, state: State) -> State:
            return system.forward(t, state, inputs=inputs)

        def accepted(t: torch.Tensor, state: State, derivative: State | None) -> None:
            self.clock[sample] = t
            problem.accepted(layout.clock(self.clock), state, derivative)

        recorder = Recorder(Layout(y0, layout.dims, ()), problem.recorder.rows)
        recorder.row(0, y0)
        self.recorders.append(recorder)
        return replace(
            problem,
            field=field,
            linear=None,
            y0=y0,
            layout=recorder.layout,
            t=self.times[sample if len(self.times) > 1 else 0],
            inputs=inputs,
            recorder=recorder,
            accepted=unheard if problem.accepted is unheard else accepted,
        )

    def _signal(self, signal: Signal, sample: int, name: str) -> Signal:
        """Return what enters one sample."""
        value = signal(self.times[0, 0])
        if value.dim() < 2:
            return signal
        shape = (*self.layout.batch, value.shape[-1])
        if type(signal) is Constant:
            return Constant(signal.value.expand(shape).flatten(0, -2)[sample])
        if type(signal) is Held:
            values = signal.values.expand(len(signal.times), *shape)
            return Held(signal.times, values.flatten(1, -2)[:, sample])
        raise UnfitError(f"the signal of '{name}' is a {type(signal).__name__} with a batch")
