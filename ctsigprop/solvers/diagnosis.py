"""Why a run cannot go on: the typed error that fits, told from the last good point."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsigprop.errors import (
    BlowUpError,
    IntegrationError,
    NonFiniteError,
    StepLimitError,
    StiffnessError,
)

__all__ = ["LastGood", "Prospect", "sound"]

_ITERATIONS = 20
_STIFF = 0.4  # of the reach of stability: steps that accuracy chooses stay below
_EVERY, _PATIENCE = 64, 3  # steps between looks at the prospect of a run; looks in a row


def sound(*tensors: Tensor) -> bool:
    """Whether every number is finite, and not about to overflow.

    >>> [sound(torch.tensor([0.0, y])) for y in (-3.0, 1e30, torch.nan)]
    [True, False, False]
    """
    return all(bool((y.detach().abs() < torch.finfo(y.dtype).max ** 0.75).all()) for y in tensors)


@dataclass(frozen=True)
class LastGood:
    """The last good point of a run, and the right-hand side there.

    Attributes
    ----------
    t : float
        Its time.
    y : Tensor
        Its state as one row of numbers.
    step : float
        The step last tried from here, negative where time runs backward.
    start : float
        Where the run began.
    rate : callable
        ``rate(y)``, the derivative at `t`.
    locate : callable
        The variable, and the index into it, of one number of the row.
    rtol : float
        The relative tolerance of the run.
    reach : float or None
        How far the method's stability reaches along the negative real axis; None if it is implicit.
    """

    t: float
    y: Tensor
    step: float
    start: float
    rate: Callable[[Tensor], Tensor]
    locate: Callable[[int], tuple[str, tuple[int, ...]]]
    rtol: float
    reach: float | None

    def not_finite(self, time: float, derivative: Tensor) -> IntegrationError:
        """Return the error that names the first bad number of a derivative found at `time`."""
        if float(self.y.abs().max()) > torch.finfo(self.y.dtype).max ** 0.25:
            return self.overflow()
        position = int(torch.nonzero(~torch.isfinite(derivative))[0])
        variable, component = self.locate(position)
        return NonFiniteError(
            time=self.t,
            variable=variable,
            component=component,
            cause=f"the derivative is {float(derivative[position])} at t={time:.6g}; "
            "look for a division by zero, an exponential or a root out of its range",
        )

    def step_limit(self, max_steps: int) -> IntegrationError:
        """Return `StiffnessError` where stability is what keeps the steps short."""
        if self.stiff():
            return self.too_stiff(
                f"{max_steps} steps did not reach the end: stability, not accuracy, holds them "
                f"at {abs(self.step):.3g}"
            )
        variable, component = self.locate(self._fastest())
        return StepLimitError(
            time=self.t,
            variable=variable,
            component=component,
            cause=f"{max_steps} steps did not reach the end; the last was {abs(self.step):.3g} "
            "long: raise max_steps or loosen the tolerances",
        )

    def overflow(self) -> IntegrationError:
        """Return the error for a state that has just left the range of its numbers."""
        if self.stiff():
            return self.too_stiff(f"a step of {abs(self.step):.3g} is beyond stability")
        return self._blow_up(self._fastest(), "it overflows", self.t)

    def underflow(self) -> IntegrationError:
        """Return the error for a step that had to be shorter than numbers can tell."""
        position = self._fastest()
        value, slope = float(self.y[position]), float(self.rate(self.y)[position])
        forward = math.copysign(1.0, self.step)
        distance = abs(value / slope) if slope else math.inf
        if value * slope * forward > 0 and distance < 1e-9 * max(
            abs(self.t), abs(self.t - self.start)
        ):
            # where the pole lies is known no better than the tolerance
            unsure = 10 * self.rtol * (self.t - self.start)
            return self._blow_up(position, f"it reaches {value:.3g}", self.t - unsure)
        variable, component = self.locate(position)
        return IntegrationError(
            time=self.t,
            variable=variable,
            component=component,
            cause="the step had to be shorter than the spacing of numbers: the derivative jumps "
            "or is singular here (declare the time of a jump), or the tolerances are too small",
        )

    def too_stiff(self, seen: str) -> StiffnessError:
        """Return the error that advises an implicit method, and names the stiffest variable."""
        variable, component = self.locate(self.stiffness()[1])
        return StiffnessError(
            time=self.t,
            variable=variable,
            component=component,
            cause=f"{seen}; use an implicit method: SciPy(method='Radau') or SciPy(method='LSODA')",
        )

    def stiff(self) -> bool:
        """Tell whether stability, not accuracy, is what keeps the steps short."""
        return self.reach is not None and self.stiffness()[0] > _STIFF * self.reach

    def stiffness(self) -> tuple[float, int]:
        """Return −h·Re λ for the dominant eigenvalue λ of the Jacobian, and its largest component.

        By power iteration, with differences for the Jacobian.
        """
        with torch.no_grad():
            slope = self.rate(self.y)
            size = math.sqrt(torch.finfo(self.y.dtype).eps) * max(1.0, float(self.y.abs().max()))
            direction = torch.cos(torch.arange(self.y.numel(), device=self.y.device)).to(self.y)
            quotient = math.nan
            for _ in range(_ITERATIONS):
                direction = direction / direction.norm()
                image = (self.rate(self.y + size * direction) - slope) / size
                quotient = float(direction @ image)
                if not quotient:
                    break
                direction = image
        return -self.step * quotient, int(direction.abs().argmax())

    def _fastest(self) -> int:
        return int(torch.nan_to_num(self.rate(self.y).abs()).argmax())

    def _blow_up(self, position: int, seen: str, time: float) -> BlowUpError:
        variable, component = self.locate(position)
        return BlowUpError(
            time=time,
            variable=variable,
            component=component,
            cause=f"{seen} near t={self.t:.6g}; end the run before, or bound the growth",
        )


class Prospect:
    """Looks, now and then, at whether a run will come to its end within its steps."""

    def __init__(self, max_steps: float) -> None:
        self.max_steps = max_steps
        self.taken = self.stiff = 0

    def step(self, left: float, last_good: Callable[[], LastGood]) -> None:
        """Raise `StiffnessError` where stability goes on to leave too many steps; `left` of them.

        Called before each step.
        """
        self.taken += 1
        if self.taken % _EVERY:
            return
        point = last_good() if left > self.max_steps - self.taken else None
        self.stiff = self.stiff + 1 if point is not None and point.stiff() else 0
        if point is not None and self.stiff >= _PATIENCE:
            raise point.too_stiff(
                f"stability, not accuracy, holds the steps at {abs(point.step):.2g}, so that "
                f"{left:.2g} more are needed"
            )
