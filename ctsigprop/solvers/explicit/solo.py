"""The loop over the steps of a run of one sample: its clock is a plain number."""

from __future__ import annotations

import math
from typing import final

import torch

from ctsigprop.solvers.explicit.control import Control, Pace
from ctsigprop.solvers.explicit.march import EVERY, ROUNDINGS, STRETCH, March

__all__ = ["Solo"]


@final
class Solo(March):
    """A run of one sample, whose steps adapt and that watches for no events.

    The same steps as those of `March`, without a tensor for each number that decides on them. What
    is out of the ordinary (a NaN, a step too short, stiffness) is left to `March`, which takes the
    step again.
    """

    control: Control
    pace: Pace | None = None

    def _take_over(self) -> Pace:
        """Read the numbers off the tensors."""
        self.pace = self.control.pace()
        self.way = float(self.sign)
        self.now, self.goal = float(self.t.detach()), float(self.target.detach())
        self.next = float(self.due)
        return self.pace

    def _hand_back(self) -> None:
        if self.pace is not None:
            self.control.resume(self.pace)
            self.pace = None

    def _look_ahead(self, turn: int) -> None:
        if turn > self.max_steps or turn % EVERY == 0:
            self._hand_back()
            super()._look_ahead(turn)

    def _step(self) -> None:
        if self.suspects is not None or self.retreating:
            self._hand_back()
            super()._step()
            return
        pace = self.pace or self._take_over()
        left = abs(self.goal - self.now)
        lands = pace.h * STRETCH >= left
        # where a step lands, it may be differentiated in the times
        h = self.target - self.t if lands else torch.full_like(self.t, pace.h * self.way)
        step = self.last = self._take(h)
        error = float(self.control.errors(step))
        if not math.isfinite(error):
            self._hand_back()
            super()._step()
            return
        self.tried += 1
        pace.follow(left if lands else pace.h, error, lands)
        if error > 1:
            self.rejected += 1
        if pace.h < (ROUNDINGS * math.ulp(self.now) if error > 1 else self.least_of_all):
            self._hand_back()
            self._require_headway(step, self.active)
        if error > 1:
            return
        at = self.t + h
        reached = self.target if lands else at
        self.now = float(reached.detach())
        if self.now * self.way >= self.next:
            self._record(step, reached, self.active)
            self.next = float(self.due)
        if self.problem.dense:
            self.steps.append(step)
        self._advance(step, reached, self.everyone)
        if lands:
            self._hand_back()
            self._turn(self.active, None, at)
        self._tell()
