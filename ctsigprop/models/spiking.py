"""Spiking: integrate-and-fire neurons whose input synapses learn from the timing of spikes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctsigprop.brian2_ import brian2_session
from ctsigprop.models.stdp import pair_stdp_change
from ctsigprop.solution import root_attributes

if TYPE_CHECKING:
    from xarray import DataTree

Array = NDArray[Any]

__all__ = ["SpikingNetwork", "pair_stdp_change", "simulate"]

_NEURONS = """
    dv/dt = (E_L - v + g*(E_e - v) + drive)/tau_m : 1 (unless refractory)
    dg/dt = -g/tau_e : 1
"""
_SYNAPSES = """
    w : 1
    dpre_trace/dt = -pre_trace/tau_plus : 1 (event-driven)
    dpost_trace/dt = -post_trace/tau_minus : 1 (event-driven)
    fired : second
"""
# the trace of a postsynaptic spike of this very step does not count
_ON_PRE = """
    g_post += g_max*w
    w = clip(w - A_minus*(post_trace - int(fired == t)), w_min, w_max)
    pre_trace += 1
"""
_ON_POST = """
    w = clip(w + A_plus*pre_trace, w_min, w_max)
    post_trace += 1
    fired = t
"""
_TIMES = ("tau_m", "tau_e", "tau_plus", "tau_minus")


@dataclass(frozen=True)
class SpikingNetwork:
    """Leaky integrate-and-fire neurons driven by Poisson inputs through synapses with pair STDP.

        tau_m dv/dt = E_L − v + g (E_e − v) + drive,     tau_e dg/dt = −g
        v ≥ v_th:           a spike; v = v_r for t_ref
        input j spikes:     g_i += g_max w_ij,  w_ij −= A_minus Σ_post exp(−(t − t_post)/tau_minus)
        neuron i spikes:    w_ij += A_plus Σ_pre exp(−(t − t_pre)/tau_plus)

    Each weight stays within [w_min, w_max], and changes as in `pair_stdp_change`; spikes of one
    time step do not pair. The defaults are the excitatory part of [1]_, whose weights become
    bimodal.

    Parameters
    ----------
    size, inputs : int
        How many neurons i, and input channels j; all are connected.
    rate : float
        Of each input, in Hz.
    tau_m, tau_e, tau_plus, tau_minus, t_ref : float
        Time constants of membrane, synapse and the two traces, and the refractory time, in ms.
    E_L, E_e, v_th, v_r, drive : float
        Rest, reversal of the synapses, threshold, reset, and the constant input R·I, in mV.
    g_max : float
        Conductance of a synapse of weight 1, in units of the leak.
    A_plus, A_minus : float
        Change of a weight by one pair at lag zero.
    w_min, w_max : float
        Bounds of the weights, which start uniform between them.

    Raises
    ------
    ValueError
        A negative rate, a time constant that is not positive, bounds upside down.

    References
    ----------
    .. [1] S. Song, K. D. Miller, L. F. Abbott, Competitive Hebbian learning through
       spike-timing-dependent synaptic plasticity, Nat. Neurosci. 3:919-926 (2000).

    Examples
    --------
    >>> SpikingNetwork(rate=-5.0)
    Traceback (most recent call last):
        ...
    ValueError: rate must be >= 0 Hz, got -5 Hz
    """

    size: int = 1
    inputs: int = 1000
    rate: float = 15.0
    tau_m: float = 20.0
    tau_e: float = 5.0
    tau_plus: float = 20.0
    tau_minus: float = 20.0
    t_ref: float = 0.0
    E_L: float = -70.0
    E_e: float = 0.0
    v_th: float = -54.0
    v_r: float = -60.0
    drive: float = 0.0
    g_max: float = 0.015
    A_plus: float = 0.005
    A_minus: float = 0.00525
    w_min: float = 0.0
    w_max: float = 1.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        for name in ("size", "inputs"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {getattr(self, name)}")
        for name, unit in (("rate", " Hz"), ("t_ref", " ms"), ("g_max", "")):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0{unit}, got {getattr(self, name):g}{unit}")
        for name in _TIMES:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name):g} ms")
        if self.w_min > self.w_max:
            raise ValueError(f"w_min={self.w_min:g} > w_max={self.w_max:g}")
        if self.w_min < 0 < self.g_max:
            raise ValueError(f"w_min must be >= 0 where g_max > 0, got {self.w_min:g}")
        if self.v_r >= self.v_th:
            raise ValueError(f"v_r={self.v_r:g} must be below v_th={self.v_th:g}")


def simulate(
    network: SpikingNetwork,
    duration: float,
    *,
    seed: int = 0,
    record: Sequence[int] = (0,),
    every: float = 100.0,
    dt: float = 0.1,
    codegen: str = "numpy",
) -> DataTree:
    """Simulate a spiking network with Brian2, from rest and from random weights.

    Parameters
    ----------
    network : SpikingNetwork
        What to simulate.
    duration, dt : float
        In ms; spikes fall on multiples of `dt`.
    seed : int
        Of the initial weights and of the Poisson inputs.
    record : sequence of int
        Neurons whose voltage is kept, at every step.
    every : float
        Time between two looks at the weights, in ms; the last one is at the end.
    codegen : str
        Target of Brian2's code generation, "numpy" or "cython".

    Returns
    -------
    xarray.DataTree
        ``/spikes`` (spike), ``/weights`` (time, post, pre), ``/simulation`` (time, neuron), and in
        the attributes of the root all that it was made from.

    Raises
    ------
    ValueError
        An argument out of its range.
    ImportError
        Without a Brian2 that works here.

    Examples
    --------
    >>> tree = simulate(SpikingNetwork(inputs=10, drive=20.0), 50.0, every=10.0)
    >>> dict(tree["weights/w"].sizes)
    {'time': 6, 'post': 1, 'pre': 10}
    """
    if not 0 < dt <= duration < math.inf:
        raise ValueError(f"0 < dt <= duration must hold; got dt={dt}, duration={duration} ms")
    if not dt <= every < math.inf:
        raise ValueError(f"every must be at least dt={dt} ms; got {every}")
    if not record or not all(0 <= unit < network.size for unit in record):
        raise ValueError(f"record takes neurons 0 to {network.size - 1}; got {list(record)}")
    steps, stride = round(duration / dt), round(every / dt)
    generator = np.random.default_rng(seed)
    start = generator.uniform(network.w_min, network.w_max, (network.size, network.inputs))
    entered = _poisson(network, steps, dt, generator)
    with brian2_session(codegen) as brian2:
        v, fired, learned = _run(
            brian2, network, start, entered, steps, dt, stride=stride, record=record
        )
    times = {
        "simulation": np.arange(steps) * dt,
        "weights": np.append(np.arange(0, steps, stride), steps) * dt,
    }
    made = {"network": asdict(network), "seed": seed, "duration": duration, "dt": dt}
    made["brian2_version"] = version("brian2")
    return _labelled(made, times, record, v, learned, entered, fired)


def _poisson(
    network: SpikingNetwork, steps: int, dt: float, generator: np.random.Generator
) -> Array:
    """Return steps and channels of Poisson spikes, at most one of a channel in a step."""
    counts = generator.poisson(network.rate * 1e-3 * dt * steps, network.inputs)
    channel = np.repeat(np.arange(network.inputs), counts)
    step = generator.integers(0, steps, channel.size)
    return np.unique(np.stack([step, channel]), axis=1)


def _run(
    brian2: Any,
    network: SpikingNetwork,
    start: Array,
    entered: Array,
    steps: int,
    dt: float,
    *,
    stride: int,
    record: Sequence[int],
) -> tuple[Array, Array, Array]:
    """Return voltages (step, neuron), spikes (step and neuron, spike) and weights."""
    tick = dt * brian2.ms
    constants = {name: float(value) for name, value in asdict(network).items()}
    constants |= {name: constants[name] * brian2.ms for name in _TIMES}
    common = {"dt": tick, "namespace": constants, "dtype": np.float64}
    spiking = {"threshold": "v >= v_th", "reset": "v = v_r"}
    spiking |= {"refractory": network.t_ref * brian2.ms, "method": "exponential_euler"}
    neurons = brian2.NeuronGroup(network.size, _NEURONS, name="neurons", **spiking, **common)
    neurons.variables["v"].get_value()[:] = network.E_L
    step, channel = entered
    inputs = brian2.SpikeGeneratorGroup(
        network.inputs, channel, step * tick, dt=tick, name="inputs"
    )
    synapses = brian2.Synapses(
        inputs, neurons, _SYNAPSES, on_pre=_ON_PRE, on_post=_ON_POST, name="synapses", **common
    )
    post, pre = np.indices(start.shape).reshape(2, -1)
    synapses.connect(i=pre, j=post)
    synapses.post.order = -1  # before the input spikes of the same step enter the traces
    synapses.variables["fired"].get_value()[:] = -1.0
    weights = synapses.variables["w"].get_value()
    weights[:] = start.reshape(-1)
    voltage = brian2.StateMonitor(neurons, "v", list(record), dt=tick, name="voltage")
    learned = brian2.StateMonitor(synapses, "w", True, dt=stride * tick, name="learned")
    spikes = brian2.SpikeMonitor(neurons, name="spikes")
    run = brian2.Network(neurons, inputs, synapses, voltage, learned, spikes)
    run.run(steps * tick, namespace={})
    if len(voltage.t_) < steps:  # Brian2's own handler of Ctrl-C has ended the run after a step
        raise KeyboardInterrupt
    fired = np.stack([np.rint(np.asarray(spikes.t_ / float(tick))).astype(int), spikes.i])
    history = np.concatenate([np.asarray(learned.w).T, weights[None]])
    return np.asarray(voltage.v).T, fired, history.reshape(-1, *start.shape)


def _labelled(
    made: dict[str, Any],
    times: dict[str, Array],
    record: Sequence[int],
    v: Array,
    w: Array,
    entered: Array,
    fired: Array,
) -> DataTree:
    import xarray as xr

    step, unit = np.concatenate([entered, fired], axis=1)
    order = np.argsort(step, kind="stable")
    population = np.repeat(np.array([0, 1], np.int8), [entered.shape[1], fired.shape[1]])
    flags = {"flag_values": [0, 1], "flag_meanings": "input neuron"}
    contents: dict[str, dict[str, Any]] = {
        "simulation": {"v": (("time", "neuron"), v, {"units": "mV"})},
        "weights": {"w": (("time", "post", "pre"), w, {"units": "1"})},
        "spikes": {
            "time": ("spike", step[order] * made["dt"], {"units": "ms"}),
            "unit": ("spike", unit[order], {"units": "1"}),
            "population": ("spike", population[order], flags),
        },
    }
    groups = {}
    for path, content in contents.items():
        group = xr.Dataset(content)
        axes = {dim: np.arange(size) for dim, size in group.sizes.items()}
        axes |= {"neuron": np.asarray(record)} if "neuron" in axes else {}
        group = group.assign_coords({k: (k, values, {"units": "1"}) for k, values in axes.items()})
        if path in times:
            group = group.assign_coords(time=("time", times[path], {"units": "ms"}))
        groups[f"/{path}"] = group
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = root_attributes("ctsigprop spiking network") | made
    return tree
