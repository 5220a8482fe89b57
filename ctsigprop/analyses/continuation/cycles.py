"""Branches of limit cycles: followed from a Hopf point or a cycle, and what happens on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from ctsigprop.analyses.continuation.collocation import (
    DEGREE,
    Cycle,
    Cycles,
    multipliers,
    remeshed,
)
from ctsigprop.analyses.continuation.curve import (
    LostError,
    Point,
    StepControl,
    advance,
    crossing,
    newton,
    onto,
)
from ctsigprop.analyses.continuation.defining import Equilibria, Folding
from ctsigprop.analyses.continuation.equilibria import Located, Region
from ctsigprop.analyses.parametric import ParametricField

__all__ = [
    "CycleBranch",
    "CycleEvent",
    "Orbit",
    "doubled",
    "from_hopf",
    "refined",
    "resampled",
    "trace_cycles",
]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

LOCAL_ERROR = 1e-8
"""Of the polynomials, relative to the size of each variable: the mesh grows until it is kept."""

INTERVALS = (20, 320)
"""The least and the largest number of intervals of a mesh."""

BORN = 0.01
"""Amplitude of the first cycle at a Hopf point, relative to the size of the variables."""

UNSTABLE = 1e-6
"""A Floquet multiplier is unstable if its modulus is above 1 by more than this."""

STILL = 1e-8
"""Where the parameter moves by less than this share of the arclength, it stands still."""

Spread = tuple[Array, Array]


@final
@dataclass(frozen=True)
class Orbit:
    """A cycle on a branch.

    Parameters
    ----------
    cycle : Cycle
        The orbit.
    multipliers : array
        Floquet multipliers, the trivial one first.
    turning : float
        How the parameter changes along the branch, between −1 and 1.
    residual : float
        The largest entry of the discretised equations.
    error : float
        The estimated local error.
    """

    cycle: Cycle
    multipliers: Complex
    turning: float
    residual: float
    error: float

    @property
    def stable(self) -> bool:
        """Whether all but the trivial multiplier lie inside the unit circle."""
        return bool((np.abs(self.multipliers[1:]) < 1 + UNSTABLE).all())


@final
@dataclass(frozen=True)
class CycleEvent:
    """A bifurcation of cycles.

    Parameters
    ----------
    kind : str
        "cycle_fold", "period_doubling", "torus", "cycle_branch_point", "homoclinic", "snic".
    orbit : Orbit
        The cycle there; the last one before a homoclinic orbit or a SNIC.
    p : float
        The parameter.
    test : float
        How far the critical multiplier is from the unit circle; of a homoclinic orbit, how far the
        parameter still moved at the last step; of a SNIC, the eigenvalue at the fold.
    residual : float
        Of the defining equations.
    y : array or None
        The equilibrium that a homoclinic orbit returns to, or the fold on a SNIC.
    """

    kind: str
    orbit: Orbit
    p: float
    test: float
    residual: float
    y: Array | None = None


@final
@dataclass
class CycleBranch:
    """A branch of cycles, what was found on it, and why it ends where it ends."""

    orbits: list[Orbit]
    ends: tuple[str, str]
    events: list[CycleEvent] = field(default_factory=list)


def from_hopf(found: Located, size: Array) -> tuple[Cycle, Spread]:
    """Return a small cycle at a Hopf point, and how it grows (by node; the parameter stays)."""
    values, vectors = np.linalg.eig(found.J)
    q = vectors[:, np.abs(values - 1j * found.omega).argmin()]
    q = q / np.abs(q / size).max()
    mesh = np.linspace(0, 1, INTERVALS[0] + 1)
    wave = (q * np.exp(2j * np.pi * _node_times(mesh))[:, None]).real
    cycle = Cycle(mesh, found.u[:-1] + BORN * wave, 2 * np.pi / found.omega, float(found.u[-1]))
    return cycle, (wave, np.zeros(2))


def doubled(
    family: ParametricField, found: CycleEvent, size: Array, width: Array
) -> tuple[Cycle, Spread]:
    """Return the cycle at a period doubling gone round twice, and how the new one leaves it.

    The new direction is the null vector of the linearised equations that the old branch is not.
    """
    once = found.orbit.cycle
    mesh = np.concatenate([once.mesh / 2, 0.5 + once.mesh[1:] / 2])
    twice = Cycle(mesh, np.concatenate([once.x, once.x]), 2 * once.period, once.p)
    curve = Cycles(family, twice, size, width)
    u = curve.pack(twice)
    _, A = curve.linear(u)
    half = len(once.x) * curve.n
    # what changes its sign from one round to the next: that is no direction of the old branch
    guess = np.random.default_rng(0).standard_normal(half)
    v = np.concatenate([guess, -guess, [0.0, 0.0]])
    old = np.zeros(len(u))
    old[-1] = 1.0
    for _ in range(3):
        v = curve.solve(A, old, v)
        v[:half] = (v[:half] - v[half:-2]) / 2
        v[half:-2], v[-2:] = -v[:half], 0.0
        v /= np.abs(v).max()
    wave = (v * curve.scale)[:-2].reshape(-1, curve.n)
    wave /= np.abs(wave / size).max()
    return replace(twice, x=twice.x + BORN * wave), (wave, np.zeros(2))


def refined(
    family: ParametricField, guess: Cycle, size: Array, width: Array, tolerance: float = LOCAL_ERROR
) -> Orbit:
    """Return the cycle near a guess at the same parameter, on a mesh that keeps the tolerance."""
    cycle, held = guess, None
    for _ in range(12):
        curve = Cycles(family, cycle, size, width)
        held = np.zeros(len(curve.scale))
        held[-1] = 1.0
        point, _ = onto(curve, curve.pack(cycle), held, iterations=20)
        cycle = curve.cycle(point.u)
        count = _enough(cycle, size, tolerance)
        uneven = _uneven(cycle, size)
        if count <= len(cycle.mesh) - 1 and uneven < 2:
            break
        cycle = _on(cycle, remeshed(cycle, size, max(count, len(cycle.mesh) - 1)))
    return _orbit(curve, point, size)


def resampled(phase: Array, states: Array, period: float, p: float = 0.0) -> Cycle:
    """Return a cycle through states along a loop, on a mesh that is dense where they move fast."""
    size = np.maximum(np.ptp(states, axis=0), 1e-300)
    length = np.abs(np.diff(states, axis=0) / size).sum(1) + np.diff(phase)
    filled = np.concatenate([[0.0], np.cumsum(length)])
    mesh = np.interp(np.linspace(0, filled[-1], 81), filled, phase)
    mesh[0], mesh[-1] = 0.0, 1.0
    times = _node_times(mesh)
    x = np.stack([np.interp(times, phase, column) for column in states.T], -1)
    return Cycle(mesh, x, period, p)


def trace_cycles(
    family: ParametricField,
    start: Cycle,
    spread: Spread | None,
    region: Region,
    size: Array,
    width: Array,
    control: StepControl,
    longest: float = 100.0,
    born: str = "hopf",
) -> CycleBranch:
    """Follow a branch of cycles: away from a Hopf point, or from a cycle both ways.

    Parameters
    ----------
    family : ParametricField
        f.
    start : Cycle
        Where to begin.
    spread : tuple of array, optional
        How the cycle grows away from a Hopf point; both directions without it.
    region : Region
        The range of the parameter, and bounds of the variables.
    size, width : array
        The scales of y and of the parameters.
    control : StepControl
        Of the steps.
    longest : float
        The branch ends where its period is this many times its shortest: the orbit becomes
        homoclinic.
    born : str
        What a branch that grows comes from: "hopf", or "period_doubling".
    """
    walk = _Walk(family, region, size, width, control, longest)
    curve = Cycles(family, start, size, width)
    u = curve.pack(start)
    if spread is not None:
        tangent = np.concatenate([spread[0].reshape(-1), spread[1]]) / curve.scale
        tangent /= np.linalg.norm(tangent)
        first, _ = onto(curve, u, tangent, iterations=12)
        first = replace(first, tangent=first.tangent * np.sign(first.tangent @ tangent))
        return walk.along(curve, first, born=born)
    held = np.zeros(len(u))
    held[-1] = 1.0
    first, _ = onto(curve, u, held, iterations=12)
    forwards = walk.along(curve, first)
    if forwards.ends[1] == "closed":
        return forwards
    backwards = walk.along(curve, replace(first, tangent=-first.tangent))
    orbits = [replace(o, turning=-o.turning) for o in reversed(backwards.orbits[1:])]
    return CycleBranch(
        orbits + forwards.orbits,
        (backwards.ends[1], forwards.ends[1]),
        backwards.events + forwards.events,
    )


@final
class _Walk:
    """One way along a branch of cycles."""

    def __init__(
        self,
        family: ParametricField,
        region: Region,
        size: Array,
        width: Array,
        control: StepControl,
        longest: float,
    ) -> None:
        self.family, self.region, self.size, self.width = family, region, size, width
        self.control, self.longest = control, longest

    def along(self, curve: Cycles, first: Point, *, born: str = "start") -> CycleBranch:
        """Return the branch from a point on, in the direction of its tangent."""
        here, length = first, self.control.first
        orbits = [_orbit(curve, here, self.size)]
        events: list[CycleEvent] = []
        shortest, end = orbits[0].cycle.period, "steps"
        for k in range(self.control.most):
            try:
                if k % 3 == 0 or orbits[-1].error > LOCAL_ERROR:
                    curve, here = self._remesh(curve, here)
                else:
                    curve, here = self._rephased(curve, here)
                there, length = advance(curve, here, length, self.control)
            except LostError:
                end = "lost"
                break
            orbit = _orbit(curve, there, self.size)
            if _turned_over(curve, here, there):
                end = "hopf"
                break
            if born == "period_doubling" and _turned_over(curve, here, there, halves=True):
                end = born
                break
            if not self.region.low <= there.u[-1] <= self.region.high:
                low, high = self.region.low, self.region.high
                edge = crossing(curve, here, there, low if there.u[-1] < low else high)
                orbits += [] if edge is None else [_orbit(curve, edge, self.size)]
                end = "range"
                break
            if not all(map(self.region.holds, orbit.cycle.extremes())):
                end = "bounds"
                break
            found = list(_events(curve, here, there, orbits[-1], orbit, self.size))
            events += found
            orbits += [*(event.orbit for event in found), orbit]
            here = there
            shortest = min(shortest, orbit.cycle.period)
            if k > 8 and self._closed(orbits, length):
                end = "closed"
                break
            long = orbit.cycle.period > self.longest * shortest
            stuck = abs(there.tangent[-1]) < STILL and orbit.cycle.period > 3 * shortest
            last = self._infinite(orbits) if long or stuck else None
            if last is not None or long:
                end = last.kind if last is not None else "long period"
                events += [last] if last is not None else []
                break
        return CycleBranch(orbits, (born, end), events)

    def _rephased(self, curve: Cycles, here: Point) -> tuple[Cycles, Point]:
        """Return the same point with itself as the reference of the phase."""
        renewed = Cycles(self.family, curve.cycle(here.u), self.size, self.width)
        point, _ = onto(renewed, here.u, here.tangent, step=here.step)
        return renewed, point

    def _remesh(self, curve: Cycles, here: Point) -> tuple[Cycles, Point]:
        """Return the same point on a mesh of its own."""
        cycle = curve.cycle(here.u)
        count = min(
            max(_enough(cycle, self.size, LOCAL_ERROR), int(0.8 * curve.count)), INTERVALS[1]
        )
        mesh = remeshed(cycle, self.size, count)
        moved = _on(cycle, mesh)
        renewed = Cycles(self.family, moved, self.size, self.width)
        raw = here.tangent * curve.scale
        shape = Cycle(cycle.mesh, raw[:-2].reshape(-1, curve.n), 1.0, 0.0)
        tangent = np.concatenate([_on(shape, mesh).x.reshape(-1), raw[-2:]]) / renewed.scale
        tangent /= np.linalg.norm(tangent)
        point, _ = onto(renewed, renewed.pack(moved), tangent, step=here.step)
        return renewed, point

    def _closed(self, orbits: list[Orbit], length: float) -> bool:
        """Tell whether the branch has come back to its first cycle."""
        first, last = orbits[0], orbits[-1]
        gaps = [np.log(last.cycle.period / first.cycle.period)]
        gaps.append((last.cycle.p - first.cycle.p) / self.width[0])
        for a, b in zip(first.cycle.extremes(), last.cycle.extremes(), strict=True):
            gaps += list((a - b) / self.size)
        return bool(np.abs(gaps).max() < length) and first.turning * last.turning > 0

    def _infinite(self, orbits: list[Orbit]) -> CycleEvent | None:
        """Return what the orbits tend to: a loop through a fold, or from a saddle to itself.

        The equilibrium lies where the orbit is slowest.
        """
        cycle = orbits[-1].cycle
        curve = Equilibria(self.family, self.size, self.width)
        shown = cycle(np.linspace(0, 1, 2001))
        u = np.column_stack([shown, np.full(len(shown), cycle.p)])
        speed = np.abs(curve.many(u)[0] / self.size).max(1)
        slow = u[speed.argmin()]
        J = curve.linear(slow)[1][:, :-1]
        phi = Folding.guess(J, self.size)
        folding = Folding(self.family, self.size, self.width, along=phi)
        try:
            z, residual = newton(
                folding.linear, np.concatenate([slow[:-1], phi, slow[-1:]]), folding.scale
            )
            y, _, p = folding.split(z)
            at = np.append(y, p)
            near = np.abs((at - slow) / curve.scale)
            if near[-1] < 3e-3 and near[:-1].max() < 0.1:
                values = np.linalg.eigvals(curve.linear(at)[1][:, :-1])
                return CycleEvent(
                    "snic", orbits[-1], float(p[0]), float(np.abs(values).min()), residual, y
                )
        except LostError:
            pass
        held = np.zeros(len(slow))
        held[-1] = 1.0
        try:
            rest, _ = onto(curve, slow, held, iterations=20)
        except LostError:
            return None
        values = np.linalg.eigvals(rest.A[:, :-1])
        saddle = values.real.max() > 0 > values.real.min()
        near_it = np.abs((rest.u - slow) / curve.scale).max() < 0.1
        if not (saddle and near_it):
            return None
        moved = abs(cycle.p - orbits[-2].cycle.p)
        return CycleEvent(
            "homoclinic", orbits[-1], cycle.p, moved, orbits[-1].residual, rest.u[:-1]
        )


def _node_times(mesh: Array) -> Array:
    steps = np.diff(mesh)[:, None] * np.arange(DEGREE) / DEGREE
    times: Array = (mesh[:-1, None] + steps).reshape(-1)
    return times


def _on(cycle: Cycle, mesh: Array) -> Cycle:
    return replace(cycle, mesh=mesh, x=cycle(_node_times(mesh)))


def _enough(cycle: Cycle, size: Array, tolerance: float) -> int:
    """Return how many intervals keep the tolerance, with the error spread evenly."""
    density, _ = cycle.roughness(size)
    whole = float(density @ np.diff(cycle.mesh))
    count = whole / (2 * DEGREE) / tolerance ** (1 / (DEGREE + 1))
    return int(np.clip(np.ceil(count), *INTERVALS))


def _uneven(cycle: Cycle, size: Array) -> float:
    """Return the largest share of an interval in the error, relative to the mean."""
    density, _ = cycle.roughness(size)
    shares = density * np.diff(cycle.mesh)
    return float(shares.max() / shares.mean())


def _orbit(curve: Cycles, point: Point, size: Array) -> Orbit:
    cycle = curve.cycle(point.u)
    return Orbit(
        cycle,
        multipliers(curve, point.u),
        float(point.tangent[-1]),
        point.residual,
        cycle.roughness(size)[1],
    )


def _turned_over(curve: Cycles, a: Point, b: Point, halves: bool = False) -> bool:
    """Tell whether a branch has shrunk to an equilibrium, and gone on with the phase turned.

    With `halves`, to a cycle of half the period.
    """
    x, y = (curve.cycle(point.u) for point in (a, b))
    phase = np.linspace(0, 1, 257)[:-1]
    rest = []
    for cycle in (x, y):
        states = cycle(phase) / curve.size
        rest.append(states - np.roll(states, 128, 0) if halves else states - states.mean(0))
    return bool((rest[0] * rest[1]).sum() < 0)


def _counts(orbit: Orbit) -> tuple[int, int, int]:
    """Return how many multipliers are unstable: real and positive, real and negative, complex."""
    values = orbit.multipliers[1:]
    out = np.abs(values) > 1 + UNSTABLE
    real = np.abs(values.imag) < 1e-9 * np.abs(values)
    return (
        int((out & real & (values.real > 0)).sum()),
        int((out & real & (values.real < 0)).sum()),
        int((out & ~real).sum()),
    )


def _events(
    curve: Cycles, a: Point, b: Point, at_a: Orbit, at_b: Orbit, size: Array, depth: int = 0
) -> Iterator[CycleEvent]:
    """Yield the bifurcations between two points on one mesh."""
    turned = at_a.turning * at_b.turning < 0
    before, after = _counts(at_a), _counts(at_b)
    change = abs(sum(after) - sum(before))
    still = max(abs(at_a.turning), abs(at_b.turning)) < STILL
    if not change and (not turned or still):
        return
    kinds: list[str] = []
    doubles = before[1] != after[1]
    if doubles and change == 1 and not turned:
        kinds = ["period_doubling"]
    elif change == 2 and before[2] != after[2] and not turned:
        kinds = ["torus"]
    elif change <= 1 and not doubles:
        kinds = ["cycle_fold"] * turned + ["cycle_branch_point"] * (change == 1)
    for kind in kinds:
        found = _located(curve, a, b, size, kind)
        if found is not None:
            yield found
            return
    if kinds:
        return
    if depth < 12:
        chord = (b.u - a.u) / curve.scale
        try:
            middle, _ = onto(curve, (a.u + b.u) / 2, chord / np.linalg.norm(chord))
        except LostError:
            return
        inside = _orbit(curve, middle, size)
        yield from _events(curve, a, middle, at_a, inside, size, depth + 1)
        yield from _events(curve, middle, b, inside, at_b, size, depth + 1)


TESTS: dict[str, Callable[[Orbit], float]] = {
    "cycle_fold": lambda orbit: orbit.turning,
    "cycle_branch_point": lambda orbit: float(np.prod(orbit.multipliers[1:] - 1).real),
    "period_doubling": lambda orbit: float(np.prod(orbit.multipliers[1:] + 1).real),
    "torus": lambda orbit: _products(orbit.multipliers[1:]),
}


def _products(values: Complex) -> float:
    i, j = np.triu_indices(len(values), 1)
    return float(np.prod(values[i] * values[j] - 1).real)


def _located(curve: Cycles, a: Point, b: Point, size: Array, kind: str) -> CycleEvent | None:
    """Return the point where a test function vanishes, by bracketing along the chord."""
    from scipy.optimize import brentq

    chord = b.u - a.u
    direction = chord / curve.scale / np.linalg.norm(chord / curve.scale)
    test = TESTS[kind]
    made: dict[float, Orbit] = {}

    def value(share: float) -> float:
        point, _ = onto(curve, a.u + share * chord, direction)
        made[share] = _orbit(curve, point, size)
        return test(made[share])

    try:
        share = float(brentq(value, 0.0, 1.0, xtol=1e-13, rtol=1e-13))
        if share not in made:
            value(share)
    except (LostError, ValueError):  # no change of sign
        return None
    orbit = made[share]
    if kind == "cycle_branch_point" and abs(orbit.turning) < STILL:
        kind = "cycle_fold"  # of a canard, whose parameter moves by less than its rounding
    elif kind == "cycle_fold" and np.abs(orbit.multipliers[1:] - 1).min(initial=np.inf) > 0.1:
        return None  # the parameter turned within its rounding only
    others = orbit.multipliers[1:]
    off = np.abs(np.abs(others) - 1).min() if len(others) else np.nan
    distance = abs(orbit.turning) if kind == "cycle_fold" else float(off)
    return CycleEvent(kind, orbit, orbit.cycle.p, distance, orbit.residual)
