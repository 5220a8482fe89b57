"""Alignment: where the updates of a learning rule point, against those of backpropagation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctsigprop.learning.backprop import LOSSES, Loss, cost
from ctsigprop.learning.continuous import ContinuousSigprop
from ctsigprop.learning.layerwise import LayerRule
from ctsigprop.solve import solve
from ctsigprop.solvers.explicit.fixed import Euler
from ctsigprop.solvers.relaxation import Steady
from ctsigprop.terms import State

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["alignment", "descent"]


def descent(learner: ContinuousSigprop | LayerRule, x: Tensor, labels: Tensor) -> State:
    """Return backpropagation's update: minus the gradient of the cost of a batch.

        −∂/∂W  mean over the batch of C(outputs, labels)

    For `ContinuousSigprop`, C = ½ |s_N − c|² of the free outputs at `onset`. The free relaxation is
    unrolled step by step, so that the loop of a network that has one is followed as well
    (backpropagation through time); nothing is taken to have settled. With `Steady`, which has no
    steps, they are Euler's of 0.6. For a rule over `Layers`, C is the rule's `loss` where it is one
    of `LOSSES`, else the cross-entropy, of the network's outputs.

    Parameters
    ----------
    learner : ContinuousSigprop or LayerRule
        The network, its weights, and how it answers.
    x : Tensor
        Inputs, ``(batch, channels)``.
    labels : Tensor
        Integers, ``(batch,)``.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> learner = ct.ContinuousSigprop(ct.sigprop_network([4, 8, 2], rho="tanh"))
    >>> sorted(descent(learner, torch.eye(4), torch.tensor([0, 1, 0, 1])))
    ['W_h1_one', 'W_h1_x', 'W_y_h1', 'W_y_one']
    """
    with torch.enable_grad():
        if isinstance(learner, LayerRule):
            return _descent_at_once(learner, x, labels)
        weights = {
            synapse.name: learner.weights[synapse.name].detach().clone().requires_grad_()
            for synapse in learner.synapses
        }
        context = torch.nn.functional.one_hot(labels, learner.classes).to(x.dtype)
        free = _free(learner, _at_rest(learner) | weights, x, context)
        return _slope(cost(learner.network.activity(free, "y"), context, "squared_error"), weights)


def alignment(
    learner: ContinuousSigprop | LayerRule,
    x: Tensor,
    labels: Tensor,
    *,
    update: Mapping[str, Tensor] | None = None,
) -> Dataset:
    """Measure the angle between an update of the weights and that of backpropagation.

    Below 90° a small enough step along the update lowers the cost of the batch.

    Parameters
    ----------
    learner : ContinuousSigprop or LayerRule
        It is left as it was.
    x : Tensor
        Inputs, ``(batch, channels)``.
    labels : Tensor
        Integers, ``(batch,)``.
    update : mapping of str to Tensor, optional
        The change of every weight that learns; by default that of one presentation of the batch.
        For `ContinuousSigprop` traces are at rest before it, and what they still hold after it is
        captured in a free interval. For a rule over `Layers` it is minus the sum of the gradients
        that the rule hands to the optimisers, which do not step.

    Returns
    -------
    xarray.Dataset
        ``angle`` (layer) in degrees against `descent`, over all the weights that enter a layer,
        biases included; NaN where one of the two is zero.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> learner = ct.ContinuousSigprop(ct.sigprop_network([4, 8, 2], rho="tanh"))
    >>> batch = torch.eye(4), torch.tensor([0, 1, 0, 1])
    >>> measured = alignment(learner, *batch)
    >>> measured.layer.values.tolist(), bool(measured.angle.sel(layer="y") < 90)
    (['h1', 'y'], True)
    >>> alignment(learner, *batch, update=descent(learner, *batch)).angle.values.tolist()
    [0.0, 0.0]
    """
    import numpy as np
    import xarray as xr

    change = _presented(learner, x, labels) if update is None else dict(update)
    reference = descent(learner, x, labels)
    for name in {**change, **reference}:
        if name not in change or name not in reference:
            raise ValueError(
                f"update must have the weights that learn, {', '.join(reference)}; "
                f"got {', '.join(change)}"
            )
    layers = _layers(learner)
    angles = np.array([_angle(change, reference, names) for names in layers.values()])
    attrs = {
        "units": "degree",
        "long_name": "angle between the update and that of backpropagation",
        "reference": _reference(learner),
    }
    if np.isnan(angles).any():
        attrs["missing"] = "NaN where one of the two updates is zero"
    return xr.Dataset(
        {"angle": ("layer", angles, attrs)}, coords={"layer": ("layer", list(layers))}
    )


def _at_rest(learner: ContinuousSigprop) -> State:
    """Return the weights that learn, with traces that hold nothing."""
    names = {synapse.name for synapse in learner.synapses}
    fresh = learner.network.initial_state(dtype=next(iter(learner.weights.values())).dtype)
    return {name: w if name in names else fresh[name] for name, w in learner.weights.items()}


def _free(learner: ContinuousSigprop, weights: State, x: Tensor, context: Tensor) -> State:
    """Return the state at the end of the free interval."""
    neurons = {
        variable.name: x.new_zeros(x.shape[0], *variable.shape)
        for neuron in learner.network.neurons
        for variable in neuron.variables
    }
    return solve(
        learner.network,
        neurons | weights,
        [0.0, learner.onset],
        solver=Euler(dt=0.6) if isinstance(learner.solver, Steady) else learner.solver,
        inputs={"x": x, "c": context},
    ).final


def _presented(learner: ContinuousSigprop | LayerRule, x: Tensor, labels: Tensor) -> State:
    """Return what one presentation does to the weights, with what its tags hand on to the next."""
    if isinstance(learner, LayerRule):
        return _handed(learner, x, labels)
    before = learner.weights
    try:
        learner.weights = _at_rest(learner)
        learner.present(x, labels)
        after = _free(learner, learner.weights, x, x.new_zeros(len(x), learner.classes))
        return {s.name: after[s.name] - before[s.name] for s in learner.synapses}
    finally:
        learner.weights = before


def _handed(rule: LayerRule, x: Tensor, labels: Tensor) -> State:
    """Return minus the sum of the gradients that one presentation hands to the optimisers."""
    total = {name: torch.zeros_like(weight) for name, weight in rule.weights.items()}
    names = {id(parameter): name for name, parameter in rule.network.weights.items()}

    def record(k: int, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(rule.parameters_of(k), gradients, strict=True):
            if gradient is not None and id(parameter) in names:  # not what the rule brings itself
                total[names[id(parameter)]] -= gradient.detach()

    kept = rule.snapshot()
    vars(rule)["step"] = record  # before the method of the class, until it is deleted
    try:
        rule.present(x, labels)
    finally:
        del vars(rule)["step"]
        rule.restore(kept)
    return total


def _descent_at_once(rule: LayerRule, x: Tensor, labels: Tensor) -> State:
    """Return minus the gradient of the cost of the outputs in the instantaneous limit."""
    kept = rule.snapshot()  # a pass moves the statistics of normalisation
    try:
        return _slope(cost(rule.network(x), labels, _loss(rule)), rule.network.weights)
    finally:
        rule.restore(kept)


def _slope(value: Tensor, weights: Mapping[str, Tensor]) -> State:
    gradients = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
    return {name: -gradient for name, gradient in zip(weights, gradients, strict=True)}


def _loss(rule: LayerRule) -> Loss:
    """Return the cost that a rule says it lowers; rules without one are held to the first."""
    return next((loss for loss in LOSSES if loss == getattr(rule, "loss", None)), LOSSES[0])


def _layers(learner: ContinuousSigprop | LayerRule) -> dict[str, list[str]]:
    """Return the names of the weights that enter each layer."""
    if isinstance(learner, LayerRule):
        network = learner.network
        entering = {name: list(network.weights_of(k)) for k, name in enumerate(network.names)}
        return {name: weights for name, weights in entering.items() if weights}
    layers: dict[str, list[str]] = {}
    for synapse in learner.synapses:
        layers.setdefault(synapse.post, []).append(synapse.name)
    return layers


def _reference(learner: ContinuousSigprop | LayerRule) -> str:
    if isinstance(learner, LayerRule):
        return f"gradient of the {_loss(learner).replace('_', ' ')} of the outputs"
    return "gradient of the squared error of the free outputs, unrolled in time"


def _angle(change: Mapping[str, Tensor], reference: State, names: Sequence[str]) -> float:
    """Return the angle in degrees, exact near 0° and 180° (Kahan); NaN without a direction."""
    a, b = (
        torch.cat([values[name].detach().double().flatten() for name in names])
        for values in (change, reference)
    )
    if not (bool(a.any()) and bool(b.any())):
        return math.nan
    a, b = a / a.norm(), b / b.norm()
    return math.degrees(2 * math.atan2(float((a - b).norm()), float((a + b).norm())))
