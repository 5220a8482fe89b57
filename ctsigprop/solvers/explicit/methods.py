"""What an explicit method is asked for, as those see it that take its steps elsewhere."""

from __future__ import annotations

from typing import Protocol

from ctsigprop.solvers.explicit.control import Tolerance
from ctsigprop.solvers.explicit.tableaus import Tableau

__all__ = ["AdaptiveMethod", "Method"]


class Method(Protocol):
    """A Runge-Kutta method, with steps of `dt` where that is given."""

    @property
    def tableau(self) -> Tableau:
        """Its coefficients."""

    @property
    def dt(self) -> float | None:
        """The longest step, where steps are fixed."""

    @property
    def max_steps(self) -> int:
        """The most steps of a sample."""

    @property
    def low_rank(self) -> bool:
        """Whether large weights are stepped by their factors."""

    @property
    def native(self) -> bool | None:
        """Whether a compiled kernel has to take the steps, may, or must not."""


class AdaptiveMethod(Method, Protocol):
    """One whose steps adapt where `dt` is not given."""

    @property
    def rtol(self) -> float:
        """Relative tolerance."""

    @property
    def atol(self) -> Tolerance:
        """Absolute tolerance."""

    @property
    def first_step(self) -> float | None:
        """Size of the first step."""
