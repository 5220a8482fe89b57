"""Which contexts go forward with a batch, and which of them each sample is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Kind", "Over", "Rows", "all_rows", "learning_rows", "unit_contexts"]

Kind = Literal["classes", "batch", "candidates"]
"""What there is a context for: each class; each sample; each sample with each candidate class."""

Over = Literal["classes", "batch"]
"""Whether a loss compares a sample with every class, or with the contexts of its batch."""


@dataclass(frozen=True)
class Rows:
    """The contexts that go forward with a batch.

    Attributes
    ----------
    c : Tensor
        ``(rows, channels)``.
    sample : Tensor or None
        Of each row the sample; None where a row stands for a class.
    own : Tensor
        Of each sample the row of its own context, ``(batch,)``.
    pairs : Tensor
        The rows that every sample is compared with, ``(compared,)``, or each with its own,
        ``(batch, compared)``.
    agreement : Tensor
        A_ij = c_i · c_j of those pairs, ``(batch, compared)``.
    """

    c: Tensor
    sample: Tensor | None
    own: Tensor
    pairs: Tensor
    agreement: Tensor


def unit_contexts(classes: int, contexts: Tensor | None = None) -> Tensor:
    """Return c of each class, of unit length, one-hot unless given: ``(classes, channels)``.

    Raises
    ------
    ValueError
        Fewer than two classes; contexts that are not one vector for each, none of them zero.
    """
    if not isinstance(classes, int) or classes < 2:
        raise ValueError(f"classes must be a whole number >= 2; got {classes!r}")
    if contexts is None:
        return torch.eye(classes)
    lengths = contexts.double().norm(dim=-1)
    if lengths.shape != (classes,) or not bool(((lengths > 0) & lengths.isfinite()).all()):
        raise ValueError(
            f"contexts must be ({classes}, channels), finite and none of them zero; got "
            f"{tuple(contexts.shape)}, lengths from {lengths.amin():.3g} to {lengths.amax():.3g}"
        )
    return functional.normalize(contexts.double(), dim=1)


def learning_rows(
    kind: Kind, over: Over, contexts: Tensor, labels: Tensor, generator: torch.Generator
) -> Rows:
    """Return the rows to learn with: every class, each sample's own, or its own and one other.

    Examples
    --------
    >>> labels = torch.tensor([2, 0])
    >>> rows = learning_rows("classes", "batch", torch.eye(3), labels, torch.Generator())
    >>> rows.pairs, rows.agreement
    (tensor([2, 0]), tensor([[1., 0.],
            [0., 1.]]))
    """
    classes, size, device = len(contexts), len(labels), labels.device
    c = contexts[labels]
    if kind == "candidates":
        drawn = torch.randint(1, classes, (size,), generator=generator).to(device)
        shown = torch.stack([c, contexts[(labels + drawn) % classes]], 1)
        pairs = torch.arange(2 * size, device=device).reshape(size, 2)
        agreement = torch.linalg.vecdot(shown, c[:, None])
        return Rows(shown.flatten(0, 1), pairs.flatten() // 2, pairs[:, 0], pairs, agreement)
    if kind == "batch":
        samples = torch.arange(size, device=device)
        return Rows(c, samples, samples, samples, c @ c.T)
    pairs = labels if over == "batch" else torch.arange(classes, device=device)
    return Rows(contexts, None, labels, pairs, c @ contexts[pairs].T)


def all_rows(kind: Kind, contexts: Tensor, size: int) -> Rows:
    """Return the rows to answer with: every class, for every sample where contexts differ."""
    classes, device = len(contexts), contexts.device
    none = torch.empty(0, dtype=torch.long, device=device)
    if kind == "classes":
        return Rows(contexts, None, none, torch.arange(classes, device=device), none)
    pairs = torch.arange(size * classes, device=device).reshape(size, classes)
    return Rows(contexts.repeat(size, 1), pairs.flatten() // classes, none, pairs, none)
