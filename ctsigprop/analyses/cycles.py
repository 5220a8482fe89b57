"""A limit cycle of a system: its exact period, shape and Floquet multipliers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctsigprop.analyses.continuation.collocation import DEGREE, Cycle, node_times
from ctsigprop.analyses.continuation.curve import LostError
from ctsigprop.analyses.continuation.cycle_events import Orbit
from ctsigprop.analyses.continuation.cycles import refined, resampled
from ctsigprop.analyses.flags import flags
from ctsigprop.analyses.flat import At, FlatField, Inputs
from ctsigprop.analyses.parametric import ParametricField
from ctsigprop.system import System

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from xarray import Dataset

__all__ = ["cycle_of", "limit_cycle"]

Array = NDArray[np.float64]

RETURNED = 0.02
"""An orbit has come back where it is as near as this to itself, relative to its size."""

STILL = 1e-4
"""An orbit whose size is less than this share of where it has been has come to rest."""

CLOSED = 1e-4
"""An orbit that comes back as near as this to itself is closed, whatever Newton's method says."""

LEAVING = 1.1
"""An orbit does not tend to a cycle with a multiplier above this: it only passes by."""

FAR = 1e100
"""An orbit beyond this has no limit."""


def limit_cycle(
    system: System,
    start: Mapping[str, Tensor | float] | None = None,
    *,
    duration: float | None = None,
    at: At | None = None,
    tolerance: float = 1e-10,
    t: float = 0.0,
    inputs: Inputs | None = None,
) -> Dataset:
    """Find the limit cycle that an orbit tends to, and its Floquet multipliers.

    The orbit is followed until it comes back to itself. From there on the cycle
    dx/dτ = T f(x), x(1) = x(0), is a boundary value problem, solved by collocation at Gauss points
    on a mesh that adapts to it (Doedel, Keller and Kernevez 1991). Its multipliers are the
    eigenvalues of the monodromy matrix: one is 1, the cycle is stable if the others lie inside the
    unit circle.

    Parameters
    ----------
    system : System
        Without delays, in float64.
    start : mapping of str to Tensor or float, optional
        Where the orbit begins; initial values for what is left out.
    duration : float, optional
        How long the orbit is followed before it is looked at; by default as long as it takes,
        up to 10⁴ times the slowest linear time at the start.
    at : mapping of str to Tensor or float, optional
        Values of variables that are held.
    tolerance : float
        Of the local error of the polynomials, relative to the size of each variable.
    t : float
        The time at which the field stands still.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.

    Returns
    -------
    xarray.Dataset
        The free variables ``(phase, *dims)`` over one period, at the nodes of the polynomials;
        ``period``, ``multiplier`` ``(mode, part)``, the trivial one first; ``min`` and ``max`` of
        each variable (``v_min``); ``stability``; ``residual``, ``error`` (the estimated local one).

    Raises
    ------
    ValueError
        The orbit comes to rest, does not come back, or passes by an unstable cycle only; cycles
        that are not isolated, as in a conservative system; names that do not fit.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> found = limit_cycle(ct.System(ct.fitzhugh_nagumo(I=0.5)))
    >>> round(found.period.item(), 5), found.stability.item()
    (39.47441, 0)
    """
    if not (duration is None or duration > 0) or tolerance <= 0:
        raise ValueError(
            f"limit_cycle takes duration > 0 and tolerance > 0; got {duration}, {tolerance}"
        )
    field = FlatField(system, at=at, t=t, inputs=inputs)
    family = ParametricField(system, [], at=at, t=t, inputs=inputs)
    y0 = field.vector(start or {})
    guess, size, gap = _recurrence(field, y0, duration)
    try:
        orbit = refined(family, guess, size, np.array([1.0]), tolerance)
        shrunk = np.ptp(orbit.cycle.x / size, axis=0).max() < STILL
        shrunk = shrunk or orbit.cycle.period < 0.2 * guess.period
    except LostError:
        orbit, shrunk = None, False
    if orbit is None or shrunk:
        about = f"{guess.period:.4g}"
        raise ValueError(
            f"the orbit closes after {about}, but so do those beside it: a cycle that is not "
            "isolated, as in a conservative system, is no limit cycle"
            if gap < CLOSED
            else "the orbit comes to rest: it spirals into an equilibrium"
            if shrunk
            else f"the orbit comes back after about {about}, but Newton's method finds no cycle "
            "there; a longer duration= brings it nearer"
        )
    most = np.abs(orbit.multipliers[1:]).max(initial=0.0)
    if most > LEAVING:
        raise ValueError(
            f"the orbit does not tend to a cycle: it passes by one of period "
            f"{orbit.cycle.period:.6g} that is unstable, with a multiplier of size {most:.3g}; it "
            "may be chaotic, or need a longer duration="
        )
    return _described(field, orbit)


def cycle_of(dataset: Dataset, field: FlatField, p: float) -> Cycle:
    """Return the polynomials of a cycle that `limit_cycle` has found."""
    phase = dataset["phase"].values
    blank = field.state(field.initial.expand(len(phase), -1))
    own = {name: torch.as_tensor(dataset[name].values) for name in field.variables}
    x = field.select(blank | own).cpu().numpy()
    return Cycle(phase[::DEGREE].copy(), x[:-1], float(dataset["period"]), p)


