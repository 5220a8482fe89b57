"""Biological plausibility as numbers: what a rule reads, and where its updates point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctsigprop.checks import check_inputs
from ctsigprop.errors import unknown
from ctsigprop.learning.sigprop import Sigprop
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Signal
from ctsigprop.solution import root_attributes
from ctsigprop.solve import solve
from ctsigprop.system import System
from ctsigprop.terms import Moment, Plasticity, Population, State

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["ARGUMENTS", "SCOPES", "alignment", "descent", "locality", "report"]

SCOPES = ("synapse", "neuron", "layer", "network")
"""How far a synapse has to look, each with those before it."""

ARGUMENTS: Mapping[str, str] = {
    "pre": "synapse",
    "pre_rate": "synapse",
    "post": "synapse",
    "post_rate": "synapse",
    "weight": "synapse",
    "trace": "synapse",
    "modulator": "synapse",
    "other_pre": "neuron",
    "other_weight": "neuron",
    "other_post": "layer",
    "layer_weight": "layer",
    "elsewhere": "network",
}
"""What dW_ij/dt may depend on, and where that is.

The activities x_j and y_i and their rates, w_ij, the synapse's own traces and the third factor;
x_k and w_ik of the same neuron; y_k and w_kj of the others; any other variable of the system.
"""

PROBES = 256  # synapses of a large layer that are looked at


def locality(
    system: System,
    weight: str,
    state: Mapping[str, Tensor] | None = None,
    t: float = 0.0,
    inputs: Mapping[str, Signal | Tensor | float] | None = None,
    seed: int = 0,
) -> Dataset:
    """Measure what each plasticity rule of a synapse reads, from the Jacobian of dW/dt.

    For every argument a of `ARGUMENTS` the largest |∂(dW_ij/dt)/∂a| over the synapses (i, j). The
    activities, their rates, and every state variable are arguments of their own: an activity is
    something that its neuron carries, however it came about. Gates are left out: they are
    functions of time alone.

    Parameters
    ----------
    system : System
        That the synapse is part of.
    weight : str
        Name of the synapse, which is that of its weights.
    state : mapping of str to Tensor, optional
        Where to measure, without batch axes. By default every argument is drawn as a standard
        normal number of its own, so that nothing vanishes by chance.
    t : float
        The time, for rules and inputs that depend on it.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources by name; needed with `state` only.
    seed : int
        Of the arguments drawn, and of the 256 synapses that are looked at in a larger layer.

    Returns
    -------
    xarray.Dataset
        ``sensitivity`` (rule, argument), for one unit of the argument; ``scope`` (rule), a flag:
        the widest of `SCOPES` that holds an argument with a sensitivity other than zero; ``gated``
        (rule), whether a gate common to all synapses switches the rule.

    Raises
    ------
    ValueError
        No plastic synapse of that name, a state with batch axes, a Jacobian that is not finite.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> cell = ct.leaky_integrator("y", 2)
    >>> synapse = ct.Synapse("x", "y", 0.1, plasticity=[ct.oja(0.1), ct.Sanger(0.1)])
    >>> measured = locality(ct.System(ct.Source("x", 3, torch.ones(3)), cell, synapse), "W_y_x")
    >>> [SCOPES[flag] for flag in measured.scope.values]
    ['synapse', 'layer']
    """
    import numpy as np
    import xarray as xr

    synapse = _plastic(system, weight)
    rules = list(synapse.plasticity)
    moment = _generic(system, t, seed) if state is None else _at(system, state, t, inputs or {})
    probes = _probes(system.variables[weight].shape, seed)
    sensitivity = np.zeros((len(rules), len(ARGUMENTS)))
    for row, rule in enumerate(rules):
        found = _sensitivity(synapse, rule, moment, probes)
        sensitivity[row] = [found[argument] for argument in ARGUMENTS]
        if not np.isfinite(sensitivity[row]).all():
            raise ValueError(
                f"{weight}: the Jacobian of '{_label(rule)}' is not finite here: pass a state="
            )
    ring = np.array([SCOPES.index(scope) for scope in ARGUMENTS.values()])
    scope = np.where(sensitivity != 0, ring, 0).max(axis=1).astype(np.int8)
    gated = np.array([rule.gate is not None for rule in rules], dtype=np.int8)
    return xr.Dataset(
        {
            "sensitivity": (
                ("rule", "argument"),
                sensitivity,
                {
                    "units": _rate_unit(system, weight),
                    "long_name": "largest change of dW/dt for one unit of the argument",
                    "synapses": len(probes),
                },
            ),
            "scope": ("rule", scope, _flags(SCOPES, "how far the rule looks")),
            "gated": ("rule", gated, _flags(("no", "yes"), "switched by a common gate")),
        },
        coords={
            "rule": ("rule", [_label(rule) for rule in rules]),
            "argument": ("argument", list(ARGUMENTS)),
        },
    )


def descent(learner: Sigprop, x: Tensor, labels: Tensor) -> State:
    """Return backpropagation's update: minus the gradient of the squared error of a batch.

        −∂/∂W  mean over the batch of ½ |s_N − c|²,    s_N the free outputs at `onset`

    The free relaxation is unrolled step by step, so that the loop of a network that has one is
    followed as well (backpropagation through time); nothing is taken to have settled.

    Parameters
    ----------
    learner : Sigprop
        The network, its weights, its solver and its free interval.
    x : Tensor
        Inputs, ``(batch, channels)``.
    labels : Tensor
        Integers, ``(batch,)``.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> learner = ct.Sigprop(ct.sigprop_network([4, 8, 2]))
    >>> sorted(descent(learner, torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])))
    ['W_h1_one', 'W_h1_x', 'W_y_h1', 'W_y_one']
    """
    weights = _leaves({s.name: learner.weights[s.name] for s in learner.synapses})
    context = torch.nn.functional.one_hot(labels, learner.classes).to(x.dtype)
    with torch.enable_grad():
        free = _free(learner, _at_rest(learner) | weights, x, context)
        outputs = learner.network.activity(free, "y")
        loss = (outputs - context).square().sum(-1).mean() / 2
        gradients = torch.autograd.grad(loss, list(weights.values()))
    return {name: -gradient for name, gradient in zip(weights, gradients, strict=True)}


def alignment(
    learner: Sigprop, x: Tensor, labels: Tensor, *, update: Mapping[str, Tensor] | None = None
) -> Dataset:
    """Measure the angle between an update of the weights and that of backpropagation.

    Below 90° a small enough step along the update lowers the squared error of the batch.

    Parameters
    ----------
    learner : Sigprop
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
    >>> learner = ct.Sigprop(ct.sigprop_network([4, 8, 2]))
    >>> batch = torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])
    >>> measured = alignment(learner, *batch)
    >>> measured.layer.values.tolist(), bool((measured.angle < 90).all())
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


