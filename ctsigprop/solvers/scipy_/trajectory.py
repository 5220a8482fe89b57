"""One sample's way through time, step by step of a SciPy method."""

from __future__ import annotations

import bisect
import math
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from ctsigprop.solvers.base import Problem
from ctsigprop.solvers.diagnosis import LastGood, Prospect, sound
from ctsigprop.solvers.scipy_.crossings import Crossings
from ctsigprop.solvers.scipy_.row import Array, NotFinite, Row, numbers

if TYPE_CHECKING:
    from scipy.integrate import DenseOutput, OdeSolver

    from ctsigprop.solvers.scipy_ import SciPy

__all__ = ["Trajectory"]


class Step:
    """A step of SciPy's: the state at any time within it."""

    def __init__(self, scipy: OdeSolver, start: float) -> None:
        self.scipy, self.start, self.end = scipy, start, float(scipy.t)

    def __call__(self, t: float) -> Array:
        return cast("Array", self.scipy.y if t == self.end else self.interpolant(t))

    @cached_property
    def interpolant(self) -> DenseOutput:
        """SciPy's interpolant, which may cost evaluations: made when first asked for."""
        return self.scipy.dense_output()


class Trajectory:
    """The run of one sample.

    Attributes
    ----------
    t, y : float, ndarray
        How far it has come.
    steps : int
        Accepted steps.
    pieces : list of (float, DenseOutput)
        End and interpolant of every step, where the problem wants them.
    """

    def __init__(
        self,
        solver: SciPy,
        problem: Problem,
        sample: int,
        report: Callable[[int, float, Tensor], None],
    ) -> None:
        self.solver, self.problem, self.sample = solver, problem, sample
        self.report = report
        self.row = Row(problem, sample)
        self.start, self.end = float(problem.t[0]), float(problem.t[-1])
        self.forward = math.copysign(1.0, self.end - self.start)
        self.t, self.y = self.start, numbers(self.row.start)
        self.size, self.first_step = abs(self.end - self.start), solver.first_step
        self.steps = 0
        self.prospect = Prospect(solver.max_steps)
        self.near = solver.absolute(self.row.layout)
        self.ended = False
        self.outputs: deque[tuple[int, float]] = deque()
        self.reached: list[tuple[int, Array]] = []
        self.pieces: list[tuple[float, DenseOutput]] = []
        self.crossings = Crossings(self.row, self.t, self.y) if problem.events else None

    def run(self) -> None:
        """Step to the end, or to a terminal event."""
        if self.start == self.end:
            self.reached = [(row, self.y) for row in range(1, len(self.problem.t))]
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.filterwarnings("ignore", module="scipy")  # what fails is raised
                for segment in self.problem.segments():
                    self.row = Row(replace(self.problem, field=segment.field), self.sample)
                    self.outputs.extend(zip(segment.rows, segment.t[1:].tolist(), strict=False))
                    while not self.ended and self.t != float(segment.t[-1]):
                        self._go(float(segment.t[-1]))
        finally:
            self._hand_over()

    def at(self, t: float) -> Array:
        """Return the state at a time of the run, before the reset where there is one."""
        low, high = sorted((self.start, self.t))
        if not low <= t <= high:
            raise ValueError(
                f"the solution spans t={self.start:g} to {self.t:g}; it has no value at t={t:g}"
            )
        k = bisect.bisect_left(self.pieces, self.forward * t, key=lambda p: self.forward * p[0])
        return cast("Array", self.pieces[k][1](t))

    def _go(self, end: float) -> None:
        """Step until the end, or until SciPy has to begin anew."""
        try:
            scipy = self.solver.begin(self.row, self.t, self.y, end, self.first_step)
            while scipy.status == "running":
                if self.steps >= self.solver.max_steps:
                    raise self._last_good().step_limit(self.solver.max_steps)
                left = abs(self.end - self.t) / (self.size or math.inf)
                self.prospect.step(left, self._last_good)
                failure = scipy.step()
                if failure or scipy.t == self.t:
                    raise self._last_good().underflow()
                if not sound(self.row.tensor(scipy.y)):
                    raise self._last_good().overflow()
                if not self._accept(scipy):
                    return
        except NotFinite as bad:
            self._back_off(bad, end)

    def _accept(self, scipy: OdeSolver) -> bool:
        """Take a step up to its end or an event; return whether SciPy can simply go on."""
        step = Step(scipy, self.t)
        stop, y = step.end, cast("Array", scipy.y)
        if self.crossings is not None:
            stop, y = self.crossings.follow(self.row, step)
            self.ended = self.crossings.ended
        if y is scipy.y:
            y = self.row.landed(stop, y, self.near + self.solver.rtol * np.abs(y))
        while self.outputs and self.forward * (self.outputs[0][1] - stop) <= 0:
            row, time = self.outputs.popleft()
            self.reached.append((row, step(time)))
        if self.problem.dense:
            self.pieces.append((stop, step.interpolant))
        self.steps += 1
        self.size, self.first_step = abs(stop - self.t), None
        self.t, self.y = stop, y
        self.report(self.sample, self.t, self.row.tensor(self.y))
        return y is scipy.y and not self.ended

    def _back_off(self, bad: NotFinite, end: float) -> None:
        """Set a shorter step, unless none is short enough."""
        self.size = min(abs(bad.t - self.t) or math.inf, self.size, abs(end - self.t)) / 2
        here = self.row.derivative(self.t, self.row.tensor(self.y))
        if self.size <= 4 * math.ulp(self.t) or not bool(torch.isfinite(here).all()):
            raise self._last_good().not_finite(bad.t, bad.derivative)
        self.first_step = self.size

    def _last_good(self) -> LastGood:
        def locate(position: int) -> tuple[str, tuple[int, ...]]:
            return self.problem.layout.locate(self.sample, position)

        return LastGood(
            t=self.t,
            y=self.row.tensor(self.y),
            step=self.forward * self.size,
            start=self.start,
            rate=lambda y: self.row.derivative(self.t, y),
            locate=locate,
            rtol=self.solver.rtol,
            reach=self.solver.reach,
        )

    def _hand_over(self) -> None:
        if self.reached:
            rows, values = zip(*self.reached, strict=True)
            index = torch.tensor(rows)
            sample = torch.full_like(index, self.sample)
            numbers = torch.stack([self.row.tensor(value) for value in values])
            self.problem.recorder.scatter(index, sample, numbers)
