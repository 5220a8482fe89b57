"""Learning as a dynamical system: where weights can go, and how what presentations do differs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.analyses.bifurcations import bifurcation_diagram, shown_number
from ctsigprop.analyses.flat import At, FlatField, Inputs, Ranges, check_ranges
from ctsigprop.analyses.parametric import with_parameters
from ctsigprop.analyses.phase import portrait
from ctsigprop.solution import root_attributes
from ctsigprop.solve import solve
from ctsigprop.solvers.base import Solver
from ctsigprop.solvers.explicit.fixed import RK4
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["averaging", "learning_portrait", "portraits_along"]

Array = NDArray[np.float64]
Starts = Mapping[str, Tensor | Sequence[float]]


def learning_portrait(
    averaged: System,
    ranges: Ranges,
    full: Mapping[float, System],
    starts: Starts,
    duration: float,
    *,
    field: System | None = None,
    at: At | None = None,
    points: int = 30,
    times: int = 200,
    solver: Solver | None = None,
    inputs: Inputs | None = None,
    title: str = "",
) -> DataTree:
    """Lay what neurons and weights do over the phase portrait of their averaged weights.

    Parameters
    ----------
    averaged : System
        The weights alone, such as `AveragedLearning`, in the slow time.
    ranges : mapping of str to (float, float)
        One or two axes of the portrait, as in `portrait`.
    full, starts, duration, times, solver, inputs
        As in `averaging`.
    field : System, optional
        What is drawn behind, where `averaged` has more variables than the plane: a system of the
        plane's own, such as `AveragedBCM` for a threshold that has long settled. The axes of
        `ranges` are then its components, in the order of those of the weights.
    at : mapping of str to Tensor or float, optional
        Where other variables of the portrait are held; initial values for those left out.
    points : int
        Of the vector field along each axis.
    title : str
        Of the tree, and of its figure.

    Returns
    -------
    xarray.DataTree
        What `portrait` gives, but for its orbits; /averaged, /full and /distance from `averaging`.

    Raises
    ------
    ValueError
        As `portrait` and `averaging`.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> patterns, rules = torch.eye(2), ct.oja(1.0)
    >>> tree = learning_portrait(
    ...     ct.System(ct.AveragedLearning(patterns, rules)),
    ...     {"w[0,0]": (-2, 2), "w[0,1]": (-2, 2)},
    ...     {0.1: ct.presented(patterns, rules, rate=0.1, duration=30.0)},
    ...     {"w[0,0]": [0.5], "w[0,1]": [0.1]},
    ...     3.0,
    ... )
    >>> list(tree.children)
    ['vector_field', 'nullclines', 'fixed_points', 'averaged', 'full', 'distance']
    """
    common: dict[str, Any] = {"times": times, "solver": solver, "inputs": inputs}
    followed = averaging(averaged, full, starts, duration, **common)
    behind = averaged if field is None else field
    tree = portrait(
        behind, ranges, at=at, points=points, orbits=0, inputs=inputs, title=title or "learning"
    )
    axes = list(ranges) if field is None else _leading(averaged, len(ranges))
    for name, group in followed.children.items():
        tree[name] = group
    names = FlatField(averaged, free=axes, inputs=inputs).names
    tree.attrs |= {"followed": list(names), "order": followed.attrs["order"]}
    return tree


def averaging(
    averaged: System,
    full: Mapping[float, System],
    starts: Starts,
    duration: float,
    *,
    times: int = 200,
    solver: Solver | None = None,
    inputs: Inputs | None = None,
) -> DataTree:
    """Measure how far weights stray from their averaged equations, for several learning rates.

        distance(s) = |w_full(s/rate) − w_averaged(s)|,    s = rate · t

    The averaging theorem bounds it by a constant times the rate for s up to a fixed duration.

    Parameters
    ----------
    averaged : System
        The weights, and what rules keep besides, in the slow time s.
    full : mapping of float to System
        Neurons and weights in the time of the neurons, by their learning rate, such as
        `presented`; the variables of `averaged` are among theirs, by the same names.
    starts : mapping of str to Tensor or sequence of float
        Starting values of components of `averaged`, ``(k,)`` each; initial ones for what is left
        out. Neurons start at their own initial values.
    duration : float
        In the slow time.
    times : int
        How many output times.
    solver : Solver, optional
        Of the full systems, as in `solve`; by default `RK4` in steps of half the shortest time
        constant that their neurons name, where they name one.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources of `averaged`.

    Returns
    -------
    xarray.DataTree
        /averaged: the variables ``(time, sample, *dims)``, the time being s. /full: the same with
        a dim ``rate``. /distance: ``distance`` ``(rate, time, sample)``, the Euclidean norm over
        all components; ``largest`` ``(rate, sample)`` over time. The attribute ``order`` is
        the slope of log largest (mean over samples) against log rate, NaN for one rate.

    Raises
    ------
    ValueError
        Names or numbers that do not fit, variables that `full` does not have.

    References
    ----------
    Sanders, Verhulst & Murdock 2007, Averaging Methods in Nonlinear Dynamical Systems, theorem
    2.8.1.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> patterns, rules = torch.eye(2), ct.oja(1.0)
    >>> full = {r: ct.presented(patterns, rules, rate=r, duration=3 / r) for r in (0.2, 0.1)}
    >>> averaged = ct.System(ct.AveragedLearning(patterns, rules))
    >>> tree = averaging(averaged, full, {"w[0,0]": [0.5], "w[0,1]": [0.1]}, 3.0)
    >>> 0.8 < tree.attrs["order"] < 1.2
    True
    """
    import xarray as xr

    if not full or not all(0 < rate < math.inf for rate in full):
        raise ValueError(f"full must hold systems by rates > 0; got {list(full)}")
    if not 0 < duration < math.inf or times < 2:
        raise ValueError(f"duration must be > 0 and times >= 2; got {duration}, {times}")
    values = [torch.as_tensor(value, dtype=torch.float64) for value in starts.values()]
    if not values or any(v.dim() != 1 or v.shape != values[0].shape for v in values):
        raise ValueError(
            "starts must hold one list of numbers of one length each; "
            f"got { ({name: tuple(v.shape) for name, v in zip(starts, values, strict=True)}) }"
        )
    first = FlatField(averaged, free=list(starts), inputs=inputs)
    y0 = first.state(torch.stack(values, -1).to(first.initial))
    own = averaged.variables
    for rate, system in full.items():
        for name, variable in own.items():
            there = system.variables.get(name)
            if there is None or there.shape != variable.shape:
                raise ValueError(
                    f"the full system of rate {rate:g} has no variable '{name}' of shape "
                    f"{variable.shape}; its variables: {', '.join(system.variables)}"
                )
    slow = torch.linspace(0.0, duration, times, dtype=torch.float64)
    reference = solve(averaged, y0, slow, inputs=inputs, rtol=1e-9, atol=1e-11).states
    runs = [
        solve(system, y0, slow / rate, solver=solver or _steps(system)).states
        for rate, system in sorted(full.items())
    ]
    rates = np.array(sorted(full))
    stacked = {name: np.stack([run[name].numpy() for run in runs]) for name in own}
    shape = (len(rates), times, len(values[0]), -1)
    gaps = [(stacked[name] - reference[name].numpy()).reshape(shape) for name in own]
    distance: Array = np.linalg.norm(np.concatenate(gaps, -1), axis=-1)
    largest = distance.max(1)
    coords = {
        "rate": ("rate", rates, {"units": "1", "long_name": "learning rate"}),
        "time": ("time", slow.numpy(), {"units": averaged.time_unit, "long_name": "slow time"}),
        "sample": ("sample", np.arange(len(values[0])), {"units": "1"}),
    }
    units = {variable.unit for variable in own.values()}
    unit = {"units": units.pop() if len(units) == 1 else "1"}
    tree = xr.DataTree.from_dict(
        {
            "/averaged": _labelled(averaged, reference, ("time", "sample"), coords),
            "/full": _labelled(averaged, stacked, ("rate", "time", "sample"), coords),
            "/distance": xr.Dataset(
                {
                    "distance": (("rate", "time", "sample"), distance, unit),
                    "largest": (("rate", "sample"), largest, unit),
                },
                coords=coords,
            ),
        }
    )
    tree.attrs = root_attributes("learning and its average") | {"order": _order(rates, largest)}
    return tree


def portraits_along(
    system: System,
    parameter: str,
    values: Sequence[float],
    ranges: Ranges,
    *,
    at: At | None = None,
    points: int = 30,
    orbits: int = 16,
    diagram: bool = True,
    inputs: Inputs | None = None,
    title: str = "",
) -> DataTree:
    """Draw phase portraits at several values of a parameter, with the bifurcations between them.

    Parameters
    ----------
    system : System
        Without delays, in float64: averaged weights, or neurons and weights together.
    parameter : str
        Of a term, or a source, as in `bifurcation_diagram`.
    values : sequence of float
        Increasing, two at least.
    ranges : mapping of str to (float, float)
        One or two axes, as in `portrait`; other components are held at `at` in the portraits.
    at : mapping of str to Tensor or float, optional
        Where they are held; initial values for those left out.
    points, orbits : int, int
        As in `portrait`.
    diagram : bool
        Whether to follow the equilibria and cycles from the first value to the last, within
        `ranges`; components outside them are then free.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.
    title : str
        Of the tree, and of its figure.

    Returns
    -------
    xarray.DataTree
        /portrait_0, /portrait_1 …, each from `portrait`, with the attribute ``value``; and
        /diagram, from `bifurcation_diagram`.

    Raises
    ------
    ValueError
        As `portrait` and `bifurcation_diagram`; values that do not increase.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> rules = [ct.hebb(1.0), ct.weight_decay(0.5)]
    >>> weight = ct.AveragedLearning(torch.ones(1, 1), rules, context=torch.ones(1, 1), rho="tanh")
    >>> tree = portraits_along(ct.System(weight), "strength", [0.1, 0.9], {"w": (-3, 3)})
    >>> [len(tree[f"portrait_{k}/fixed_points/fp"]) for k in range(2)]
    [3, 1]
    """
    import xarray as xr

    check_ranges(ranges, most=2)
    numbers = [float(value) for value in values]
    if len(numbers) < 2 or any(b <= a for a, b in itertools.pairwise(numbers)):
        raise ValueError(f"values must be two or more numbers that increase; got {list(values)}")
    source = any(parameter == own.name for own in system.sources)
    name = parameter.partition("[")[0].replace("_", " ")
    groups: dict[str, DataTree] = {}
    for k, value in enumerate(numbers):
        one = portrait(
            system if source else with_parameters(system, {parameter: value}),
            ranges,
            at=at,
            points=points,
            orbits=orbits,
            inputs={**(inputs or {}), parameter: value} if source else inputs,
            title=f"{name} = {shown_number(value, numbers[-1] - numbers[0])}",
        )
        one.attrs["value"] = value
        groups[f"portrait_{k}"] = one
    if diagram:
        groups["diagram"] = bifurcation_diagram(
            system,
            parameter,
            (numbers[0], numbers[-1]),
            ranges=ranges,
            inputs={k: v for k, v in (inputs or {}).items() if k != parameter},
            title=title,
        )
    tree = xr.DataTree(children=groups)
    tree.attrs = root_attributes(title or f"portraits under {parameter}") | {
        "parameter": parameter,
        "values": numbers,
    }
    return tree


def _leading(averaged: System, count: int) -> list[str]:
    """Return the first components of the first variable, the weights."""
    field = FlatField(averaged)
    variable = next(iter(averaged.variables))
    return [name for name in field.names if name.partition("[")[0] == variable][:count]


def _steps(system: System) -> Solver | None:
    """Return steps that follow the fastest variable, if it is known; they end at jumps."""
    named = [variable.tau for variable in system.variables.values() if variable.tau is not None]
    return RK4(dt=min(named) / 2) if named else None


def _labelled(
    system: System,
    values: Mapping[str, Any],
    leading: tuple[str, ...],
    coords: Mapping[str, Any],
) -> Dataset:
    """Return variables with their dims and units."""
    import xarray as xr

    own = system.variables
    dims = {dim: size for variable in own.values() for dim, size in variable.dims.items()}
    return xr.Dataset(
        {
            name: ((*leading, *own[name].dims), np.asarray(values[name]), {"units": own[name].unit})
            for name in own
        },
        coords={name: coord for name, coord in coords.items() if name in leading}
        | {dim: (dim, np.arange(size), {"units": "1"}) for dim, size in dims.items()},
    )


def _order(rates: Array, largest: Array) -> float:
    """Return the slope of the logarithms."""
    if len(rates) < 2:
        return math.nan
    means = largest.mean(1)
    return float(np.polyfit(np.log(rates), np.log(means), 1)[0]) if (means > 0).all() else math.nan
