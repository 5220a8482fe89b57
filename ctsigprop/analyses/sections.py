"""Poincaré sections: where trajectories cross a surface, and the map between crossings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.analyses.flat import Inputs
from ctsigprop.solve import solve
from ctsigprop.solvers.base import Solver, State
from ctsigprop.solvers.events import Event
from ctsigprop.solvers.explicit.adaptive import Tsit5
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["poincare_section", "return_map", "returns"]

Section = Mapping[str, float] | Callable[[Tensor, State], Tensor]

CLOSE = 1e-3  # how near a cycle comes to itself, as a part of its extent


def poincare_section(
    system: System,
    section: Section,
    duration: float,
    *,
    start: Mapping[str, Tensor | float] | None = None,
    direction: int = 1,
    transient: float = 0.0,
    most: int | None = None,
    solver: Solver | None = None,
    t: float = 0.0,
    inputs: Inputs | None = None,
    **options: Any,
) -> Dataset:
    r"""Return where trajectories cross a surface g(t, y) = 0, as an event of `solve` finds it.

    Parameters
    ----------
    system : System
        Any that `solve` takes.
    section : mapping of str to float, or callable
        ``{"x": 0.5}``: the plane on which a variable or component has that value; or
        ``g(t, state)``, of the shape of the batch, whose zero is the surface.
    duration : float
        How long crossings are recorded.
    start : mapping of str to Tensor or float, optional
        As `solve` takes it: many trajectories side by side are ``(sample, *dims)``.
    direction : int
        1: where g rises through zero, -1: where it falls, 0: both.
    transient : float
        Time before the recording begins.
    most : int, optional
        Stop recording after so many crossings of each sample, the transient included.
    solver : Solver, optional
        ``Tsit5(rtol=1e-9, atol=1e-12)`` by default.
    t : float
        The time at which the transient begins.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.
    **options
        Options of the solver, such as ``rtol=1e-11``.

    Returns
    -------
    xarray.Dataset
        By ``crossing``, sample after sample: every variable ``(crossing, *dims)``,
        ``crossing_time``, ``sample`` and ``since_last``, the time since the crossing before (NaN
        for the first of a sample). ``crossings`` ``(start)`` counts those of every start.

    Raises
    ------
    ValueError
        A section, direction or span that does not fit.
    IntegrationError
        As in `solve`.

    References
    ----------
    Poincaré 1899, Les méthodes nouvelles de la mécanique céleste III, ch. 27; Hénon 1982, Physica
    D 5:412-414.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> circle = ct.System(ct.TextNeuron("dx/dt = -y : 1\ndy/dt = x : 1"))
    >>> found = poincare_section(circle, {"y": 0.0}, 20.0, start={"x": 1.0})
    >>> (found["crossing_time"].values / np.pi).round(9).tolist()
    [2.0, 4.0, 6.0]
    >>> found["x"].values[:, 0].round(8).tolist()
    [1.0, 1.0, 1.0]
    """
    import xarray as xr

    if not (math.isfinite(duration) and duration > 0 and 0 <= transient < math.inf):
        raise ValueError(
            f"duration must be > 0, transient >= 0, both finite; got {duration}, {transient}"
        )
    solver = Tsit5(rtol=1e-9, atol=1e-12) if solver is None else solver
    first = t + transient
    state = start
    condition, said = _condition(system, section)
    crossing = Event(condition, direction=direction, limit=most, name="crossing")
    if transient:
        state = solve(
            system,
            start,
            [t, first],
            solver=solver,
            inputs=inputs,
            differentiable=False,
            **options,
        ).final
    run = solve(
        system,
        state,
        [first, first + duration],
        solver=solver,
        inputs=inputs,
        events=crossing,
        differentiable=False,
        **options,
    )
    if len(run.batch) > 1:
        raise ValueError(f"start must hold one state, or (sample, *dims); got axes {run.batch}")
    events = sorted(run.events, key=lambda event: (event.sample, float(event.time)))
    sample = np.array([event.sample for event in events], int)
    times = np.array([float(event.time) for event in events])
    index = {"units": "1"}
    coords: dict[str, Any] = {"crossing": ("crossing", np.arange(len(events)), index)}
    data: dict[str, Any] = {}
    for name, variable in system.variables.items():
        rows = [event.state[name].detach().cpu().numpy() for event in events]
        shape = (-1, *variable.shape)
        values = np.array(rows).reshape(shape) if rows else np.empty((0, *variable.shape))
        data[name] = (("crossing", *variable.dims), values, {"units": variable.unit})
        coords |= {d: (d, np.arange(k), index) for d, k in variable.dims.items()}
    clock = {"units": system.time_unit}
    again = np.diff(sample, prepend=-1) == 0
    since = np.where(again, np.diff(times, prepend=0.0), np.nan)
    why = {} if again.all() else {"missing": "NaN for the first crossing of a sample"}
    starts = math.prod(run.batch)
    data |= {
        "crossing_time": ("crossing", times, clock | {"long_name": "time of crossing"}),
        "sample": ("crossing", sample, index),
        "since_last": ("crossing", since, clock | why | {"long_name": "time since the last"}),
        "crossings": ("start", np.bincount(sample, minlength=starts), index),
    }
    coords["start"] = ("start", np.arange(starts), index)
    attrs = {"section": said, "direction": direction, "transient": transient, "duration": duration}
    return xr.Dataset(data, coords, attrs)


def return_map(section: Dataset, name: str) -> Dataset:
    r"""Return the map x_n → x_{n+1} of one component at successive crossings of the same sample.

    Parameters
    ----------
    section : xarray.Dataset
        From `poincare_section`.
    name : str
        A variable, or a component such as ``w[0,1]``; or ``since_last``.

    Returns
    -------
    xarray.Dataset
        By ``iterate``: ``current``, ``next`` and ``sample``.

    Raises
    ------
    ValueError
        A name that the section does not hold, or a variable of more than one component.

    References
    ----------
    Lorenz 1963, J. Atmos. Sci. 20:130-141, fig. 4, for successive maxima.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> spiral = ct.System(ct.TextNeuron("dx/dt = -y - 0.1*x : 1\ndy/dt = x - 0.1*y : 1"))
    >>> found = return_map(poincare_section(spiral, {"y": 0.0}, 20.0, start={"x": 1.0}), "x")
    >>> shrinks = (found["next"] / found["current"]).values
    >>> shrinks.round(6).tolist(), round(math.exp(-0.2 * np.pi), 6)
    ([0.533488, 0.533488], 0.533488)
    """
    import xarray as xr

    variable, _, index = name.rstrip("]").partition("[")
    if variable not in section or "crossing" not in section[variable].dims:
        known = [str(k) for k in section if section[k].dims[:1] == ("crossing",)]
        raise ValueError(f"the section has no variable '{name}'; it has {', '.join(known)}")
    array = section[variable]
    values = array.values.reshape(len(array), -1)
    if index:
        place = dict(zip(array.dims[1:], map(int, index.split(",")), strict=True))
        values = array.isel(place).values.reshape(len(array), 1)
    if values.shape[1] != 1:
        raise ValueError(f"'{name}' has {values.shape[1]} components; name one: {name}[0]")
    sample = section["sample"].values
    same = np.flatnonzero(np.diff(sample) == 0)
    same = same[np.isfinite(values[same, 0])]
    unit = {"units": array.attrs.get("units", "1")}
    return xr.Dataset(
        {
            "current": ("iterate", values[same, 0], unit),
            "next": ("iterate", values[same + 1, 0], unit),
            "sample": ("iterate", sample[same], {"units": "1"}),
        },
        {"iterate": ("iterate", np.arange(len(same)), {"units": "1"})},
        {"variable": name, "section": section.attrs.get("section", "")},
    )


def returns(states: NDArray[np.float64], step: float, most: int) -> tuple[int, float]:
    """Return after how many turns an evenly sampled trajectory closes, and the time it takes.

    Turns are counted on the plane through the middle state across its velocity; (0, nan) where it
    comes back to no state of before within `CLOSE` of its extent, twice over, or rests.

    Parameters
    ----------
    states : array
        ``(k, n)``.
    step : float
        The time between them.
    most : int
        The most turns.

    Examples
    --------
    >>> angle = np.linspace(0, 20, 2001)
    >>> turns, period = returns(np.stack([np.cos(angle), np.sin(angle)], -1), 0.01, 4)
    >>> turns, round(period, 4)
    (1, 6.2832)
    """
    extent = np.ptp(states, axis=0).max()
    if not extent > 0:
        return 0, math.nan
    middle = len(states) // 2
    speed = np.linalg.norm(np.diff(states, axis=0), axis=1)
    fastest = middle // 2 + int(np.argmax(speed[middle // 2 : middle + middle // 2]))
    normal = states[fastest + 1] - states[fastest]
    height = (states - states[fastest]) @ normal
    rises = np.flatnonzero((height[:-1] <= 0) & (height[1:] > 0))
    if len(rises) < 3:
        return 0, math.nan
    share = height[rises] / (height[rises] - height[rises + 1])
    places, times = _hermite(states, rises, share), (rises + share) * step
    for turns in range(1, min(most, (len(rises) - 1) // 2) + 1):
        apart = np.abs(places[turns:] - places[:-turns]).max()
        if apart <= CLOSE * extent:
            return turns, float((times[turns:] - times[:-turns]).mean())
    return 0, math.nan


def _hermite(
    states: NDArray[np.float64], rows: NDArray[np.int64], share: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return states between rows, from cubics through them with slopes of central differences."""
    slope = np.gradient(states, axis=0)
    s = share[:, None]
    a, b, da, db = states[rows], states[rows + 1], slope[rows], slope[rows + 1]
    values: NDArray[np.float64] = (
        (1 + 2 * s) * (1 - s) ** 2 * a
        + s * (1 - s) ** 2 * da
        + s**2 * (3 - 2 * s) * b
        + s**2 * (s - 1) * db
    )
    return values


