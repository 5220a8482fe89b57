"""What can be asked of a learner that is held still."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsigprop.terms import State

__all__ = ["INPUT", "Clamped", "Course", "Edit", "Updates", "moved", "noisy"]

INPUT = "x"
"""The name by which the input is edited, as a layer is."""

Edit = Callable[[Tensor], Tensor]
"""Returns what a tensor is changed to."""

Updates = dict[str, Tensor]
"""By layer, the change of the matrix of weights that enters it; its first axes are (post, pre)."""

NO_EDITS: Mapping[str, Edit] = {}


@dataclass(frozen=True)
class Course:
    """What happened to one layer while a batch was presented once.

    Attributes
    ----------
    passes : int
        How often its activity was computed.
    rows : float
        Rows of activity for each sample, over all passes.
    stored : int
        How many activities some update read late: when the layer, or the pass, had moved on.
    waited : int
        Layers above whose activity was computed before these weights moved.
    after_next : bool
        Whether the weights of the layer above had moved before.
    in_turn : bool
        Whether it could not begin before the layer below had.
    """

    passes: int
    rows: float
    stored: int
    waited: int
    after_next: bool
    in_turn: bool


class Clamped(abc.ABC):
    """A learner and a batch, on which interventions are made.

    Attributes
    ----------
    layers : tuple of str
        From the first to the output.
    learned : tuple of str
        Those with a matrix of weights that learns.
    owners : tuple of int or None
        Of each row of an activity, the sample whose input it depends on; None for what comes with
        the learning signal.
    """

    layers: tuple[str, ...]
    learned: tuple[str, ...]
    owners: tuple[int | None, ...]

    @abc.abstractmethod
    def update(
        self,
        activities: Mapping[str, Edit] = NO_EDITS,
        weights: Mapping[str, Edit] = NO_EDITS,
        *,
        inside: bool = False,
        relabel: bool = False,
    ) -> Updates:
        """Return the updates where some activities or weights are edited and all else is held.

        With `inside`, an edited layer works with another sum of inputs as well; else only what it
        hands on is changed. With `relabel` every sample has another label.
        """

    @abc.abstractmethod
    def drive(
        self,
        activities: Mapping[str, Edit] = NO_EDITS,
        weights: Mapping[str, Edit] = NO_EDITS,
        *,
        learning: bool = True,
    ) -> State:
        """Return what every layer would do, where some are edited and all others held."""

    @abc.abstractmethod
    def course(self) -> dict[str, Course]:
        """Return what happens to each layer during a presentation."""


def noisy(value: Tensor) -> Tensor:
    """Return a tensor with noise as strong as its own variation; the same noise every time."""
    generator = torch.Generator().manual_seed(value.numel())
    drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
    spread = float(value.detach().std(correction=0))
    return value + (spread or 1.0) * drawn


def moved(found: Tensor, base: Tensor) -> float:
    """Return by how much of itself a tensor was moved: exactly 0 where no bit has changed."""
    found, base = found.detach().double(), base.detach().double()
    scale = max(float(found.norm()), float(base.norm()))
    return float((found - base).norm()) / scale if scale else 0.0
