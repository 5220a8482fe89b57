"""Networks: builders that put neurons, synapses and the learning signal together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ctsigprop.errors import unknown
from ctsigprop.models.inputs import LearningSignal
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.models.rate import rate
from ctsigprop.models.rules import differential_hebb, tagged_hebb
from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Pulse
from ctsigprop.system import System
from ctsigprop.terms import Current, Population, Source

__all__ = ["sigprop_network"]


def sigprop_network(
    sizes: Sequence[int],
    *,
    form: Literal["loop", "label"] = "loop",
    rule: Literal["tagged", "differential"] = "tagged",
    rho: str = "hard",
    tau: float = 1.0,
    beta: float = 1.0,
    strength: float = 0.3,
    eta: Sequence[float] | float = 1.0,
    onset: float = 8.4,
    learning: Literal["all", "output", "none"] = "all",
    seed: int = 0,
) -> System:
    """Return a layered network that learns from a signal that travels only forward.

        tau ds_1/dt = −s_1 + rho(W_1 x + b_1 + L)
        tau ds_k/dt = −s_k + rho(W_k s_{k−1} + b_k)
        tau ds_N/dt = −s_N + rho(W_N s_{N−1} + b_N) + beta·g(t) (c − s_N)
            de_k/dt = g(t) ds_k/dt ⊗ s_{k−1} − (1 − g(t)) e_k/tau_c
            dW_k/dt = (eta_k/beta) (1 − g(t)) e_k/tau_c

    with the gate g(t) = 1 from `onset` on: a differential Hebbian tag, captured by the weight when
    the signal is off (`tagged_hebb`); or, as the rule "differential", dW_k/dt = (eta_k/beta) g(t)
    ds_k/dt ⊗ s_{k−1}, which needs rates below 1/|s_{k−1}|².

    In the loop form L = B s_N: the output, and with it the error, enters in front. In the label
    form L = g(t) S c: the context itself does. No synapse is ever used backwards.

    Parameters
    ----------
    sizes : sequence of int
        Channels of x, units of each layer; the last one is the output, one unit a class.
    form : {"loop", "label"}
        Where the learning signal comes from.
    rule : {"tagged", "differential"}
        How a weight moves.
    rho : str
        Nonlinearity, as in `rate`.
    tau : float
        Time constant of the neurons.
    beta : float
        Strength of the nudge.
    strength : float
        B and S are uniform in ±strength.
    eta : float or sequence of float
        Learning rate of each layer; the weights are shared by the batch, and move by the mean.
    onset : float
        When the learning signal comes on.
    learning : {"all", "output", "none"}
        Which weights learn; "output" is the control with frozen hidden weights. In the label form
        it goes without S, which would teach nothing and disturb what the output learns from.
    seed : int
        Of the initial weights.

    Returns
    -------
    System
        Sources ``x`` and ``c`` (and a constant ``one`` for the biases), populations ``h1`` … and
        ``y``, weights ``W_h1_x`` …, to be given ``inputs={"x": ..., "c": ...}``.

    Raises
    ------
    ValueError
        Fewer than three sizes, a size below 1, a name that is not accepted, a number out of range.

    References
    ----------
    Reconstructed from Kohan, Rietman & Siegelmann, arXiv 1808.03357 (loop) and arXiv 2204.01723
    (label); the differential Hebbian term is that of Ernoult et al. 2020, arXiv 2005.04168.

    Examples
    --------
    >>> network = sigprop_network([64, 32, 10])
    >>> list(network.variables)[:4]
    ['s_h1', 's_y', 'W_h1_x', 'e_W_h1_x']
    """
    if len(sizes) < 3 or not all(isinstance(n, int) and n >= 1 for n in sizes):
        raise ValueError(
            f"sizes needs an input, a hidden layer and an output, each >= 1; got {list(sizes)}"
        )
    for what, given, accepted in (
        ("form", form, ("loop", "label")),
        ("rule", rule, ("tagged", "differential")),
        ("learning", learning, ("all", "output", "none")),
    ):
        if given not in accepted:
            raise ValueError(unknown(what, given, accepted))
    for what, number in (("beta", beta), ("onset", onset)):
        if not 0 < number < math.inf:
            raise ValueError(f"{what} must be > 0; got {number}")
    layers = [f"h{k}" for k in range(1, len(sizes) - 1)] + ["y"]
    rates = [float(eta)] * len(layers) if isinstance(eta, int | float) else list(eta)
    if len(rates) != len(layers) or not all(0 <= step < math.inf for step in rates):
        raise ValueError(f"eta needs one rate >= 0 for each of {len(layers)} layers; got {rates}")
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength must be >= 0; got {strength}")
    generator = torch.Generator().manual_seed(seed)
    gate = Pulse(onset)

    def _rule(rate: float) -> TextPlasticity:
        if rule == "tagged":
            return tagged_hebb(rate, tau_c=onset / 4, signal=gate)
        return differential_hebb(rate, gate=gate)

    populations: list[Population] = [
        Source("x", sizes[0]),
        Source("c", sizes[-1]),
        Source("one", 1, 1.0),
        *(rate(name, size, rho=rho, tau=tau) for name, size in zip(layers, sizes[1:], strict=True)),
    ]
    currents: list[Current] = []
    for (pre, post), (n, m), step in zip(
        pairwise(["x", *layers]), pairwise(sizes), rates, strict=True
    ):
        learns = learning == "all" or (learning == "output" and post == "y")
        bound = (6 / (n + m)) ** 0.5
        for source, weight in (
            (pre, _uniform((m, n), bound, generator)),
            ("one", torch.zeros(m, 1)),
        ):
            plasticity = _rule(step / beta) if learns else ()
            currents.append(
                Synapse(source, post, weight.double(), plasticity=plasticity, shared=True)
            )
    first = _uniform((sizes[1], sizes[-1]), strength, generator)
    if form == "loop":
        currents.append(Synapse("y", "h1", first, name="B_h1_y"))
    elif learning == "all":
        currents.append(LearningSignal("c", "h1", first, gate=gate, name="S_h1_c"))
    nudge = Pulse(onset, amplitude=beta)
    currents.append(LearningSignal("c", "y", gate=nudge, error=True, port="J"))
    return System(*populations, *currents)


def _uniform(shape: tuple[int, int], bound: float, generator: torch.Generator) -> Tensor:
    draws = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (2 * draws - 1) * bound
