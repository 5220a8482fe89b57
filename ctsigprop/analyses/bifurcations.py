"""Bifurcation diagrams: every branch of equilibria and cycles in a range of a parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctsigprop.analyses.continuation.collocation import Cycle
from ctsigprop.analyses.continuation.curve import LostError, StepControl, onto
from ctsigprop.analyses.continuation.cycles import (
    CycleBranch,
    CycleEvent,
    Orbit,
    doubled,
    from_hopf,
    refined,
    trace_cycles,
)
from ctsigprop.analyses.continuation.defining import Equilibria
from ctsigprop.analyses.continuation.equilibria import (
    Branch,
    Located,
    NotIsolatedError,
    Region,
    eigenvalues,
    lies_on,
    other_tangents,
    trace,
)
from ctsigprop.analyses.cycles import cycle_of
from ctsigprop.analyses.flat import At, FlatField, Inputs, Ranges, check_ranges
from ctsigprop.analyses.newton import find_roots
from ctsigprop.analyses.parametric import ParametricField
from ctsigprop.analyses.phase import written
from ctsigprop.analyses.stability import STABILITIES
from ctsigprop.solution import root_attributes
from ctsigprop.system import System
from ctsigprop.units import divide_units

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = [
    "CRITICALITIES",
    "ENDS",
    "KINDS",
    "bifurcation_diagram",
    "bifurcation_points",
    "findings",
    "flags",
    "search_bounds",
    "shown_number",
    "symbol_of",
]

Array = NDArray[np.float64]

KINDS = (
    *("fold", "hopf", "pitchfork", "transcritical", "degenerate"),
    *("cycle_fold", "period_doubling", "torus", "cycle_branch_point", "homoclinic", "snic"),
)
"""What may be found: on branches of equilibria, then on branches of cycles.

A cycle_fold is a saddle-node of cycles; torus, a Neimark–Sacker point. At a homoclinic point a
cycle meets a saddle, at a snic a saddle-node on its way: the period diverges at both.
"""

CRITICALITIES = ("none", "supercritical", "subcritical", "degenerate")
"""Whether what is born is stable, unstable, or not decided by the normal form; none: no such kind.
"""

ENDS = (
    *("range", "bounds", "closed", "lost", "steps"),
    *("hopf", "period_doubling", "start", "homoclinic", "snic", "long_period"),
)
"""Why a branch ends: the range of the parameter, the bounds of the variables, its own beginning,
Newton's method did not converge at the smallest step, the most steps; then those of cycles."""

SECTIONS = (0.0, 1.0, 0.38197, 0.61803, 0.14590, 0.85410)
"""Where branches are looked for, as shares of the range."""

PHASES = 301
"""How many states of each cycle are kept."""


