"""Large steps of the slow variables, taken twice: as they are, and halved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ctsigprop.errors import SeparationError, StepLimitError
from ctsigprop.solvers.base import Statistics
from ctsigprop.solvers.explicit.tableaus import TSIT5

__all__ = ["Macro", "Piece"]

SAFETY, SMALLEST, LARGEST = 0.9, 0.1, 5.0
FIRST = 1.0  # of the time in which the slow variables would change by their own size
A = [torch.tensor(row, dtype=torch.float64) for row in TSIT5.a]
ERROR = torch.tensor(TSIT5.error, dtype=torch.float64)
DENSE = torch.tensor(TSIT5.dense, dtype=torch.float64)

Rate = Callable[[float, Tensor], Tensor]


@dataclass(frozen=True)
class Piece:
    """A step from `t` to ``t + h``, with the derivatives of its stages, ``(7, size)``."""

    t: float
    h: float
    start: Tensor
    end: Tensor
    stages: Tensor

    def at(self, t: float) -> Tensor:
        """Return the slow variables inside the step."""
        theta = (t - self.t) / self.h
        if theta >= 1.0:
            return self.end
        powers = theta ** torch.arange(1, DENSE.shape[1] + 1, dtype=torch.float64)
        weights = self.h * (DENSE @ powers)
        return self.start + weights.to(self.stages.device) @ self.stages


@final
class Macro:
    """Tsitouras' pair on dW/dt = G(W), with a twin that takes every step in two halves.

    The pair chooses the steps; how far the twins are apart, from the start on, estimates the error
    of the macro steps of the finer one, which is the result.

    Parameters
    ----------
    rate : callable
        ``rate(t, W)``, W a vector of float64.
    sizes : callable
        The root mean square of each variable of such a vector.
    tol : float
        Largest error of a step, relative to the size of its variable.
    max_steps : int
        The most steps of the coarser twin.
    twin : bool
        Whether the steps are taken in halves besides; else they are the result.
    least : float
        The first step is at least that long, or the whole span.
    project : callable
        Puts the end of a step inside the bounds that variables have.
    statistics : Statistics, optional
        Those of the run, in which steps and rejections count.
    """

    def __init__(
        self,
        rate: Rate,
        sizes: Callable[[Tensor], Tensor],
        tol: float,
        max_steps: int,
        twin: bool = True,
        least: float = 0.0,
        project: Callable[[Tensor], Tensor] = lambda W: W,
        statistics: Statistics | None = None,
    ) -> None:
        self.rate, self.sizes, self.tol, self.max_steps = rate, sizes, tol, max_steps
        self.twin, self.least, self.project = twin, least, project
        self.statistics = statistics or Statistics()
        self.error = 0.0

    def run(
        self, t: float, end: float, W: Tensor, accepted: Callable[[list[Piece], Tensor], None]
    ) -> Tensor:
        """Step from `t` to `end`; `accepted` is given the pieces of each step, and dW/dt after."""
        before = self.statistics.steps + self.statistics.rejections  # an earlier stretch's
        coarse = fine = W
        slope = slope_fine = self.rate(t, W)
        self.scale = self.sizes(W)
        speed = self.sizes(slope)
        moving = speed > 0
        h = end - t
        if bool(moving.any()):
            ratio = (self.scale.clamp(min=1e-300) / speed)[moving]
            h = min(h, max(FIRST * float(ratio.min()), 1e-3 * h, self.least))
        while t < end:
            if self.statistics.steps + self.statistics.rejections - before >= self.max_steps:
                raise StepLimitError(
                    time=t,
                    cause=f"max_steps={self.max_steps} macro steps; the slow variables change on "
                    f"a scale of {h:.3g}, which is not slow, or the tolerance is too tight",
                )
            last = t + 1.01 * h >= end
            h = end - t if last else h
            try:
                piece = self._step(t, h, coarse, slope)
                error = self._measure(h * (ERROR.to(W.device) @ piece.stages), piece.end)
            except SeparationError:
                if h < 1e-3 * (end - t):
                    raise
                error = float("inf")
            if not error <= 1.0:
                self.statistics.rejections += 1
                h *= max(SMALLEST, SAFETY * error**-0.2) if error < float("inf") else SMALLEST
                continue
            self.statistics.steps += 1
            pieces = [piece]
            if self.twin:
                half = self._step(t, h / 2, fine, slope_fine)
                other = self._step(t + h / 2, h / 2, half.end, half.stages[-1])
                pieces = [half, other]
                fine, slope_fine = other.end, other.stages[-1]
            coarse, slope = piece.end, piece.stages[-1]
            self.scale = torch.maximum(self.scale, self.sizes(piece.end))
            if self.twin:
                apart = self.sizes(fine - coarse) / self.scale.clamp(min=1e-300)
                self.error = max(self.error, float(apart.max()))
            else:
                fine, slope_fine = coarse, slope
            t = end if last else t + h
            accepted(pieces, slope_fine)
            h *= min(LARGEST, max(SMALLEST, SAFETY * max(error, 1e-8) ** -0.2))
        return fine

    def _step(self, t: float, h: float, W: Tensor, slope: Tensor) -> Piece:
        stages = W.new_empty(len(A), W.numel())
        stages[0] = slope
        end = W
        for i in range(1, len(A)):
            end = torch.addmv(W, stages[:i].T, A[i].to(W.device), alpha=h)
            stages[i] = self.rate(t + h * TSIT5.c[i], end)
        return Piece(t, h, W, self.project(end), stages)

    def _measure(self, error: Tensor, end: Tensor) -> float:
        scale = torch.maximum(self.scale, self.sizes(end)).clamp(min=1e-300)
        return float((self.sizes(error) / scale).max()) / self.tol