def report(*measures: Dataset, title: str = "ctsigprop plausibility") -> DataTree:
    """Return measures as one tree that can be saved, in the group /plausibility.

    Parameters
    ----------
    *measures : Dataset
        From `locality` and `alignment`, or several of them put together with `xarray.concat`.
    title : str
        Of the tree.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> learner = ct.Sigprop(ct.sigprop_network([4, 8, 2]))
    >>> tree = report(locality(learner.network, "W_y_h1"))
    >>> ct.validate(tree), list(tree.plausibility.data_vars)
    ([], ['sensitivity', 'scope', 'gated'])
    """
    import xarray as xr

    merged = xr.merge(measures, join="exact", compat="no_conflicts")
    tree = xr.DataTree.from_dict({"/plausibility": merged})
    tree.attrs = root_attributes(title)
    return tree


class _Cut(Moment):
    """A moment in which every activity, every rate and every variable is a number of its own."""

    def __init__(
        self,
        t: float,
        populations: Mapping[str, Population],
        state: State,
        activities: State,
        rates: State,
    ) -> None:
        super().__init__(torch.tensor(t, dtype=torch.float64), _leaves(state), populations, {})
        self.activities, self.rates = _leaves(activities), _leaves(rates)

    def activity(self, name: str, delay: float = 0.0) -> Tensor:
        """Return the activity; how old it is makes no difference here."""
        del delay
        return self.activities[name]

    def rate(self, name: str) -> Tensor:
        """Return the rate."""
        return self.rates[name]


def _leaves(values: State) -> State:
    return {name: value.detach().clone().requires_grad_() for name, value in values.items()}


def _plastic(system: System, weight: str) -> Synapse:
    synapses = {c.name: c for c in system.currents if isinstance(c, Synapse) and c.plasticity}
    if weight not in synapses:
        raise ValueError(unknown("plastic synapse", weight, synapses))
    return synapses[weight]


def _generic(system: System, t: float, seed: int) -> _Cut:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    state = {name: draw(*variable.shape) for name, variable in system.variables.items()}
    activities, rates = (
        {name: draw(population.size) for name, population in system.populations.items()}
        for _ in range(2)
    )
    return _Cut(t, system.populations, state, activities, rates)


def _at(
    system: System,
    state: Mapping[str, Tensor],
    t: float,
    inputs: Mapping[str, Signal | Tensor | float],
) -> _Cut:
    system.check_state(state)
    signals = check_inputs(system, inputs)
    whole = system.initial_state() | dict(state)
    for name, variable in system.variables.items():
        if tuple(whole[name].shape) != variable.shape:
            raise ValueError(
                f"'{name}' must have shape {variable.shape}, one sample; "
                f"got {tuple(whole[name].shape)}"
            )
    at = torch.tensor(t, dtype=torch.float64)
    with torch.no_grad():
        moment = Moment(at, whole, system.populations, signals)
        moment.derivative = system(at, whole, inputs=signals)
        activities = {name: moment.activity(name) for name in system.populations}
        rates = {name: moment.rate(name) for name in system.populations}
    return _Cut(t, system.populations, whole, activities, rates)