def bifurcation_diagram(
    system: System,
    parameter: str,
    bounds: tuple[float, float],
    *,
    ranges: Ranges | None = None,
    at: At | None = None,
    cycles: bool | Sequence[Dataset] = True,
    doublings: int = 1,
    starts: int = 64,
    seed: int = 0,
    steps: int = 2000,
    largest: float = 0.02,
    t: float = 0.0,
    inputs: Inputs | None = None,
    title: str = "",
) -> DataTree:
    """Follow every branch of equilibria and of cycles, and locate what happens on them.

    Equilibria f(y, p) = 0 are looked for by `fixed_points`' search at six values of p. From each
    that is new, its branch is followed by pseudo-arclength both ways. Folds, Hopf points and
    branch points are the roots of their defining equations, by Newton's method; at branch points
    the crossing branches are followed too. From every Hopf point the cycles are followed, as
    polynomials that satisfy the equations at Gauss points, on a mesh that adapts; their folds,
    period doublings and tori are where Floquet multipliers meet the unit circle.

    Parameters
    ----------
    system : System
        Without delays, in float64.
    parameter : str
        The p that changes: ``I``, of a term ``E.I``, of a unit ``I[0]``; a source, or a component
        of the state, which is then held at p. See `ParametricField`.
    bounds : (float, float)
        The range of p.
    ranges : mapping of str to (float, float), optional
        Bounds of variables or components, outside which no branch is followed. Those left out
        are not bounded, and the search starts at their initial value.
    at : mapping of str to Tensor or float, optional
        Values of variables that are held, such as weights.
    cycles : bool or sequence of xarray.Dataset
        Whether to follow limit cycles from Hopf points; and cycles of the system as it is, from
        `limit_cycle`, from which to begin besides.
    doublings : int
        How often the branches that leave at period doublings are followed, from one to the next.
    starts, seed : int, int
        Of the search at each value of p.
    steps : int
        The most steps of a branch, each way.
    largest : float
        The longest step, as a share of the ranges.
    t : float
        The time at which the field stands still.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.
    title : str
        Of the tree, and of its figure.

    Returns
    -------
    xarray.DataTree
        /branches with dim ``point`` (points with one ``branch`` number are joined in order): the
        parameter, the variables, ``eigenvalue``, ``stability``, ``residual``, and why each branch
        ends. /bifurcations with dim ``bifurcation``, sorted by the parameter: ``kind``, where,
        ``criticality``, ``coefficient`` of the normal form, ``angular_frequency``, ``period``,
        ``residual`` of the defining equations, and the ``test`` that had to vanish. /cycles with
        dim ``orbit``: the variables over ``phase``, their extremes, ``period``, ``multiplier``.

    Raises
    ------
    ValueError
        Names, ranges or numbers that do not fit; equilibria that are not isolated; none at all.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> neuron = ct.System(ct.fitzhugh_nagumo())
    >>> tree = bifurcation_diagram(neuron, "I", (0.0, 2.0), ranges={"v": (-3, 3)}, cycles=False)
    >>> found = tree["bifurcations"]
    >>> [KINDS[k] for k in found.kind.values], found.I.values.round(6).tolist()
    (['hopf', 'hopf'], [0.331281, 1.418719])
    """
    import xarray as xr

    family = ParametricField(system, [parameter], at=at, t=t, inputs=inputs)
    low, high = check_ranges({parameter: bounds})[0]
    family.check(parameter, low, high)
    if not (starts >= 1 and steps >= 1 and doublings >= 0 and 0 < largest <= 0.5):
        raise ValueError(
            "bifurcation_diagram takes starts, steps >= 1, doublings >= 0, 0 < largest <= 0.5; "
            f"got {starts}, {steps}, {doublings}, {largest}"
        )
    below, above, size = search_bounds(family.field, ranges, at)
    width = np.array([high - low])
    curve = Equilibria(family, size, width)
    region = Region(low, high, below, above)
    control = StepControl(first=largest / 5, largest=largest, most=steps)
    branches = _branches(curve, region, control, starts, seed)
    if not branches:
        raise ValueError(
            f"no equilibrium was found for {parameter} in [{low:g}, {high:g}]; "
            "give ranges= for the variables, or more starts"
        )
    located = _distinct([(k, e) for k, b in enumerate(branches) for e in b.located], curve)
    rings: list[CycleBranch] = []
    lost: list[str] = []
    if cycles is not False:
        given = [] if cycles is True else [*cycles]
        here = float(family.initial[0])
        own = [cycle_of(dataset, family.field, here) for dataset in given]
        rings, lost = _rings(family, located, own, region, size, width, doublings)
    named = _Names(family, parameter)
    groups = {
        "/branches": named.branches(curve, branches),
        "/bifurcations": named.bifurcations(located, rings),
    }
    if rings:
        groups["/cycles"] = named.cycles(rings)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = root_attributes(title or f"bifurcations under {parameter}") | {
        "parameter": named.symbol,
        "axes": list(family.field.symbols),
        "components": list(family.field.names),
        "bounds": (float(low), float(high)),
        "held": family.held,
        "time": t,
        "not_followed": lost,
        "system": written(system),
    }
    return tree


