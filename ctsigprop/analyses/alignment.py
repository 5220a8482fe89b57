"""Alignment: where the updates of a learning rule point, against those of backpropagation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctsigprop.learning.continuous import ContinuousSigprop
from ctsigprop.solve import solve
from ctsigprop.terms import State

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["alignment", "descent"]


def descent(learner: ContinuousSigprop, x: Tensor, labels: Tensor) -> State:
    """Return backpropagation's update: minus the gradient of the squared error of a batch.

        −∂/∂W  mean over the batch of ½ |s_N − c|²,    s_N the free outputs at `onset`

    The free relaxation is unrolled step by step, so that the loop of a network that has one is
    followed as well (backpropagation through time); nothing is taken to have settled.

    Parameters
    ----------
    learner : ContinuousSigprop
        The network, its weights, its solver and its free interval.
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
    weights = {
        synapse.name: learner.weights[synapse.name].detach().clone().requires_grad_()
        for synapse in learner.synapses
    }
    context = torch.nn.functional.one_hot(labels, learner.classes).to(x.dtype)
    with torch.enable_grad():
        free = _free(learner, _at_rest(learner) | weights, x, context)
        outputs = learner.network.activity(free, "y")
        loss = (outputs - context).square().sum(-1).mean() / 2
        gradients = torch.autograd.grad(loss, list(weights.values()))
    return {name: -gradient for name, gradient in zip(weights, gradients, strict=True)}


def alignment(
    learner: ContinuousSigprop,
    x: Tensor,
    labels: Tensor,
    *,
    update: Mapping[str, Tensor] | None = None,
) -> Dataset:
    """Measure the angle between an update of the weights and that of backpropagation.

    Below 90° a small enough step along the update lowers the squared error of the batch.

    Parameters
    ----------
    learner : ContinuousSigprop
        It is left as it was.
    x : Tensor
        Inputs, ``(batch, channels)``.
    labels : Tensor
        Integers, ``(batch,)``.
    update : mapping of str to Tensor, optional
        The change of every weight that learns; by default that of one presentation of the batch,
        traces at rest before it, and what they still hold after it captured in a free interval.

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
    layers: dict[str, list[str]] = {}
    for synapse in learner.synapses:
        layers.setdefault(synapse.post, []).append(synapse.name)
    angles = np.array([_angle(change, reference, names) for names in layers.values()])
    attrs = {
        "units": "degree",
        "long_name": "angle between the update and that of backpropagation",
        "reference": "gradient of the squared error of the free outputs, unrolled in time",
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
        solver=learner.solver,
        inputs={"x": x, "c": context},
    ).final


def _presented(learner: ContinuousSigprop, x: Tensor, labels: Tensor) -> State:
    """Return what one presentation does to the weights, with what its tags hand on to the next."""
    before = learner.weights
    try:
        learner.weights = _at_rest(learner)
        learner.present(x, labels)
        after = _free(learner, learner.weights, x, x.new_zeros(len(x), learner.classes))
        return {s.name: after[s.name] - before[s.name] for s in learner.synapses}
    finally:
        learner.weights = before


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
