"""What is read off a learner: its matrices of weights, and the activities of its layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctsigprop.learning.layerwise import LayerRule
from ctsigprop.learning.learner import Learner
from ctsigprop.system import System

__all__ = ["activities", "matrices"]


def matrices(learner: Learner) -> dict[str, Tensor]:
    """Return every matrix of weights by name, (post, pre); a kernel is (channel, its inputs).

    Biases and traces are left out.

    Raises
    ------
    ValueError
        Weights that are not finite.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> found = matrices(ct.Sigprop(ct.Layers.dense([4, 3, 2])))
    >>> {name: tuple(w.shape) for name, w in found.items()}
    {'W_h1_x': (3, 4), 'W_y_h1': (2, 3)}
    """
    synapses = getattr(learner, "synapses", None)  # none but those of a system have traces
    names = learner.weights if synapses is None else [s.name for s in synapses if s.pre != "one"]
    found = {name: learner.weights[name].detach() for name in names}
    return _finite({n: weight.flatten(1) for n, weight in found.items() if weight.dim() > 1})


@torch.no_grad()
def activities(learner: Learner, x: Tensor) -> dict[str, Tensor]:
    """Return the activity of the input and of every layer, ``(batch, units)``, without learning.

    Raises
    ------
    TypeError
        A learner that shows no layers: neither `Layers` nor a network in continuous time.
    ValueError
        Activities that are not finite.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> found = activities(ct.ContinuousSigprop(ct.sigprop_network([4, 3, 2])), torch.rand(5, 4))
    >>> {name: tuple(h.shape) for name, h in found.items()}
    {'x': (5, 4), 'h1': (5, 3), 'y': (5, 2)}
    """
    learner.check_input(x)
    if isinstance(learner, LayerRule):
        return _finite({"x": x.flatten(1)} | _shown(learner, x))
    network, states = getattr(learner, "network", None), getattr(learner, "activities", None)
    if not isinstance(network, System) or states is None:
        raise TypeError(f"{type(learner).__name__} does not show the activities of its layers")
    found = states(x)
    return _finite({"x": x} | {n.name: network.activity(found, n.name) for n in network.neurons})


def _shown(rule: LayerRule, x: Tensor) -> dict[str, Tensor]:
    """Return the last activity of every layer on the way to the rule's answer."""
    found: dict[int, Tensor] = {}

    def keep(k: int, activity: Tensor) -> Tensor:
        found[k] = activity.flatten(1)
        return activity

    def hook(k: int) -> Callable[..., None]:
        return lambda module, arguments, output: found.update({k: output.flatten(1)})  # noqa: ARG005

    before, handles = rule.observer, []
    try:
        rule.observer = keep
        for k, layer in enumerate(rule.network.layers):
            handles.append(layer.register_forward_hook(hook(k)))
        rule.respond(x)
    finally:
        rule.observer = before
        for handle in handles:
            handle.remove()
    return {rule.network.names[k]: found[k] for k in sorted(found) if k >= 0}


def _finite(found: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, values in found.items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"'{name}' is not finite: learning has diverged, or the input was not")
    return found
