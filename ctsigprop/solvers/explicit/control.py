"""The choice of the step size, for each sample on its own."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ctsigprop.errors import unknown
from ctsigprop.solvers.base import Layout
from ctsigprop.solvers.explicit.onestep import Derivative, RungeKutta, Step

__all__ = ["Control", "Pace", "Tolerance", "check_tolerances", "root_mean_square", "spread"]

Tolerance = float | Mapping[str, float]

SAFETY = 0.9
SMALLEST, LARGEST = 0.2, 10.0
INTEGRAL, PROPORTIONAL = 0.85, 0.2  # over the order: the PI control of HNW II, IV.2, (2.43)
FLOOR = 1e-4  # below this an error says nothing about the next one
CONSTANT = 0.05  # of the error; 0.001 to 0.04 was measured on learned fields
NON_FINITE = 0.1  # how far to step back from a NaN
LEAST_RTOL = 4  # in units of the rounding of the state's type


def check_tolerances(rtol: float, atol: Tolerance) -> None:
    """Refuse tolerances that are wrong for every problem."""
    for name, value in [("rtol", rtol), *(_items(atol))]:
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be >= 0, got {value}")
    least = LEAST_RTOL * torch.finfo(torch.float64).eps
    if 0 < rtol < least or (rtol == 0 and any(value == 0 for _, value in _items(atol))):
        raise ValueError(
            f"rtol must be at least {least:.2g}, got {rtol:g}: no step could meet it "
            "(0 is accepted where atol is above 0)"
        )


def _items(atol: Tolerance) -> list[tuple[str, float]]:
    if isinstance(atol, Mapping):
        return [(f"atol['{name}']", value) for name, value in atol.items()]
    return [("atol", atol)]


class Control:
    """Error norm, and PI control of the step size (HNW II, IV.2, (2.43)).

    The error of a sample is the largest over its variables of the root mean square over that
    variable of error / (atol + rtol·max(abs y_0, abs y_1)): a large matrix of weights does not
    dilute the error of a few neurons. A matrix is measured as a whole, by its own root mean square
    in the place of abs y.
    """

    def __init__(
        self,
        method: RungeKutta,
        layout: Layout,
        y: Tensor,
        rtol: float,
        atol: Tolerance,
        first_step: float | None,
        together: bool = False,
    ) -> None:
        least = LEAST_RTOL * torch.finfo(y.dtype).eps
        if rtol != 0 and rtol < least:
            raise ValueError(
                f"rtol must be at least {least:.2g} for a state of {y.dtype}, got {rtol:g}"
            )
        self.method = method
        self.first_step = first_step
        self.rtol = rtol
        self.parts = [part for part in layout.slices.values() if part.stop > part.start]
        self.whole = self.parts == [slice(0, layout.size)]
        self.matrices = [layout.slices[name] for name in layout.names if len(layout.dims[name]) > 1]
        self.atol = spread(atol, layout, y)
        self.exponent = 1 / method.tableau.order
        self.together = together
        self.integral, self.proportional = _powers(self.exponent, together)
        self.previous = torch.full((len(y),), FLOOR, dtype=torch.float64, device=y.device)
        self.retried = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        self.calm = True
        self.h = torch.zeros_like(self.previous)

    def norm(self, values: Tensor, scale: Tensor) -> Tensor:
        """Return the norm of each sample, ``(samples,)`` in float64."""
        if not self.parts:
            return torch.zeros_like(self.h)
        ratio = values / scale
        parts = [ratio] if self.whole else [ratio[:, part] for part in self.parts]
        norms = [torch.linalg.vector_norm(part, dim=1) / part.shape[1] ** 0.5 for part in parts]
        largest = norms[0] if len(norms) == 1 else torch.stack(norms).amax(0)
        return largest.double()

    def start(self, derivative: Derivative, t: Tensor, y: Tensor, f: Tensor, reach: Tensor) -> None:
        """Choose the first step (HNW I, II.4); `reach` is signed, up to the next stop.

        That of a batch that steps together is longer: each derivative is taken for 1/T of the one
        before, with T of the first two, so that its error is CONSTANT·T·abs y'·(h/T)^order.
        """
        if self.first_step is not None:
            self.h = torch.full_like(self.h, self.first_step)
            return
        with torch.no_grad():
            scale = self.scale(y)
            d0, d1 = self.norm(y, scale), self.norm(f, scale)
            h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
            h0 = torch.minimum(h0, reach.abs())
            ahead = h0 * reach.sign()
            f1 = derivative(t + ahead, y + ahead.to(y.dtype)[:, None] * f)
            d2 = self.norm(f1 - f, scale) / h0
            if self.together:
                h1 = (d1 / d2) ** (1 - self.exponent) * (1 / (CONSTANT * d1)) ** self.exponent
            else:
                steepest = torch.maximum(d1, d2)
                h1 = torch.where(
                    steepest <= 1e-15,
                    torch.clamp(h0 * 1e-3, min=1e-6),
                    (0.01 / steepest) ** self.exponent,
                )
            h = torch.minimum(100 * h0, h1)
            self.h = torch.where(torch.isfinite(h) & (h > 0), h, h0)

    def errors(self, step: Step) -> Tensor:
        """Return the error of each sample's step; at most 1 is accepted."""
        with torch.no_grad():
            return self.norm(*self._error(step))

    def _error(self, step: Step) -> tuple[Tensor, Tensor]:
        weights = self.method.error
        if weights is None:
            raise TypeError("a method without an error estimate has no control of its steps")
        error = self.method.combine(weights, step.stages).mul_(step.h[:, None])
        return error, self.scale(step.y, step.end)

    def scale(self, *states: Tensor) -> Tensor:
        """Return atol + rtol·size: of each number its own, of a matrix its root mean square."""
        sizes = [state.abs() for state in states]
        largest = sizes[0] if len(sizes) == 1 else torch.maximum(*sizes)
        for part in self.matrices:
            means = [root_mean_square(size[:, part]) for size in sizes]
            largest[:, part] = means[0] if len(means) == 1 else torch.maximum(*means)
        return torch.add(self.atol, largest, alpha=self.rtol)

    def largest(self, step: Step, sample: int) -> int:
        """Return the position of the component with the largest error in a sample's step."""
        with torch.no_grad():
            error, scale = self._error(step)
            ratio = (error / scale)[sample].abs()
            return int(torch.where(torch.isnan(ratio), torch.inf, ratio).argmax())

    def follow(self, size: Tensor, errors: Tensor, cut: Tensor | None) -> None:
        """Set the next step after one of which every sample was accepted.

        `size` is what was tried; where it was `cut` short to land on a stop, the step that was
        meant counts as well (None: nowhere).
        """
        factor = errors.clamp(min=1e-10).pow_(-self.integral)
        if self.proportional:
            factor *= self.previous.pow(self.proportional)
        factor = factor.mul_(SAFETY).clamp_(SMALLEST, LARGEST)
        if not self.calm:
            factor = torch.where(self.retried, factor.clamp(max=1.0), factor)
            self.retried = torch.zeros_like(self.retried)
            self.calm = True
        h = size * factor
        self.h = h if cut is None else torch.where(cut, torch.maximum(h, self.h), h)
        self.previous = errors.clamp(min=FLOOR)

    def follow_some(
        self, size: Tensor, errors: Tensor, accepted: Tensor, cut: Tensor | None
    ) -> None:
        """Set the next step after one that some samples have to repeat."""
        before = self.previous
        shrunk = size * (SAFETY * errors**-self.exponent).clamp(SMALLEST, 1.0)
        self.follow(size, errors, cut)
        self.h = torch.where(accepted, self.h, shrunk)
        self.previous = torch.where(accepted, self.previous, before)
        self.retried = ~accepted
        self.calm = False

    def pace(self) -> Pace:
        """Return the steps of one sample in plain numbers."""
        pace = Pace(float(self.h), self.exponent, self.together)
        pace.previous, pace.retried = float(self.previous), bool(self.retried)
        return pace

    def resume(self, pace: Pace) -> None:
        """Go on from the steps of one sample."""
        self.h = torch.full_like(self.h, pace.h)
        self.previous = torch.full_like(self.previous, pace.previous)
        self.retried = torch.full_like(self.retried, pace.retried)
        self.calm = not pace.retried

    def back_off(self, size: Tensor, wrong: Tensor) -> None:
        """Shorten the step of the samples that met a NaN or an infinity."""
        self.h = torch.where(wrong, size * NON_FINITE, self.h)
        self.retried = self.retried | wrong
        self.calm = False

    def looseness(self, y: Tensor) -> float:
        """Return the relative tolerance that holds for one sample's state `y`."""
        return self.rtol + float((self.atol / y.abs().max()).max().clamp(max=1e-3))

    def stiff(self, step: Step) -> Tensor:
        """Say which samples' steps are held back by stability (Hairer's test, HNW II, IV.2).

        h·λ is estimated from the last two stages, (2.22).
        """
        with torch.no_grad():
            apart = step.end - self.method.before_last(step)
            slope = torch.linalg.vector_norm(step.stages[-1] - step.stages[-2], dim=1)
            distance = torch.linalg.vector_norm(apart, dim=1)
            speed = torch.where(distance > 0, step.h.abs() * slope / distance, 0.0)
            return speed > 0.95 * self.method.tableau.stability