def _condition(system: System, section: Section) -> tuple[Callable[[Tensor, State], Tensor], str]:
    """Return g(t, state), and what it is in words."""
    if callable(section):
        return section, getattr(section, "__name__", "a function")
    if not isinstance(section, Mapping) or len(section) != 1:
        raise ValueError(
            "section must be one component with its value, {'x': 0.0}, or a function of "
            f"(t, state); got {section!r}"
        )
    ((name, value),) = section.items()
    level = float(value)
    if not math.isfinite(level):
        raise ValueError(f"the value of '{name}' on the section must be finite; got {value}")
    variable, index = _located(system, name)

    def above(t: Tensor, state: State) -> Tensor:
        del t
        value = state[variable]
        for place in reversed(index):
            value = value[..., place]
        return value - level

    return above, f"{name} = {level:g}"


def _located(system: System, name: str) -> tuple[str, tuple[int, ...]]:
    """Return the variable and the index of a component."""
    variable, _, inside = name.rstrip("]").partition("[")
    if variable not in system.variables:
        system.check_state([variable])  # type: ignore[arg-type]
    shape = system.variables[variable].shape
    if not inside and math.prod(shape) == 1:
        return variable, (0,) * len(shape)
    try:
        index: Sequence[int] = [int(part) for part in inside.split(",")]
    except ValueError:
        index = ()
    if len(index) != len(shape) or any(not 0 <= i < k for i, k in zip(index, shape, strict=True)):
        raise ValueError(
            f"'{name}' is no component of '{variable}', which has shape {shape}; name one such as "
            f"{variable}[{','.join('0' * len(shape))}]"
        )
    return variable, tuple(index)
