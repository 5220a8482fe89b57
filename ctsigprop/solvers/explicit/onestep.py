"""One step of an explicit method on packed rows, and the polynomial that runs through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from ctsigprop.solvers.base import Problem
from ctsigprop.solvers.explicit.tableaus import Tableau, hermite

__all__ = ["Derivative", "Exponential", "OneStep", "RungeKutta", "Step", "interpolate", "phi1"]

Derivative = Callable[[Tensor, Tensor], Tensor]

SMALL = 20_000
"""States of more numbers are summed by one product with the weights, which reads them once."""


def interpolate(y: Tensor, h: Tensor, stages: Tensor, theta: Tensor, dense: Tensor) -> Tensor:
    """Evaluate y + h Σ_i (Σ_j dense_ij θ^(j+1)) k_i.

    Shapes: `y` (k, size), `h` and `theta` (k,), `stages` (s, k, size), `dense` (s, degree).
    """
    powers = theta[:, None] ** torch.arange(1, dense.shape[1] + 1, device=theta.device)
    weights = (powers @ dense.T).to(y.dtype).T.unsqueeze(-1)
    return y + h.to(y.dtype)[:, None] * (weights * stages).sum(0)


@dataclass(frozen=True)
class Step:
    """A step of every sample: from `y` at `t` to `end` at ``t + h``.

    Shapes: `t`, `h` (samples,), `y`, `end`, `last` (samples, size), `stages` (s, samples, size), of
    which the first is the derivative at the start, and `last` the one at the end.
    """

    t: Tensor
    h: Tensor
    y: Tensor
    stages: Tensor
    end: Tensor
    last: Tensor
    dense: Tensor

    def at(self, theta: Tensor) -> Tensor:
        """Return the state of every sample at its ``t + theta·h``."""
        return interpolate(self.y, self.h, self.stages, theta, self.dense)

    def rows(self, sample: Tensor, theta: Tensor) -> Tensor:
        """Return the states of some samples, each at its own `theta`."""
        stages = self.stages[:, sample]
        return interpolate(self.y[sample], self.h[sample], stages, theta, self.dense)


class OneStep(Protocol):
    """A method as the loop over steps sees it."""

    @property
    def nodes(self) -> Tensor:
        """Where in the step the derivative is wanted, ``(s, 1)``, from 0 to 1."""

    @property
    def dense(self) -> Tensor:
        """The polynomials of the interpolant, ``(s, degree)``."""

    def __call__(
        self, derivative: Derivative, times: Tensor, t: Tensor, y: Tensor, f: Tensor, h: Tensor
    ) -> Step:
        """Step every sample by its `h`; `f` is its derivative at the start."""

    def carried(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the state and the derivative that the next step begins with."""


@cache
def _coefficients(
    tableau: Tableau, dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], list[Tensor], Tensor | None, Tensor, Tensor]:
    """Return rows, columns, the weights of the error, the nodes and the interpolant as tensors."""
    with torch.inference_mode(False):  # they outlive the run
        rows = [torch.tensor(row, dtype=dtype, device=device) for row in tableau.a]
        full = torch.stack([nn.functional.pad(row, (0, len(rows) - len(row))) for row in rows])
        columns = list(full.T[:-1, 1:, None, None].contiguous())
        error = None
        if tableau.error is not None:
            error = torch.tensor(tableau.error, dtype=dtype, device=device)
        nodes = torch.tensor(tableau.c, dtype=torch.float64, device=device)[:, None]
        dense = torch.tensor(tableau.dense, dtype=torch.float64, device=device)
    return rows, columns, error, nodes, dense


