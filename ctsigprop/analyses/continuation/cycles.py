"""Branches of limit cycles: followed from a Hopf point or a cycle, and what happens on them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from ctsigprop.analyses.continuation.collocation import (
    DEGREE,
    Cycle,
    Cycles,
    even_mesh,
    node_times,
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
    unit,
)
from ctsigprop.analyses.continuation.cycle_events import (
    STILL,
    CycleEvent,
    Orbit,
    cycle_events,
    orbit_at,
)
from ctsigprop.analyses.continuation.defining import Equilibria, Folding
from ctsigprop.analyses.continuation.equilibria import Located, Region
from ctsigprop.analyses.parametric import ParametricField

__all__ = [
    "CycleBranch",
    "doubled",
    "from_hopf",
    "refined",
    "resampled",
    "trace_cycles",
]

Array = NDArray[np.float64]

LOCAL_ERROR = 1e-8
"""Of the polynomials, relative to the size of each variable: the mesh grows until it is kept."""

INTERVALS = (20, 320)
"""The least and the largest number of intervals of a mesh."""

BORN = 0.01
"""Amplitude of the first cycle at a Hopf point, relative to the size of the variables."""

Spread = tuple[Array, Array]


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
    wave = (q * np.exp(2j * np.pi * node_times(mesh))[:, None]).real
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
    for _ in range(3):
        v = curve.solve(A, unit(len(u)), v)
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
    cycle = guess
    for _ in range(12):
        curve = Cycles(family, cycle, size, width)
        point, _ = onto(curve, curve.pack(cycle), unit(len(curve.scale)), iterations=20)
        cycle = curve.cycle(point.u)
        count = _enough(cycle, size, tolerance)
        uneven = _uneven(cycle, size)
        if count <= len(cycle.mesh) - 1 and uneven < 2:
            break
        cycle = cycle.on(remeshed(cycle, size, max(count, len(cycle.mesh) - 1)))
    return orbit_at(curve, point, size)


def resampled(phase: Array, states: Array, period: float, p: float = 0.0) -> Cycle:
    """Return a cycle through states along a loop, on a mesh that is dense where they move fast."""
    size = np.maximum(np.ptp(states, axis=0), 1e-300)
    length = np.abs(np.diff(states, axis=0) / size).sum(1) + np.diff(phase)
    mesh = even_mesh(phase, length, 80)
    times = node_times(mesh)
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
    first, _ = onto(curve, u, unit(len(u)), iterations=12)
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
        orbits = [orbit_at(curve, here, self.size)]
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
            orbit = orbit_at(curve, there, self.size)
            if _turned_over(curve, here, there):
                end = "hopf"
                break
            if born == "period_doubling" and _turned_over(curve, here, there, halves=True):
                end = born
                break
            if not self.region.low <= there.u[-1] <= self.region.high:
                low, high = self.region.low, self.region.high
                edge = crossing(curve, here, there, low if there.u[-1] < low else high)
                orbits += [] if edge is None else [orbit_at(curve, edge, self.size)]
                end = "range"
                break
            if not all(map(self.region.holds, orbit.cycle.extremes())):
                end = "bounds"
                break
            found = list(cycle_events(curve, here, there, orbits[-1], orbit, self.size))
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
                end = last.kind if last is not None else "long_period"
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
        moved = cycle.on(mesh)
        renewed = Cycles(self.family, moved, self.size, self.width)
        raw = here.tangent * curve.scale
        shape = Cycle(cycle.mesh, raw[:-2].reshape(-1, curve.n), 1.0, 0.0)
        tangent = np.concatenate([shape.on(mesh).x.reshape(-1), raw[-2:]]) / renewed.scale
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
        try:
            rest, _ = onto(curve, slow, unit(len(slow)), iterations=20)
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
