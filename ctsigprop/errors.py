"""Typed errors, and the wording that every refusal shares."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "BlowUpError",
    "ConvergenceError",
    "CorruptStoreError",
    "GradientError",
    "IntegrationError",
    "NonFiniteError",
    "SeparationError",
    "StepLimitError",
    "StiffnessError",
    "StoreError",
    "StoreExistsError",
    "UnitError",
    "did_you_mean",
    "unknown",
]


def did_you_mean(given: str, accepted: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest accepted name, or an empty string.

    >>> did_you_mean("stepsize", ["step_size", "rtol"])
    " (did you mean 'step_size'?)"
    """
    close = difflib.get_close_matches(given, list(accepted), n=1, cutoff=0.5)
    if not close:
        folded = {name.lower(): name for name in accepted}
        close = [folded[given.lower()]] if given.lower() in folded else []
    return f" (did you mean '{close[0]}'?)" if close else ""


def unknown(what: str, given: str, accepted: Iterable[str]) -> str:
    """Return the message that refuses an unknown name and lists the accepted ones.

    >>> unknown("option", "max_stps", ["max_steps", "rtol"])
    "unknown option 'max_stps' (did you mean 'max_steps'?); accepted: max_steps, rtol"
    """
    names = sorted(accepted)
    return (
        f"unknown {what} '{given}'{did_you_mean(given, names)}; accepted: {', '.join(names) or '-'}"
    )


class UnitError(ValueError):
    """A unit that is unknown, or an equation whose dimensions do not agree."""


class StoreError(OSError):
    """A result store that cannot be read or written as asked."""


class StoreExistsError(StoreError, FileExistsError):
    """A result that would have been written over another one."""


class CorruptStoreError(StoreError):
    """A result store that is truncated, altered or left by an interrupted write."""


class GradientError(RuntimeError):
    """A gradient that would be lost, or wrong."""


class IntegrationError(RuntimeError):
    """The numerics failed: where, in which variable, and what the likely cause is.

    Attributes
    ----------
    time : float
        The last time at which the state was good, in the system's time unit.
    variable : str or None
        The variable that failed, or the one with the largest error.
    component : tuple of int or None
        The index into that variable, batch axes first.
    cause : str
        The likely cause and what to try, in words.
    partial : ctsigprop.Solution or None
        Every output time that was reached before the failure.
    """

    what: ClassVar[str] = "the integration failed"

    def __init__(
        self,
        *,
        time: float,
        cause: str,
        variable: str | None = None,
        component: tuple[int, ...] | None = None,
    ) -> None:
        where = f" in '{variable}'" if variable else ""
        where += f" at index {list(component)}" if component else ""
        super().__init__(f"{self.what}{where} at t={time:.6g}: {cause}")
        self.time = time
        self.variable = variable
        self.component = component
        self.cause = cause
        self.partial: Any = None


class BlowUpError(IntegrationError):
    """The state grew without bound in finite time."""

    what = "the solution blows up"


class ConvergenceError(IntegrationError):
    """A relaxation did not come to rest."""

    what = "no steady state was reached"


class NonFiniteError(IntegrationError):
    """The right-hand side, or the state, became NaN or infinite."""

    what = "the derivative is not finite"


class SeparationError(IntegrationError):
    """Weights that are not slow enough to be averaged, or neurons that do not forget."""

    what = "slow and fast variables cannot be separated"


class StepLimitError(IntegrationError):
    """More steps were needed than ``max_steps`` allows."""

    what = "max_steps was reached"


class StiffnessError(IntegrationError):
    """The problem is too stiff for an explicit method."""

    what = "the problem is too stiff for this method"
