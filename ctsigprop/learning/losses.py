"""Losses of one layer: what brings a sample and its own context together there."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctsigprop.errors import unknown
from ctsigprop.learning.rows import Over

__all__ = [
    "ArgMax",
    "Direct",
    "Goodness",
    "Hebbian",
    "LayerLoss",
    "MaxAll",
    "Pooled",
    "Presynaptic",
    "TopK",
    "similarity",
]

Presynaptic = Literal["context", "input"]
Pooled = Literal["mean", "sum"]


def similarity(h: Tensor, t: Tensor) -> Tensor:
    """Return the correlation over the units of each h_i with each t_j, in [−1, 1].

    Parameters
    ----------
    h : Tensor
        ``(batch, *shape)``; a convolutional activity is taken position by position.
    t : Tensor
        ``(rows, *shape)``, every row against every sample, or ``(batch, candidates, *shape)``,
        each sample against its own.

    Returns
    -------
    Tensor
        ``(batch, rows)`` or ``(batch, candidates)``.

    Examples
    --------
    >>> h = torch.tensor([[1.0, 2.0, 3.0]])
    >>> similarity(h, torch.tensor([[10.0, 20.0, 30.0], [3.0, 2.0, 1.0]])).round(decimals=3)
    tensor([[ 1., -1.]])
    """
    own = t.dim() > h.dim()
    h, t = h.flatten(1), t.flatten(2 if own else 1)
    size = h.shape[-1]
    h, t = (functional.layer_norm(a, (size,), eps=1e-12) for a in (h, t))
    return (torch.einsum("bn,bjn->bj", h, t) if own else h @ t.T) / size


@dataclass(frozen=True)
class LayerLoss(abc.ABC):
    """L(h_k, t_k) of one layer, from scores Y_ij between sample i and row j of the context.

        Y_ij = sqrt(n) corr(h_i, t_j) / temperature

    with n the units of the layer: the correlation in units of what chance gives, so that the loss
    at the start is the same for every width. Which pairs belong together is read off the context
    itself, never off what has become of it on its way up: A_ij = c_i · c_j, of unit length, so that
    depth cannot spoil it.

    Parameters
    ----------
    temperature : float
        Of the softmax over the rows.
    """

    temperature: float = 1.0

    over: ClassVar[Over] = "batch"
    """Whether t has one row for each class, or the contexts of the batch are compared."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be > 0; got {self.temperature}")

    def scores(self, h: Tensor, t: Tensor) -> Tensor:
        """Return Y, shapes as in `similarity`."""
        return similarity(h, t) * (math.sqrt(h[0].numel()) / self.temperature)

    @abc.abstractmethod
    def __call__(self, scores: Tensor, agreement: Tensor) -> Tensor:
        """Return the mean over the batch of the loss.

        Parameters
        ----------
        scores, agreement : Tensor
            Y and A, ``(batch, rows)``.
        """


@dataclass(frozen=True)
class Direct(LayerLoss):
    """Cross-entropy of the scores over the classes: −log softmax(Y_i)_j, j the own class.

    Examples
    --------
    >>> h, t = torch.rand(5, 16), torch.rand(3, 16)
    >>> loss = Direct()
    >>> loss(loss.scores(h, t), torch.eye(3)[[0, 1, 2, 0, 1]]).shape
    torch.Size([])
    """

    over: ClassVar[Over] = "classes"

    def __call__(self, scores: Tensor, agreement: Tensor) -> Tensor:
        """Return the mean over the batch of the loss."""
        return functional.cross_entropy(scores, agreement.argmax(1))


@dataclass(frozen=True)
class ArgMax(LayerLoss):
    """Cross-entropy over the contexts of the batch: the answer is the first that agrees most."""

    def __call__(self, scores: Tensor, agreement: Tensor) -> Tensor:
        """Return the mean over the batch of the loss."""
        return functional.cross_entropy(scores, agreement.argmax(1))


@dataclass(frozen=True)
class MaxAll(LayerLoss):
    """−Σ_j P_ij log softmax(Y_i)_j, with P_ij equal for all of the batch that agree most with i."""

    def __call__(self, scores: Tensor, agreement: Tensor) -> Tensor:
        """Return the mean over the batch of the loss."""
        best = agreement.amax(1, keepdim=True)
        return _cross_entropy(scores, agreement >= best - 1e-6)


@dataclass(frozen=True)
class TopK(LayerLoss):
    """−Σ_j P_ij log softmax(Y_i)_j, with P_ij equal for the k of the batch that agree most with i.

    Contexts that do not agree at all, A_ij <= 0, are left out, so that a class with fewer than k
    samples in the batch does not take in others.

    Parameters
    ----------
    k : int
        How many.
    """

    k: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k must be a whole number >= 1; got {self.k!r}")

    def __call__(self, scores: Tensor, agreement: Tensor) -> Tensor:
        """Return the mean over the batch of the loss."""
        chosen = agreement.topk(min(self.k, agreement.shape[1]), dim=1).indices
        alike = torch.zeros_like(agreement, dtype=torch.bool).scatter_(1, chosen, True)
        return _cross_entropy(scores, alike & (agreement > 1e-6))


