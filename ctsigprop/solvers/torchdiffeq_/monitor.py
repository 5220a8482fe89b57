"""The right-hand side as torchdiffeq calls it, and what can be told from its calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctsigprop.errors import IntegrationError, StepLimitError
from ctsigprop.solvers.base import Field, Problem, State, Statistics
from ctsigprop.solvers.diagnosis import LastGood, Prospect, sound

if TYPE_CHECKING:
    from ctsigprop.solvers.torchdiffeq_ import TorchDiffEq

__all__ = ["Monitor"]


class Monitor:
    """The right-hand side of a segment as torchdiffeq calls it, aware of how far the run is."""

    def __init__(self, problem: Problem, field: Field, solver: TorchDiffEq) -> None:
        self.problem = replace(problem, field=field)
        self.solver = solver
        self.statistics = problem.recorder.statistics
        self.limit: float = solver.max_steps
        self.prospect = Prospect(solver.max_steps)
        self.accepted = problem.accepted
        self.first_step = solver.first_step
        self.start, self.end = problem.t.detach()[[0, -1]].tolist()
        self.forward = math.copysign(1.0, self.end - self.start)
        self.backward_steps = 0
        self.calls: list[tuple[Tensor, State]] = []

    def silent(self) -> Monitor:
        """Return a monitor for the same segment that counts nothing and has no limit."""
        again = Monitor(self.problem, self.problem.field, self.solver)
        again.statistics, again.limit, again.prospect = Statistics(), math.inf, Prospect(math.inf)
        again.accepted = lambda _t, _state, _derivative: None
        return again

    def depart(self, t: Tensor, state: State) -> None:
        """Begin a stretch."""
        self.t, ahead = t.detach()[:2].tolist()
        self.state = {name: y.detach() for name, y in state.items()}
        self.step = ahead - self.t
        self.trying = False
        self.calls.clear()

    def passed(self, t: Tensor) -> int:
        """Return how many of the times the run has passed."""
        return int((self.forward * t <= self.forward * self.t).sum())

    def record(self, rows: list[int], states: list[State]) -> None:
        """Record outputs; the end of a segment may be none."""
        for row, state in zip(rows, states, strict=False):
            self.problem.recorder.row(row, state)

    def arrive(self, t: Tensor, values: Iterable[Tensor]) -> None:
        """Take a point as reached, unless its state is no good."""
        state = dict(zip(self.state, (y.detach() for y in values), strict=True))
        if not sound(*state.values()):
            raise self._failure(self.last_good().overflow)
        now = t.detach()
        if self.trying and float(now) == self.t:
            self.statistics.rejections += 1
        elif self.trying:
            self.t, self.state = float(now), state
            self.statistics.steps += 1
            self.accepted(now, state, None)

    def callback_step(self, t: Tensor, values: tuple[Tensor, ...], dt: Tensor) -> None:
        """Take note of a step about to be tried; torchdiffeq calls this."""
        self.arrive(t, values)
        step = self.forward * float(dt.detach())
        if self.t + step == self.t:
            raise self._failure(self.last_good().underflow)
        if self.statistics.steps + self.statistics.rejections >= self.limit:
            raise self.last_good().step_limit(self.solver.max_steps)
        self.step, self.first_step, self.trying = step, abs(step), True
        self.calls.clear()
        if self.solver.dt is None:
            self.prospect.step(abs((self.end - self.t) / step), self.last_good)

    def callback_step_adjoint(self, t: Tensor, _values: object, dt: Tensor) -> None:
        """Watch over the backward solve; torchdiffeq calls this."""
        self.calls.clear()
        self.backward_steps += 1
        time = self.forward * float(t)
        if t + dt == t:
            raise IntegrationError(
                time=time,
                cause="the adjoint equation cannot be solved backward from here, its steps get "
                "too short; use adjoint=False",
            )
        if self.backward_steps > self.solver.max_steps:
            raise StepLimitError(
                time=time,
                cause=f"{self.backward_steps} steps of the adjoint equation did not reach the "
                "start; raise max_steps, or use adjoint=False",
            )

    def __call__(self, t: Tensor, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the derivative of every variable; torchdiffeq calls this."""
        self.statistics.evaluations += 1
        state = dict(zip(self.state, values, strict=True))
        given = self.problem.field(t.to(torch.float64), state)
        derivative = {
            name: given[name] if name in given else torch.zeros_like(y) for name, y in state.items()
        }
        self.calls.append((t, derivative))
        return tuple(derivative.values())

    def last_good(self) -> LastGood:
        """Return the last point that was good."""
        layout = self.problem.layout
        t = torch.full((layout.samples,), self.t, dtype=torch.float64)

        def rate(y: Tensor) -> Tensor:
            flat = y.reshape(layout.samples, layout.size)
            return self.problem.derivative(t, flat).detach().reshape(-1)

        return LastGood(
            t=self.t,
            y=layout.pack(self.state).reshape(-1),
            step=self.step,
            start=self.start,
            rate=rate,
            locate=lambda position: layout.locate(*divmod(position, layout.size)),
            rtol=self.solver.rtol,
            reach=self.solver.reach,
        )

    def _failure(self, otherwise: Callable[[], IntegrationError]) -> IntegrationError:
        """Return the error that names a derivative that is not finite, if that is what failed."""
        for t, derivative in self.calls:
            flat = self.problem.layout.pack(derivative).detach().reshape(-1)
            if not bool(torch.isfinite(flat).all()):
                return self.last_good().not_finite(float(t.detach()), flat)
        return otherwise()
