"""Where every branch of equilibria and of cycles in a range of a parameter is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctsigprop.analyses.continuation.collocation import Cycle
from ctsigprop.analyses.continuation.curve import LostError, StepControl, onto
from ctsigprop.analyses.continuation.cycle_events import CycleEvent
from ctsigprop.analyses.continuation.cycles import (
    CycleBranch,
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
    lies_on,
    other_tangents,
    trace,
)
from ctsigprop.analyses.flat import At, FlatField, Ranges, check_ranges
from ctsigprop.analyses.newton import find_roots
from ctsigprop.analyses.parametric import ParametricField

__all__ = [
    "bifurcation_points",
    "cycle_branches",
    "equilibrium_branches",
    "located_on",
    "search_bounds",
]

Array = NDArray[np.float64]

SECTIONS = (0.0, 1.0, 0.38197, 0.61803, 0.14590, 0.85410)
"""Where branches are looked for, as shares of the range."""


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
    branches = equilibrium_branches(curve, region, control, starts, seed)
    return [found for _, found in located_on(branches, curve)]


def equilibrium_branches(
    curve: Equilibria, region: Region, control: StepControl, starts: int, seed: int
) -> list[Branch]:
    """Return every branch of equilibria that a search at some parameters leads to."""
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


def located_on(branches: Sequence[Branch], curve: Equilibria) -> list[tuple[int, Located]]:
    """Return every bifurcation once, with its branch: where branches cross, both have it."""
    kept: list[tuple[int, Located]] = []
    for k, found in ((k, found) for k, branch in enumerate(branches) for found in branch.located):
        same = any(
            found.kind == other.kind and np.abs((found.u - other.u) / curve.scale).max() < 1e-6
            for _, other in kept
        )
        if not same:
            kept.append((k, found))
    return kept


def cycle_branches(
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
            try:
                ring = trace_cycles(
                    family, *start, region, size, width, control, born="period_doubling"
                )
            except LostError:
                lost.append(f"the doubled cycles of the point at {event.p:.6g}")
                continue
            begun.append(ring)
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
