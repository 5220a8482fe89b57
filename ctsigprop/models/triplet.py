"""The triplet rule of STDP: traces that decay between spikes, and jumps at the spikes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from ctsigprop.errors import unknown
from ctsigprop.models.neurons import TextNeuron, Value
from ctsigprop.quantities import Parameter
from ctsigprop.signals import as_values
from ctsigprop.solvers.base import State
from ctsigprop.solvers.impulses import Impulse
from ctsigprop.system import System

__all__ = ["PUBLISHED", "pairing_protocol", "poisson_drift", "spikes", "triplet_stdp"]

TEXT = """
    dr1/dt = -r1/tau_plus : 1
    dr2/dt = -r2/tau_x : 1
    do1/dt = -o1/tau_minus : 1
    do2/dt = -o2/tau_y : 1
    dw/dt = 0/ms : 1
    A2p : 1
    A3p : 1
    A2m : 1
    A3m : 1
    nearest : 1
"""

INTERACTIONS = ("all-to-all", "nearest")

PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "visual cortex, all-to-all": {
            "A2p": 5e-10, "A3p": 6.2e-3, "A2m": 7e-3, "A3m": 2.3e-4,
            "tau_x": 101.0, "tau_y": 125.0,
        },
        "visual cortex, all-to-all, minimal": {
            "A2p": 0.0, "A3p": 6.5e-3, "A2m": 7.1e-3, "A3m": 0.0, "tau_y": 114.0,
        },
        "visual cortex, nearest, minimal": {
            "A2p": 0.0, "A3p": 5e-2, "A2m": 8e-3, "A3m": 0.0, "tau_y": 40.0,
            "interaction": "nearest",
        },
        "hippocampal culture, all-to-all": {
            "A2p": 6.1e-3, "A3p": 6.7e-3, "A2m": 1.6e-3, "A3m": 1.4e-3,
            "tau_x": 946.0, "tau_y": 27.0,
        },
        "hippocampal culture, all-to-all, minimal": {
            "A2p": 5.3e-3, "A3p": 8e-3, "A2m": 3.5e-3, "A3m": 0.0, "tau_y": 40.0,
        },
    }
)  # fmt: skip
"""Arguments of `triplet_stdp` as printed in tables 3 and 4 of Pfister & Gerstner 2006."""


def triplet_stdp(
    *,
    A2p: Value = 0.0,
    A3p: Value = 6.5e-3,
    A2m: Value = 7.1e-3,
    A3m: Value = 0.0,
    tau_plus: Value = 16.8,
    tau_minus: Value = 33.7,
    tau_x: Value = 101.0,
    tau_y: Value = 114.0,
    interaction: Literal["all-to-all", "nearest"] = "all-to-all",
    size: int = 1,
) -> System:
    """Return synapses with the triplet rule: four traces, and a weight that moves at spikes.

        dr1/dt = −r1/tau_plus    dr2/dt = −r2/tau_x     pre:   w −= o1 (A2m + A3m r2)
        do1/dt = −o1/tau_minus   do2/dt = −o2/tau_y     post:  w += r1 (A2p + A3p o2)

    After the weight, a presynaptic spike raises r1 and r2, a postsynaptic one o1 and o2: by 1 where
    all spikes interact, to 1 where only the nearest do. The spikes come as the impulses of
    `spikes`.

    Parameters
    ----------
    A2p, A3p, A2m, A3m : Parameter, Tensor or float
        Amplitudes of potentiation by pairs and triplets, and of depression; dimensionless, between
        0 and 1.
    tau_plus, tau_minus, tau_x, tau_y : Parameter, Tensor or float
        Time constants in ms, below 10 s.
    interaction : {"all-to-all", "nearest"}
        Which spikes interact.
    size : int
        How many synapses, each of one pair of neurons.

    Returns
    -------
    System
        With the variables r1, r2, o1, o2 and w, which starts at 1. The defaults are the minimal
        set for visual cortex, in which A2p and A3m are zero.

    References
    ----------
    Pfister & Gerstner 2006, J. Neurosci. 26:9673-9682, the triplet rule.

    Examples
    --------
    >>> list(triplet_stdp().variables)
    ['r1', 'r2', 'o1', 'o2', 'w']
    >>> triplet_stdp(**PUBLISHED["visual cortex, all-to-all"]).neurons[0].A3p.item()
    0.0062
    """
    if interaction not in INTERACTIONS:
        raise ValueError(unknown("interaction", interaction, INTERACTIONS))
    amplitudes = {"A2p": A2p, "A3p": A3p, "A2m": A2m, "A3m": A3m}
    taus = {"tau_plus": tau_plus, "tau_minus": tau_minus, "tau_x": tau_x, "tau_y": tau_y}
    parameters: dict[str, Any] = {
        "nearest": float(interaction == "nearest"),
        **{name: _within(value, "1", 1.0) for name, value in amplitudes.items()},
        **{name: _within(value, "ms", 1e4) for name, value in taus.items()},
    }
    return System(TextNeuron(TEXT, size=size, output="w", initial={"w": 1.0}, **parameters))


def spikes(system: System, pre: Tensor, post: Tensor) -> tuple[Impulse, Impulse]:
    """Return the impulses of a synapse of `triplet_stdp` at its neurons' spikes.

    The values of r2 and o2 just before a spike are the ones that count at that spike.

    Parameters
    ----------
    system : System
        From `triplet_stdp`.
    pre, post : Tensor
        Spike times in ms, ``(k,)`` or ``(*batch, k)``, as `Impulse` takes them.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> rule = triplet_stdp()
    >>> run = ct.solve(rule, t=[0.0, 60.0], impulses=spikes(rule, *pairing_protocol(10.0, 50.0, 2)))
    >>> round(run["w"][-1].item(), 6)
    0.998645
    """
    synapse = _synapse(system)

    def raised(trace: Tensor) -> Tensor:
        new: Tensor = trace + 1 - synapse.nearest * trace
        return new

    def at_pre(t: Tensor, y: State) -> State:
        del t
        w = y["w"] - y["o1"] * (synapse.A2m + synapse.A3m * y["r2"])
        return {"w": w, "r1": raised(y["r1"]), "r2": raised(y["r2"])}

    def at_post(t: Tensor, y: State) -> State:
        del t
        w = y["w"] + y["r1"] * (synapse.A2p + synapse.A3p * y["o2"])
        return {"w": w, "o1": raised(y["o1"]), "o2": raised(y["o2"])}

    return Impulse(pre, at_pre), Impulse(post, at_post)


def pairing_protocol(
    dt: Tensor | float, frequency: Tensor | float, pairings: int = 60
) -> tuple[Tensor, Tensor]:
    """Return the spike times of pairs repeated at a frequency, in ms.

    The earlier spike of pair n = 1 … `pairings` is at n/frequency, the other one |dt| later.

    Parameters
    ----------
    dt : Tensor or float
        t_post − t_pre in ms.
    frequency : Tensor or float
        Pairs a second, in Hz.
    pairings : int
        How many pairs.

    Returns
    -------
    pre, post : Tensor
        Each ``(*shape, pairings)``, with the shape that `dt` and `frequency` broadcast to.

    Raises
    ------
    ValueError
        A frequency that is not positive, no pairings, or spikes at the very same time, about which
        the rule says nothing.

    Examples
    --------
    >>> pre, post = pairing_protocol(torch.tensor([10.0, -10.0]), 50.0, pairings=2)
    >>> pre.tolist(), post.tolist()
    ([[20.0, 40.0], [30.0, 50.0]], [[30.0, 50.0], [20.0, 40.0]])
    """
    lag, rate = as_values(dt, "dt").double(), as_values(frequency, "frequency").double()
    if not bool((rate > 0).all()):
        raise ValueError(f"frequency must be > 0 Hz; got {frequency}")
    if not isinstance(pairings, int) or pairings < 1:
        raise ValueError(f"pairings must be a whole number >= 1; got {pairings!r}")
    lag, period = (lag + 0 * rate).unsqueeze(-1), (1e3 / rate + 0 * lag).unsqueeze(-1)
    first = torch.arange(1, pairings + 1) * period
    pre, post = first + (-lag).clamp(min=0), first + lag.clamp(min=0)
    if bool((pre.unsqueeze(-1) == post.unsqueeze(-2)).any()):
        raise ValueError(
            "dt must be neither 0 nor a whole number of periods: the rule does not say what two "
            f"spikes at one time do; got dt={dt} at {frequency} Hz"
        )
    return pre, post


def poisson_drift(system: System, rate_pre: Tensor | float, rate_post: Tensor | float) -> Tensor:
    """Return the mean dw/dt, in 1/s, for spikes of independent Poisson processes.

        A2p tau_plus ν_x ν_y + A3p tau_plus tau_y ν_x ν_y²
        − A2m tau_minus ν_x ν_y − A3m tau_minus tau_x ν_x² ν_y

    With A3m = 0 it is a BCM rule: it changes sign at a threshold of the postsynaptic rate.

    Parameters
    ----------
    system : System
        From `triplet_stdp`, where all spikes interact.
    rate_pre, rate_post : Tensor or float
        ν_x and ν_y in Hz.

    References
    ----------
    Pfister & Gerstner 2006, J. Neurosci. 26:9673-9682, eqs. 6-8.

    Examples
    --------
    >>> round(poisson_drift(triplet_stdp(), 10.0, 20.0).item(), 7)
    0.0019412
    """
    p = _synapse(system)
    if bool(p.nearest.any()):
        raise ValueError("the drift has this closed form only where the interaction is all-to-all")
    x, y = as_values(rate_pre, "rate_pre") / 1e3, as_values(rate_post, "rate_post") / 1e3
    depression = p.tau_minus * x * y * (p.A2m + p.A3m * p.tau_x * x)
    potentiation = p.tau_plus * x * y * (p.A2p + p.A3p * p.tau_y * y)
    drift: Tensor = 1e3 * (potentiation - depression)
    return drift


def _within(value: Value, unit: str, upper: float) -> Parameter:
    if isinstance(value, Parameter):
        return value
    return Parameter(value, unit, lower=0.0, upper=upper)


def _synapse(system: System) -> Any:
    for neuron in system.neurons:
        if isinstance(neuron, TextNeuron) and neuron.equations.text == TEXT:
            return neuron
    raise ValueError("system must come from triplet_stdp; it has no such synapse")