def _powers(exponent: float, together: bool) -> tuple[float, float]:
    """Return to which power the next step goes with the error, and with the one before."""
    if together:
        return exponent, 0.0
    return INTEGRAL * exponent, PROPORTIONAL * exponent


class Pace:
    """The control of one sample's steps: that of `Control`, in plain numbers."""

    def __init__(self, h: float, exponent: float, together: bool = False) -> None:
        self.h, self.previous, self.retried = h, FLOOR, False
        self.exponent = exponent
        self.integral, self.proportional = _powers(exponent, together)

    @staticmethod
    def trial(state: float, slope: float, reach: float) -> float:
        """Return how far to look ahead for the first step, from two norms."""
        h = 1e-6 if state < 1e-5 or slope < 1e-5 else 0.01 * state / slope
        return min(h, reach)

    def start(self, trial: float, slope: float, bend: float) -> None:
        """Choose the first step, from the norms of the slope and of its change a unit of time."""
        steepest = max(slope, bend)
        h = (0.01 / steepest) ** self.exponent if steepest > 1e-15 else max(trial * 1e-3, 1e-6)
        h = min(100 * trial, h)
        self.h = h if math.isfinite(h) and h > 0 else trial

    def follow(self, size: float, error: float, cut: bool) -> None:
        """Set the next step after one of which the sample was accepted, or has to repeat it."""
        if error > 1:
            self.h = size * min(max(SAFETY * error**-self.exponent, SMALLEST), 1.0)
            self.retried = True
            return
        factor = max(error, 1e-10) ** -self.integral
        if self.proportional:
            factor *= self.previous**self.proportional
        factor = min(max(factor * SAFETY, SMALLEST), LARGEST)
        if self.retried:
            factor = min(factor, 1.0)
            self.retried = False
        h = size * factor
        self.h = max(h, self.h) if cut else h
        self.previous = max(error, FLOOR)


def root_mean_square(values: Tensor) -> Tensor:
    """Return the root mean square of each row, ``(rows, 1)``; squares may be too large."""
    found = values.square().mean(1, keepdim=True).sqrt_()
    if not values.shape[1] or math.isfinite(float(found.sum())):
        return found
    largest = values.abs().amax(1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    return largest * (values / largest).square_().mean(1, keepdim=True).sqrt_()


def spread(atol: Tolerance, layout: Layout, like: Tensor) -> Tensor:
    """Return the absolute tolerance of every number of a packed state, or of all of them."""
    least = torch.finfo(like.dtype).tiny  # a component at zero for good is no error
    if not isinstance(atol, Mapping):
        return like.new_tensor(max(atol, least))
    for name in atol:
        if name not in layout.slices:
            raise ValueError(unknown("variable in atol", name, layout.names))
    missing = [name for name in layout.names if name not in atol]
    if missing:
        raise ValueError(f"atol must name every variable; missing: {', '.join(missing)}")
    values = like.new_empty(layout.size)
    for name, part in layout.slices.items():
        values[part] = max(atol[name], least)
    return values
