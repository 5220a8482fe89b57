"""Samples stepped by the kernel, each by itself: what all such runs share."""

from __future__ import annotations

import abc

import torch

from ctsigprop.solvers.base import Problem, Statistics, unheard
from ctsigprop.solvers.native.memory import Memory
from ctsigprop.solvers.native.schedule import Schedule

__all__ = ["Output", "Run"]


class Output:
    """Where the rows of a sample go, and the times that it reached: here those of a single one.

    Attributes
    ----------
    heard : bool
        Whether the times are wanted.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.heard = problem.accepted is not unheard

    def row(self, index: int, row: torch.Tensor) -> None:
        """Take a row, ``(1, size)``; they come in order, from number 1 on."""
        self.problem.recorder.packed(index, row)

    def reached(self, t: float) -> None:
        """Take note of an accepted step."""
        self.problem.accepted(torch.tensor(t, dtype=torch.float64), {}, None)


class Run(abc.ABC):
    """What steps the samples of a problem, one after another, in the same memory."""

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        self.problem, self.schedule = problem, schedule
        self.memory = Memory(problem, schedule)
        self.coefficients = schedule.coefficients.astype(self.memory.m.dtype)
        table = schedule.table
        self.table = self.memory.m[table : table + len(self.coefficients)]
        self.tried = self.rejected = self.evaluations = 0

    def load(self, sample: int) -> None:
        """Make ready for a sample, at its start.

        Raises
        ------
        UnfitError
            Where a signal has no native form.
        """
        self.memory.load(sample)
        self.tried = self.rejected = self.evaluations = 0

    @abc.abstractmethod
    def run(self, output: Output) -> bool:
        """Step the sample to the end of its span; return whether it got there."""

    @abc.abstractmethod
    def give_up(self) -> str:
        """Leave a problem of one sample, that did not get there, to the path in torch.

        Return "" if that has taken it to its end.
        """

    @property
    def statistics(self) -> Statistics:
        """What the sample has cost."""
        return Statistics(
            evaluations=self.evaluations,
            steps=self.tried - self.rejected,
            rejections=self.rejected,
            low_rank=tuple(w.w.name for w in self.schedule.weights),
            native=True,
        )
