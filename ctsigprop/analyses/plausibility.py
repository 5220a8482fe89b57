"""Biological plausibility as numbers: what a rule reads, and where its updates point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctsigprop.errors import unknown
from ctsigprop.learning.sigprop import Sigprop
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Signal, as_signal
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
    rules: Sequence[Plasticity] = list(synapse.plasticity)  # type: ignore[arg-type]
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
    weights = {k: w.detach().clone().requires_grad_() for k, w in learner.weights.items()}
    with torch.enable_grad():
        start = {
            variable.name: x.new_zeros(x.shape[0], *variable.shape)
            for neuron in learner.network.neurons
            for variable in neuron.variables  # type: ignore[union-attr]
        }
        context = torch.nn.functional.one_hot(labels, learner.classes).to(x.dtype)
        free = solve(
            learner.network,
            {**start, **weights},
            [0.0, learner.onset],
            solver=learner.solver,
            inputs={"x": x, "c": context},
        )
        outputs = learner.network.activity(free.final, "y")
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
        The change of every weight that learns; by default that of one presentation of the batch.

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
    if set(change) != set(learner.weights):
        raise ValueError(
            f"update must have the weights that learn, {sorted(learner.weights)}; "
            f"got {sorted(change)}"
        )
    reference = descent(learner, x, labels)
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
    for name in inputs:
        if name not in system.populations:
            raise ValueError(unknown("source", name, [str(s.name) for s in system.sources]))
    whole = system.initial_state() | dict(state)
    for name, variable in system.variables.items():
        if tuple(whole[name].shape) != variable.shape:
            raise ValueError(
                f"'{name}' must have shape {variable.shape}, one sample; "
                f"got {tuple(whole[name].shape)}"
            )
    signals = {name: as_signal(value) for name, value in inputs.items()}
    at = torch.tensor(t, dtype=torch.float64)
    with torch.no_grad():
        moment = Moment(at, whole, system.populations, signals)
        moment.derivative = system(at, whole, inputs=signals)
        activities = {name: moment.activity(name) for name in system.populations}
        rates = {name: moment.rate(name) for name in system.populations}
    return _Cut(t, system.populations, whole, activities, rates)


def _probes(shape: tuple[int, ...], seed: int) -> list[tuple[int, int]]:
    post, pre = shape
    chosen = range(post * pre)
    if post * pre > PROBES:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(post * pre, generator=generator)[:PROBES].tolist()
    return [divmod(index, pre) for index in chosen]


def _sensitivity(
    synapse: Synapse, rule: Plasticity, moment: _Cut, probes: Sequence[tuple[int, int]]
) -> dict[str, float]:
    local = synapse.local(moment, rule)
    extra: State = {}
    if local.modulator is not None:
        extra = _leaves({"modulator": local.modulator()})
        local.modulator = lambda: extra["modulator"]
    change = rule(local)["w"]
    arguments = list(_arguments(synapse, moment, extra))
    found = dict.fromkeys(ARGUMENTS, 0.0)
    if not change.requires_grad:  # a rule that reads nothing at all
        return found
    for i, j in probes:
        gradients = torch.autograd.grad(
            change[i, j], [leaf for leaf, _, _ in arguments], retain_graph=True, allow_unused=True
        )
        for gradient, (_, axes, names) in zip(gradients, arguments, strict=True):
            if gradient is None:
                continue
            for name, where in zip(names, _where(gradient, axes, i, j), strict=True):
                largest = float(gradient.abs().where(where, 0.0).max())
                found[name] = max(found[name], largest) if largest == largest else largest
    return found


def _arguments(
    synapse: Synapse, moment: _Cut, extra: State
) -> Iterator[tuple[Tensor, tuple[str, ...], tuple[str, ...]]]:
    """Give each leaf, the side of each of its axes, and what its entries are to synapse (i, j)."""
    sides = {synapse.post: "post", synapse.pre: "pre"}
    if synapse.post == synapse.pre:
        sides = {synapse.post: "both"}
    for suffix, values in (("", moment.activities), ("_rate", moment.rates)):
        for name, leaf in values.items():
            pre, post = f"pre{suffix}", f"post{suffix}"
            yield {
                "post": (leaf, ("post",), (post, "other_post")),
                "pre": (leaf, ("pre",), (pre, "other_pre")),
                "both": (leaf, ("both",), (post, pre, "other_post")),
                "": (leaf, ("",), ("elsewhere",)),
            }[sides.get(name, "")]
