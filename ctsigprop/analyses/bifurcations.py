"""Bifurcation diagrams: every branch of equilibria and cycles in a range of a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ctsigprop.analyses.continuation.curve import StepControl
from ctsigprop.analyses.continuation.cycles import CycleBranch
from ctsigprop.analyses.continuation.defining import Equilibria
from ctsigprop.analyses.continuation.equilibria import Region
from ctsigprop.analyses.continuation.labels import CRITICALITIES, ENDS, KINDS, Names, symbol_of
from ctsigprop.analyses.continuation.search import (
    bifurcation_points,
    cycle_branches,
    equilibrium_branches,
    located_on,
    search_bounds,
)
from ctsigprop.analyses.cycles import cycle_of
from ctsigprop.analyses.flat import At, Inputs, Ranges, check_ranges
from ctsigprop.analyses.parametric import ParametricField
from ctsigprop.analyses.phase import written
from ctsigprop.solution import root_attributes
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = [
    "CRITICALITIES",
    "ENDS",
    "KINDS",
    "bifurcation_diagram",
    "bifurcation_points",
    "findings",
    "search_bounds",
    "shown_number",
    "symbol_of",
]


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
    branches = equilibrium_branches(curve, region, control, starts, seed)
    if not branches:
        raise ValueError(
            f"no equilibrium was found for {parameter} in [{low:g}, {high:g}]; "
            "give ranges= for the variables, or more starts"
        )
    located = located_on(branches, curve)
    rings: list[CycleBranch] = []
    lost: list[str] = []
    if cycles is not False:
        given = [] if cycles is True else [*cycles]
        here = float(family.initial[0])
        own = [cycle_of(dataset, family.field, here) for dataset in given]
        rings, lost = cycle_branches(family, located, own, region, size, width, doublings)
    named = Names(family, parameter)
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