@dataclass(frozen=True)
class Goodness(LayerLoss):
    """Forward-Forward's: the goodness of the own context high, that of another one low.

        Y_ij = G(t_ij)/temperature,    G(t) = Σ_units (t² − threshold),  or its mean over the units
        L = −log sigma(Y_i own) − log sigma(−Y_i other)

    The mean, where the paper has the sum, keeps Y the same for every width. Layers that are to add
    something to the goodness of the layer before need a normalisation in front, as
    `torch.nn.RMSNorm`.

    Parameters
    ----------
    temperature, threshold : float
        As above.
    pooled : {"mean", "sum"}
        G.

    References
    ----------
    Hinton 2022, The forward-forward algorithm, arXiv 2212.13345, section 2.

    Examples
    --------
    >>> own_and_other = torch.tensor([[[1.0, 0.0], [0.5, 0.0]]])
    >>> Goodness(temperature=1.0).scores(torch.empty(0), own_and_other)
    tensor([[ 0.2500, -0.1250]])
    """

    temperature: float = 0.1
    threshold: float = 0.25
    pooled: Pooled = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold < math.inf:
            raise ValueError(f"threshold must be > 0; got {self.threshold}")
        if self.pooled not in get_args(Pooled):
            raise ValueError(unknown("goodness", self.pooled, get_args(Pooled)))

    def scores(self, h: Tensor, t: Tensor) -> Tensor:
        """Return Y, ``(batch, candidates)``."""
        above = t.flatten(2).square() - self.threshold
        goodness = above.mean(2) if self.pooled == "mean" else above.sum(2)
        return goodness.to(h) / self.temperature

    def __call__(self, scores: Tensor, agreement: Tensor) -> Tensor:
        """Return the mean over the batch of the loss."""
        sign = torch.where(agreement >= agreement.amax(1, keepdim=True), 1.0, -1.0).to(scores)
        return functional.softplus(-sign * scores).sum(1).mean()


@dataclass(frozen=True)
class Hebbian:
    """The update (t_k − h_k) ⊗ t_{k−1} of each synapse from what it carries: no gradient at all.

        ΔW_k ∝ mean over the batch of (t_k − h_k) ⊗ pre / n_{k−1},    Δb_k ∝ (t_k − h_k)/n_{k−1}

    with t the sample's own context; n_{k−1}, the inputs of a unit, keeps the change of its activity
    the same for every width. With pre = t_{k−1} the context also feeds its own growth, by
    (t_k − h_k)|t_{k−1}|²: take a bounded nonlinearity ("hard", "tanh"); "relu" runs away.

    Parameters
    ----------
    pre : {"context", "input"}
        t_{k−1}, or h_{k−1}: then it is the delta rule with t_k as the aim. A first layer that the
        context does not pass has no t_0, and takes x.
    """

    pre: Presynaptic = "context"

    over: ClassVar[Over] = "classes"

    def __post_init__(self) -> None:
        if self.pre not in get_args(Presynaptic):
            raise ValueError(unknown("pre", self.pre, get_args(Presynaptic)))

    def scores(self, h: Tensor, t: Tensor) -> Tensor:
        """Return Y of `LayerLoss` at temperature 1, for prediction."""
        return similarity(h, t) * math.sqrt(h[0].numel())

    def gradients(self, layer: nn.Module, error: Tensor, pre: Tensor) -> Sequence[Tensor]:
        """Return the negative update of weights and biases, in the order of the parameters.

        Parameters
        ----------
        layer : torch.nn.Module
            The layer's, checked by `linear_of`.
        error : Tensor
            t_k − h_k, ``(batch, units)``.
        pre : Tensor
            ``(batch, inputs)``.
        """
        size = pre[0].numel()
        weight = -(error.T @ pre.flatten(1)) / (len(error) * size)
        return [weight, -error.mean(0) / size][: len(list(layer.parameters()))]

    def check(self, k: int, layer: nn.Module) -> None:
        """Refuse a layer that is not one dense map with an elementwise nonlinearity behind it."""
        parts = list(layer) if isinstance(layer, nn.Sequential) else [layer]
        while len(parts) > 1 and isinstance(parts[0], nn.Flatten):
            parts.pop(0)
        if not isinstance(parts[0], nn.Linear) or any(list(p.parameters()) for p in parts[1:]):
            raise ValueError(
                f"layer {k} is {layer}; Hebbian takes dense layers: a torch.nn.Linear, then "
                "what has no parameters"
            )


def _cross_entropy(scores: Tensor, alike: Tensor) -> Tensor:
    weights = alike.to(scores)
    weights = weights / weights.sum(1, keepdim=True)
    return -(weights * scores.log_softmax(1)).sum(1).mean()
