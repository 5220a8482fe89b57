"""What every learning rule over a layered network shares: weights, optimisers, checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from ctsigprop.errors import NonFiniteError
from ctsigprop.learning.learner import Learner
from ctsigprop.models.layers import Layers
from ctsigprop.terms import State

__all__ = ["SGD", "LayerRule", "Observer", "Optimizer", "evaluating"]

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Makes an optimiser of torch from parameters: ``functools.partial(torch.optim.Adam, lr=1e-3)``."""

SGD: Optimizer = partial(torch.optim.SGD, lr=0.1)
"""Plain gradient descent."""

Observer = Callable[[int, Tensor], Tensor]
"""Sees the activity of each layer as it comes about, and returns it, or another in its place."""


class LayerRule(nn.Module, Learner):
    """A learning rule over `Layers`, with an optimiser for each layer that steps on its own.

    A subclass says in `learn` how a batch changes the weights: it runs the layers by `activity`, or
    shows the states of a dynamics of its own to `observed`; and it calls `step` or `descend` for
    each layer, which is the only way in which weights move. What the rule brings itself (feedback
    weights, local classifiers, projections of the context) are modules and buffers of its own;
    those that learn are handed to `__init__` with the layer that they learn with.

    Parameters
    ----------
    network : Layers
        What learns; its parameters are changed in place.
    optimizer : callable or sequence of callable
        For all layers, or one for each.
    seed : int
        Of what the rule draws.
    own : sequence of torch.nn.Module or None
        What the rule brings and learns itself, by the layer that it learns with.

    Attributes
    ----------
    observer : callable or None
        Sees every activity; measurements listen and intervene here.
    """

    observer: Observer | None = None

    def __init__(
        self,
        network: Layers,
        optimizer: Optimizer | Sequence[Optimizer],
        seed: int = 0,
        own: Sequence[nn.Module | None] = (),
    ) -> None:
        super().__init__()
        if not isinstance(network, Layers):
            raise TypeError(f"network must be Layers; got {type(network).__name__}")
        self.network = network
        self.own = nn.ModuleList(nn.Identity() if part is None else part for part in own)
        self.generator = torch.Generator().manual_seed(seed)
        makers = [optimizer] * network.depth if callable(optimizer) else list(optimizer)
        if len(makers) != network.depth:
            raise ValueError(f"{len(makers)} optimisers for {network.depth} layers; one each")
        self.seed, self._makers = seed, makers
        self.optimizers = [
            make(parameters) if (parameters := self.parameters_of(k)) else None
            for k, make in enumerate(makers)
        ]
        self._rates = [
            [group["lr"] for group in o.param_groups] if o else [] for o in self.optimizers
        ]
        self.initial = {name: value.detach().clone() for name, value in self.weights.items()}

    def to(self, device: torch.device | str) -> Self:  # type: ignore[override]
        """Go to another device with all that it holds, its network too."""
        super().to(device)
        self.initial = {name: value.to(device) for name, value in self.initial.items()}
        for optimizer in self.optimizers:
            if optimizer is not None:
                optimizer.load_state_dict(optimizer.state_dict())  # which moves it
        return self

    def learn(self, x: Tensor, labels: Tensor) -> Tensor:
        """Change the weights by one batch; return the outputs from before."""
        raise NotImplementedError

    def activity(self, k: int, h: Tensor) -> Tensor:
        """Return layer k's activity for what comes from the layer before."""
        return self.observed(k, self.network.layers[k](h))

    def observed(self, k: int, activity: Tensor) -> Tensor:
        """Show an activity of layer k to the observer, if there is one; return what it returns.

        Layer −1 is the input, where a rule changes it.
        """
        return activity if self.observer is None else self.observer(k, activity)

    def parameters_of(self, k: int) -> list[nn.Parameter]:
        """Return what learns with layer k: its own parameters, and what the rule added to it."""
        extra = list(self.own[k].parameters()) if k < len(self.own) else []
        return [*self.network.layers[k].parameters(), *extra]

    def step(self, k: int, gradients: Sequence[Tensor | None]) -> None:
        """Let the optimiser of layer k take one step along these gradients, and drop them."""
        optimizer = self.optimizers[k]
        if optimizer is None:
            return
        for parameter, gradient in zip(self.parameters_of(k), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def descend(self, k: int, loss: Tensor) -> None:
        """Let layer k take one step down the gradient of a loss by its own parameters."""
        parameters = self.parameters_of(k)
        if parameters:
            self.step(k, torch.autograd.grad(loss, parameters, allow_unused=True))

    def present(self, x: Tensor, labels: Tensor) -> Tensor:
        """Show a batch with its labels, and learn; return the outputs from before it learned.

        Raises
        ------
        NonFiniteError
            The outputs are not finite: learning has diverged.
        """
        self.check_presentation(x, labels)
        output = self.learn(x, labels).detach()
        if not bool(torch.isfinite(output).all()):
            raise NonFiniteError(
                time=0.0,
                variable="y",
                component=tuple((~torch.isfinite(output)).nonzero()[0].tolist()),
                cause="learning has diverged, or the input was not finite: lower the rates",
            )
        return output

    @torch.no_grad()
    def respond(self, x: Tensor) -> Tensor:
        """Return the outputs, ``(batch, classes)``."""
        self.check_input(x)
        with evaluating(self):
            output: Tensor = self.network(x)
        return output

    @property
    def inputs(self) -> int:
        """How many channels the input has."""
        return self.network.inputs

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        return self.network.classes

    @property
    def weights(self) -> State:  # type: ignore[override]
        """The network's weights, by name."""
        return {name: p.detach() for name, p in self.network.weights.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """The rule, its optimisers, and the initial weights as a fingerprint."""
        digest = hashlib.sha256()
        for value in self.initial.values():
            digest.update(value.cpu().numpy().tobytes())
        makers = [
            {"optimizer": type(o).__name__, **_numbers(o.defaults)} for o in self.optimizers if o
        ]
        return {
            "rule": type(self).__name__,
            "optimizers": json.dumps(makers),
            "layers": [repr(layer) for layer in self.network.layers],
            "network": digest.hexdigest()[:16],
            "rule_seed": self.seed,
        }

    def dims(self, name: str) -> tuple[str, ...]:
        """Return the names of the axes of a weight: (post, pre), and those of a kernel."""
        weight = self.network.weights[name]
        kind, _, rest = name.partition("_")
        post, _, pre = rest.partition("_")
        if kind == "W" and weight.dim() == 2:
            layer = self.network.names.index(post)
            flat = layer > 0 and len(self.network.shapes[layer - 1]) > 1
            return (post, f"{pre}_flat" if flat else pre)
        if kind == "W" and weight.dim() == 4:
            return (f"{post}_channel", f"{pre}_channel", f"{name}_row", f"{name}_column")
        if kind == "b":
            flat = len(self.network.shapes[self.network.names.index(post)]) == 1
            return (post if flat else f"{post}_channel",)
        return tuple(f"{name}_{axis}" for axis in range(weight.dim()))

    def snapshot(self) -> State:
        """Return parameters, buffers, the optimisers' state and the random numbers'."""
        kept = {f"module.{name}": value.clone() for name, value in self.state_dict().items()}
        kept["generator"] = self.generator.get_state()
        for k, optimizer in enumerate(self.optimizers):
            if optimizer is not None:
                for index, state in optimizer.state_dict()["state"].items():
                    for name, value in state.items():
                        if value is not None:
                            kept[f"optimizer.{k}.{index}.{name}"] = torch.as_tensor(value).clone()
        return kept

    def restore(self, kept: State) -> None:
        """Go on from a snapshot."""
        modules = {n.removeprefix("module."): v for n, v in kept.items() if n[:7] == "module."}
        self.load_state_dict(modules)
        self.generator.set_state(kept["generator"])
        for k, optimizer in enumerate(self.optimizers):
            if optimizer is None:
                continue
            states: dict[int, dict[str, Tensor]] = {}
            for name, value in kept.items():
                if name.startswith(f"optimizer.{k}."):
                    _, _, index, key = name.split(".", 3)
                    states.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to `factor` times the one that it was built with."""
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            if optimizer is not None:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module, with all that it holds, into torch's evaluation mode for a while."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _numbers(defaults: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in defaults.items() if isinstance(value, int | float | tuple)
    }
