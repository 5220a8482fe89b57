"""Events: conditions whose zeros are found and recorded, and may stop or reset the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ctsigprop.terms import State

__all__ = ["Event", "EventRecord"]


@dataclass(frozen=True)
class Event:
    """A condition g(t, y) whose zero is an event, looked for in every sample.

    The time t_e of an event is differentiable: dt_e = -dg / (∂g/∂t + ∂g/∂y · dy/dt), by the
    implicit function theorem.

    Parameters
    ----------
    condition : callable
        ``condition(t, state)``, of shape ``batch`` or ``()``; `t` in the system's time unit.
    direction : int, optional
        1: only where g rises through zero, -1: only where it falls, 0: both.
    terminal : bool, optional
        Whether the sample ends there.
    limit : int or None, optional
        After so many the event is no longer watched, for each sample.
    reset : callable or None, optional
        ``reset(t, state)`` returns the new values of some variables; the sample goes on with them.
    name : str, optional
        What it is called in the records.

    Raises
    ------
    TypeError
        If `condition` or `reset` cannot be called.
    ValueError
        If `direction` is not -1, 0 or 1, or `limit` is below 1.

    Examples
    --------
    >>> Event(lambda t, y: y["v"] - 20.0, direction=1, reset=lambda t, y: {"v": 0 * y["v"]}).limit
    """

    condition: Callable[[Tensor, State], Tensor]
    direction: int = 0
    terminal: bool = False
    limit: int | None = None
    reset: Callable[[Tensor, State], State] | None = None
    name: str = "event"

    def __post_init__(self) -> None:
        if not callable(self.condition):
            raise TypeError(f"condition must be a function of (t, state), got {self.condition!r}")
        if self.reset is not None and not callable(self.reset):
            raise TypeError(f"reset must be a function of (t, state) or None, got {self.reset!r}")
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"direction must be -1, 0 or 1, got {self.direction!r}")
        if self.limit is not None and not (isinstance(self.limit, int) and self.limit >= 1):
            raise ValueError(f"limit must be a whole number >= 1 or None, got {self.limit!r}")


@dataclass(frozen=True)
class EventRecord:
    """One crossing of an event: when, in which sample, and the state just before any reset."""

    name: str
    time: Tensor
    sample: int
    state: State
