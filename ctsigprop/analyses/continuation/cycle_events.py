"""Bifurcations of cycles: where Floquet multipliers meet the unit circle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from ctsigprop.analyses.continuation.collocation import Cycle, Cycles, multipliers
from ctsigprop.analyses.continuation.curve import LostError, Point, between, vanishing

__all__ = ["STILL", "CycleEvent", "Orbit", "cycle_events", "orbit_at"]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

UNSTABLE = 1e-6
"""A Floquet multiplier is unstable if its modulus is above 1 by more than this."""

STILL = 1e-8
"""Where the parameter moves by less than this share of the arclength, it stands still."""


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


def orbit_at(curve: Cycles, point: Point, size: Array) -> Orbit:
    """Return the cycle of a point, with its multipliers."""
    cycle = curve.cycle(point.u)
    return Orbit(
        cycle,
        multipliers(curve, point.u),
        float(point.tangent[-1]),
        point.residual,
        cycle.roughness(size)[1],
    )


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


def cycle_events(
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
        try:
            middle = between(curve, a, b, 0.5)
        except LostError:
            return
        inside = orbit_at(curve, middle, size)
        yield from cycle_events(curve, a, middle, at_a, inside, size, depth + 1)
        yield from cycle_events(curve, middle, b, inside, at_b, size, depth + 1)


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
    """Return the point where a test function vanishes."""
    orbit = vanishing(curve, a, b, lambda point: orbit_at(curve, point, size), TESTS[kind])
    if orbit is None:
        return None
    if kind == "cycle_branch_point" and abs(orbit.turning) < STILL:
        kind = "cycle_fold"  # of a canard, whose parameter moves by less than its rounding
    elif kind == "cycle_fold" and np.abs(orbit.multipliers[1:] - 1).min(initial=np.inf) > 0.1:
        return None  # the parameter turned within its rounding only
    others = orbit.multipliers[1:]
    off = np.abs(np.abs(others) - 1).min() if len(others) else np.nan
    distance = abs(orbit.turning) if kind == "cycle_fold" else float(off)
    return CycleEvent(kind, orbit, orbit.cycle.p, distance, orbit.residual)
