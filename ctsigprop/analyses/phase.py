"""The phase plane of a system: vector field, nullclines, orbits, and all of it as one tree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.analyses.flat import At, FlatField, Inputs, Ranges, check_ranges
from ctsigprop.analyses.manifolds import manifolds
from ctsigprop.analyses.stability import STABILITIES, fixed_points
from ctsigprop.provenance import describe
from ctsigprop.solution import root_attributes
from ctsigprop.solve import solve
from ctsigprop.solvers.base import Solver, State
from ctsigprop.solvers.events import Event
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["nullclines", "portrait", "trajectories", "vector_field", "written"]

Array = NDArray[np.float64]

POLISHED = 1e-10
"""Largest derivative on a nullcline, or that share of its median where the median is above 1."""


def vector_field(
    system: System,
    ranges: Ranges,
    *,
    at: At | None = None,
    points: int = 30,
    t: float = 0.0,
    inputs: Inputs | None = None,
) -> Dataset:
    """Return the derivatives of the chosen variables on a grid over them.

    Parameters
    ----------
    system : System
        Without delays, in float64.
    ranges : mapping of str to (float, float)
        The axes of the grid, by variable (``v``) or component (``w[0,1]``), and their ends.
    at : mapping of str to Tensor or float, optional
        Values of the other variables; initial values for those left out.
    points : int
        How many along each axis.
    t : float
        The time at which the field stands still.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.

    Returns
    -------
    xarray.Dataset
        A dim with a coordinate for each axis, named after the variable (``w_0_1`` for
        components), and the derivatives ``dv_dt`` with their units.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> field = vector_field(ct.System(ct.fitzhugh_nagumo(I=0.5)), {"v": (-2, 2), "w": (-1, 2)})
    >>> dict(field.sizes), list(field.data_vars)
    ({'v': 30, 'w': 30}, ['dv_dt', 'dw_dt'])
    """
    import xarray as xr

    box = check_ranges(ranges)
    if points < 2:
        raise ValueError(f"points must be >= 2; got {points}")
    plane = FlatField(system, free=list(ranges), at=at, t=t, inputs=inputs)
    axes = [np.linspace(low, high, points) for low, high in box]
    rates = _on_grid(plane, axes)
    finite = np.isfinite(rates)
    if not finite.any():
        raise ValueError(f"the derivative is finite nowhere in {dict(ranges)}")
    variables: dict[str, Any] = {}
    for i, (symbol, unit) in enumerate(zip(plane.symbols, plane.rate_units, strict=True)):
        attrs = {"units": unit, "long_name": f"rate of {symbol}"}
        if not finite[..., i].all():
            attrs["missing"] = "NaN where the derivative is not finite"
        values = np.where(finite[..., i], rates[..., i], np.nan)
        variables[f"d{symbol}_dt"] = (plane.symbols, values, attrs)
    coords = {
        symbol: (symbol, axis, {"units": unit})
        for symbol, axis, unit in zip(plane.symbols, axes, plane.units, strict=True)
    }
    return xr.Dataset(variables, coords=coords, attrs=_held(plane))


def nullclines(
    system: System,
    ranges: Ranges,
    *,
    at: At | None = None,
    points: int = 200,
    t: float = 0.0,
    inputs: Inputs | None = None,
) -> Dataset:
    """Return the curves in a plane on which one of the two derivatives vanishes.

    Contours of zero on a grid; every point is then moved along its grid line to the zero itself,
    |f| < 1e-10. Where a derivative jumps over zero, or touches it without a change of sign, there
    is no curve.

    Parameters
    ----------
    system : System
        Without delays, in float64.
    ranges : mapping of str to (float, float)
        The two axes, as in `vector_field`.
    at : mapping of str to Tensor or float, optional
        Values of the other variables; initial values for those left out.
    points : int
        How many grid lines along each axis: details smaller than their distance are lost.
    t : float
        The time at which the field stands still.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.

    Returns
    -------
    xarray.Dataset
        Dim ``point``: the two coordinates of each point by name, ``variable`` (whose derivative
        vanishes there) and ``curve`` (points with one number are joined in order).

    Examples
    --------
    >>> import ctsigprop as ct
    >>> curves = nullclines(ct.System(ct.fitzhugh_nagumo(I=0.5)), {"v": (-2, 2), "w": (-1, 2)})
    >>> v, w = curves.where(curves["variable"] == "w", drop=True)[["v", "w"]].to_array().values
    >>> bool(np.allclose(w, (v + 0.7) / 0.8))
    True
    """
    import xarray as xr

    box = check_ranges(ranges)
    if len(box) != 2 or points < 2:
        raise ValueError(f"nullclines takes two ranges and points >= 2; got {ranges}, {points}")
    plane = FlatField(system, free=list(ranges), at=at, t=t, inputs=inputs)
    curves: list[Array] = []
    owners: list[str] = []
    for i, symbol in enumerate(plane.symbols):
        found = _zero_curves(plane, i, box, points)
        curves += found
        owners += [symbol] * len(found)
    lengths = [len(curve) for curve in curves]
    xy = np.concatenate([np.empty((0, 2)), *curves])
    index = {"units": "1"}
    return xr.Dataset(
        {
            plane.symbols[0]: ("point", xy[:, 0], {"units": plane.units[0]}),
            plane.symbols[1]: ("point", xy[:, 1], {"units": plane.units[1]}),
            "variable": ("point", np.repeat(np.array(owners, "U"), lengths)),
            "curve": ("point", np.repeat(np.arange(len(curves)), lengths), index),
        },
        coords={"point": ("point", np.arange(len(xy)), index)},
        attrs=_held(plane),
    )


def trajectories(
    system: System,
    starts: Mapping[str, Tensor | Sequence[float]],
    t: Tensor | Sequence[float],
    *,
    at: At | None = None,
    within: Ranges | None = None,
    solver: Solver | None = None,
    inputs: Inputs | None = None,
) -> Dataset:
    """Integrate from many starting points at once.

    Parameters
    ----------
    system : System
        Without shared weights: each start has a state of its own.
    starts : mapping of str to Tensor or sequence of float
        The starting values of some variables or components, ``(k,)`` each.
    t : Tensor or sequence of float
        Output times.
    at : mapping of str to Tensor or float, optional
        Starting values of other variables, common to all.
    within : mapping of str to (float, float), optional
        An orbit ends where it leaves these ranges; what would come after is NaN.
    solver : Solver, optional
        As in `solve`.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.

    Returns
    -------
    xarray.Dataset
        Every variable ``(time, sample, *dims)``.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> flow = trajectories(ct.System(ct.fitzhugh_nagumo()), {"v": [-1.0, 1.0]}, [0.0, 1.0, 2.0])
    >>> dict(flow["v"].sizes)
    {'time': 3, 'sample': 2, 'neuron': 1}
    """
    values = [torch.as_tensor(value, dtype=torch.float64) for value in starts.values()]
    if not values or any(value.shape != values[0].shape or value.dim() != 1 for value in values):
        shapes = {name: tuple(value.shape) for name, value in zip(starts, values, strict=True)}
        raise ValueError(f"starts must hold one list of numbers of one length each; got {shapes}")
    for name, variable in system.variables.items():
        if variable.shared:
            raise ValueError(f"'{name}' is shared by a batch, so that it has one trajectory only")
    start = FlatField(system, free=list(starts), at=at, inputs=inputs)
    y0 = start.state(torch.stack(values, -1).to(start.initial))
    events = []
    if within is not None:
        bounded = FlatField(system, free=list(within), inputs=inputs)
        events = [_leaving(bounded, check_ranges(within))]
    run = solve(system, y0, t, solver=solver, inputs=inputs, events=events)
    return run.to_xarray()["simulation"].to_dataset()


def portrait(
    system: System,
    ranges: Ranges,
    *,
    at: At | None = None,
    points: int = 30,
    starts: int = 256,
    orbits: int = 16,
    duration: float | None = None,
    seed: int = 0,
    t: float = 0.0,
    inputs: Inputs | None = None,
    title: str = "",
) -> DataTree:
    """Gather vector field, nullclines, fixed points, manifolds and orbits of a plane, or a line.

    Parameters
    ----------
    system : System
        Without delays, in float64.
    ranges : mapping of str to (float, float)
        One or two axes, as in `vector_field`.
    at : mapping of str to Tensor or float, optional
        Values at which the other variables are held; initial values for those left out.
    points : int
        Of the vector field along each axis; ten times as many on a phase line.
    starts, seed : int, int
        Of the search for fixed points, see `fixed_points`.
    orbits : int
        How many starting points of orbits, on a grid, about; none where other variables are held,
        because orbits leave the plane.
    duration : float, optional
        How long orbits are followed; by default ten times what the median field needs to cross
        the ranges.
    t : float
        The time at which the field stands still, and at which the orbits start.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.
    title : str
        Of the tree, and of its figure.

    Returns
    -------
    xarray.DataTree
        /vector_field, /nullclines (two axes), /fixed_points, /manifolds (where there are saddles
        in the plane: their separatrices, to 1e-8) and /trajectories. The system and the settings
        stand in the attributes of the root.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> tree = portrait(ct.System(ct.fitzhugh_nagumo(I=0.5)), {"v": (-2.5, 2.5), "w": (-1, 2)})
    >>> list(tree.children), ct.validate(tree)
    (['vector_field', 'nullclines', 'fixed_points', 'trajectories'], [])
    """
    import xarray as xr

    box = check_ranges(ranges, most=2)
    plane = FlatField(system, free=list(ranges), at=at, t=t, inputs=inputs)
    common: dict[str, Any] = {"t": t, "inputs": inputs}
    held = dict(plane.held)
    dense = points if len(box) == 2 else 10 * points
    groups = {"/vector_field": vector_field(system, ranges, at=at, points=dense, **common)}
    if len(box) == 2:
        groups["/nullclines"] = nullclines(system, ranges, at=at, **common)
    groups["/fixed_points"] = fixed_points(
        system, ranges, at=held, starts=starts, seed=seed, **common
    )
    outside = {n: (2 * a - b, 2 * b - a) for n, (a, b) in zip(ranges, box, strict=True)}
    saddles = groups["/fixed_points"]["stability"].values == STABILITIES.index("saddle")
    if len(box) == 2 and saddles.any():
        groups["/manifolds"] = manifolds(
            system,
            groups["/fixed_points"],
            outside,
            at=held,
            length=4.0,
            spacing=0.003,
            tolerance=1e-8,
            close=1e-3,
            **common,
        )
    if orbits > 0 and not held:
        span = duration if duration is not None else 10 * _crossing_time(groups["/vector_field"])
        side = max(round(orbits ** (1 / len(box))), 1)
        axes = [low + (np.arange(side) + 0.5) / side * (high - low) for low, high in box]
        mesh = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(box))
        groups["/trajectories"] = trajectories(
            system,
            dict(zip(ranges, torch.as_tensor(mesh).T, strict=True)),
            torch.linspace(t, t + span, 400, dtype=torch.float64),
            within=outside,
            inputs=inputs,
        )
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = root_attributes(title or f"phase portrait of {', '.join(plane.symbols)}") | {
        "axes": list(plane.symbols),
        "components": list(plane.names),
        "ranges": {name: tuple(map(float, bounds)) for name, bounds in ranges.items()},
        "held": held,
        "time": t,
        "system": written(system),
    }
    return tree


def _on_grid(plane: FlatField, axes: Sequence[Array]) -> Array:
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return _rates(plane, mesh)


def _rates(plane: FlatField, points: Array) -> Array:
    values: Array = plane(torch.as_tensor(points).to(plane.initial)).detach().cpu().numpy()
    return values


def _zero_curves(plane: FlatField, i: int, box: Array, points: int) -> list[Array]:
    """Return the pieces of f_i = 0 inside the box, each ``(k, 2)``."""
    import contourpy

    # one line more on every side, so that a nullcline on the edge of the range is found
    step = (box[:, 1] - box[:, 0]) / (points - 1)
    axes = [low + h * np.arange(-1, points + 1) for low, h in zip(box[:, 0], step, strict=True)]
    for axis, (low, high) in zip(axes, box, strict=True):
        axis[1], axis[-2] = low, high
    values = _on_grid(plane, axes)[..., i]
    masked = np.ma.masked_invalid(values.T)  # type: ignore[no-untyped-call]
    lines = contourpy.contour_generator(z=masked, line_type="Separate").lines(0.0)
    typical = np.median(np.abs(masked.compressed())) if masked.count() else 1.0
    curves: list[Array] = []
    for line in lines:
        xy = _polished(plane, i, axes, np.asarray(line))
        good = np.abs(_rates(plane, xy)[:, i]) < POLISHED * max(1.0, float(typical))
        good &= ((xy >= box[:, 0]) & (xy <= box[:, 1])).all(-1)
        breaks = np.flatnonzero(np.diff(good.astype(int))) + 1
        pieces = zip(np.split(xy, breaks), np.split(good, breaks), strict=True)
        curves += [piece for piece, kept in pieces if len(piece) > 1 and kept[0]]
    return curves


def _polished(plane: FlatField, i: int, axes: Sequence[Array], line: Array) -> Array:
    """Bisect each point of a contour, in grid units, along the grid edge on which it lies."""
    nearest = np.round(line)
    index = np.where(np.abs(line - nearest) < 1e-12 * len(axes[0]), nearest, line)
    corners = (np.floor(index).astype(int), np.ceil(index).astype(int))
    low, high = (np.stack([axes[k][corner[:, k]] for k in (0, 1)], -1) for corner in corners)
    rising = _rates(plane, high)[:, i] > 0
    for _ in range(64):
        middle = (low + high) / 2
        above = (_rates(plane, middle)[:, i] > 0) == rising
        low, high = np.where(above[:, None], low, middle), np.where(above[:, None], middle, high)
    f = np.stack([_rates(plane, low)[:, i], _rates(plane, high)[:, i]])
    best: Array = np.where((np.abs(f[0]) <= np.abs(f[1]))[:, None], low, high)
    return best


def _leaving(plane: FlatField, box: Array) -> Event:
    low, high = torch.as_tensor(box).to(plane.initial).T

    def margin(t: Tensor, state: State) -> Tensor:
        del t
        y = plane.select(state)
        return torch.minimum(y - low, high - y).amin(-1)

    return Event(margin, direction=-1, terminal=True, name="left the ranges")


def _crossing_time(field: Dataset) -> float:
    """Return how long a point of median speed needs to cross the ranges."""
    speeds = [
        abs(field[f"d{axis}_dt"].values) / float(field[axis][-1] - field[axis][0])
        for axis in field.sizes
    ]
    speed = float(np.nanmedian(np.max(speeds, axis=0)))
    return 1.0 / speed if speed > 0 else 1.0


def _held(plane: FlatField) -> dict[str, Any]:
    return {"held": plane.held, "time": float(plane.t)}


def written(system: System) -> str:
    """Return the system and the values that it has now as JSON; tensors become lists."""
    arrays: dict[str, Tensor] = {}
    written: dict[str, Any] = {"values": {k: v.tolist() for k, v in system.state_dict().items()}}
    try:
        written["recipe"] = describe(system, arrays)
        written["arrays"] = {k: v.tolist() for k, v in arrays.items()}
    except TypeError as error:
        written["opaque"] = str(error)
    return json.dumps(written)
