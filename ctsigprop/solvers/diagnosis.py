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

__all__ = ["LastGood", "sound"]

_ITERATIONS = 20


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
    explicit : bool
        Whether the method is explicit, so that stiffness limits its steps.
    """

    t: float
    y: Tensor
    step: float
    start: float
    rate: Callable[[Tensor], Tensor]
    locate: Callable[[int], tuple[str, tuple[int, ...]]]
    rtol: float
    explicit: bool

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
        if self.explicit and self.stiffness() > 1:
            return self.too_stiff(
                f"{max_steps} steps did not reach the end: stability, not accuracy, holds them "
                f"at {abs(self.step):.3g}"
            )
        return StepLimitError(
            time=self.t,
            cause=f"{max_steps} steps did not reach the end; the last was {abs(self.step):.3g} "
            "long: raise max_steps or loosen the tolerances",
        )

    def overflow(self) -> IntegrationError:
        """Return the error for a state that has just left the range of its numbers."""
        if self.explicit and self.stiffness() > 1:
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
        """Return the error that advises an implicit method."""
        return StiffnessError(
            time=self.t,
            cause=f"{seen}; use an implicit method: SciPy(method='Radau') or SciPy(method='LSODA')",
        )

    def stiffness(self) -> float:
        """Return −h·Re λ for the dominant eigenvalue λ of the Jacobian, by power iteration.

        An explicit method is stable up to 2 to 6, and a step that accuracy chooses stays below 1.
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
        return -self.step * quotient

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
