"""Biological plausibility as numbers: what each rule of plasticity reads, and how far away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctsigprop.analyses.cut import Cut, cut, cut_at, leaves
from ctsigprop.analyses.flags import flags
from ctsigprop.errors import unknown
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Signal
from ctsigprop.solution import root_attributes
from ctsigprop.system import System
from ctsigprop.terms import Plasticity, State

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["ARGUMENTS", "SCOPES", "locality", "report"]

SCOPES = ("synapse", "neuron", "layer", "batch", "network")
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
x_k and w_ik of the same neuron; y_k and w_kl of others; any other variable of the system.
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
    """Measure what the plasticity of a synapse reads, from the Jacobian of its equations.

    For dW_ij/dt and the traces behind it, the largest |∂(dW_ij/dt)/∂a| over the synapses (i, j),
    for every argument a of `ARGUMENTS`. Activities, their rates and state variables are arguments
    of their own: an activity is something that its neuron carries, however it came about. Gates are
    left out, as functions of time alone; so is the mean over a batch that shares its weights.

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
        One row of ``rule`` for each equation of each rule: ``sensitivity`` (rule, argument), in
        units of the equation's variable for one unit of the argument; ``scope`` (rule), a flag: the
        widest of `SCOPES` that holds an argument with a sensitivity other than zero; ``gated``
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
    generator = torch.Generator().manual_seed(seed)
    probes = _probes(synapse, generator)
    moment = cut(system, t, generator) if state is None else cut_at(system, state, t, inputs or {})
    labels: list[str] = []
    rows: list[list[float]] = []
    gated: list[int] = []
    for rule in synapse.plasticity:
        for label, found in _sensitivities(synapse, rule, moment, probes):
            labels.append(label)
            rows.append([found[argument] for argument in ARGUMENTS])
            gated.append(rule.gate is not None)
    sensitivity = np.array(rows)
    ring = np.array([SCOPES.index(scope) for scope in ARGUMENTS.values()])
    scope = np.where(sensitivity != 0, ring, 0).max(axis=1)
    attrs = {
        "units": "1" if system.time_unit == "1" else f"1/{system.time_unit}",
        "long_name": "largest change of the derivative for one unit of the argument",
        "synapses": len(probes),
    }
    return xr.Dataset(
        {
            "sensitivity": (("rule", "argument"), sensitivity, attrs),
            "scope": ("rule", scope.astype(np.int8), flags(SCOPES, "how far the rule looks")),
            "gated": (
                "rule",
                np.array(gated, dtype=np.int8),
                flags(("no", "yes"), "whether a common gate switches the rule"),
            ),
        },
        coords={"rule": ("rule", labels), "argument": ("argument", list(ARGUMENTS))},
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
    >>> learner = ct.ContinuousSigprop(ct.sigprop_network([4, 8, 2]))
    >>> tree = report(locality(learner.network, "W_y_h1"))
    >>> ct.validate(tree), list(tree.plausibility.data_vars)
    ([], ['sensitivity', 'scope', 'gated'])
    """
    import xarray as xr

    merged = xr.merge(measures, join="exact", compat="no_conflicts")
    tree = xr.DataTree.from_dict({"/plausibility": merged})
    tree.attrs = root_attributes(title)
    return tree


def _plastic(system: System, weight: str) -> Synapse:
    synapses = {c.name: c for c in system.currents if isinstance(c, Synapse) and c.plasticity}
    if weight not in synapses:
        raise ValueError(unknown("plastic synapse", weight, synapses))
    return synapses[weight]


def _probes(synapse: Synapse, generator: torch.Generator) -> list[tuple[int, int]]:
    post, pre = synapse.variables[0].shape
    pairs = [divmod(k, pre) for k in torch.randperm(post * pre, generator=generator).tolist()]
    if synapse.post == synapse.pre:  # a neuron's synapse on itself does not tell pre from post
        pairs = [(i, j) for i, j in pairs if i != j] or pairs
    return pairs[:PROBES]


def _sensitivities(
    synapse: Synapse, rule: Plasticity, moment: Cut, probes: Sequence[tuple[int, int]]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Give each equation of a rule with its largest derivative by every argument."""
    local = synapse.local(moment, rule)
    extra: State = {}
    if local.modulator is not None:
        value = local.modulator() if moment.modulator is None else moment.modulator
        extra = leaves({"modulator": value})
        local.modulator = lambda: extra["modulator"]
    arguments = list(_arguments(synapse, moment, extra))
    cuts = [leaf for leaf, _, _ in arguments]
    dims = {v.name.removesuffix(f"_{synapse.name}"): v.dims for v in synapse.variables[1:]}
    post, pre = dims["w"] = synapse.variables[0].dims
    changes = rule.forward(local)
    for short in sorted(changes, key=lambda short: short != "w"):
        change, label = changes[short], _label(rule, short)
        found = dict.fromkeys(ARGUMENTS, 0.0)
        for i, j in probes if change.requires_grad else ():
            place = tuple({post: i, pre: j}[dim] for dim in dims[short])
            gradients = torch.autograd.grad(
                change[place], cuts, retain_graph=True, allow_unused=True
            )
            for gradient, (_, sides, names) in zip(gradients, arguments, strict=True):
                if gradient is None:
                    continue
                if not bool(torch.isfinite(gradient).all()):
                    raise ValueError(
                        f"{synapse.name}: the Jacobian of '{label}' is not finite here; pass state="
                    )
                for name, where in zip(names, _masks(gradient, sides, i, j), strict=True):
                    largest = torch.where(where, gradient.abs(), 0.0).max()
                    found[name] = max(found[name], float(largest))
        yield label, found


Argument = tuple[Tensor, tuple[str, ...], tuple[str, str, str]]


def _arguments(synapse: Synapse, moment: Cut, extra: State) -> Iterator[Argument]:
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


def _label(rule: Plasticity, short: str) -> str:
    if isinstance(rule, TextPlasticity):
        sources = {v.name: v.source for v in rule.equations.variables}
        return sources[short].split(":")[0].strip()
    return type(rule).__name__ if short == "w" else f"{type(rule).__name__}: {short}"
