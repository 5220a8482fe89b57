"""Basins of attraction: which attractor each starting point goes to, and how many go to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.analyses.attractors import Survey, flag_attributes
from ctsigprop.analyses.flat import FlatField, Inputs, Ranges, check_ranges
from ctsigprop.solvers.base import Solver
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["basin_fractions", "basins", "wilson_interval"]

Array = NDArray[np.float64]


def basins(
    system: System,
    ranges: Ranges,
    duration: float,
    *,
    points: int = 50,
    at: Mapping[str, Tensor | float] | None = None,
    tolerance: float = 0.01,
    escape: float = 100.0,
    most: int = 32,
    solver: Solver | None = None,
    t: float = 0.0,
    inputs: Inputs | None = None,
    **options: Any,
) -> Dataset:
    """Return which attractor each point of a grid of starts goes to.

    All starts are integrated as one batch. Attractors are found by themselves, from the last
    quarter of the trajectories: what rests is taken to its fixed point by Newton's method, and
    counts if that is not unstable; of the rest one after the other is followed for `duration` more,
    and stands for an attractor, to which all belong that come to lie on it.

    Parameters
    ----------
    system : System
        Without delays and shared variables, in float64.
    ranges : mapping of str to (float, float)
        One to three axes of the grid, by variable or component, and their ends.
    duration : float
        How long every start is followed. Too short a time leaves starts undecided.
    points : int
        How many along each axis.
    at : mapping of str to Tensor or float, optional
        Starting values of the other variables; initial values for those left out.
    tolerance : float
        How near a state must come to an attractor, as a part of the ranges (of the extent of the
        late states, for components without a range). Attractors as near to each other are one.
    escape : float
        A trajectory has diverged where it leaves the ranges, or the size of the starting value of a
        component without a range, that many times over.
    most : int
        The most attractors; whoever goes to another is undecided.
    solver : Solver, optional
        ``Tsit5(rtol=1e-6)`` by default.
    t : float
        The time at which the starts begin.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.
    **options
        Options of the solver, such as ``rtol=1e-9``.

    Returns
    -------
    xarray.Dataset
        ``basin`` along the axes, CF flags: the number of the attractor, -1 for "undecided", -2 for
        "diverged". Of each ``attractor``: ``kind``, the mean of every variable over it, and its
        extent, ``<variable>_low`` and ``<variable>_high``; of cycles the ``period``; of fixed
        points ``stability`` and ``eigenvalue`` ``(attractor, mode, part)``. By ``outcome``,
        ``count`` of starts. The numbers undecided and diverged stand in the attributes, too.

    Raises
    ------
    ValueError
        Ranges, names or options that do not fit.
    IntegrationError
        A trajectory that can be integrated neither to the end nor to its escape.

    Notes
    -----
    A cycle counts as reached where 95 % of the late states lie within the tolerance of it; a torus
    or a chaotic set where half of them do, because the trajectory that stands for it does not fill
    it. An attractor that no start reaches is not found.

    References
    ----------
    Datseris & Wagemakers 2022, Chaos 32:023104, for the search without prior knowledge.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> found = basins(ct.System(ct.TextNeuron("dx/dt = x - x**3 : 1")), {"x": (-2, 2)}, 30.0)
    >>> found["x_mean"].values.ravel().round(6).tolist(), found["count"].values.tolist()
    ([-1.0, 1.0], [0, 0, 25, 25])
    """
    import xarray as xr

    box = check_ranges(ranges, most=3)
    if points < 2:
        raise ValueError(f"points must be >= 2; got {points}")
    plane = FlatField(system, free=list(ranges), at=at, t=t, inputs=inputs)
    axes = [np.linspace(low, high, points) for low, high in box]
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(box))
    survey = Survey(
        system, plane, mesh, box, duration, tolerance, escape, most, solver, t, inputs, options
    )
    labels = survey.labels.reshape([points] * len(box))
    found = survey.described()
    attrs = flag_attributes(survey.attractors) | {"long_name": "basin of attraction"}
    coords = {
        symbol: (symbol, axis, {"units": unit})
        for symbol, axis, unit in zip(plane.symbols, axes, plane.units, strict=True)
    }
    grid = xr.Dataset({"basin": (plane.symbols, labels, attrs)}, coords)
    clash = set(grid.variables) & set(found.variables)
    if clash:
        raise ValueError(f"the system has a variable that the result needs for itself: {clash}")
    return xr.merge([grid, found]).assign_attrs(found.attrs | {"axes": list(plane.symbols)})


def basin_fractions(
    system: System,
    ranges: Ranges,
    duration: float,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    at: Mapping[str, Tensor | float] | None = None,
    tolerance: float = 0.01,
    escape: float = 100.0,
    most: int = 32,
    solver: Solver | None = None,
    t: float = 0.0,
    inputs: Inputs | None = None,
    **options: Any,
) -> Dataset:
    """Return which part of random starts goes to each attractor, with its uncertainty.

    The starts are uniform in the ranges; attractors are found as by `basins`. This is the basin
    stability of each of them.

    Parameters
    ----------
    system, duration, at, tolerance, escape, most, solver, t, inputs, **options
        As in `basins`.
    ranges : mapping of str to (float, float)
        The box of the starts, by variable (all of its components) or component.
    samples : int
        How many starts.
    seed : int
        Of the starts.
    confidence : float
        Of the intervals.

    Returns
    -------
    xarray.Dataset
        By ``outcome`` (diverged, undecided, and each attractor): ``count``, ``fraction`` and the
        interval of Wilson, ``fraction_low`` and ``fraction_high``. ``basin`` of each ``sample``,
        CF flags as in `basins`, with its ``<variable>_start``; and the attractors as in `basins`.

    Raises
    ------
    ValueError, IntegrationError
        As in `basins`.

    References
    ----------
    Menck, Heitzig, Marwan & Kurths 2013, Nature Physics 9:89-92, for basin stability.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> well = ct.System(ct.TextNeuron("dx/dt = x - x**3 : 1"))
    >>> found = basin_fractions(well, {"x": (-1, 3)}, 30.0, samples=400)
    >>> bool(found["fraction_low"][3] < 0.75 < found["fraction_high"][3])
    True
    """
    wanted: dict[str, tuple[float, float]] = {}
    check_ranges(ranges)
    every = FlatField(system, t=t, inputs=inputs)
    for name, bounds in ranges.items():
        parts = [n for n in every.names if n.partition("[")[0] == name] or [name]
        for part in parts:
            if part in wanted:
                raise ValueError(f"'{part}' has two ranges; got {list(ranges)}")
            wanted[part] = bounds
    box = check_ranges(wanted)
    if samples < 1:
        raise ValueError(f"samples must be >= 1; got {samples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}")
    plane = FlatField(system, free=list(wanted), at=at, t=t, inputs=inputs)
    shares = np.random.default_rng(seed).random((samples, len(box)))
    starts = box[:, 0] + shares * (box[:, 1] - box[:, 0])
    survey = Survey(
        system, plane, starts, box, duration, tolerance, escape, most, solver, t, inputs, options
    )
    found = survey.described()
    low, high = wilson_interval(found["count"].values, samples, confidence)
    one = {"units": "1"}
    begun = plane.to_xarray(torch.as_tensor(starts).to(plane.initial), "sample", held=False)
    found = found.assign({f"{name}_start": values for name, values in begun.data_vars.items()})
    found = found.assign(
        fraction=("outcome", found["count"].values / samples, one),
        fraction_low=("outcome", low, one),
        fraction_high=("outcome", high, one),
        basin=("sample", survey.labels, flag_attributes(survey.attractors)),
    )
    return found.assign_attrs(samples=samples, seed=seed, confidence=confidence)


def wilson_interval(
    counts: NDArray[Any] | Sequence[int] | int, total: int, confidence: float = 0.95
) -> tuple[Array, Array]:
    """Return the ends of Wilson's interval for binomial fractions.

    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n), p = count/n, z the normal quantile.

    Parameters
    ----------
    counts : array of int
        Of successes.
    total : int
        n.
    confidence : float
        Of the interval.

    References
    ----------
    Wilson 1927, J. Am. Stat. Assoc. 22:209-212.

    Examples
    --------
    >>> [round(float(end), 4) for end in wilson_interval(50, 100)]
    [0.4038, 0.5962]
    """
    from scipy.stats import norm

    if total < 1:
        raise ValueError(f"total must be >= 1; got {total}")
    p = np.asarray(counts, dtype=float) / total
    z = float(norm.ppf(0.5 + confidence / 2))
    middle = p + z**2 / (2 * total)
    width = z * np.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    scale = 1 + z**2 / total
    low, high = (middle - width) / scale, (middle + width) / scale
    return np.where(p == 0, 0.0, low), np.where(p == 1, 1.0, high)
