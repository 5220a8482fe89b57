"""Zero crossings of one sample's events, between the steps of a SciPy method."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch

from ctsigprop.errors import StepLimitError
from ctsigprop.solvers.events import Event, EventRecord
from ctsigprop.solvers.scipy_.row import Array, Row, numbers

__all__ = ["Crossings"]

_PROBES = (0.25, 0.5, 0.75, 1.0)  # the shares of a step at which conditions are looked at
_TOGETHER = 1e-12  # events so close, relative to t, are at one time
_PILE_UP = 3  # so many of one event at one time


class _Step(Protocol):
    start: float
    end: float

    def __call__(self, t: float) -> Array: ...


class Crossings:
    """On which side of zero each condition is, and how often it may still cross.

    A sign of 0 stands for a side that is not known yet: the next sign seen decides.
    """

    def __init__(self, row: Row, t: float, y: Array) -> None:
        self.events = row.problem.events
        self.side = [_sign(row.condition(event, t, y)) for event in self.events]
        self.left = [math.inf if e.limit is None else e.limit for e in self.events]
        self.latest = [math.nan for _ in self.events]
        self.repeats = [0 for _ in self.events]
        self.ended = False

    def follow(self, row: Row, step: _Step) -> tuple[float, Array]:
        """Record the events of a step up to the first that changes the state or ends the run.

        Return the time and the state from which to go on.
        """
        start, forward = step.start, math.copysign(1.0, step.end - step.start)
        while start == step.start or not _together(start, step.end):
            crossing, sides = self._search(row, step, start)
            if not crossing:
                self.side = sides
                break
            start = min(crossing.values(), key=lambda t: forward * t)
            y = step(start)
            fired = [k for k, t in crossing.items() if _together(t, start)]
            for k, event in enumerate(self.events):
                if k not in fired:
                    self.side[k] = _sign(row.condition(event, start, y)) or self.side[k]
            after = self._fire(row, fired, start, y)
            if after is not y:
                self._take_sides(row, start, y, after, 1e-8 * (step.end - step.start))
            if after is not y or self.ended:
                return start, after
        return step.end, step(step.end)

    def _search(self, row: Row, step: _Step, start: float) -> tuple[dict[int, float], list[float]]:
        """Return the first crossing of each event after `start`, and the sides at the end."""
        crossing: dict[int, float] = {}
        sides = list(self.side)
        before = start
        for share in _PROBES:
            now = step.end if share == 1.0 else start + share * (step.end - start)
            y = step(now)
            for k, event in enumerate(self.events):
                sign = _sign(row.condition(event, now, y))
                if sign in (0.0, sides[k]) or k in crossing:
                    continue
                if sides[k] and self.left[k] > 0 and event.direction in (0, sign):
                    crossing[k] = _root(row, event, step, before, now, sides[k])
                sides[k] = sign
            before = now
        return crossing, sides

    def _fire(self, row: Row, fired: list[int], time: float, y: Array) -> Array:
        """Record events at one time; return the state after their resets."""
        after = y
        for k in fired:
            event = self.events[k]
            row.problem.recorder.events.append(
                EventRecord(
                    event.name, torch.tensor(time, dtype=torch.float64), row.sample, row.state(y)
                )
            )
            self.left[k] -= 1
            self.side[k] = -self.side[k]
            self._require_apart(k, time)
            self.ended |= event.terminal
            if event.reset is not None:
                after = row.reset(event, time, after)
        return after

    def _require_apart(self, k: int, time: float) -> None:
        self.repeats[k] = self.repeats[k] + 1 if _together(self.latest[k], time) else 0
        self.latest[k] = time
        if self.repeats[k] >= _PILE_UP:
            raise StepLimitError(
                time=time,
                cause=f"event '{self.events[k].name}' fires again and again at one time: "
                "infinitely many pile up here, or its reset does not leave its zero; "
                "give it a limit, or end the run before with a terminal event",
            )

    def _take_sides(self, row: Row, t: float, before: Array, after: Array, ahead: float) -> None:
        """Note on which side of zero each condition goes on after a reset."""
        later = after + ahead * numbers(row.derivative(t, row.tensor(after)))
        for k, event in enumerate(self.events):
            value = row.condition(event, t, after)
            if self.latest[k] == t and value in (0.0, row.condition(event, t, before)):
                # still at its zero, where the sign is rounding: the slope tells
                slope = row.condition(event, t + ahead, later) - value
                self.side[k] = _sign(slope) or -event.direction
            else:
                self.side[k] = _sign(value)


def _sign(value: float) -> float:
    return math.copysign(1.0, value) if value else 0.0


def _together(a: float, b: float) -> bool:
    return abs(a - b) <= _TOGETHER * max(abs(a), abs(b))


def _root(row: Row, event: Event, step: _Step, low: float, high: float, side: float) -> float:
    """Return the time between `low` and `high` at which a condition leaves a side of zero."""
    from scipy.optimize import brentq

    def value(t: float) -> float:
        return side * row.condition(event, t, step(t))

    if value(low) <= 0:
        return low
    spacing = 4 * math.ulp(max(abs(low), abs(high)))
    return float(brentq(value, low, high, xtol=spacing, rtol=4 * np.finfo(float).eps))
