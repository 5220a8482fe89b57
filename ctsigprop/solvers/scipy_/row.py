"""One sample of a problem as a row of numbers: what SciPy integrates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ctsigprop.errors import NonFiniteError
from ctsigprop.solvers.base import Problem, State

if TYPE_CHECKING:
    from ctsigprop.solvers.events import Event

__all__ = ["Array", "NotFinite", "Row", "numbers"]

Array = np.ndarray[Any, np.dtype[np.float64]]


class NotFinite(Exception):  # noqa: N818
    """A derivative that is not finite, on its way out of SciPy."""

    def __init__(self, t: float, derivative: Tensor) -> None:
        super().__init__(f"the derivative is not finite at t={t}")
        self.t, self.derivative = t, derivative


class Row:
    """A problem seen from one of its samples: its numbers in a row, all samples standing there."""

    def __init__(self, problem: Problem, sample: int) -> None:
        self.problem, self.layout, self.sample = problem, problem.layout, sample
        self.start = self.layout.pack(problem.y0)[sample]
        system = problem.system
        self.bounded = bool(system) and system.project(problem.y0) is not problem.y0

    def tensor(self, y: Array) -> Tensor:
        """Return numbers of SciPy in the dtype and on the device of the state."""
        return torch.tensor(y, dtype=self.start.dtype, device=self.start.device)

    def clock(self, t: float) -> Tensor:
        """Return a time for every sample."""
        return torch.full((self.layout.samples,), t, dtype=torch.float64, device=self.start.device)

    def whole(self, y: Tensor) -> Tensor:
        """Return the rows of every sample."""
        return y.expand(self.layout.samples, self.layout.size)

    def derivative(self, t: float, y: Tensor) -> Tensor:
        """Return the derivative of the row."""
        return self.problem.derivative(self.clock(t), self.whole(y))[self.sample]

    def rate(self, t: float, y: Array) -> Array:
        """Return the derivative as SciPy takes it."""
        values = self.derivative(float(t), self.tensor(y))
        if not bool(torch.isfinite(values).all()):
            raise NotFinite(float(t), values)
        return numbers(values)

    def jacobian(self, t: float, y: Array) -> Array:
        """Return ∂f_i/∂y_j, ``(size, size)``."""
        at = self.tensor(y)
        values = torch.func.jacrev(lambda row: self.derivative(float(t), row))(at)
        # an entry that is not finite (a root at zero, say) only slows Newton's iteration down
        return numbers(torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0))

    def landed(self, t: float, y: Array, near: Array) -> Array:
        """Return the row with what is about to leave its bounds put on them.

        It is about to where `near`, a distance, takes it over a sign or a bound of its synapse in
        the direction of its derivative. There the derivative jumps to zero: a corrector that looks
        at the new side alone finds no step across.
        """
        if not self.bounded or not any(self._over(y + way * near).any() for way in (-1, 1)):
            return y
        ahead = y + np.sign(self.rate(t, y)) * near
        over = self._over(ahead)
        return np.where(over, self._inside(ahead), y) if over.any() else y

    def _over(self, y: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return np.not_equal(self._inside(y), y)

    def _inside(self, y: Array) -> Array:
        """Return the row inside the signs and bounds of synapses."""
        state = self.layout.unpack(self.whole(self.tensor(y)))
        return numbers(self.layout.pack(self.problem.system.project(state))[self.sample])

    def condition(self, event: Event, t: float, y: Array) -> float:
        """Return the value of an event's condition."""
        state = self.layout.unpack(self.whole(self.tensor(y)))
        value = event.condition(self.layout.clock(self.clock(t)), state)
        if value.numel() not in (1, self.layout.samples):
            raise ValueError(
                f"the condition of event '{event.name}' must be one number for each sample, of "
                f"shape {() if self.layout.coupled else self.layout.batch}; "
                f"got {tuple(value.shape)}"
            )
        number = float(value.reshape(-1).expand(self.layout.samples)[self.sample])
        if not math.isfinite(number):
            raise NonFiniteError(time=t, cause=f"the condition of event '{event.name}' is {number}")
        return number

    def reset(self, event: Event, t: float, y: Array) -> Array:
        """Return the row after an event."""
        if event.reset is None:
            return y
        state = self.layout.unpack(self.whole(self.tensor(y)))
        new = event.reset(self.layout.clock(self.clock(t)), state)
        after = self.layout.changed(state, new, f"the reset of event '{event.name}'")
        return numbers(self.layout.pack(after)[self.sample])

    def state(self, y: Array) -> State:
        """Return the state of this sample alone."""
        shapes = self.layout.shapes if self.layout.coupled else self.layout.dims
        row = self.tensor(y)
        return {name: row[part].reshape(shapes[name]) for name, part in self.layout.slices.items()}


def numbers(values: Tensor) -> Array:
    """Return a tensor in SciPy's type."""
    return values.detach().to("cpu", torch.float64).numpy().copy()
