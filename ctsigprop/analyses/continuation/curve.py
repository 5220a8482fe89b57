"""Curves G(u) = 0 in one dimension more than G has: predictor, corrector, and the next step."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Curve",
    "LostError",
    "Point",
    "StepControl",
    "advance",
    "between",
    "crossing",
    "follow",
    "newton",
    "onto",
    "unit",
    "vanishing",
]

Array = NDArray[np.float64]

T = TypeVar("T")

TOLERANCE = 1e-10
"""A Newton step of this size, relative to the scale of each unknown, is the last one."""


class LostError(Exception):
    """Newton's method found no point of the curve."""


class Curve(abc.ABC):
    """G: R^(m+1) → R^m, and the scale of each unknown, in which lengths are measured."""

    scale: Array

    @abc.abstractmethod
    def linear(self, u: Array) -> tuple[Array, Any]:
        """Return G(u) ``(m,)`` and its Jacobian ``(m, m + 1)``, dense or sparse."""

    def solve(self, A: Any, row: Array, rhs: Array) -> Array:
        """Return the x of [A·scale; row] x = rhs, ``(m + 1, ...)``."""
        matrix = np.concatenate([A * self.scale, row[None]])
        try:
            x: Array = np.linalg.solve(matrix, rhs)
        except np.linalg.LinAlgError:
            x = np.linalg.lstsq(matrix, rhs, rcond=None)[0]
        return x


@final
@dataclass(frozen=True)
class Point:
    """A point of a curve.

    Parameters
    ----------
    u : array
        The unknowns, ``(m + 1,)``.
    tangent : array
        The unit tangent in scaled unknowns.
    A : array
        The Jacobian, as `Curve.linear` gives it.
    residual : float
        The largest entry of G.
    step : float
        Length of the step that led here, in scaled unknowns.
    """

    u: Array
    tangent: Array
    A: Any
    residual: float
    step: float


@final
@dataclass(frozen=True)
class StepControl:
    """How long the steps along a curve are, in scaled unknowns.

    Parameters
    ----------
    first, smallest, largest : float
        Lengths.
    turn : float
        The largest angle between successive tangents, in radians.
    most : int
        How many steps.
    """

    first: float = 0.01
    smallest: float = 1e-7
    largest: float = 0.05
    turn: float = 0.35
    most: int = 2000


def newton(
    system: Callable[[Array], tuple[Array, Array]], u: Array, scale: Array, iterations: int = 20
) -> tuple[Array, float]:
    """Return a root of as many equations as unknowns, and the largest entry of G there."""
    for _ in range(iterations):
        G, A = system(u)
        if not (np.isfinite(G).all() and np.isfinite(A).all()):
            raise LostError
        rows = np.abs(A * scale).max(1)  # equations of different sizes weigh the same
        rows[rows == 0] = 1.0
        try:
            delta = np.linalg.solve(A * scale / rows[:, None], -G / rows)
        except np.linalg.LinAlgError:
            raise LostError from None
        length = np.abs(delta).max()
        if not np.isfinite(length) or length > 10:
            raise LostError
        u = u + delta * scale
        if length < TOLERANCE:
            return u, float(np.abs(system(u)[0]).max())
    raise LostError


def onto(
    curve: Curve, guess: Array, tangent: Array, iterations: int = 8, step: float = 0.0
) -> tuple[Point, int]:
    """Return the point of a curve in the plane through a guess across a tangent."""
    u, before = guess, np.inf
    for k in range(1, iterations + 1):
        G, A = curve.linear(u)
        if not np.isfinite(G).all():
            raise LostError
        off = tangent @ ((u - guess) / curve.scale)
        x = curve.solve(A, tangent, np.stack([np.append(-G, -off), unit(len(u))], -1))
        delta, direction = x[:, 0], x[:, 1]
        length = np.abs(delta).max()
        if not np.isfinite(length) or (k > 2 and length > 2 * before):
            raise LostError
        u, before = u + delta * curve.scale, length
        if length < TOLERANCE:
            along = direction / np.linalg.norm(direction)
            return Point(u, along, A, float(np.abs(G).max()), step), k
    raise LostError


def advance(curve: Curve, here: Point, length: float, control: StepControl) -> tuple[Point, float]:
    """Return the next point along the tangent, and the length of the step after it.

    A step that does not converge, or turns too far, is made again with half the length; quick
    ones lengthen the next. `LostError` where the smallest step fails.
    """
    while True:
        guess = here.u + length * here.tangent * curve.scale
        try:
            there, iterations = onto(curve, guess, here.tangent, step=length)
        except LostError:
            iterations = 0
        if iterations and here.tangent @ there.tangent > np.cos(control.turn):
            break
        if length <= control.smallest:
            raise LostError
        length = max(length / 2, control.smallest)
    growth = 1.4 if iterations <= 3 else 1.0 if iterations <= 5 else 0.7
    return there, min(max(length * growth, control.smallest), control.largest)


def follow(curve: Curve, start: Point, control: StepControl) -> Iterator[Point]:
    """Yield the points of a curve from one of them on, along its tangent, up to the most steps.

    Pseudo-arclength: a step along the tangent, then Newton's method across it.
    """
    here, length = start, control.first
    for _ in range(control.most):
        here, length = advance(curve, here, length, control)
        yield here


def between(curve: Curve, a: Point, b: Point, share: float) -> Point:
    """Return the point of a curve across a share of the chord from one point to another."""
    chord = b.u - a.u
    scaled = chord / curve.scale
    return onto(curve, a.u + share * chord, scaled / np.linalg.norm(scaled))[0]


def vanishing(
    curve: Curve, a: Point, b: Point, look: Callable[[Point], T], test: Callable[[T], float]
) -> T | None:
    """Return what is seen at the point between two where a test changes its sign.

    By bracketing along the chord; None where the test has no change of sign, or a point is lost.
    """
    from scipy.optimize import brentq

    seen: dict[float, T] = {}

    def value(share: float) -> float:
        seen[share] = look(between(curve, a, b, share))
        return test(seen[share])

    try:
        share = float(brentq(value, 0.0, 1.0, xtol=1e-13, rtol=1e-13))
        if share not in seen:
            value(share)
    except (LostError, ValueError):
        return None
    return seen[share]


def crossing(
    curve: Curve, inside: Point, outside: Point, value: float, k: int = -1
) -> Point | None:
    """Return the point between two at which unknown `k` has a value; None if there is none."""
    a, b = inside.u[k], outside.u[k]
    if abs(a - value) < 1e-9 * curve.scale[k]:  # it has come there already
        return None
    guess = inside.u + (value - a) / (b - a) * (outside.u - inside.u)
    guess[k] = value
    try:
        point, _ = onto(curve, guess, unit(len(guess), k))
    except LostError:
        return None
    return replace(point, tangent=point.tangent * np.sign(point.tangent @ inside.tangent))


def unit(size: int, k: int = -1) -> Array:
    """Return the direction of one unknown, the last by default: across it that unknown stands."""
    vector = np.zeros(size)
    vector[k] = 1.0
    return vector