def findings(tree: DataTree) -> str:
    """Return in words what a bifurcation diagram shows, a line for each thing found.

    Parameters
    ----------
    tree : xarray.DataTree
        From `bifurcation_diagram`.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> neuron = ct.System(ct.fitzhugh_nagumo())
    >>> tree = bifurcation_diagram(neuron, "I", (0.0, 1.0), ranges={"v": (-3, 3)}, cycles=False)
    >>> print(findings(tree))
    I from 0 to 1: 1 branch of equilibria, 0 of cycles, 1 bifurcation
      I = 0.331281  Hopf, subcritical: unstable cycles of period 22.81 are born
    """
    name = str(tree.attrs["parameter"])
    found = tree["bifurcations"].to_dataset()
    low, high = tree.attrs["bounds"]
    count = int(tree["branches/branch"].max()) + 1
    rings = int(tree["cycles/branch"].max()) + 1 if "cycles" in tree.children else 0
    unit = found[name].attrs["units"]
    shown = "" if unit == "1" else f" {unit}"
    points = found.sizes["bifurcation"]
    lines = [
        f"{name} from {low:g} to {high:g}{shown}: {count} {_plural('branch', count)} of "
        f"equilibria, {rings} of cycles, {points} {_plural('bifurcation', points)}"
    ]
    for k in range(points):
        one = found.isel(bifurcation=k)
        where = f"{name} = {shown_number(float(one[name]), high - low)}{shown}"
        lines.append(f"  {where}  {_said(one)}")
    lines += [f"  not followed: {text}" for text in tree.attrs["not_followed"]]
    return "\n".join(lines)


def shown_number(value: float, width: float) -> str:
    """Return a number in six digits; what is zero but for rounding, as zero."""
    return "0" if abs(value) < 1e-12 * width else f"{value:.6g}"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}es" if noun.endswith("ch") else f"{noun}s"


def _said(one: Dataset) -> str:
    """Return a line about one bifurcation."""
    kind, verdict = KINDS[int(one["kind"])], CRITICALITIES[int(one["criticality"])]
    period = float(one["period"])
    unit = one["period"].attrs["units"]
    length = f"{period:.4g}" + ("" if unit == "1" else f" {unit}")
    if kind == "hopf":
        born = {"supercritical": "stable", "subcritical": "unstable"}.get(verdict, "neutral")
        return f"Hopf, {verdict}: {born} cycles of period {length} are born"
    if kind == "pitchfork":
        born = {"supercritical": "stable", "subcritical": "unstable"}.get(verdict, "neutral")
        return f"pitchfork, {verdict}: two {born} branches leave"
    texts = {
        "fold": "fold (saddle-node): two equilibria meet",
        "transcritical": "transcritical: two branches cross and exchange their stability",
        "degenerate": "degenerate: several eigenvalues vanish together",
        "cycle_fold": f"fold of cycles: two cycles of period {length} meet",
        "period_doubling": f"period doubling of a cycle of period {length}",
        "torus": f"torus (Neimark-Sacker) around a cycle of period {length}",
        "cycle_branch_point": f"two branches of cycles of period {length} cross",
        "homoclinic": f"homoclinic: a cycle meets a saddle; period diverges (followed to {length})",
        "snic": f"SNIC: a saddle-node on a cycle, period diverges (followed to {length})",
    }
    return texts[kind]


def bifurcation_points(
    family: ParametricField,
    region: Region,
    size: Array,
    width: Array,
    control: StepControl,
    starts: int,
    seed: int,
) -> list[Located]:
    """Return what is located on all branches of equilibria, under the first parameter."""
    curve = Equilibria(family, size, width)
    branches = _branches(curve, region, control, starts, seed)
    found = [(k, e) for k, branch in enumerate(branches) for e in branch.located]
    return [located for _, located in _distinct(found, curve)]


def symbol_of(field: FlatField, parameter: str) -> str:
    """Return the name of a parameter as an identifier that no free variable has."""
    symbol = parameter.replace(".", "_").replace("[", "_").replace(",", "_").rstrip("]")
    free = {name.partition("[")[0] for name in field.names}
    return f"{symbol}_parameter" if symbol in free else symbol


def search_bounds(
    field: FlatField, ranges: Ranges | None, at: At | None
) -> tuple[Array, Array, Array]:
    """Return the bounds of the components, infinite where there are none, and their sizes."""
    low, high = np.full((2, len(field.names)), [[-np.inf], [np.inf]])
    if ranges:
        box = check_ranges(ranges)
        bounded = FlatField(field.system, free=list(ranges), at=at, inputs=field.inputs).names
        where = [field.names.index(name) for name in bounded]
        low[where], high[where] = box.T
    first = np.maximum(np.abs(field.initial.cpu().numpy()), 1.0)
    return low, high, np.where(np.isfinite(high), high - low, first)