def _recurrence(field: FlatField, y0: Tensor, duration: float | None) -> tuple[Cycle, Array, float]:
    """Return one turn of the orbit as a first guess, the size of each component, and the gap."""
    from scipy.integrate import solve_ivp

    rates = np.linalg.eigvals(field.jacobian(y0).cpu().numpy())
    where = y0.cpu().numpy()
    drift = np.abs(field(y0).detach().cpu().numpy() / np.maximum(np.abs(where), 1.0)).max()
    slowest = 1 / (max(np.abs(rates).min(), 1e-3 * np.abs(rates).max()) or drift or 1.0)
    spans = [duration] if duration is not None else [slowest * 10**k for k in (1, 2, 3, 4)]
    reach = np.full(len(where), 1e-300)

    def rate(_: float, y: Array) -> Array:
        if np.abs(y).max() > FAR:
            raise ValueError("the orbit goes to infinity")
        value: Array = field(torch.as_tensor(y).to(field.initial)).detach().cpu().numpy()
        return value

    for span in spans:
        run = solve_ivp(
            rate, (0.0, 2 * span), where, "LSODA", dense_output=True, rtol=1e-8, atol=1e-10
        )
        if not run.success or not np.isfinite(run.y).all():
            raise ValueError(f"the orbit was lost at {run.t[-1]:.4g}: {run.message}")
        own = run.t[run.t >= span]  # the solver's own steps are short where it moves fast
        times = np.interp(np.arange(4 * len(own) - 3) / 4, np.arange(len(own)), own)
        dense: Any = run.sol
        orbit = dense(times).T
        reach = np.maximum(reach, np.abs(run.y).max(1))
        found = _turn(times, orbit, reach)
        if found is not None:
            return found
        where = orbit[-1]
    if (np.ptp(orbit, axis=0) <= STILL * reach).all():
        end = dict(zip(field.names, orbit[-1].round(6).tolist(), strict=True))
        raise ValueError(f"the orbit comes to rest at {end}")
    raise ValueError(
        f"the orbit has not come back to itself within {2 * spans[-1]:.4g}; it may be chaotic, or "
        "need a longer duration="
    )


def _turn(times: Array, orbit: Array, reach: Array) -> tuple[Cycle, Array, float] | None:
    """Return the last turn of an orbit between crossings of the mean of a lively component."""
    size = np.ptp(orbit, axis=0)
    lively = size / reach
    size = np.maximum(size, 1e-6 * size.max())
    for k in np.argsort(-lively):
        found = _between_crossings(times, orbit, size, k) if lively[k] > STILL else None
        if found is not None:
            return found
    return None


def _between_crossings(
    times: Array, orbit: Array, size: Array, k: int
) -> tuple[Cycle, Array, float] | None:
    """Return the last turn between crossings of the middle of component k, if it closes."""
    level = orbit[:, k] - (orbit[:, k].max() + orbit[:, k].min()) / 2
    up = np.flatnonzero((level[:-1] < 0) & (level[1:] >= 0))
    if len(up) < 2:
        return None
    share = -level[up] / (level[up + 1] - level[up])
    when = times[up] + share * np.diff(times)[up]
    states = orbit[up] + share[:, None] * (orbit[up + 1] - orbit[up])
    for back in range(1, len(up)):
        gap = float(np.abs((states[-1] - states[-1 - back]) / size).max())
        if gap < RETURNED:
            break
    else:
        return None
    first, last = when[-1 - back], when[-1]
    inside = (times > first) & (times < last)
    if inside.sum() < 20:
        return None
    phase = np.concatenate([[0.0], (times[inside] - first) / (last - first), [1.0]])
    values = np.concatenate([states[-1 - back : len(states) - back], orbit[inside], states[-1:]])
    return resampled(phase, values, last - first), size, gap


def _described(field: FlatField, orbit: Orbit) -> Dataset:
    cycle = orbit.cycle
    phase = np.append(node_times(cycle.mesh), 1.0)

    def states(y: Array, *dims: str) -> Dataset:
        return field.to_xarray(torch.as_tensor(y).to(field.initial), *dims, held=False)

    dataset = states(np.concatenate([cycle.x, cycle.x[:1]]), "phase")
    extremes: dict[str, Any] = {}
    for y, of in zip(cycle.extremes(), ("min", "max"), strict=True):
        for name, value in states(y).data_vars.items():
            extremes[f"{name}_{of}"] = value
    values = orbit.multipliers
    time = {"units": field.system.time_unit}
    return (
        dataset.assign(extremes)
        .assign(
            period=((), cycle.period, time),
            multiplier=(("mode", "part"), np.stack([values.real, values.imag], -1), {"units": "1"}),
            stability=((), np.int8(not orbit.stable), flags(("stable", "unstable"))),
            residual=((), orbit.residual, {"units": "1"}),
            error=((), orbit.error, {"units": "1", "long_name": "local error, relative"}),
        )
        .assign_coords(
            phase=("phase", phase, {"units": "1"}),
            mode=("mode", np.arange(len(values)), {"units": "1"}),
            part=["re", "im"],
        )
    )
