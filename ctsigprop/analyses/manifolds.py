"""Stable and unstable manifolds of saddles, where they are curves: separatrices in the plane."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.analyses.flags import flagged
from ctsigprop.analyses.flat import At, FlatField, Inputs, Ranges, check_ranges
from ctsigprop.analyses.stability import classify
from ctsigprop.system import System
from ctsigprop.units import divide_units

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["ENDS", "MANIFOLDS", "manifolds"]

Array = NDArray[np.float64]

MANIFOLDS = ("stable", "unstable")
"""What the points of a curve do: tend to the saddle as time goes on, or as it goes back."""

ENDS = ("left_ranges", "fixed_point", "length", "stopped")
"""Why a curve ends; stopped: the field is not finite there, or too many steps were needed."""

FARTHEST = 0.02  # of the size of the ranges: how far the local manifold is trusted at most
MOST_STEPS = 10_000
SHORTEST = 1e-9  # step, in units of the ranges: below it the field jumps against itself
MARGINAL = 1e-9


def manifolds(
    system: System,
    point: Mapping[str, Tensor | float] | Dataset,
    ranges: Ranges,
    *,
    at: At | None = None,
    length: float = 8.0,
    spacing: float = 0.01,
    tolerance: float = 1e-11,
    close: float = 1e-5,
    t: float = 0.0,
    inputs: Inputs | None = None,
) -> Dataset:
    """Follow the one-dimensional stable and unstable manifolds of saddles.

    Where a saddle y* has one eigenvalue λ on its side of the imaginary axis, with eigenvector v,
    the manifold is a curve. Near the saddle it is, to second order,

        W(σ) = y* + σ v + σ² h,    (2λ − J) h = ½ D²f(v, v)

    from which both branches, σ > 0 and σ < 0, start where the third order is below `tolerance`.
    They go on along dy/ds = ± f/|f|, s the arc length, forward in time for the unstable manifold
    and backward for the stable one (Dormand-Prince 8(5,3)). In the plane these are separatrices.

    Lengths are in units of the ranges: every component over the width of its range, or, where it
    has none, over its own size, at least 1.

    Parameters
    ----------
    system : System
        Without delays, in float64.
    point : mapping of str to Tensor or float, or xarray.Dataset
        One saddle, as a state; it is corrected by Newton's method. Or what `fixed_points` found:
        every saddle in it, and a curve ends where it comes within `close` of any in it.
    ranges : mapping of str to (float, float)
        A curve ends where it leaves them. Components that are not here are not bounded.
    at : mapping of str to Tensor or float, optional
        Values of variables that are held, as in `fixed_points`.
    length : float
        The longest a curve becomes.
    spacing : float
        The distance of the points along a curve.
    tolerance : float
        Of the local manifold, and of each step.
    close : float
        How near to a fixed point a curve has come to it. A larger one saves the last turns around
        a focus.
    t : float
        The time at which the field stands still.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.

    Returns
    -------
    xarray.Dataset
        Along ``point``: every variable ``(point, *dims)``, ``arc_length`` from the saddle and
        ``curve`` (points with one number are one branch, in order from its saddle on). Along
        ``branch``: ``manifold`` (a flag of `MANIFOLDS`), ``rate`` (the eigenvalue), ``saddle`` and
        ``end`` (numbers of fixed points, -1 for none), ``ended`` (a flag of `ENDS`), ``length`` and
        ``start`` (how far from the saddle the integration began).

    Raises
    ------
    ValueError
        A point that is no fixed point, or no saddle with a manifold of one dimension; numbers or
        names that do not fit.

    Notes
    -----
    The method is explicit: where the flow is stiff along a curve, it may stop before its end. A
    state as `point` ends curves at itself alone; give a dataset that has the other points too.

    References
    ----------
    B. Krauskopf et al., A survey of methods for computing (un)stable manifolds of vector fields,
    Int. J. Bifurcation Chaos 15 (2005) 763, section 1; for h, the parameterization method, X.
    Cabré, E. Fontich, R. de la Llave, J. Differential Equations 218 (2005) 444, eq. (1.1) at second
    order.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> well = ct.System(ct.TextNeuron("dx/dt = y : 1" + chr(10) + "dy/dt = x - x**3 : 1"))
    >>> curves = manifolds(well, {"x": 0.0, "y": 0.0}, {"x": (-2, 2), "y": (-2, 2)})
    >>> x, y = (curves[name].values[:, 0] for name in "xy")
    >>> bool(abs(y**2 - x**2 + x**4 / 2).max() < 1e-9)
    True
    """
    box = check_ranges(ranges)
    if not (length > 0 and 0 < spacing <= length and tolerance > 0 and 0 < close < 0.1):
        raise ValueError(
            "manifolds takes length > 0, 0 < spacing <= length, tolerance > 0, 0 < close < 0.1; "
            f"got {length}, {spacing}, {tolerance}, {close}"
        )
    flat = FlatField(system, at=at, t=t, inputs=inputs)
    bounded = FlatField(system, free=list(ranges), at=at, t=t, inputs=inputs).names
    low, high = np.full((2, len(flat.names)), [[-np.inf], [np.inf]])
    where = [flat.names.index(name) for name in bounded]
    low[where], high[where] = box.T
    points, alone = _points(flat, point)
    size = np.where(np.isfinite(low), high - low, 1.0)
    if len(points):
        size = np.where(np.isfinite(low), size, np.maximum(np.abs(points).max(0), 1.0))
    scaled = _Scaled(flat, size)
    curves = [
        curve
        for k in range(len(points))
        for curve in _starts(scaled, points[k] / size, k, tolerance, alone)
    ]
    _follow(
        scaled, curves, points / size, low / size, high / size, length, spacing, tolerance, close
    )
    dataset = _labelled(flat, curves, size)
    dataset.attrs = {"scale": size.tolist(), "tolerance": tolerance, "time": float(t)}
    return dataset


@dataclass
class _Scaled:
    """The field in units of the ranges."""

    flat: FlatField
    size: Array

    def __call__(self, u: Array) -> Array:
        y = torch.from_numpy(u * self.size).to(self.flat.initial)
        with torch.no_grad():
            f: Array = self.flat(y).cpu().numpy() / self.size
        return f

    def jacobian(self, u: Array) -> Array:
        y = torch.from_numpy(u * self.size).to(self.flat.initial)
        J: Array = self.flat.jacobian(y).cpu().numpy() * self.size / self.size[:, None]
        return J


@dataclass
class _Curve:
    """A branch while it grows."""

    saddle: int
    unstable: bool
    rate: float
    start: Array
    distance: float
    points: list[Array]
    arc: list[float] = field(default_factory=lambda: [0.0])
    ended: str = ""
    end: int = -1
    away: bool = False  # whether it has been away from its own saddle

    def add(self, s: float, u: Array) -> None:
        self.arc.append(s)
        self.points.append(u)


def _points(flat: FlatField, point: Mapping[str, Tensor | float] | Dataset) -> tuple[Array, bool]:
    """Return the fixed points, ``(k, n)``, and whether it is one that was given as a state."""
    import xarray as xr

    if isinstance(point, xr.Dataset):
        missing = [name for name in flat.system.variables if name not in point]
        if missing:
            raise ValueError(
                f"point must be a state, or a dataset from fixed_points of the same system; "
                f"it lacks {', '.join(missing)}"
            )
        found = point if "fp" in point.dims else point.expand_dims("fp")
        state = {
            name: torch.as_tensor(found[name].transpose("fp", *variable.dims).values)
            for name, variable in flat.system.variables.items()
        }
        return flat.select(state).cpu().numpy(), False
    y = flat.vector(point)
    for _ in range(50):
        J, f = flat.jacobian(y), flat(y).detach()
        step = torch.linalg.pinv(J) @ f
        y = y - step
        small = float((step.abs() / y.abs().clamp(min=1e-3)).max())
        if not small > 1e-13:
            break
    scale = flat.vector(point).abs().clamp(min=1.0)
    if not small < 1e-9 or float(((y - flat.vector(point)) / scale).abs().max()) > 1e-2:
        rates = ", ".join(f"{value:.3g}" for value in flat(flat.vector(point)).tolist()[:6])
        raise ValueError(f"point must be a fixed point; its derivative is {rates}")
    return y[None].cpu().numpy(), True


def _starts(scaled: _Scaled, u: Array, saddle: int, tolerance: float, alone: bool) -> list[_Curve]:
    """Return the beginnings of all branches of one fixed point; none where it has no curves."""
    J = scaled.jacobian(u)
    values, stability, kind = classify(J, 0.0, MARGINAL)
    zero = MARGINAL * np.abs(values).max()
    sides = {True: values.real > zero, False: values.real < -zero}
    single = [k for k, chosen in sides.items() if chosen.sum() == 1 and stability == "saddle"]
    if not single and alone:
        raise ValueError(
            f"point must be a saddle with one eigenvalue on one side; it is a "
            f"{kind.replace('_', ' ')} with {sides[True].sum()} unstable and "
            f"{sides[False].sum()} stable directions"
        )
    curves = []
    for unstable in sorted(single):
        rate, v = _eigenpair(J, float(values[sides[unstable]][0].real))
        bend = scaled.jacobian(u + 1e-4 * v) - scaled.jacobian(u - 1e-4 * v)
        h = np.linalg.solve(2 * rate * np.eye(len(J)) - J, bend @ v / 2e-4 / 2)
        for side in (1.0, -1.0):
            sigma = side * FARTHEST / (1 + math.sqrt(float(np.abs(h).max())))
            while True:
                start = u + sigma * v + sigma**2 * h
                left = scaled(start) - rate * (sigma * v + 2 * sigma**2 * h)
                error = np.linalg.solve(3 * rate * np.eye(len(J)) - J + 0j, left)
                if np.abs(error).max() < tolerance or abs(sigma) < 1e-8:
                    break
                sigma /= 2
            distance = float(np.linalg.norm(start - u))
            curves.append(_Curve(saddle, unstable, rate, start, distance, [u]))
    return curves


def _eigenpair(J: Array, near: float) -> tuple[float, Array]:
    """Return a real eigenvalue and its unit eigenvector, its largest component positive."""
    values, vectors = np.linalg.eig(J)
    k = int(np.abs(values - near).argmin())
    v = vectors[:, k].real
    v = v / np.linalg.norm(v) * np.sign(v[np.abs(v).argmax()])
    return float(values[k].real), v


def _follow(
    scaled: _Scaled,
    curves: list[_Curve],
    points: Array,
    low: Array,
    high: Array,
    length: float,
    spacing: float,
    tolerance: float,
    close: float,
) -> None:
    """Integrate all branches together, by their arc length; each until it ends."""
    from scipy.integrate import DOP853

    n = len(low)
    alive = []
    for curve in curves:
        if ((curve.start >= low) & (curve.start <= high)).all():
            alive.append(curve)
        else:
            curve.ended = "left_ranges"
    # one clock: the length that has been gone since the start, of every branch
    s, u, step = 0.0, np.array([curve.start for curve in alive]), 1e-3
    for curve in alive:
        curve.add(curve.distance, curve.start)
    floor = np.finfo(float).tiny
    steps = 0
    while alive:
        signs = np.array([1.0 if curve.unstable else -1.0 for curve in alive])[:, None]

        def along(_: float, flat: Array, signs: Array = signs) -> Array:
            f = signs * scaled(flat.reshape(-1, n))
            unit: Array = f / np.maximum(np.linalg.norm(f, axis=-1, keepdims=True), floor)
            return np.where(np.isfinite(unit), unit, 0.0).ravel()

        march = DOP853(
            along,
            s,
            u.ravel(),
            length,
            first_step=min(step, length - s),
            rtol=tolerance,
            atol=0.01 * tolerance,
            max_step=0.05,
        )
        gone: list[int] = []
        while not gone:
            before = march.t
            march.step()
            steps += 1
            path = _Path(march.dense_output(), len(alive))
            # a step may be longer than the neighbourhood of a fixed point that it has come to
            fine = np.linspace(before, march.t, 9)
            first, last = math.floor(before / spacing) + 1, math.floor(march.t / spacing)
            regular = spacing * np.arange(first, last + 1)
            tracks = path(np.concatenate([fine, regular]))
            rates = scaled(tracks[8])
            known = [bool(np.isfinite(f).all()) for f in rates]
            stuck = -1
            if march.t - before < min(SHORTEST, 0.5 * (length - before)):
                # the branch whose direction changes most, a little ahead
                unit = along(0.0, tracks[8].ravel()).reshape(-1, n)
                ahead = along(0.0, (tracks[8] + 1e3 * SHORTEST * unit).ravel()).reshape(-1, n)
                turns = np.linalg.norm(ahead - unit, axis=-1)
                stuck = int(turns.argmax()) if turns.max() > 0.1 else -1
            for k, curve in enumerate(alive):
                own = tracks[:, k]
                stop = march.t
                if not known[k] or k == stuck or steps > MOST_STEPS or march.status == "failed":
                    curve.ended = "stopped"
                elif not ((own[8] >= low) & (own[8] <= high)).all():
                    stop = _leaving(path, k, low, high, before, march.t)
                    curve.ended = "left_ranges"
                near = _near(curve, own[:9], points, close)
                if near is not None:
                    place = before + near[0] * (march.t - before)
                    if place <= stop:
                        stop, curve.end, curve.ended = place, near[1], "fixed_point"
                if not curve.ended and march.status == "finished":
                    curve.ended = "length"
                for at, u in zip(regular, own[9:], strict=True):
                    if at < stop - 1e-3 * spacing:
                        curve.add(curve.distance + float(at), u)
                if curve.ended:
                    gone.append(k)
                    if known[k]:
                        curve.add(curve.distance + stop, path(np.array([stop]))[0, k])
                if curve.end >= 0:
                    rest = float(np.linalg.norm(points[curve.end] - curve.points[-1]))
                    curve.add(curve.arc[-1] + rest, points[curve.end])
        s, step = march.t, max(march.h_abs, 1e-6) if march.status == "running" else 1e-3
        u = march.y.reshape(-1, n)[[k for k in range(len(alive)) if k not in gone]]
        alive = [curve for k, curve in enumerate(alive) if k not in gone]


@dataclass
class _Path:
    """The dense output of one step, of all branches."""

    dense: Any
    branches: int

    def __call__(self, s: Array) -> Array:
        """Return the points at some lengths, ``(len(s), branches, n)``."""
        values: Array = self.dense(s).T.reshape(len(s), self.branches, -1)
        return values


def _near(curve: _Curve, track: Array, points: Array, close: float) -> tuple[float, int] | None:
    """Return at which share of a track it first is close to a fixed point, and to which."""
    # of each piece between two points of the track, the place that is nearest
    along = np.diff(track, axis=0)[:, None]
    apart = points - track[:-1, None]
    share = (apart * along).sum(-1) / np.maximum((along**2).sum(-1), np.finfo(float).tiny)
    share = np.clip(share, 0, 1)
    distance = np.linalg.norm(apart - share[..., None] * along, axis=-1)
    away = np.linalg.norm(track[1:] - points[curve.saddle], axis=-1)
    curve.away |= bool((away > 2 * max(close, curve.distance)).any())
    near: NDArray[np.bool_] = distance < close
    if not curve.away:
        near[:, curve.saddle] = False
    if not near.any():
        return None
    piece = int(near.any(-1).argmax())
    which = int(distance[piece].argmin())
    return (piece + float(share[piece, which])) / len(along), which


def _leaving(path: _Path, k: int, low: Array, high: Array, before: float, now: float) -> float:
    """Return the length at which a branch leaves the ranges, by bisection."""
    for _ in range(60):
        middle = (before + now) / 2
        u = path(np.array([middle]))[0, k]
        before, now = (middle, now) if ((u >= low) & (u <= high)).all() else (before, middle)
    return before


def _labelled(flat: FlatField, curves: list[_Curve], size: Array) -> Dataset:
    one: dict[str, Any] = {"units": "1"}
    rows = [np.array(curve.points) for curve in curves]
    u = np.concatenate([np.empty((0, len(size))), *rows]) * size
    arc = np.concatenate([np.empty(0), *(np.array(curve.arc) for curve in curves)])
    owner = np.repeat(np.arange(len(curves)), [len(curve.points) for curve in curves])
    rate = {"units": divide_units("1", flat.system.time_unit), "long_name": "eigenvalue"}
    share = one | {"long_name": "arc length, in widths of the ranges"}
    return (
        flat.to_xarray(torch.from_numpy(u).to(flat.initial), "point")
        .assign(
            arc_length=("point", arc, share),
            curve=("point", owner, one),
            manifold=("branch", *flagged([MANIFOLDS[c.unstable] for c in curves], MANIFOLDS)),
            rate=("branch", np.array([c.rate for c in curves], float), rate),
            saddle=("branch", np.array([c.saddle for c in curves], int), one),
            end=("branch", np.array([c.end for c in curves], int), one),
            ended=("branch", *flagged([c.ended for c in curves], ENDS)),
            length=("branch", np.array([c.arc[-1] for c in curves], float), share),
            start=("branch", np.array([c.distance for c in curves], float), share),
        )
        .assign_coords(branch=("branch", np.arange(len(curves)), one))
    )
