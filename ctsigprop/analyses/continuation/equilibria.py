"""Branches of equilibria: followed, and what happens on them found and located."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from ctsigprop.analyses.continuation.curve import (
    LostError,
    Point,
    StepControl,
    between,
    crossing,
    follow,
    newton,
    onto,
)
from ctsigprop.analyses.continuation.defining import (
    Branching,
    Defining,
    Equilibria,
    Folding,
    Oscillating,
)
from ctsigprop.analyses.continuation.normal_forms import (
    branch_coefficients,
    first_lyapunov,
    fold_coefficient,
)

__all__ = [
    "MARGINAL",
    "Branch",
    "Located",
    "NotIsolatedError",
    "Region",
    "eigenvalues",
    "lies_on",
    "other_tangents",
    "trace",
]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

MARGINAL = 1e-9
"""A real part below this share of the largest eigenvalue is no growth, and no decay."""

FINEST = 1e-9
"""Segments shorter than this, in scaled unknowns, are not divided further."""


class NotIsolatedError(ValueError):
    """Equilibria that form a surface, so that there is no curve of them to follow."""


@final
@dataclass(frozen=True)
class Region:
    """Where a branch is followed: the range of the parameter, and bounds of y."""

    low: float
    high: float
    below: Array  # (n,), -inf where there is none
    above: Array

    def holds(self, y: Array) -> bool:
        """Tell whether y lies inside the bounds."""
        return bool(((y >= self.below) & (y <= self.above)).all())


@final
@dataclass(frozen=True)
class Located:
    """A bifurcation point.

    Parameters
    ----------
    kind : str
        "fold", "hopf", "pitchfork", "transcritical", or "degenerate".
    u : array
        (y, p).
    J : array
        ∂f/∂y there.
    residual : float
        The largest entry of the equations that define it.
    test : float
        The real part, or the sum of real parts, that has to be zero.
    coefficient : float
        Of the normal form; NaN where there is none.
    criticality : str
        "supercritical", "subcritical", "degenerate", or "none" where the kind has none.
    omega : float
        Angular frequency at a Hopf point, NaN elsewhere.
    """

    kind: str
    u: Array
    J: Array
    residual: float
    test: float
    coefficient: float = np.nan
    criticality: str = "none"
    omega: float = np.nan


@final
@dataclass
class Branch:
    """A branch: its points in order, what was found on it, and why it ends where it ends."""

    points: list[Point]
    ends: tuple[str, str]
    located: list[Located] = field(default_factory=list)


def trace(curve: Equilibria, u: Array, region: Region, control: StepControl) -> Branch:
    """Follow the branch through an equilibrium both ways, and find what happens on it."""
    tangent = _null(curve, u)
    start, _ = onto(curve, u, tangent)
    start = replace(start, tangent=start.tangent * (1.0 if start.tangent[-1] >= 0 else -1.0))
    forwards, end = _walk(curve, start, region, control)
    if end == "closed":
        branch = Branch([start, *forwards, start], (end, end))
    else:
        backwards, beginning = _walk(curve, _turned(start), region, control)
        points = [*map(_turned, reversed(backwards)), start, *forwards]
        branch = Branch(points, (beginning, end))
    whole = [branch.points[0]]
    for a, b, found in _events(curve, branch.points):
        for located in sorted(found, key=lambda f: float((f.u - a.u) / curve.scale @ a.tangent)):
            branch.located.append(located)
            A = curve.linear(located.u)[1]
            whole.append(Point(located.u, a.tangent, A, located.residual, a.step))
        whole.append(b)
    branch.points = whole
    return branch


def lies_on(curve: Equilibria, branch: Branch, u: Array) -> bool:
    """Tell whether an equilibrium is a point of a branch."""
    w = np.stack([point.u for point in branch.points]) / curve.scale
    here = u / curve.scale
    if len(w) == 1:
        return bool(np.abs(w[0] - here).max() < 1e-6)
    a, d = w[:-1], np.diff(w, axis=0)
    share = np.clip(((here - a) * d).sum(1) / np.maximum((d * d).sum(1), 1e-300), 0, 1)
    feet = a + share[:, None] * d
    gaps = np.abs(feet - here).max(1)
    for k in np.argsort(gaps)[:4]:
        length = np.linalg.norm(d[k])
        if gaps[k] > max(length, 1e-6):
            break
        try:
            on, _ = onto(curve, feet[k] * curve.scale, d[k] / max(length, 1e-300))
        except LostError:
            continue
        if np.abs((on.u - u) / curve.scale).max() < 1e-6 * max(1.0, np.abs(here).max()):
            return True
    return False


def other_tangents(curve: Equilibria, found: Located) -> list[Array]:
    """Return the directions in which branches leave a branch point, unit and scaled.

    Where the quadratic form ψ·B vanishes on the plane of the null vectors of (f_y, f_p).
    """
    s = curve.scale
    n = curve.n
    A = curve.linear(found.u)[1] * s / s[:n, None]
    left, _, right = np.linalg.svd(A)
    psi, one, two = left[:, -1], right[-1], right[-2]

    def bent(direction: Array) -> Array:
        h = 1e-5
        up, down = (curve.linear(found.u + k * h * direction * s)[1] for k in (1, -1))
        change: Array = psi @ ((up - down) * s / s[:n, None]) / (2 * h)
        return change

    first, second = bent(one), bent(two)
    form = np.array([[first @ one, first @ two], [first @ two, second @ two]])
    (low, high), axes = np.linalg.eigh(form)
    if not low * high < -1e-10 * max(-low, high) ** 2:
        return []
    pairs = axes @ np.array([[np.sqrt(high), np.sqrt(high)], [np.sqrt(-low), -np.sqrt(-low)]])
    directions = pairs.T @ np.stack([one, two])
    return [v / np.linalg.norm(v) for v in directions]


def eigenvalues(curve: Equilibria, points: list[Point]) -> Complex:
    """Return the eigenvalues at every point, sorted by real part, ``(points, n)``."""
    n = curve.n
    J = np.stack([point.A[:, :n] for point in points])
    s = curve.scale[:n]
    values = np.linalg.eigvals(J * s / s[:, None]).astype(complex)
    order = np.lexsort((values.imag, values.real), axis=-1)
    return np.take_along_axis(values, order, -1)


def _walk(
    curve: Equilibria, start: Point, region: Region, control: StepControl
) -> tuple[list[Point], str]:
    """Return the points after the first one, and why there are no more."""
    found: list[Point] = []
    home, away = start.u / curve.scale, False
    try:
        for point in follow(curve, start, control):
            p = point.u[-1]
            if not region.low <= p <= region.high:
                last = found[-1] if found else start
                edge = crossing(curve, last, point, region.low if p < region.low else region.high)
                return found + ([edge] if edge is not None else []), "range"
            if not region.holds(point.u[:-1]):
                return found, "bounds"
            gap = np.linalg.norm(point.u / curve.scale - home)
            away = away or bool(gap > 4 * control.largest)
            if away and gap < point.step and point.tangent @ start.tangent > 0.9:
                return found, "closed"
            found.append(point)
    except LostError:
        return found, "lost"
    return found, "steps"


@final
@dataclass(frozen=True)
class _Signs:
    """What changes its sign where something happens."""

    turning: float
    det: float
    unstable: int


def _signs(curve: Equilibria, point: Point, values: Complex) -> _Signs:
    s = curve.scale
    n = curve.n
    bordered = np.concatenate([point.A * s / s[:n, None], point.tangent[None]])
    grows = values.real > MARGINAL * np.abs(values).max(initial=0.0)
    return _Signs(
        float(np.sign(point.tangent[-1])), float(np.linalg.slogdet(bordered)[0]), int(grows.sum())
    )


def _events(curve: Equilibria, points: list[Point]) -> Iterator[tuple[Point, Point, list[Located]]]:
    """Yield each segment with what happens on it."""
    signs = [
        _signs(curve, point, values)
        for point, values in zip(points, eigenvalues(curve, points), strict=True)
    ]
    for k in range(len(points) - 1):
        found = list(_between(curve, points[k], points[k + 1], signs[k], signs[k + 1]))
        yield points[k], points[k + 1], found


def _between(
    curve: Equilibria, a: Point, b: Point, at_a: _Signs, at_b: _Signs
) -> Iterator[Located]:
    """Yield what happens on a segment: located if it is one thing, divided if it is more."""
    turned, crossed = at_a.turning != at_b.turning, at_a.det != at_b.det
    change = abs(at_a.unstable - at_b.unstable)
    if not (turned or crossed or change):
        return
    kind = ""
    if turned and not crossed and change == 1:
        kind = "fold"
    elif crossed and (change == 1 or (turned and change == 0)):
        kind = "branch point"
    elif not turned and not crossed and change == 2:
        kind = "hopf"
    found = _locate(curve, a, b, kind) if kind else None
    if found is not None and not (turned and found.kind == "transcritical"):
        yield found
        return
    length = np.linalg.norm((b.u - a.u) / curve.scale)
    if length > FINEST:  # several things, such as a fold beside a transcritical point
        try:
            middle = between(curve, a, b, 0.5)
        except LostError:
            return
        inside = _signs(curve, middle, eigenvalues(curve, [middle])[0])
        yield from _between(curve, a, middle, at_a, inside)
        yield from _between(curve, middle, b, inside, at_b)
        return
    if found is not None:
        yield found
    elif change:
        values = eigenvalues(curve, [a])[0]
        test = float(np.abs(values.real).min())
        yield Located("degenerate", a.u, a.A[:, :-1], a.residual, test)


def _locate(curve: Equilibria, a: Point, b: Point, kind: str) -> Located | None:
    """Return the root of the defining equations in a segment, or None where there is none."""
    n, family, s = curve.n, curve.family, curve.scale
    common = (family, s[:n], s[-1:])
    best: Located | None = None
    for near in (a, b):
        J = near.A[:, :n]
        guess, p = near.u[:n], near.u[n:]
        system: Defining
        try:
            if kind == "fold":
                phi = Folding.guess(J, s[:n])
                system = Folding(*common, along=phi)
                z = np.concatenate([guess, phi, p])
            elif kind == "hopf":
                plane, kappa = Oscillating.guess(J, s[:n])
                system = Oscillating(*common, plane=plane)
                system.scale[2 * n] = max(abs(kappa), 1e-300)
                z = np.concatenate([guess, plane[0], [kappa], p])
            else:
                psi = Branching.guess(J, s[:n])
                system = Branching(*common)
                z = np.concatenate([guess, psi, [0.0], p])
            z, residual = newton(system.linear, z, system.scale)
        except LostError:
            continue
        y, more, p = system.split(z)
        u = np.append(y, p)
        if not _inside(curve, a, b, u):
            continue
        if kind == "branch point" and abs(more[-1]) > 1e-9 * (1 + np.abs(curve.linear(u)[0]).max()):
            continue
        best = _described(curve, u, kind, more, residual)
        if best is not None:
            return best
    return best


def _inside(curve: Equilibria, a: Point, b: Point, u: Array) -> bool:
    """Tell whether a point lies between the ends of a segment, and near it."""
    ends = (a.u / curve.scale, b.u / curve.scale)
    w, chord = u / curve.scale, ends[1] - ends[0]
    length = np.linalg.norm(chord)
    share = (w - ends[0]) @ chord / length**2
    off = np.linalg.norm(w - ends[0] - share * chord)
    slack = 1e-6 / length  # of what was located earlier, with its rounding
    return bool(-slack <= share <= 1 + slack and off <= 0.3 * length + 1e-6)


def _described(
    curve: Equilibria, u: Array, kind: str, more: Array, residual: float
) -> Located | None:
    n, family, size = curve.n, curve.family, curve.scale[: curve.n]
    A = curve.linear(u)[1]
    J = A[:, :n]
    values = np.linalg.eigvals(J * size / size[:, None])
    p = np.append(u[n:], curve.rest.cpu().numpy())
    if kind == "fold":
        a = fold_coefficient(family, u[:n], p, J, size)
        return Located("fold", u, J, residual, float(np.abs(values).min()), a)
    if kind == "hopf":
        if more[-1] <= 0:  # a neutral saddle
            return None
        omega = float(np.sqrt(more[-1]))
        pair = values[np.abs(values - 1j * omega).argmin()]
        l1, vanishes = first_lyapunov(family, u[:n], p, J, omega, size)
        verdict = "degenerate" if vanishes else "subcritical" if l1 > 0 else "supercritical"
        return Located("hopf", u, J, residual, float(pair.real), l1, verdict, omega)
    a, c, pitchfork = branch_coefficients(family, u[:n], p, J, size)
    test = float(np.abs(values).min())
    if not pitchfork:
        return Located("transcritical", u, J, residual, test, a)
    verdict = "degenerate" if c == 0 else "subcritical" if c > 0 else "supercritical"
    return Located("pitchfork", u, J, residual, test, c, verdict)


def _null(curve: Equilibria, u: Array) -> Array:
    """Return the unit tangent of a branch at a point, scaled."""
    s = curve.scale
    A = curve.linear(u)[1] * s / s[: curve.n, None]
    _, values, right = np.linalg.svd(A)
    if values[-1] <= 1e-12 * values[0]:
        raise NotIsolatedError(
            "the equilibria here are not isolated: a whole surface of them passes through "
            f"{u[:-1].tolist()}, so that there is no branch to follow; hold a variable with at="
        )
    tangent: Array = right[-1]
    return tangent


def _turned(point: Point) -> Point:
    return replace(point, tangent=-point.tangent)
