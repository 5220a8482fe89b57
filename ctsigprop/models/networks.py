"""Networks: builders that put neurons, synapses and the learning signal together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ctsigprop.errors import unknown
from ctsigprop.models.inputs import Input, LearningSignal
from ctsigprop.models.neurons import TextNeuron
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.models.rate import rate
from ctsigprop.models.rules import (
    delta_rule,
    differential_hebb,
    rhythmic_hebb,
    tagged_hebb,
    weight_decay,
)
from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Pulse, Rhythm, Signal
from ctsigprop.system import System
from ctsigprop.terms import Current, Plasticity, Population, Source

__all__ = ["SLOPES", "feedback_network", "sigprop_network"]

#: rho' of the nonlinearities that show it in the activity h = rho(u), as text.
SLOPES: Mapping[str, str] = {
    "identity": "1",
    "tanh": "1 - h**2",
    "logistic": "h*(1 - h)",
    "softplus": "1 - exp(-h)",
}


def sigprop_network(
    sizes: Sequence[int],
    *,
    form: Literal["loop", "label"] = "loop",
    rule: Literal["tagged", "differential", "rhythmic"] = "tagged",
    rho: str = "hard",
    tau: float = 1.0,
    beta: float = 1.0,
    strength: float = 0.3,
    eta: Sequence[float] | float = 1.0,
    onset: float = 8.4,
    period: float = 12.0,
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

    The rule "rhythmic" needs no free interval: input and learning signal may come together, at
    `onset`. The signal rides on a rhythm, g(t) = (1 + cos ωt)/2 with ω = 2π/`period`, by which each
    synapse demodulates what its own two neurons do (`rhythmic_hebb`):

        de_k/dt = m_k(t) ds_k/dt ⊗ s_{k−1} − e_k/tau_c,    dW_k/dt = (eta_k/beta) e_k/tau_c
         m_k(t) = −(2/π) sin(ωt − n φ)/cos(φ)ⁿ,    φ = arctan(ω tau)

    from 2·`onset` on, when what the input itself stirs up has died away. n is the number of layers
    by which the signal has come to layer k, each of which delays and damps it. One period is worth
    one delta form (s_kᵝ − s_k⁰) ⊗ s_{k−1}, exactly so for small beta as ω tau → 0.

    In the loop form, Error Forward-Propagation, L = B s_N: the output, and with it the error,
    enters in front. In the label form L = g(t) S c: the context itself does. No synapse is ever
    used backwards.

    Parameters
    ----------
    sizes : sequence of int
        Channels of x, units of each layer; the last one is the output, one unit a class.
    form : {"loop", "label"}
        Where the learning signal comes from.
    rule : {"tagged", "differential", "rhythmic"}
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
    period : float
        Of the rhythm.
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
    layers = _layers(sizes)
    for what, given, accepted in (
        ("form", form, ("loop", "label")),
        ("rule", rule, ("tagged", "differential", "rhythmic")),
        ("learning", learning, ("all", "output", "none")),
    ):
        if given not in accepted:
            raise ValueError(unknown(what, given, accepted))
    for what, number in (("beta", beta), ("onset", onset), ("period", period)):
        if not 0 < number < math.inf:
            raise ValueError(f"{what} must be > 0; got {number}")
    rates = [float(eta)] * len(layers) if isinstance(eta, int | float) else list(eta)
    if len(rates) != len(layers) or not all(0 <= step < math.inf for step in rates):
        raise ValueError(f"eta needs one rate >= 0 for each of {len(layers)} layers; got {rates}")
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength must be >= 0; got {strength}")
    generator = torch.Generator().manual_seed(seed)
    pulse = Pulse(onset)

    def gate(level: float) -> Signal:
        if rule == "rhythmic":
            return Rhythm(level / 2, 1 / period, offset=level / 2, onset=onset)
        return Pulse(onset, amplitude=level)

    def plasticity(rate: float, stages: int) -> TextPlasticity:
        if rule == "tagged":
            return tagged_hebb(rate, tau_c=onset / 4, signal=pulse)
        if rule == "differential":
            return differential_hebb(rate, gate=pulse)
        lag = math.atan(2 * math.pi * tau / period)
        share = 2 / math.pi / math.cos(lag) ** stages
        rhythm = Rhythm(share, 1 / period, math.pi / 2 - stages * lag, onset=2 * onset)
        return rhythmic_hebb(rate, tau_c=period, rhythm=rhythm)

    populations: list[Population] = [
        Source("x", sizes[0]),
        Source("c", sizes[-1]),
        Source("one", 1, 1.0),
        *(rate(name, size, rho=rho, tau=tau) for name, size in zip(layers, sizes[1:], strict=True)),
    ]
    currents: list[Current] = []
    for k, ((pre, post), (n, m), step) in enumerate(
        zip(pairwise(["x", *layers]), pairwise(sizes), rates, strict=True)
    ):
        stages = 1 if post == "y" else k + 1 + (form == "loop")
        learns = learning == "all" or (learning == "output" and post == "y")
        bound = (6 / (n + m)) ** 0.5
        for source, weight in (
            (pre, _uniform((m, n), bound, generator)),
            ("one", torch.zeros(m, 1)),
        ):
            rules = plasticity(step / beta, stages) if learns else ()
            currents.append(Synapse(source, post, weight.double(), plasticity=rules, shared=True))
    first = _uniform((sizes[1], sizes[-1]), strength, generator)
    if form == "loop":
        currents.append(Synapse("y", "h1", first, name="B_h1_y"))
    elif learning == "all":
        currents.append(LearningSignal("c", "h1", first, gate=gate(1.0), name="S_h1_c"))
    currents.append(LearningSignal("c", "y", gate=gate(beta), error=True, port="J"))
    return System(*populations, *currents)


def feedback_network(
    sizes: Sequence[int],
    *,
    direct: bool = True,
    rho: str = "tanh",
    tau: float = 1.0,
    tau_e: float = 1.0,
    tau_w: Sequence[float] | float = 100.0,
    tau_d: float = math.inf,
    gain: float = 1.0,
    onset: float = 8.4,
    learning: Literal["all", "output", "none"] = "all",
    seed: int = 0,
) -> System:
    """Return a layered network whose error comes back through fixed random weights, all at once.

        tau ds_k/dt = −s_k + rho(W_k s_{k−1} + b_k),    tau ds_N/dt = −s_N + W_N s_{N−1} + b_N
        tau_e de_N/dt = −e_N + g(t) (c − s_N)
        tau_e de_k/dt = −e_k + rho'(s_k) ∘ B_k e_N                direct
        tau_e de_k/dt = −e_k + rho'(s_k) ∘ B_{k+1}ᵀ e_{k+1}       layer by layer
        dW_k/dt = e_k ⊗ s_{k−1}/tau_w − W_k/tau_d

    with g(t) = 1 from `onset` on, and rho' read from the activity. Neurons, errors and weights move
    together; there are no phases. At rest e_k ⊗ s_{k−1} is the update of (direct) feedback
    alignment for the squared error.

    Parameters
    ----------
    sizes : sequence of int
        Channels of x, units of each layer; the last one is the output, one unit a class.
    direct : bool
        Whether the output's error goes to every layer at once, or from layer to layer.
    rho : str
        Nonlinearity of the hidden layers, a key of `SLOPES`.
    tau, tau_e : float
        Time constants of neurons and errors.
    tau_w : float or sequence of float
        Time constant of plasticity, for each layer; it must be long against a presentation.
    tau_d : float
        Time constant of the weights' decay; they do not decay by default.
    gain : float
        B is uniform in ±gain·sqrt(6/(fan in + fan out)).
    onset : float
        When the target comes on.
    learning : {"all", "output", "none"}
        Which weights learn.
    seed : int
        Of the initial weights and of B.

    Returns
    -------
    System
        Sources ``x`` and ``c`` (and ``one`` for the biases, ``g`` for the gate), populations
        ``h1`` … ``y``, their errors ``e_h1`` … ``e_y``, weights ``W_h1_x`` …

    Raises
    ------
    ValueError
        Fewer than three sizes, a size below 1, a name that is not accepted, a number out of range.

    References
    ----------
    Bacvanski, Ziyin & Poggio, arXiv 2510.18808: neurons and weights as coupled first-order dynamics
    with time constants of propagation, plasticity and decay; the equations are reconstructed from
    its abstract. Lillicrap et al. 2016; Nøkland 2016.

    Examples
    --------
    >>> network = feedback_network([64, 32, 10])
    >>> list(network.variables)[:4]
    ['s_h1', 's_y', 's_e_h1', 's_e_y']
    """
    layers = _layers(sizes)
    if rho not in SLOPES:
        raise ValueError(unknown("nonlinearity", rho, SLOPES))
    if learning not in ("all", "output", "none"):
        raise ValueError(unknown("learning", learning, ("all", "output", "none")))
    for what, number in (("gain", gain), ("onset", onset)):
        if not 0 < number < math.inf:
            raise ValueError(f"{what} must be > 0; got {number}")
    if not tau_d > 0:
        raise ValueError(f"tau_d must be > 0; got {tau_d}")
    slow = [float(tau_w)] * len(layers) if isinstance(tau_w, int | float) else list(tau_w)
    if len(slow) != len(layers) or not all(number > 0 for number in slow):
        raise ValueError(f"tau_w needs one time > 0 for each of {len(layers)} layers; got {slow}")
    generator = torch.Generator().manual_seed(seed)
    populations: list[Population] = [
        Source("x", sizes[0]),
        Source("c", sizes[-1]),
        Source("one", 1, 1.0),
        Source("g", 1, Pulse(onset)),
        *(rate(name, n, rho=rho, tau=tau) for name, n in zip(layers[:-1], sizes[1:], strict=False)),
        rate("y", sizes[-1], rho="identity", tau=tau),
    ]
    currents: list[Current] = []
    for pre, post, (n, m), time in zip(
        ["x", *layers[:-1]], layers, pairwise(sizes), slow, strict=True
    ):
        learns = learning == "all" or (learning == "output" and post == "y")
        weight = _uniform((m, n), (6 / (n + m)) ** 0.5, generator)
        for source, start in ((pre, weight), ("one", torch.zeros(m, 1))):
            rules: list[Plasticity] = []
            if learns:
                rules.append(delta_rule(1 / time, error=f"e_{post}"))
            if learns and tau_d < math.inf:
                rules.append(weight_decay(1 / tau_d))
            currents.append(Synapse(source, post, start.double(), plasticity=rules, shared=True))
    text = "ds/dt = (-s + slope*I)/tau_e : 1\nslope = {} : 1\nI : 1\nh : 1"
    for k, (name, size) in enumerate(zip(layers[:-1], sizes[1:], strict=False)):
        populations.append(TextNeuron(text.format(SLOPES[rho]), f"e_{name}", size, tau_e=tau_e))
        currents.append(Input(name, f"e_{name}", port="h"))
        after, n = ("y", sizes[-1]) if direct else (layers[k + 1], sizes[k + 2])
        back = _uniform((size, n), gain * (6 / (n + size)) ** 0.5, generator)
        currents.append(Synapse(f"e_{after}", f"e_{name}", back, name=f"B_{name}_{after}"))
    text = "ds/dt = (-s + g*(c - y))/tau_e : 1\nc : 1\ny : 1\ng : 1"
    populations.append(TextNeuron(text, "e_y", sizes[-1], tau_e=tau_e))
    currents += [Input(port, "e_y", port=port) for port in ("c", "y", "g")]
    return System(*populations, *currents)


def _layers(sizes: Sequence[int]) -> list[str]:
    """Return the names of the layers, or refuse sizes that make none."""
    if len(sizes) < 3 or not all(isinstance(n, int) and n >= 1 for n in sizes):
        raise ValueError(
            f"sizes needs an input, a hidden layer and an output, each >= 1; got {list(sizes)}"
        )
    return [*(f"h{k}" for k in range(1, len(sizes) - 1)), "y"]


def _uniform(shape: tuple[int, int], bound: float, generator: torch.Generator) -> Tensor:
    draws = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (2 * draws - 1) * bound
