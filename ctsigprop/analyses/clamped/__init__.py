"""Learners held still, so that one thing can be changed and seen to move others, or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ctsigprop.analyses.clamped import edits
from ctsigprop.analyses.clamped.base import INPUT, Clamped, Course, Edit, Updates, moved, noisy
from ctsigprop.analyses.clamped.rule import ClampedRule
from ctsigprop.analyses.clamped.system import ClampedSystem
from ctsigprop.learning.continuous import ContinuousSigprop
from ctsigprop.learning.layerwise import LayerRule
from ctsigprop.learning.learner import Learner

__all__ = ["INPUT", "Clamped", "Course", "Edit", "Updates", "clamp", "edits", "moved", "noisy"]


@contextmanager
def clamp(learner: Learner, x: Tensor, labels: Tensor) -> Iterator[Clamped]:
    """Hold a learner at one presentation of a batch; what is done to it is undone at the end.

    Parameters
    ----------
    learner : LayerRule or ContinuousSigprop
        What learns.
    x, labels : Tensor
        ``(batch, channels)`` and ``(batch,)``.

    Raises
    ------
    TypeError
        Another kind of learner.
    ValueError
        A presentation that it does not take, or whose update is not the same twice.
    """
    learner.check_presentation(x, labels)
    kept = learner.snapshot()
    try:
        if isinstance(learner, ContinuousSigprop):
            yield ClampedSystem(learner, x, labels)
        elif isinstance(learner, LayerRule):
            training, observer = learner.training, learner.observer
            try:
                yield ClampedRule(learner, x, labels)
            finally:
                learner.train(training)
                learner.observer = observer
        else:
            raise TypeError(
                f"learner must be a LayerRule or ContinuousSigprop; got {type(learner).__name__}"
            )
    finally:
        learner.restore(kept)