class RungeKutta:
    """A Runge-Kutta method with its coefficients beside the state, in its type."""

    def __init__(self, tableau: Tableau, like: Tensor) -> None:
        self.tableau = tableau.closed()
        found = _coefficients(self.tableau, like.dtype, like.device)
        self.rows, self.columns, self.error, self.nodes, self.dense = found

    def __call__(
        self, derivative: Derivative, times: Tensor, t: Tensor, y: Tensor, f: Tensor, h: Tensor
    ) -> Step:
        """Step every sample by its `h`; `f` is its derivative at the start."""
        scale = h.to(y.dtype)[:, None]
        if y.numel() <= SMALL:
            stages, end = self._summed(derivative, times, y, f, scale)
            return Step(t, h, y, torch.stack(stages), end, stages[-1], self.dense)
        count, end = len(self.rows), y
        # a graph needs each stage as it was; without one, they share a buffer
        if torch.is_grad_enabled():
            kept = [f]
            for i in range(1, count):
                end = torch.addcmul(y, scale, self.combine(self.rows[i], torch.stack(kept)))
                kept.append(derivative(times[i], end))
            return Step(t, h, y, torch.stack(kept), end, kept[-1], self.dense)
        buffer = y.new_empty((count, *y.shape))
        buffer[0] = f
        for i in range(1, count):
            end = torch.addcmul(y, scale, self.combine(self.rows[i], buffer[:i]))
            buffer[i] = derivative(times[i], end)
        return Step(t, h, y, buffer, end, buffer[-1], self.dense)

    def _summed(
        self, derivative: Derivative, times: Tensor, y: Tensor, f: Tensor, scale: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Return the stages and the end, by sums of which a graph keeps no state."""
        stages, end = [f], y
        states = y.expand(len(self.columns), *y.shape)  # where stages are taken
        for i, (column, at) in enumerate(zip(self.columns, times[1:].unbind(), strict=True)):
            states = torch.addcmul(states, column, scale * stages[-1])
            end = torch.select_copy(states, 0, i)  # a view would hold on to all
            stages.append(derivative(at, end))
        return stages, end

    def carried(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the state and the derivative that the next step begins with."""
        return step.end, step.last

    def combine(self, weights: Tensor, stages: Tensor) -> Tensor:
        """Return Σ_i w_i k_i."""
        return torch.mv(stages.flatten(1).T, weights).view(stages.shape[1:])

    def before_last(self, step: Step) -> Tensor:
        """Return the state at which the last stage but one was taken."""
        i = len(self.rows) - 2
        scale = step.h.to(step.y.dtype)[:, None]
        return step.y + scale * self.combine(self.rows[i], step.stages[:i])


class Exponential:
    """ETD1: y_1 = y + h φ₁(a h) f(t, y), a the linear coefficient of each component."""

    def __init__(self, problem: Problem, like: Tensor) -> None:
        self.problem = problem
        self.nodes = torch.tensor([[0.0], [1.0]], dtype=torch.float64, device=like.device)
        # the stages are f, φ₁ f and the new f
        self.dense = torch.tensor(hermite((0.0, 1.0, 0.0)), dtype=torch.float64, device=like.device)

    def __call__(
        self, derivative: Derivative, times: Tensor, t: Tensor, y: Tensor, f: Tensor, h: Tensor
    ) -> Step:
        """Step every sample by its `h`; `f` is its derivative at the start."""
        scale = h.to(y.dtype)[:, None]
        slope = phi1(scale * self._rates(times[0], y)) * f
        end = y + scale * slope
        last = derivative(times[1], end)
        return Step(t, h, y, torch.stack([f, slope, last]), end, last, self.dense)

    def carried(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the state and the derivative that the next step begins with."""
        return step.end, step.last

    def _rates(self, t: Tensor, y: Tensor) -> Tensor:
        layout = self.problem.layout
        state = layout.unpack(y)
        rates = self.problem.linear(layout.clock(t), state) if self.problem.linear else {}
        zero = y.new_zeros(())
        rows = {name: rates.get(name, zero).expand_as(state[name]) for name in layout.names}
        return layout.pack(rows).to(y.dtype)


def phi1(z: Tensor) -> Tensor:
    """Return φ₁(z) = (e^z - 1)/z, with φ₁(0) = 1 (Hochbruck & Ostermann 2010, (2.6)).

    >>> phi1(torch.tensor([0.0, 1.0], dtype=torch.float64))
    tensor([1.0000, 1.7183], dtype=torch.float64)
    """
    small = z.abs() < 1e-3
    series = 1 + z * (1 / 2 + z * (1 / 6 + z * (1 / 24 + z / 120)))
    away = torch.where(small, torch.ones_like(z), z)
    return torch.where(small, series, torch.expm1(away) / away)
