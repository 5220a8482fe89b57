"""A batch that takes its steps together: the problem of one sample that is the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ctsigprop.solvers.base import Layout, Problem, Recorder

__all__ = ["joint"]


def joint(problem: Problem) -> Problem:
    """Return the problem with one clock for the whole batch.

    Raises
    ------
    ValueError
        For events, or times of their own for each sample: both need steps of their own.
    """
    layout = problem.layout
    if not layout.batch or layout.coupled:
        return problem
    for what, given in (
        ("events", problem.events),
        ("times of their own for each sample", problem.t.dim() > 1),
    ):
        if given:
            raise ValueError(f"together=True gives the batch one clock, and excludes {what}")
    whole = Layout(problem.y0, layout.dims, layout.batch, together=True)
    return replace(problem, layout=whole, recorder=_Parted(problem.recorder, whole))


class _Parted(Recorder):
    """Takes rows of the whole batch, and hands rows of each sample to the recorder of the run."""

    def __init__(self, given: Recorder, layout: Layout) -> None:
        super().__init__(layout, given.rows)
        self.given, self.statistics = given, given.statistics

    def row(self, index: int, state: Mapping[str, Tensor]) -> None:
        """Record output number `index`."""
        self.given.row(index, state)

    def scatter(self, index: Tensor, sample: Tensor, values: Tensor) -> None:
        """Record outputs ``index[k]``: states of the whole batch, ``(k, size)``."""
        del sample  # there is one
        to = self.given.layout
        state = self.layout.unpack(values[:, None])
        rows = torch.cat([state[name].reshape(len(index), to.samples, -1) for name in to.names], 2)
        own = torch.arange(to.samples, device=index.device).repeat(len(index))
        self.given.scatter(index.repeat_interleave(to.samples), own, rows.flatten(0, 1))
