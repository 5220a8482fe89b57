"""Forward-Forward: each layer tells inputs with their own label from inputs with a wrong one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctsigprop.errors import unknown
from ctsigprop.learning.context import Overlay, Place
from ctsigprop.learning.layerwise import LayerRule, Optimizer, evaluating
from ctsigprop.learning.losses import Goodness, Pooled
from ctsigprop.learning.relaxing import one_hot
from ctsigprop.models.layers import Layers

__all__ = ["ADAM", "ForwardForward", "wrong_labels"]

ADAM: Optimizer = partial(torch.optim.Adam, lr=1e-3)
"""Adam at rate 0.001."""

Negatives = Literal["hard", "random"]
Prediction = Literal["goodness", "readout"]


class ForwardForward(LayerRule):
    """Two forward passes, one with the own label and one with a wrong one, and no other signal.

        p_0 = (x, c),  n_0 = (x, c'),    p_k = f_k(norm(p_{k−1})),  n_k = f_k(norm(n_{k−1}))
        G(h) = Σ_j (h_j² − threshold),  or its mean over the units j
        L_k = −log sigma(G(p_k)) − log sigma(−G(n_k))

    with norm(h) = h/sqrt(mean h²), so that a layer cannot go by the goodness of the one before.
    Each layer steps on L_k as soon as the passes reach it and hands on what it gave before the
    step. All layers are hidden; a softmax of norm(h_2) … norm(h_N), where x comes with a neutral
    label, learns beside the last one.

    This is `Sigprop` with the transform `Overlay` and the loss `Goodness`, which are here as
    `transform` and `loss`: for the same c' its layers take the same steps. It adds the softmax, the
    choice of c' by it, which takes a pass before, and answers from more than the last layer.

    Parameters
    ----------
    network : Layers
        f_1 … f_N, two or more. Goodness wants activities that can grow, such as "relu".
    optimizer : callable or sequence of callable
        Of each layer, the last with the softmax; Adam at rate 0.001 by default.
    classes : int
        How many.
    place : {"overlay", "append"}
        Where c goes: in the place of the first channels of x, or behind its last.
    strength : float
        What stands for the own class in c, one-hot; the neutral label is `strength`/`classes` for
        each.
    goodness : {"sum", "mean"}
        G.
    threshold : float
        Of the mean squared activity.
    negatives : {"hard", "random"}
        c': drawn by the probabilities that the softmax gives, or with equal chances.
    predict : {"goodness", "readout"}
        The answer: Σ G over all layers but the first, in a pass for each class; or the softmax's
        input, in one. It may be set again at any time; learning is the same for both, but faster
        for "readout", since outputs are asked for with every batch.
    seed : int
        Of the wrong labels.

    Raises
    ------
    ValueError
        A single layer, fewer inputs than the labels need, an option out of its range.

    References
    ----------
    Hinton 2022, The forward-forward algorithm: some preliminary investigations, arXiv 2212.13345.

    Examples
    --------
    >>> rule = ForwardForward(Layers.dense([4, 16, 16], output="relu"), classes=2)
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = ADAM,
        *,
        classes: int,
        place: Place = "overlay",
        strength: float = 1.0,
        goodness: Pooled = "sum",
        threshold: float = 1.0,
        negatives: Negatives = "hard",
        predict: Prediction = "goodness",
        seed: int = 0,
    ) -> None:
        if not isinstance(network, Layers):
            raise TypeError(f"network must be Layers; got {type(network).__name__}")
        if not isinstance(classes, int) or classes < 2:
            raise ValueError(f"classes must be a whole number >= 2; got {classes!r}")
        if network.depth < 2:
            raise ValueError("Forward-Forward needs two layers or more: the first has no say")
        for what, given, accepted in (
            ("negatives", negatives, get_args(Negatives)),
            ("prediction", predict, get_args(Prediction)),
        ):
            if given not in accepted:
                raise ValueError(unknown(what, given, accepted))
        loss = Goodness(1.0, threshold, goodness)
        made = Overlay(network, classes, torch.Generator(), strength=strength, place=place)
        units = sum(math.prod(shape) for shape in network.shapes[1:])
        with torch.random.fork_rng(devices=[]):  # what torch draws is overwritten
            readout = nn.Linear(units, classes)
        for parameter in readout.parameters():
            nn.init.zeros_(parameter)
        readout.to(next(network.parameters(), torch.zeros(())))
        super().__init__(network, optimizer, seed, [*[None] * (network.depth - 1), readout])
        self._classes, self.transform, self.loss = classes, made, loss
        self.negatives, self.predict = negatives, predict

    @property
    def inputs(self) -> int:
        """How many channels the input has."""
        return self.transform.inputs

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        return self._classes

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options with those of every rule."""
        return super().settings | {
            "transform": repr(self.transform),
            "loss": repr(self.loss),
            "negatives": self.negatives,
            "predict": self.predict,
        }

    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs from before."""
        guess, last = self._read(x), self.network.depth - 1
        before = guess.detach() if self.predict == "readout" else self.respond(x)
        chances = guess.detach() if self.negatives == "hard" else torch.zeros_like(before)
        other = wrong_labels(chances, labels, self.generator)
        own = torch.tensor([1.0, 0.0], device=x.device).expand(len(x), 2)
        shown = self.observed(-1, self._labelled(x, torch.stack([labels, other], 1)))
        for k, h in enumerate(self._passing(shown)):
            loss = self.loss(self._goodness(h, 2), own)
            if k == last:
                loss = loss + functional.cross_entropy(guess, labels)
            if loss.requires_grad:  # not where an observer put in a constant
                self.descend(k, loss)
        return before

    @torch.no_grad()
    def respond(self, x: Tensor) -> Tensor:
        """Return the outputs, ``(batch, classes)``: goodness, or the softmax's input."""
        self.check_input(x)
        with evaluating(self):
            return self._read(x) if self.predict == "readout" else self._compare(x)

    def _compare(self, x: Tensor) -> Tensor:
        """Return the goodness of all layers but the first for each class."""
        every = torch.arange(self.classes, device=x.device).expand(len(x), -1)
        passing = self._passing(self._labelled(x, every))
        _, *upper = (self._goodness(h, self.classes) for h in passing)
        return sum(upper[1:], upper[0])

    def _read(self, x: Tensor) -> Tensor:
        """Return the input of the softmax, with a graph of its weights alone."""
        with torch.no_grad():
            passing = self._passing(self.transform.front(x))
            _, *upper = (_normed(h).flatten(1) for h in passing)
        output: Tensor = self.own[-1](torch.cat(upper, 1))
        return output

    def _passing(self, h: Tensor) -> Iterator[Tensor]:
        """Give h_1 … h_N one after the other, each with a graph of its own layer alone."""
        for k in range(self.network.depth):
            h = self.activity(k, _normed(h.detach()))
            yield h

    def _labelled(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return each sample with each of its labels, ``(batch · labels, network's inputs)``."""
        c = one_hot(labels.flatten(), self.classes, x)
        beside = x.repeat_interleave(labels.shape[1], 0)
        shown: Tensor = self.transform(c, beside, beside)
        return shown

    def _goodness(self, h: Tensor, labels: int) -> Tensor:
        return self.loss.scores(h, h.reshape(-1, labels, *h.shape[1:]))


def wrong_labels(outputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw for each sample a label other than its own, with probabilities ∝ exp(outputs).

    Parameters
    ----------
    outputs : Tensor
        ``(batch, classes)``.
    labels : Tensor
        ``(batch,)``.
    generator : torch.Generator
        What draws, on the CPU.

    Examples
    --------
    >>> wrong_labels(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]), torch.Generator())
    tensor([1, 0, 0, 1])
    """
    own = one_hot(labels, outputs.shape[1], outputs).bool()
    chances = outputs.masked_fill(own, -math.inf).softmax(1).cpu()
    return torch.multinomial(chances, 1, generator=generator)[:, 0].to(labels.device)


def _normed(h: Tensor) -> Tensor:
    return functional.rms_norm(h, h.shape[1:])