def _branches(
    curve: Equilibria, region: Region, control: StepControl, starts: int, seed: int
) -> list[Branch]:
    branches: list[Branch] = []
    singular: NotIsolatedError | None = None

    def known(u: Array) -> bool:
        return any(lies_on(curve, branch, u) for branch in branches)

    def add(u: Array) -> None:
        branch = trace(curve, u, region, control)
        branches.append(branch)
        for found in branch.located:
            if found.kind not in ("pitchfork", "transcritical"):
                continue
            for tangent in other_tangents(curve, found):
                for sign in (1, -1):
                    away = sign * tangent
                    try:
                        side, _ = onto(curve, found.u + control.first * away * curve.scale, away)
                    except LostError:
                        continue
                    inside = region.low <= side.u[-1] <= region.high
                    if inside and region.holds(side.u[:-1]) and not known(side.u):
                        add(side.u)

    for share in SECTIONS:
        p = region.low + share * (region.high - region.low)
        frozen = curve.family.at(p, *curve.rest.tolist())
        try:
            roots, _, _ = find_roots(frozen, region.below, region.above, starts, seed, 1e-12)
        except ValueError:  # finite nowhere
            continue
        for y in roots.cpu().numpy():
            u = np.append(y, p)
            if not known(u):
                try:
                    add(u)
                except NotIsolatedError as error:
                    singular = error
                except LostError:  # a multiple root: the other sections see its branches
                    continue
    if singular is not None and not branches:
        raise singular
    return branches


def _distinct(
    located: Sequence[tuple[int, Located]], curve: Equilibria
) -> list[tuple[int, Located]]:
    """Return every bifurcation once: where branches cross, it is found on both."""
    kept: list[tuple[int, Located]] = []
    for k, found in located:
        same = any(
            found.kind == other.kind and np.abs((found.u - other.u) / curve.scale).max() < 1e-6
            for _, other in kept
        )
        if not same:
            kept.append((k, found))
    return kept


def _rings(
    family: ParametricField,
    located: Sequence[tuple[int, Located]],
    given: Sequence[Cycle],
    region: Region,
    size: Array,
    width: Array,
    doublings: int,
) -> tuple[list[CycleBranch], list[str]]:
    """Return the branches of cycles from given ones and every Hopf point, and what was lost."""
    rings: list[CycleBranch] = []
    lost: list[str] = []
    control = StepControl(first=0.02, largest=0.1, most=500)
    for cycle in given:
        try:
            exact = refined(family, cycle, size, width).cycle
            rings.append(trace_cycles(family, exact, None, region, size, width, control))
        except LostError:
            lost.append(f"the given cycle of period {cycle.period:.6g}")
    for _, found in located:
        if found.kind != "hopf" or any(_ends_at(ring, found, size, width) for ring in rings):
            continue
        try:
            ring = trace_cycles(family, *from_hopf(found, size), region, size, width, control)
        except LostError:
            lost.append(f"the cycles of the Hopf point at {found.u[-1]:.6g}")
            continue
        rings.append(ring)
    latest = rings
    for _ in range(doublings):
        begun: list[CycleBranch] = []
        for event in (event for ring in latest for event in ring.events):
            if event.kind != "period_doubling" or any(_halves(ring, event) for ring in begun):
                continue
            start = doubled(family, event, size, width)
            options: dict[str, Any] = {"born": "period_doubling"}
            try:
                begun.append(trace_cycles(family, *start, region, size, width, control, **options))
            except LostError:
                lost.append(f"the doubled cycles of the point at {event.p:.6g}")
        rings, latest = rings + begun, begun
    for ring in rings:
        if ring.ends[1] in ("lost", "steps"):
            last = ring.orbits[-1].cycle
            lost.append(
                f"cycles beyond {last.p:.6g}, where their period is {last.period:.4g} "
                f"({ring.ends[1]} after {len(ring.orbits)} orbits)"
            )
    return rings, lost


def _halves(ring: CycleBranch, event: CycleEvent) -> bool:
    """Tell whether a branch of doubled cycles ends at a period doubling."""
    if ring.ends[1] != "period_doubling":
        return False
    last = ring.orbits[-1].cycle
    return abs(last.period / (2 * event.orbit.cycle.period) - 1) < 0.02


