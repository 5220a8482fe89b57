"""Signal propagation: learning by one forward pass of samples and their contexts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ctsigprop.errors import unknown
from ctsigprop.learning.context import TargetOnly, Transform, TransformMaker
from ctsigprop.learning.layerwise import LayerRule, Optimizer, evaluating
from ctsigprop.learning.losses import Direct, Goodness, Hebbian, LayerLoss, similarity
from ctsigprop.learning.rows import Rows, all_rows, learning_rows, unit_contexts
from ctsigprop.models.layers import Layers

__all__ = ["ADAM", "Prediction", "Sigprop"]

ADAM: Optimizer = partial(torch.optim.Adam, lr=1e-3)
"""Adam at rate 0.001."""

Prediction = Literal["readout", "nearest", "early"]


class Sigprop(LayerRule):
    """Signal propagation: sample and context go forward together, and each layer learns as they do.

        h_1 = f_1(x)                t_1 = rho(S_1 c + d_1)
        h_k = f_k(h_{k−1})          t_k = f_k(t_{k−1})
        W_k <- optimise(W_k, L(h_k, t_k)) at once;    S_1, d_1 with layer 1

    Both go through a layer in one concatenated pass. The layer steps on its own loss as soon as the
    pass reaches it, and hands on what it gave before the step, cut off from its graph: nothing is
    kept for later, nothing comes back, and no layer knows of those above it.

    Other rules are instances of it: Error Forward-Propagation with the transform `Loop` (in
    discrete time; `ContinuousSigprop` is the same in continuous time); Forward-Forward with
    `Overlay` and the loss `Goodness` (`ForwardForward` has its own wrong labels and answer).

    Parameters
    ----------
    network : Layers
        f_1 … f_N. Normalisation over the batch would mix h and t: take one over units.
    optimizer : callable or sequence of callable
        Of each layer; Adam at rate 0.001 by default.
    transform : callable
        How the context enters: a class of `ctsigprop.learning.context`, or a ``partial`` of one.
    loss : LayerLoss or Hebbian
        L, or the explicit local update; see `ctsigprop.learning.losses`.
    predict : {"readout", "nearest", "early"}
        The answer. "readout": the last layer's, which then has a unit for each class and learns
        by the cross-entropy of its output, from h_{N−1} as it comes. "nearest": the class whose t_N
        scores best with h_N. "early": the same at every layer, over the classes still within
        `margin` of the best; a sample with one class left goes no further.
    classes : int, optional
        How many; the units of the last layer by default.
    contexts : Tensor, optional
        c of each class, ``(classes, channels)``, brought to unit length; one-hot by default.
    margin : float
        Of the correlation, for "early".
    seed : int
        Of S_1 and of which other contexts a sample is shown.

    Raises
    ------
    ValueError
        Options that do not fit each other, saying which.

    References
    ----------
    Kohan, Rietman & Siegelmann 2023, Signal propagation, IEEE TNNLS (arXiv 2204.01723). The layer
    losses go by the author's published library, with other scales and pairs.

    Examples
    --------
    >>> rule = Sigprop(Layers.dense([4, 16, 16, 2]))
    >>> rule.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    >>> Sigprop(Layers.dense([4, 16, 16]), predict="nearest", classes=3).respond(
    ...     torch.rand(5, 4)
    ... ).shape
    torch.Size([5, 3])
    """

    contexts: Tensor

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer] = ADAM,
        *,
        transform: TransformMaker = TargetOnly,
        loss: LayerLoss | Hebbian = Direct(),  # noqa: B008
        predict: Prediction = "readout",
        classes: int | None = None,
        contexts: Tensor | None = None,
        margin: float = 0.2,
        seed: int = 0,
    ) -> None:
        if not isinstance(network, Layers):
            raise TypeError(f"network must be Layers; got {type(network).__name__}")
        codes = unit_contexts(network.classes if classes is None else classes, contexts)
        generator = torch.Generator().manual_seed(seed)
        made = transform(network, codes.shape[1], generator)
        super().__init__(network, optimizer, seed, own=[made])
        self.generator.set_state(generator.get_state())
        self.register_buffer("contexts", codes.to(next(network.parameters(), torch.zeros(()))))
        self.loss, self.predict, self.margin = loss, predict, margin
        self._check_options()

    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs from before.

        For "early" those are the last layer's scores: learning runs every layer anyway.
        """
        two = self.transform.rows == "candidates" and self.predict == "nearest"
        before = self.respond(x) if two else None  # learning compares two classes only
        h, t = self._propagate(x, labels, [None] * self.network.depth, 1.0)
        return self._answer(h, t) if before is None else before

    def learn_sequence(self, x: Tensor, labels: Tensor, *, leak: float = 0.2) -> Tensor:
        """Learn at every time step of a sequence; return the outputs of the last one.

            s_k(t) = (1 − leak) s_k(t − 1) + leak f_k(s_{k−1}(t)),    s_0(t) = x(t)

        for samples and contexts alike, from s_k = f_k at the first step: an Euler step of
        tau ds_k/dt = −s_k + f_k(s_{k−1}) with leak = dt/tau. At each time each layer steps down
        the loss of its states, what it held from before taken as given: nothing goes back in time,
        and the memory does not grow with the duration.

        Parameters
        ----------
        x : Tensor
            ``(batch, time, inputs)``.
        labels : Tensor
            Of the whole sequences, ``(batch,)``.
        leak : float
            In (0, 1].
        """
        self._check_sequence(x, leak)
        self.check_presentation(x[:, 0], labels)
        states: list[Tensor | None] = [None] * self.network.depth
        for moment in x.unbind(1):
            h, t = self._propagate(moment, labels, states, leak)
        return self._answer(h, t)

    @torch.no_grad()
    def respond(self, x: Tensor) -> Tensor:
        """Return the outputs, ``(batch, classes)``.

        For "early" the whole part of a class's output is how many layers it has come through, and
        so that of the strongest is how many layers the sample took; the rest is the correlation.
        """
        self.check_input(x)
        with evaluating(self):
            if self.predict == "readout":
                output: Tensor = self.network(self.transform.front(x))
                return output
            return self._search(x) if self.predict == "early" else self._settle(x[:, None], 1.0)

    @torch.no_grad()
    def respond_sequence(self, x: Tensor, *, leak: float = 0.2) -> Tensor:
        """Return the outputs after the last step of a sequence, ``(batch, classes)``."""
        self._check_sequence(x, leak)
        self.check_input(x)
        with evaluating(self):
            return self._settle(x, leak)

    @torch.no_grad()
    def states(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return h_k of every sample and t_k of every class, layer by layer; no learning.

        Without the readout, where there is one. For transforms whose contexts are the same for
        every sample.
        """
        self.check_input(x)
        if self.transform.rows != "classes":
            raise ValueError(
                f"{type(self.transform).__name__} has contexts for each sample, not for each class"
            )
        found = []
        with evaluating(self):
            h, t = self._start(x, all_rows(self.transform.rows, self.contexts, len(x)))
            for k in range(self.network.depth - (self.predict == "readout")):
                h, t = self._advance(k, h, t, None, 1.0).tensor_split([len(x)])
                found.append((h, t))
        return found

    @property
    def transform(self) -> Transform:
        """How the context enters."""
        return cast(Transform, self.own[0])

    @property
    def inputs(self) -> int:
        """How many channels the input has."""
        return self.transform.inputs

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        return len(self.contexts)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides how it learns but for its weights now."""
        return super().settings | {
            "transform": repr(self.transform),
            "loss": repr(self.loss),
            "predict": self.predict,
            "margin": self.margin,
            "contexts": self.contexts.tolist(),
        }

    def _propagate(
        self, x: Tensor, labels: Tensor, states: list[Tensor | None], leak: float
    ) -> tuple[Tensor, Tensor]:
        self.train()
        labels, rows = labels.long(), self._rows(labels.long())
        with torch.set_grad_enabled(isinstance(self.loss, LayerLoss)):
            h, t = self._start(x, rows)
            for k in range(self.network.depth):
                both = self.observed(k, self._advance(k, h, t, states[k], leak))
                if leak < 1:
                    states[k] = both.detach()
                h_k, t_k = both.tensor_split([len(x)])
                if self._is_readout(k):
                    self._learn_readout(h_k, labels, h)
                elif isinstance(self.loss, Hebbian):
                    around = k == 0 and not self.transform.through
                    pre = h if around or self.loss.pre == "input" else t[rows.own]
                    self._step_hebbian(k, t_k[rows.own] - h_k, pre)
                else:
                    scores = self.loss.scores(h_k, t_k[rows.pairs])
                    self.descend(k, self.loss(scores, rows.agreement))
                h, t = h_k.detach(), t_k.detach()
        return h, t

    def _rows(self, labels: Tensor) -> Rows:
        kind, over = self.transform.rows, self.loss.over
        return learning_rows(kind, over, self.contexts, labels, self.generator)

    def _start(self, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return h_0 and t_0, or t_1 where the context goes around layer 1."""
        h, beside, y = self.transform.front(x), x, x
        if self.transform.loops:
            with torch.no_grad():
                y = self.network(h).softmax(1)
        if rows.sample is not None:
            beside, y = x[rows.sample], y[rows.sample]
        t = self.transform(rows.c, beside, y)
        return h, self.observed(-1, t) if self.transform.loops else t

    def _advance(self, k: int, h: Tensor, t: Tensor, held: Tensor | None, leak: float) -> Tensor:
        """Return layer k's h above its t, from one pass."""
        layer = self.network.layers[k]
        if self._is_readout(k):
            both = layer(h)  # which needs no context
        elif k == 0 and not self.transform.through:
            both = torch.cat([layer(h), t])
        else:
            both = layer(torch.cat([h, t]))
        return both if held is None else torch.lerp(held, both, leak)

    def _is_readout(self, k: int) -> bool:
        return self.predict == "readout" and k == self.network.depth - 1

    def _learn_readout(self, output: Tensor, labels: Tensor, pre: Tensor) -> None:
        last = self.network.depth - 1
        if isinstance(self.loss, Hebbian):
            target = functional.one_hot(labels, self.classes).to(output)
            self._step_hebbian(last, target - output.softmax(1), pre)
        else:
            self.descend(last, functional.cross_entropy(output, labels))

    def _step_hebbian(self, k: int, error: Tensor, pre: Tensor) -> None:
        rule = cast(Hebbian, self.loss)
        gradients: list[Tensor | None] = [*rule.gradients(self.network.layers[k], error, pre)]
        rest = len(self.parameters_of(k)) - len(gradients)
        self.step(k, gradients + [None] * rest)  # S_1 stays as it was drawn

    def _settle(self, x: Tensor, leak: float) -> Tensor:
        """Return the last layer's answer at the end of a sequence."""
        rows = all_rows(self.transform.rows, self.contexts, len(x))
        states: list[Tensor | None] = [None] * self.network.depth
        for moment in x.unbind(1):
            h, t = self._start(moment, rows)
            for k in range(self.network.depth):
                states[k] = both = self._advance(k, h, t, states[k], leak)
                h, t = both.tensor_split([len(x)])
        return self._answer(h, t if rows.sample is None else t[rows.pairs])

    def _answer(self, h: Tensor, t: Tensor) -> Tensor:
        return h if self.predict == "readout" else self.loss.scores(h, t)

    def _search(self, x: Tensor) -> Tensor:
        """Return for each class how far it comes, running only samples that are undecided."""
        h, t = self._start(x, all_rows(self.transform.rows, self.contexts, len(x)))
        alive = torch.ones(len(x), self.classes, dtype=torch.bool, device=x.device)
        reached = x.new_zeros(len(x), self.classes)
        waiting = torch.arange(len(x), device=x.device)
        for k in range(self.network.depth):
            h, t = self._advance(k, h, t, None, 1.0).tensor_split([len(waiting)])
            found = similarity(h, t).clamp(max=0.999999)
            race = alive[waiting]
            best = found.masked_fill(~race, -2.0).amax(1, keepdim=True)
            kept = race & (found >= best - self.margin)
            reached[waiting] = torch.where(race, k + kept + (1 + found) / 2, reached[waiting])
            alive[waiting] = kept
            more = kept.sum(1) > 1
            h, waiting = h[more], waiting[more]
            if not len(waiting):
                break
        return reached

    def _check_sequence(self, x: Tensor, leak: float) -> None:
        if self.transform.rows != "classes":
            raise ValueError(
                f"sequences need contexts that are the same for every sample; "
                f"{type(self.transform).__name__} has not: take TargetOnly or TargetInput"
            )
        if self.predict == "early":
            raise ValueError("sequences are answered by 'readout' or 'nearest'; got 'early'")
        if x.dim() != 3 or 0 in x.shape:
            raise ValueError(f"x must be (batch, time, inputs); got {tuple(x.shape)}")
        if not 0 < leak <= 1:
            raise ValueError(f"leak must lie in (0, 1]; got {leak}")

    def _check_options(self) -> None:
        network, rows = self.network, self.transform.rows
        if self.predict not in get_args(Prediction):
            raise ValueError(unknown("prediction", self.predict, get_args(Prediction)))
        if not 0 <= self.margin <= 2:
            raise ValueError(f"margin is one of correlations, from 0 to 2; got {self.margin}")
        if not isinstance(self.loss, LayerLoss | Hebbian):
            raise TypeError(f"loss must be a LayerLoss or Hebbian; got {self.loss!r}")
        if self.predict == "readout" and (
            network.depth < 2 or network.shapes[-1] != (self.classes,)
        ):
            raise ValueError(
                f"a readout needs a layer before it and {self.classes} units; got "
                f"{network.depth} layers, the last of {network.classes} units"
            )
        if self.predict == "early" and rows != "classes":
            raise ValueError("'early' compares contexts that are the same for every sample")
        if self.transform.loops and self.predict != "readout":
            raise ValueError(
                f"{type(self.transform).__name__} feeds back the output's error, which the "
                f"prediction 'readout' gives; got '{self.predict}'"
            )
        if isinstance(self.loss, Direct) and rows == "batch":
            raise ValueError(
                f"Direct needs a context for each class; {type(self.transform).__name__} gives one "
                "for each sample: take MaxAll, ArgMax or TopK"
            )
        if isinstance(self.loss, Goodness) and rows != "candidates":
            raise ValueError("Goodness needs the transform Overlay")
        if isinstance(self.loss, Hebbian):
            for k, layer in enumerate(network.layers, 1):
                self.loss.check(k, layer)
