"""The one interface of everything that learns from presentations of inputs and their labels."""

from __future__ import annotations

import abc
from typing import Any, Self

import torch
from torch import Tensor

from ctsigprop.terms import State

__all__ = ["Learner"]


class Learner(abc.ABC):
    """What `train` teaches: it holds weights, is shown samples, and answers.

    Attributes
    ----------
    weights : State
        What it learns, by name.
    """

    weights: State

    @property
    def device(self) -> torch.device:
        """Where its weights are, and where what it is shown has to be."""
        return next(iter(self.weights.values())).device

    @abc.abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Go to another device with all that it holds, its network too."""

    @property
    @abc.abstractmethod
    def inputs(self) -> int:
        """How many channels the input has."""

    @property
    @abc.abstractmethod
    def classes(self) -> int:
        """How many classes it tells apart."""

    @property
    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides how it learns but for its weights now."""

    @abc.abstractmethod
    def dims(self, name: str) -> tuple[str, ...]:
        """Return the names of the axes of a weight."""

    @abc.abstractmethod
    def snapshot(self) -> State:
        """Return all that a checkpoint must keep: weights, traces, random numbers."""

    @abc.abstractmethod
    def restore(self, kept: State) -> None:
        """Go on from a snapshot, bit for bit."""

    @abc.abstractmethod
    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to `factor` times the one that it was built with."""

    @abc.abstractmethod
    def present(self, x: Tensor, labels: Tensor) -> Tensor:
        """Show a batch with its labels, and learn; return the outputs from before it learned.

        Parameters
        ----------
        x : Tensor
            ``(batch, inputs)``.
        labels : Tensor
            Whole numbers, ``(batch,)``.
        """

    @abc.abstractmethod
    def respond(self, x: Tensor) -> Tensor:
        """Return the outputs, ``(batch, classes)``, the strongest of which is the answer."""

    def check_input(self, x: Tensor) -> None:
        """Refuse an input with another number of channels."""
        if x.dim() and x.shape[-1] != self.inputs:
            raise ValueError(f"'x' must have {self.inputs} channels; got {x.shape[-1]}")

    def check_presentation(self, x: Tensor, labels: Tensor) -> None:
        """Refuse a presentation with shapes or labels that do not fit."""
        self.check_input(x)
        if x.dim() != 2 or x.shape[0] == 0 or labels.shape != x.shape[:1]:
            raise ValueError(
                "a presentation takes x of shape (batch, channels) and labels of shape (batch,), "
                f"batch >= 1; got {tuple(x.shape)} and {tuple(labels.shape)}"
            )
        low, high = torch.aminmax(labels)
        if labels.is_floating_point() or int(low) < 0 or int(high) >= self.classes:
            raise ValueError(
                f"labels must be whole numbers from 0 to {self.classes - 1}; "
                f"got {labels.dtype} from {low} to {high}"
            )
