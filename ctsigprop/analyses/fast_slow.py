"""Fast and slow: the bifurcations of what is fast, with the slow variable as the parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctsigprop.analyses.bifurcations import KINDS, bifurcation_diagram
from ctsigprop.analyses.cycles import limit_cycle
from ctsigprop.analyses.flags import flags
from ctsigprop.analyses.flat import At, FlatField, Inputs, Ranges
from ctsigprop.analyses.parametric import ParametricField
from ctsigprop.analyses.stability import STABILITIES
from ctsigprop.solution import Solution
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["BRANCHES", "PLACES", "fast_slow"]

Array = NDArray[np.float64]

BRANCHES = ("none", *STABILITIES)
"""What the branch nearest to a trajectory is; none: there is none at this slow value."""

PLACES = ("between", "equilibrium", "cycle")
"""Where a trajectory is: near a stable equilibrium of the fast variables, within the extremes of a
stable cycle, or on its way."""

LEAVING = ("fold", "hopf", "pitchfork", "transcritical")
"""Where a stable branch of equilibria ends to be one."""

POLISHED = 6
"""Newton's steps from a branch's chord to the branch."""


def fast_slow(
    system: System,
    slow: str,
    run: Solution,
    bounds: tuple[float, float] | None = None,
    *,
    ranges: Ranges | None = None,
    at: At | None = None,
    near: float = 0.05,
    cycles: bool = True,
    starts: int = 64,
    seed: int = 0,
    largest: float = 0.02,
    inputs: Inputs | None = None,
    title: str = "",
) -> DataTree:
    r"""Freeze a slow variable: bifurcations of the fast ones, and the whole trajectory over them.

        dx/dt = f(x, z),    dz/dt = ε g(x, z)

    The equilibria and cycles of dx/dt = f(x, z) at constant z are the branches along which the
    whole system creeps, at a distance of the order of ε where they are stable; it leaves them
    near folds and Hopf points. Along each branch its ``drift`` dz/dt is given, averaged over a
    cycle: where it vanishes on a branch of equilibria, so does the whole field.

    Parameters
    ----------
    system : System
        The whole of it, without delays, in float64.
    slow : str
        z: a variable or component of the state, such as a weight ``W_y_x[0,0]``.
    run : Solution
        Of the whole system, one sample.
    bounds : (float, float), optional
        The range of z; by default that of the run, and a tenth of it on both sides.
    ranges : mapping of str to (float, float), optional
        Bounds of fast components; by default those of the run, and as much on both sides.
    at : mapping of str to Tensor or float, optional
        Where other slow variables are held; they are no more followed.
    near : float
        The share of its extent by which a component may be away from a branch that the trajectory
        is said to be on.
    cycles : bool
        Whether to follow cycles: from Hopf points, and from the one that the fast variables tend
        to in the middle of the longest time that the run is away from stable equilibria.
    starts, seed, largest
        As in `bifurcation_diagram`.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`; they stand as at the start of the run.
    title : str
        Of the tree, and of its figure.

    Returns
    -------
    xarray.DataTree
        /branches, /bifurcations and /cycles as from `bifurcation_diagram`, with ``drift``.
        /trajectory with dim ``time``: the fast variables and z, ``distance`` to the nearest
        equilibrium of the fast variables at this z (the largest over components, as a share of
        their extents in the run), its ``branch``, whether that is stable (`BRANCHES`), and the
        ``place`` where the trajectory is (`PLACES`).
        /jumps with dim ``jump``: when the trajectory ``left`` a stable branch and z then, when it
        ``landed``, ``into`` which place; the nearest bifurcation of that branch, its ``kind``, and
        ``beyond``, how far z went past it before the landing, in the direction in which z moved.

    Raises
    ------
    ValueError
        As `bifurcation_diagram`; a batch of runs, a slow variable that does not move.

    References
    ----------
    Rinzel 1987, Lecture Notes in Biomathematics 71:267-281; Izhikevich 2007, Dynamical Systems in
    Neuroscience, ch. 9.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> text = "dx/dt = (z + x - x**3/3)/eps : 1\ndz/dt = -x : 1"
    >>> oscillator = ct.System(ct.TextNeuron(text, eps=0.01, initial={"x": 2.0}))
    >>> run = ct.solve(oscillator, t=torch.linspace(0.0, 2.0, 401).double())
    >>> tree = fast_slow(oscillator, "z", run)
    >>> tree["bifurcations/z"].values.round(6).tolist(), len(tree["jumps/jump"])
    ([-0.666667, 0.666667], 2)
    """
    import xarray as xr

    if not isinstance(run, Solution) or run.batch or run.t.dim() != 1:
        raise ValueError("run must be a Solution of one sample, from solve()")
    common: dict[str, Any] = {"t": float(run.t[0]), "inputs": inputs}
    split = _Split(system, slow, run, at, common)
    z, t = split.z, run.t.cpu().numpy()
    span = bounds or (z.min() - 0.1 * np.ptp(z), z.max() + 0.1 * np.ptp(z))
    settings = common | {"ranges": ranges or split.ranges(), "starts": starts, "seed": seed}
    settings |= {"largest": largest, "title": title or f"fast variables under {slow}"}
    tree = bifurcation_diagram(system, slow, span, at=at, cycles=False, **settings)
    symbol = str(tree.attrs["parameter"])
    distance, branch, stability = _nearest(split, tree["branches"].to_dataset(), symbol)
    on = (stability == BRANCHES.index("stable")) & (distance < near)
    seen = _seen(system, run, split, on, at, common) if cycles else None
    if seen is not None:
        held = {**(at or {}), split.slow: seen[0]}
        tree = bifurcation_diagram(system, slow, span, at=held, cycles=[seen[1]], **settings)
    elif cycles and np.any(tree["bifurcations/kind"].values == KINDS.index("hopf")):
        tree = bifurcation_diagram(system, slow, span, at=at, **settings)
    _add_drift(tree, split, symbol)
    place = np.where(on, PLACES.index("equilibrium"), 0)
    if "cycles" in tree.children:
        within = _within(tree["cycles"].to_dataset(), split, symbol, near)
        place[~on & within] = PLACES.index("cycle")
    missing = {"missing": "NaN where there is no equilibrium of the fast variables"}
    tree["trajectory"] = xr.DataTree(
        split.states()
        .assign_coords(time=("time", t, {"units": system.time_unit}))
        .assign(
            {
                symbol: ("time", z, {"units": split.unit}),
                "distance": ("time", distance, {"units": "1"} | missing),
                "branch": ("time", branch, {"units": "1", "comment": "-1 where there is none"}),
                "stability": ("time", stability, flags(BRANCHES)),
                "place": ("time", place.astype(np.int8), flags(PLACES)),
            }
        )
    )
    tree["jumps"] = xr.DataTree(_jumps(tree, split, symbol, t, place, branch))
    tree.attrs |= {"slow": symbol, "near": near}
    return tree


class _Split:
    """A run of the whole system, as fast components y ``(time, n)`` and a slow one z."""

    def __init__(
        self, system: System, slow: str, run: Solution, at: At | None, common: Mapping[str, Any]
    ) -> None:
        self.whole = FlatField(system, at=at, **common)
        self.family = ParametricField(system, [slow], at=at, **common)
        self.names = self.family.field.names
        rest = [name for name in self.whole.names if name not in self.names]
        if len(rest) != 1:
            raise ValueError(
                f"slow must be a component of the state, and not held: one of "
                f"{', '.join(self.whole.names)}; got {slow!r}"
            )
        self.slow = rest[0]
        self._fast = [self.whole.names.index(name) for name in self.names]
        self._slow = self.whole.names.index(self.slow)
        states = self.whole.select({k: v.detach() for k, v in run.states.items()}).cpu().numpy()
        self.y: Array = states[:, self._fast]
        self.z: Array = states[:, self._slow]
        if np.ptp(self.z) == 0:
            raise ValueError(f"'{slow}' does not move in the run")
        largest = np.maximum(np.abs(self.y).max(0), 1e-300)
        self.extent: Array = np.maximum(np.ptp(self.y, axis=0), 1e-3 * largest)
        self.unit = self.whole.units[self._slow]
        self.rate_unit = self.whole.rate_units[self._slow]
        self.time_unit = system.time_unit

    def ranges(self) -> Ranges:
        """Return where the fast components have been, and as much on both sides."""
        least, most = self.y.min(0) - self.extent, self.y.max(0) + self.extent
        bounds = zip(self.names, least, most, strict=True)
        return {name: (float(low), float(high)) for name, low, high in bounds}

    def drift(self, y: Array, z: Array) -> Array:
        """Return dz/dt of the whole system."""
        full = np.empty((*y.shape[:-1], len(self.whole.names)))
        full[..., self._fast], full[..., self._slow] = y, z
        rates = self.whole(torch.as_tensor(full).to(self.whole.initial))
        values: Array = rates[..., self._slow].detach().cpu().numpy()
        return values

    def states(self) -> Dataset:
        """Return the fast variables with dim ``time``."""
        return self.family.field.to_xarray(torch.as_tensor(self.y), "time", held=False)


def _add_drift(tree: DataTree, split: _Split, symbol: str) -> None:
    import xarray as xr

    attrs = {"units": split.rate_unit, "long_name": f"rate of {symbol}"}
    points = tree["branches"].to_dataset()
    rate = split.drift(_rows(points, split.names, "point"), points[symbol].values)
    tree["branches"] = xr.DataTree(points.assign(drift=("point", rate, attrs)))
    if "cycles" in tree.children:
        rings = tree["cycles"].to_dataset()
        rows = _rows(rings, split.names, "orbit", "phase")
        # phases are spaced evenly, and the last is the first
        rate = split.drift(rows, rings[symbol].values[:, None])[:, :-1].mean(1)
        tree["cycles"] = xr.DataTree(rings.assign(drift=("orbit", rate, attrs)))


def _rows(dataset: Dataset, names: Sequence[str], *leading: str, of: str = "") -> Array:
    """Return components ``(*leading, n)``; `of` ends the name of their variable."""
    columns = []
    for name in names:
        variable, _, index = name.rstrip("]").partition("[")
        array = dataset[variable + of].transpose(*leading, ...)
        own = array.dims[len(leading) :]
        chosen = dict(zip(own, map(int, index.split(",")), strict=True)) if index else {}
        columns.append(array.isel(chosen).values)
    return np.stack(columns, -1)


def _nearest(
    split: _Split, branches: Dataset, symbol: str
) -> tuple[Array, NDArray[np.int64], NDArray[np.int8]]:
    """Return how far the nearest equilibrium is at each time, its branch and its stability."""
    y, z, extent = split.y, split.z, split.extent
    points = _rows(branches, split.names, "point")
    p, number = branches[symbol].values, branches["branch"].values
    verdicts = branches["stability"].values
    best = np.full(len(z), np.inf)
    branch = np.full(len(z), -1, np.int64)
    stability = np.zeros(len(z), np.int8)
    marginal = STABILITIES.index("marginal")
    for k in np.flatnonzero(number[1:] == number[:-1]):
        a, b = p[k], p[k + 1]
        rows = np.flatnonzero((z >= min(a, b)) & (z <= max(a, b)))
        if not len(rows):
            continue
        share = (z[rows] - a) / (b - a) if a != b else np.zeros(len(rows))
        chord = points[k] + share[:, None] * (points[k + 1] - points[k])
        equilibrium = _polished(split.family, chord, z[rows], extent, points[k], points[k + 1])
        gap = np.abs((y[rows] - equilibrium) / extent).max(1)
        closer = gap < best[rows]
        chosen = rows[closer]
        best[chosen] = gap[closer]
        branch[chosen] = number[k]
        # a located point is marginal: its segments are as their other ends are
        verdict = verdicts[k] if verdicts[k] != marginal else verdicts[k + 1]
        stability[chosen] = 1 + verdict
    distance = np.where(np.isfinite(best), best, np.nan)
    return distance, branch, stability


def _seen(
    system: System,
    run: Solution,
    split: _Split,
    on: NDArray[np.bool_],
    at: At | None,
    common: Mapping[str, Any],
) -> tuple[float, Dataset] | None:
    """Return the cycle that the fast variables tend to amid the longest time off the branches."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], on, [True]]).astype(int)))
    if not len(edges):
        return None
    first, last = max(zip(edges[::2], edges[1::2], strict=True), key=lambda pair: pair[1] - pair[0])
    middle = int((first + last) // 2)
    state = {name: values[middle].detach() for name, values in run.states.items()}
    length = float(run.t[min(last, len(on) - 1)] - run.t[first])
    here = float(split.z[middle])
    held = {**(at or {}), split.slow: here}
    try:
        found = limit_cycle(system, state, at=held, duration=length, tolerance=1e-8, **common)
    except ValueError:
        return None
    return here, found


def _within(rings: Dataset, split: _Split, symbol: str, near: float) -> NDArray[np.bool_]:
    """Tell when a trajectory lies between the extremes of a stable cycle at its slow value."""
    y, z, room = split.y, split.z, near * split.extent
    least, most = (_rows(rings, split.names, "orbit", of=of) for of in ("_min", "_max"))
    p, number, unstable = (rings[name].values for name in (symbol, "branch", "stability"))
    inside = np.zeros(len(z), bool)
    for k in np.flatnonzero(
        (number[1:] == number[:-1]) & ((unstable[1:] == 0) | (unstable[:-1] == 0))
    ):
        rows = np.flatnonzero((z >= min(p[k], p[k + 1])) & (z <= max(p[k], p[k + 1])))
        low = np.minimum(least[k], least[k + 1]) - room
        high = np.maximum(most[k], most[k + 1]) + room
        inside[rows] |= ((y[rows] >= low) & (y[rows] <= high)).all(1)
    return inside


def _polished(
    family: ParametricField, chord: Array, z: Array, extent: Array, first: Array, last: Array
) -> Array:
    """Return the equilibria near a chord of a branch; the chord itself where Newton strays."""
    room = np.abs(last - first).max() + 1e-3 * extent.max()
    y = torch.as_tensor(chord).to(family.initial)
    p = torch.as_tensor(z)[:, None].to(family.initial)
    for _ in range(POLISHED):
        f, J, _ = family.linear(y, p)
        step = torch.linalg.lstsq(J, f[..., None]).solution[..., 0]
        y = y - step
        if float(step.abs().max()) < 1e-12:
            break
    found: Array = y.cpu().numpy()
    kept = np.isfinite(found).all(1) & (np.abs(found - chord).max(1) <= room)
    return np.where(kept[:, None], found, chord)


def _jumps(
    tree: DataTree,
    split: _Split,
    symbol: str,
    t: Array,
    place: NDArray[np.int64],
    branch: NDArray[np.int64],
) -> Dataset:
    """Return where the trajectory leaves a stable branch, and the bifurcation that it leaves at."""
    import xarray as xr

    z, unit = split.z, split.unit
    points = tree["bifurcations"].to_dataset()
    at, kinds = points[symbol].values, points["kind"].values
    leaving = np.isin(kinds, [KINDS.index(kind) for kind in LEAVING])
    on = place == PLACES.index("equilibrium")
    rows: list[dict[str, Any]] = []
    for k in np.flatnonzero(on[:-1] & ~on[1:]):
        if not on[max(k - 2, 0) : k].all():
            continue  # it only passed by
        heading = float(np.sign(z[k] - z[max(k - 2, 0)]))
        settled = np.flatnonzero(place[k + 1 :] != PLACES.index("between"))
        last = k + 1 + int(settled[0]) if len(settled) else len(z) - 1
        row: dict[str, Any] = {
            "left": t[k],
            "z": z[k],
            "branch": branch[k],
            "landed": t[last] if len(settled) else math.nan,
            "into": place[last],
            "at": math.nan,
            "kind": -1,
            "beyond": math.nan,
        }
        own = np.flatnonzero(leaving & (points["branch"].values == branch[k]))
        if len(own):
            pick = own[int(np.abs(at[own] - z[k]).argmin())]
            past = float((heading * (z[k : last + 1] - at[pick])).max())
            row |= {"at": at[pick], "kind": kinds[pick], "beyond": past}
        rows.append(row)

    def column(name: str) -> Array:
        return np.array([row[name] for row in rows], float)

    none = {"missing": "NaN where the branch has no bifurcation"}
    not_yet = {"missing": "NaN where the run ends first"}
    meanings = ("none", *KINDS)
    return xr.Dataset(
        {
            "left": ("jump", column("left"), {"units": split.time_unit}),
            "landed": ("jump", column("landed"), {"units": split.time_unit} | not_yet),
            "into": ("jump", column("into").astype(np.int8), flags(PLACES)),
            symbol: ("jump", column("z"), {"units": unit}),
            "branch": ("jump", column("branch").astype(int), {"units": "1"}),
            f"{symbol}_bifurcation": ("jump", column("at"), {"units": unit} | none),
            "kind": ("jump", (column("kind") + 1).astype(np.int8), flags(meanings)),
            "beyond": ("jump", column("beyond"), {"units": unit} | none),
        },
        coords={"jump": ("jump", np.arange(len(rows)), {"units": "1"})},
    )
