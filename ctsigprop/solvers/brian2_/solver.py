"""Brian2 as a solver: the same equations, integrated by another simulator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ctsigprop.brian2_ import brian2_session, check_codegen
from ctsigprop.errors import IntegrationError, unknown
from ctsigprop.solvers.base import Problem, Solver, State
from ctsigprop.solvers.brian2_.network import Network
from ctsigprop.solvers.brian2_.translation import translate
from ctsigprop.solvers.failures import diverged
from ctsigprop.solvers.options import check_max_steps, check_positive
from ctsigprop.solvers.stops import Interval, intervals, require_steps

__all__ = ["Brian2"]

_EVALUATIONS = {"euler": 1, "rk2": 2, "rk4": 4}


@dataclass(frozen=True)
class Brian2(Solver):
    """Fixed steps in Brian2 [1]_, for systems whose neurons and rules are written as text.

    Each stretch between output times and jumps of signals is cut into equal steps of at most `dt`.
    Brian2 holds the inputs from other populations, and whatever a weight's derivative reads, over
    a step: single populations, and inputs that depend on time alone, keep the order of the method,
    networks converge with order 1.

    Parameters
    ----------
    method : str
        ``"euler"``, ``"rk2"`` (the midpoint rule) or ``"rk4"``.
    dt : float
        The longest step, in the system's time unit.
    codegen : str
        ``"numpy"``, or ``"cython"``, which compiles first.
    max_steps : int
        The most steps of a run.

    Raises
    ------
    ValueError
        An option out of its range; before the run, what cannot be said in Brian2: fields that are
        not text, rules that read other synapses or neurons as modulators, delays, weights shared
        by a batch.
    ImportError
        Without a Brian2 that works here.

    Examples
    --------
    >>> Brian2(dt=0.1)
    Brian2(method='rk4', dt=0.1, codegen='numpy', max_steps=100000)

    References
    ----------
    .. [1] M. Stimberg, R. Brette, D. F. M. Goodman, Brian 2, eLife 8:e47314 (2019).
    """

    method: str = "rk4"
    dt: float = field(kw_only=True)
    codegen: str = "numpy"
    max_steps: int = 100_000

    gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.method not in _EVALUATIONS:
            raise ValueError(unknown("method", self.method, _EVALUATIONS))
        check_codegen(self.codegen)
        check_positive("dt", self.dt)
        check_max_steps(self.max_steps)

    def integrate(self, problem: Problem) -> None:
        """Fill ``problem.recorder``."""
        network = translate(problem)
        stretches = list(intervals(problem.t, problem.jumps, self.dt))
        steps = sum(stretch.steps for stretch in stretches)
        require_steps(steps, self.max_steps, float(problem.t[0]))
        with brian2_session(self.codegen) as brian2:
            run = _Run(brian2, self.method, problem, network, _steps(stretches))
            run.network.run(steps * brian2.second, namespace={})
        if run.failure is not None:
            raise run.failure
        if run.taken < steps:  # Brian2's own handler of Ctrl-C has ended the run after a step
            raise KeyboardInterrupt


@dataclass(frozen=True)
class _Step:
    """One step: from `start`, of signed length `h`; signals are read no later than `cap`."""

    start: Tensor
    h: Tensor
    cap: Tensor
    row: int | None


def _steps(stretches: list[Interval]) -> Iterator[_Step]:
    for stretch in stretches:
        start, stop = stretch.start.detach(), stretch.stop.detach()
        later = torch.maximum(start, stop)
        cap = torch.nextafter(later, torch.full_like(later, -torch.inf))
        for k in range(stretch.steps):
            row = stretch.row if k == stretch.steps - 1 else None
            share = (stop - start) / stretch.steps
            yield _Step(start + k * share, share, cap, row)


class _Run:
    """Brian2's objects, and what happens at both ends of a step."""

    def __init__(
        self,
        brian2: Any,
        method: str,
        problem: Problem,
        network: Network,
        steps: Iterator[_Step],
    ) -> None:
        self.problem, self.plan, self.steps = problem, network, steps
        self.evaluations = _EVALUATIONS[method]
        self.failure: IntegrationError | None = None
        self.taken = 0
        self.before = problem.layout.pack(problem.y0)
        clock = brian2.Clock(dt=brian2.second, name="clock")
        self.objects = network.build(brian2, method=method, dtype=np.float64, clock=clock)
        begin = brian2.NetworkOperation(self._begin, clock=clock, when="start", name="begin")
        end = brian2.NetworkOperation(self._end, clock=clock, when="end", name="end")
        self.network = brian2.Network(*self.objects.values(), begin, end)

    def _array(self, owner: str, name: str) -> Any:
        return self.objects[owner].variables[name].get_value()

    def _begin(self) -> None:
        """Set the length of the step, and the functions of time where the method looks."""
        self.step = step = next(self.steps)
        at = [torch.minimum(step.start + c * step.h, step.cap) for c in (0.0, 0.5, 1.0)]
        for name, group in self.plan.groups.items():
            for symbol, value in (("h", step.h), ("begin", step.start), ("step", self.taken)):
                self._array(name, symbol)[...] = float(value)
            for symbol, function in group.driven.items():
                for i, t in enumerate(at):
                    self._array(name, f"{symbol}_{i}")[:] = function(t).cpu().reshape(-1).numpy()

    def _end(self) -> None:
        """Look at the state, and keep it where an output is due."""
        step, problem = self.step, self.problem
        state = self._state()
        flat = problem.layout.pack(state)
        if not bool(torch.isfinite(flat).all()):
            self.failure = diverged(problem.layout, float(step.start), self.before, flat)
            self.network.stop()
            return
        self.before = flat
        self.taken += 1
        problem.recorder.statistics.steps += 1
        problem.recorder.statistics.evaluations += self.evaluations
        if step.row is not None:
            problem.recorder.row(step.row, state)
        problem.accepted(step.start + step.h, state, None)

    def _state(self) -> State:
        state: State = {}
        for name, place in self.plan.places.items():
            parts = [
                self._array(place.owner, variable).reshape(place.shape)[place.index]
                for variable in place.variables
            ]
            values = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
            like = self.problem.y0[name]
            state[name] = torch.tensor(values).to(like).reshape(self.problem.layout.shapes[name])
        return {name: state[name] for name in self.problem.layout.names}