def _ends_at(ring: CycleBranch, found: Located, size: Array, width: Array) -> bool:
    """Tell whether a branch of cycles shrinks to a Hopf point."""
    for end, orbit in zip(ring.ends, (ring.orbits[0], ring.orbits[-1]), strict=True):
        last = orbit.cycle
        gaps = [(last.p - found.u[-1]) / width[0], last.period * found.omega / (2 * np.pi) - 1]
        gaps += list((last.x.mean(0) - found.u[:-1]) / size)
        if end == "hopf" and np.abs(gaps).max() < 0.05:
            return True
    return False


class _Names:
    """Datasets of branches, with the names and units of a system."""

    def __init__(self, family: ParametricField, parameter: str) -> None:
        self.family, self.field = family, family.field
        self.symbol = symbol_of(family.field, parameter)
        self.unit = family.units[0]
        self.rate = {"units": divide_units("1", self.field.system.time_unit)}
        self.time = {"units": self.field.system.time_unit}

    def branches(self, curve: Equilibria, branches: Sequence[Branch]) -> Dataset:
        points = [point for branch in branches for point in branch.points]
        u = np.stack([point.u for point in points])
        values = eigenvalues(curve, points)
        largest = np.abs(values).max(-1, keepdims=True)
        grows, decays = values.real > 1e-9 * largest, values.real < -1e-9 * largest
        stability = np.select(
            [grows.any(-1) & decays.any(-1), grows.any(-1), decays.all(-1)],
            [STABILITIES.index(s) for s in ("saddle", "unstable", "stable")],
            STABILITIES.index("marginal"),
        )
        lengths = [len(branch.points) for branch in branches]
        ends = [[ENDS.index(end.replace(" ", "_")) for end in branch.ends] for branch in branches]
        n = values.shape[1]
        return (
            self._states(u[:, :-1], "point")
            .assign(
                {
                    self.symbol: ("point", u[:, -1], {"units": self.unit}),
                    "branch": (
                        "point",
                        np.repeat(np.arange(len(lengths)), lengths),
                        {"units": "1"},
                    ),
                    "eigenvalue": (
                        ("point", "mode", "part"),
                        np.stack([values.real, values.imag], -1),
                        self.rate,
                    ),
                    "stability": ("point", stability.astype(np.int8), flags(STABILITIES)),
                    "residual": ("point", [point.residual for point in points], {"units": "1"}),
                    "end": (("line", "side"), np.array(ends, np.int8), flags(ENDS)),
                }
            )
            .assign_coords(
                mode=("mode", np.arange(n), {"units": "1"}),
                part=["re", "im"],
                line=("line", np.arange(len(lengths)), {"units": "1"}),
                side=["first", "last"],
            )
        )

    def bifurcations(
        self, located: Sequence[tuple[int, Located]], rings: Sequence[CycleBranch]
    ) -> Dataset:
        rows: list[dict[str, Any]] = []
        n = len(self.field.names)
        for k, found in located:
            rows.append(
                {
                    "kind": found.kind,
                    "p": found.u[-1],
                    "y": found.u[:-1],
                    "criticality": found.criticality,
                    "coefficient": found.coefficient,
                    "omega": found.omega,
                    "period": 2 * math.pi / found.omega,
                    "residual": found.residual,
                    "test": found.test,
                    "branch": k,
                }
            )
        for k, ring in enumerate(rings):
            rows += [self._of_cycles(event, k, n) for event in ring.events]
        rows.sort(key=lambda row: float(row["p"]))

        def column(name: str) -> Array:
            return np.array([row[name] for row in rows], float)

        none = "NaN where this kind has none"
        kinds = np.array([KINDS.index(row["kind"]) for row in rows], np.int8)
        verdicts = np.array([CRITICALITIES.index(row["criticality"]) for row in rows], np.int8)
        y = np.array([row["y"] for row in rows], float).reshape(-1, n)
        dim = "bifurcation"
        dataset = self._states(y, dim, missing="NaN where a whole cycle bifurcates")
        return dataset.assign(
            {
                self.symbol: (dim, column("p"), {"units": self.unit}),
                "kind": (dim, kinds, flags(KINDS)),
                "criticality": (dim, verdicts, flags(CRITICALITIES)),
                "coefficient": (dim, column("coefficient"), {"units": "1", "missing": none}),
                "angular_frequency": (dim, column("omega"), self.rate | {"missing": none}),
                "period": (dim, column("period"), self.time | {"missing": none}),
                "residual": (dim, column("residual"), {"units": "1"}),
                "test": (dim, column("test"), {"units": "1"}),
                "branch": (
                    dim,
                    np.array([row["branch"] for row in rows], int),
                    {"units": "1", "comment": "of equilibria, or of cycles where cycles bifurcate"},
                ),
            }
        )

    def cycles(self, rings: Sequence[CycleBranch]) -> Dataset:
        orbits: list[Orbit] = [orbit for ring in rings for orbit in ring.orbits]
        phase = np.linspace(0, 1, PHASES)
        profile = np.stack([orbit.cycle(phase) for orbit in orbits])
        least, most = (np.stack(x) for x in zip(*[o.cycle.extremes() for o in orbits], strict=True))
        values = np.stack([orbit.multipliers for orbit in orbits])
        lengths = [len(ring.orbits) for ring in rings]
        ends = [[ENDS.index(end.replace(" ", "_")) for end in ring.ends] for ring in rings]
        dataset = self._states(profile, "orbit", "phase")
        for y, of in ((least, "min"), (most, "max")):
            for name, extreme in self._states(y, "orbit").data_vars.items():
                dataset[f"{name}_{of}"] = extreme
        finite = np.where(np.isfinite(values), values, np.nan)
        return dataset.assign(
            {
                self.symbol: ("orbit", [o.cycle.p for o in orbits], {"units": self.unit}),
                "period": ("orbit", [o.cycle.period for o in orbits], self.time),
                "branch": ("orbit", np.repeat(np.arange(len(lengths)), lengths), {"units": "1"}),
                "multiplier": (
                    ("orbit", "mode", "part"),
                    np.stack([finite.real, finite.imag], -1),
                    {"units": "1", "missing": "NaN where a multiplier is beyond all numbers"},
                ),
                "stability": (
                    "orbit",
                    np.array([not o.stable for o in orbits], np.int8),
                    flags(("stable", "unstable")),
                ),
                "residual": ("orbit", [o.residual for o in orbits], {"units": "1"}),
                "error": (
                    "orbit",
                    [o.error for o in orbits],
                    {"units": "1", "long_name": "local error, relative to the size of a variable"},
                ),
                "end": (("line", "side"), np.array(ends, np.int8), flags(ENDS)),
            }
        ).assign_coords(
            phase=("phase", phase, {"units": "1"}),
            mode=("mode", np.arange(values.shape[1]), {"units": "1"}),
            part=["re", "im"],
            line=("line", np.arange(len(lengths)), {"units": "1"}),
            side=["first", "last"],
        )

    def _of_cycles(self, event: CycleEvent, k: int, n: int) -> dict[str, Any]:
        return {
            "kind": event.kind,
            "p": event.p,
            "y": np.full(n, np.nan) if event.y is None else event.y,
            "criticality": "none",
            "coefficient": np.nan,
            "omega": np.nan,
            "period": event.orbit.cycle.period,
            "residual": event.residual,
            "test": event.test,
            "branch": k,
        }

    def _states(self, y: Array, *dims: str, missing: str = "") -> Dataset:
        """Return states ``(*dims, n)`` as variables; held ones are left out."""
        flat = torch.as_tensor(y.reshape(-1, y.shape[-1])).to(self.field.initial)
        dataset = self.field.to_xarray(flat, dims[0])
        free = {name.partition("[")[0] for name in self.field.names}
        dataset = dataset[[name for name in dataset.data_vars if name in free]]
        if len(dims) == 2:
            import xarray as xr

            dataset = xr.Dataset(
                {
                    name: (
                        (*dims, *values.dims[1:]),
                        values.values.reshape(*y.shape[:2], *values.shape[1:]),
                        values.attrs,
                    )
                    for name, values in dataset.data_vars.items()
                },
                coords={n: c for n, c in dataset.coords.items() if n != dims[0]}
                | {dims[0]: (dims[0], np.arange(len(y)), {"units": "1"})},
            )
        if missing and np.isnan(y).any():
            for values in dataset.data_vars.values():
                values.attrs["missing"] = missing
        return dataset


def flags(meanings: Sequence[str]) -> dict[str, Any]:
    """Return the attributes of a verdict with these meanings."""
    return {
        "flag_values": np.arange(len(meanings), dtype=np.int8),
        "flag_meanings": " ".join(meanings),
    }