def _probes(shape: tuple[int, ...], seed: int) -> list[tuple[int, int]]:
    post, pre = shape
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(post * pre, generator=generator)[:PROBES]
    return [divmod(index, pre) for index in chosen.tolist()]


def _sensitivity(
    synapse: Synapse, rule: Plasticity, moment: _Cut, probes: Sequence[tuple[int, int]]
) -> dict[str, float]:
    local = synapse.local(moment, rule)
    extra: State = {}
    if local.modulator is not None:
        extra = _leaves({"modulator": local.modulator()})
        local.modulator = lambda: extra["modulator"]
    change = rule(local)["w"]
    found = dict.fromkeys(ARGUMENTS, 0.0)
    if not change.requires_grad:  # a rule that reads nothing
        return found
    arguments = list(_arguments(synapse, moment, extra))
    leaves = [leaf for leaf, _, _ in arguments]
    for i, j in probes:
        gradients = torch.autograd.grad(change[i, j], leaves, retain_graph=True, allow_unused=True)
        for gradient, (_, sides, names) in zip(gradients, arguments, strict=True):
            if gradient is None:
                continue
            for name, where in zip(names, _masks(gradient, sides, i, j), strict=True):
                largest = torch.where(where, gradient.abs(), 0.0).max()
                found[name] = float(torch.maximum(torch.tensor(found[name]), largest))
    return found


Argument = tuple[Tensor, tuple[str, ...], tuple[str, str, str]]


def _arguments(synapse: Synapse, moment: _Cut, extra: State) -> Iterator[Argument]:
    """Give each leaf, the side that each of its axes is on, and its names.

    The names are those of the entries of the synapse itself, of other synapses of its neuron, and
    of other neurons.
    """
    for suffix, values in (("", moment.activities), ("_rate", moment.rates)):
        pre, post = f"pre{suffix}", f"post{suffix}"
        for name, leaf in values.items():
            if name == synapse.post == synapse.pre:
                yield leaf, ("both",), (post, pre, "other_post")
            elif name == synapse.post:
                yield leaf, ("post",), (post, "other_pre", "other_post")
            elif name == synapse.pre:
                yield leaf, ("pre",), (pre, "other_pre", "other_post")
            else:
                yield leaf, (), ("elsewhere",) * 3
    weight, *others = synapse.variables
    sides = dict(zip(weight.dims, ("post", "pre"), strict=True))
    own = {weight.name: "weight"} | {variable.name: "trace" for variable in others}
    if synapse.filter is not None:
        own[f"z_{synapse.name}"] = "pre"
    for variable in synapse.variables:
        along = tuple(sides.get(dim, "") for dim in variable.dims)
        beside = (
            ("other_weight", "layer_weight")
            if {"post", "pre"} <= {*along}
            else ("other_pre", "other_post")
        )
        yield moment.state[variable.name], along, (own[variable.name], *beside)
    for name, leaf in moment.state.items():
        if name not in own:
            yield leaf, (), ("elsewhere",) * 3
    for leaf in extra.values():
        yield leaf, (), ("modulator",) * 3


def _masks(like: Tensor, sides: tuple[str, ...], i: int, j: int) -> tuple[Tensor, Tensor, Tensor]:
    """Say which entries are at synapse (i, j), at its neuron only, and at other neurons."""
    same_post = same_pre = torch.ones_like(like, dtype=torch.bool)
    for axis, side in enumerate(sides):
        places = torch.arange(like.shape[axis]).reshape(-1, *[1] * (like.dim() - axis - 1))
        if side == "post":
            same_post = same_post & (places == i)
        elif side == "pre":
            same_pre = same_pre & (places == j)
        elif side == "both":
            return places == i, places == j, (places != i) & (places != j)
    return same_post & same_pre, same_post & ~same_pre, ~same_post


def _rate_unit(system: System, weight: str) -> str:
    from ctsigprop.units import divide_units

    return divide_units(system.variables[weight].unit, system.time_unit)


def _label(rule: Plasticity) -> str:
    return rule.text.split("\n")[0] if isinstance(rule, TextPlasticity) else type(rule).__name__


def _flags(meanings: Sequence[str], meaning: str) -> dict[str, object]:
    import numpy as np

    return {
        "flag_values": np.arange(len(meanings), dtype=np.int8),
        "flag_meanings": " ".join(meanings),
        "long_name": meaning,
    }


def _at_rest(learner: Sigprop) -> State:
    """Return the weights that learn, with traces that hold nothing."""
    names = {synapse.name for synapse in learner.synapses}
    fresh = learner.network.initial_state(dtype=next(iter(learner.weights.values())).dtype)
    return {name: w if name in names else fresh[name] for name, w in learner.weights.items()}


def _free(learner: Sigprop, weights: State, x: Tensor, context: Tensor) -> State:
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


def _presented(learner: Sigprop, x: Tensor, labels: Tensor) -> State:
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
