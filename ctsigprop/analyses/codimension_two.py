"""Curves of folds and Hopf points under two parameters, and the special points on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from ctsigprop.analyses.bifurcations import shown_number
from ctsigprop.analyses.continuation.curve import (
    LostError,
    Point,
    StepControl,
    crossing,
    follow,
    onto,
    vanishing,
)
from ctsigprop.analyses.continuation.defining import Defining, Folding, Oscillating
from ctsigprop.analyses.continuation.equilibria import Located, Region
from ctsigprop.analyses.continuation.labels import symbol_of
from ctsigprop.analyses.continuation.normal_forms import (
    first_lyapunov,
    fold_coefficient,
)
from ctsigprop.analyses.continuation.search import bifurcation_points, search_bounds
from ctsigprop.analyses.flags import flagged
from ctsigprop.analyses.flat import At, Inputs, Ranges, check_ranges
from ctsigprop.analyses.parametric import ParametricField
from ctsigprop.analyses.phase import written
from ctsigprop.solution import root_attributes
from ctsigprop.system import System
from ctsigprop.units import divide_units

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["CODIMENSION_TWO", "CURVES", "bifurcation_curves", "special_findings"]

Array = NDArray[np.float64]

CURVES = ("fold", "hopf", "neutral_saddle")
"""What a curve is made of. A curve of Hopf points goes on, beyond a Bogdanov–Takens point, as one
of neutral saddles, at which nothing bifurcates."""

CODIMENSION_TWO = ("cusp", "bogdanov_takens", "bautin", "fold_hopf", "double_hopf")
"""Points at which two conditions hold: two folds meet; a fold and a Hopf curve touch (a double zero
eigenvalue); a Hopf point changes its criticality; a zero and an imaginary pair; two pairs."""


def bifurcation_curves(
    system: System,
    bounds: Mapping[str, tuple[float, float]],
    *,
    ranges: Ranges | None = None,
    at: At | None = None,
    starts: int = 64,
    seed: int = 0,
    steps: int = 1000,
    largest: float = 0.03,
    t: float = 0.0,
    inputs: Inputs | None = None,
    title: str = "",
) -> DataTree:
    """Follow every fold and Hopf point of a bifurcation diagram in a second parameter.

    The points are those of `bifurcation_diagram` under the first parameter, with the second at the
    value that the system has, or at one of four others in its range where there are none. Their
    defining equations with both parameters free have curves of roots, which are followed by
    pseudo-arclength.

    Parameters
    ----------
    system : System
        Without delays, in float64.
    bounds : mapping of str to (float, float)
        The two parameters and their ranges.
    ranges, at, starts, seed, steps, largest, t, inputs, title : optional
        As in `bifurcation_diagram`.

    Returns
    -------
    xarray.DataTree
        /curves with dim ``point`` (points with one ``curve`` number are joined in order): both
        parameters, the variables, ``kind``, ``angular_frequency``, ``coefficient`` of the normal
        form, ``residual``. /codimension_two with dim ``special``: where, and which ``kind``.

    Raises
    ------
    ValueError
        Names or ranges that do not fit; no fold and no Hopf point to begin with.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> neuron = ct.System(ct.fitzhugh_nagumo())
    >>> tree = bifurcation_curves(neuron, {"I": (0, 2), "tau": (2, 20)}, ranges={"v": (-3, 3)})
    >>> sorted({CURVES[k] for k in tree["curves/kind"].values})
    ['hopf']
    """
    import xarray as xr

    if len(bounds) != 2:
        raise ValueError(f"bounds must name two parameters; got {list(bounds)}")
    names = [*bounds]
    box = check_ranges(bounds)
    family = ParametricField(system, names, at=at, t=t, inputs=inputs)
    for name, (low, high) in zip(names, box, strict=True):
        family.check(name, low, high)
    below, above, size = search_bounds(family.field, ranges, at)
    width = box[:, 1] - box[:, 0]
    region = Region(box[0, 0], box[0, 1], below, above)
    control = StepControl(first=largest / 5, largest=largest, most=steps)
    second = float(family.initial[1])
    levels = [box[1, 0] + share * width[1] for share in (0.5, 0.2, 0.8, 0.05, 0.95)]
    if box[1, 0] <= second <= box[1, 1]:
        levels.insert(0, second)
    curves: list[_Curve] = []
    for level in levels:
        family.initial[1] = level
        for found in bifurcation_points(family, region, size, width, control, starts, seed):
            if found.kind in ("fold", "hopf"):
                start = np.append(found.u, level)
                if not any(curve.passes(start, found.kind) for curve in curves):
                    curves.append(_Curve(family, found, start, size, box, region, control))
    family.initial[1] = second
    if not curves:
        raise ValueError(
            f"no fold and no Hopf point under {names[0]} in {tuple(box[0])}, at any of the values "
            f"{[round(float(level), 6) for level in levels]} of {names[1]}"
        )
    tree = xr.DataTree.from_dict(
        {"/curves": _points(family, curves), "/codimension_two": _special(family, curves)}
    )
    tree.attrs = root_attributes(title or f"bifurcations under {names[0]} and {names[1]}") | {
        "parameters": [symbol_of(family.field, name) for name in names],
        "bounds": {name: tuple(map(float, b)) for name, b in zip(names, box, strict=True)},
        "held": family.held,
        "time": t,
        "system": written(system),
    }
    return tree


@final
@dataclass(frozen=True)
class _Special:
    """A point of codimension two."""

    kind: str
    u: Array  # (y, both parameters)
    residual: float


@final
@dataclass(frozen=True)
class _Spot:
    """A point of a curve, and what its test functions say."""

    u: Array  # (y, both parameters)
    kappa: float  # ω² of a Hopf point; 0 on a fold
    coefficient: float
    residual: float
    tests: Mapping[str, float]


class _Curve:
    """A curve of folds or Hopf points through one of them."""

    def __init__(
        self,
        family: ParametricField,
        found: Located,
        start: Array,
        size: Array,
        box: Array,
        region: Region,
        control: StepControl,
    ) -> None:
        self.family, self.kind, self.size, self.box = family, found.kind, size, box
        self.width, self.region, self.control = box[:, 1] - box[:, 0], region, control
        self.scale = np.concatenate([size, self.width])
        self.special: list[_Special] = []
        self.speed = float(np.abs(np.linalg.eigvals(found.J)).max()) ** 2
        system, z = self._system(start, found.J)
        first = self._first(system, z)
        forwards = self._along(system, first)
        backwards = self._along(system, replace(first, tangent=-first.tangent))
        self.spots = backwards[:0:-1] + forwards

    def passes(self, u: Array, kind: str) -> bool:
        """Tell whether the curve passes through a point."""
        if kind != self.kind:
            return False
        w = np.stack([spot.u for spot in self.spots]) / self.scale
        here = u / self.scale
        a, d = w[:-1], np.diff(w, axis=0)
        share = np.clip(((here - a) * d).sum(1) / np.maximum((d * d).sum(1), 1e-300), 0, 1)
        gaps = np.linalg.norm(a + share[:, None] * d - here, axis=1)
        return bool((gaps < 0.05 * np.linalg.norm(d, axis=1) + 1e-6).any())

    def _system(self, u: Array, J: Array) -> tuple[Defining, Array]:
        """Return the defining equations normalised at a point, and the unknowns there."""
        common = (self.family, self.size, self.width, 2)
        n = len(self.size)
        if self.kind == "fold":
            phi = Folding.guess(J, self.size)
            return Folding(*common, along=phi), np.concatenate([u[:n], phi, u[n:]])
        plane, kappa = Oscillating.guess(J, self.size)
        system = Oscillating(*common, plane=plane)
        system.scale[2 * n] = self.speed
        return system, np.concatenate([u[:n], plane[0], [kappa], u[n:]])

    def _first(self, system: Defining, z: Array) -> Point:
        A = system.linear(z)[1] * system.scale
        rows = np.abs(A).max(1, keepdims=True)
        tangent = np.linalg.svd(A / np.where(rows > 0, rows, 1.0))[2][-1]
        return onto(system, z, tangent, iterations=12)[0]

    def _along(self, system: Defining, first: Point) -> list[_Spot]:
        """Return the spots from a point on; the equations are normalised anew as it goes."""
        n = len(self.size)
        spots = [self._spot(system, first)]
        here, length = first, self.control.first
        for _ in range(self.control.most // 4):
            try:
                chunk = replace(self.control, first=length, most=4)
                for there in follow(system, here, chunk):
                    spot = self._spot(system, there)
                    inside = (spot.u[n:] >= self.box[:, 0]) & (spot.u[n:] <= self.box[:, 1])
                    if not inside.all():
                        return [*spots, *self._edge(system, here, there)]
                    if not self.region.holds(spot.u[:n]):
                        return spots
                    self._look(system, here, there, spots[-1], spot)
                    spots.append(spot)
                    here, length = there, max(there.step, self.control.smallest)
                if len(spots) > 12 and self._closed(spots):
                    return spots
                system, here = self._renewed(system, here)
            except LostError:
                return spots
        return spots

    def _edge(self, system: Defining, inside: Point, outside: Point) -> list[_Spot]:
        """Return the spot at which a curve leaves the box, if Newton's method finds it."""
        a, b = inside.u[-2:], outside.u[-2:]
        ends = np.where(b < self.box[:, 0], self.box[:, 0], self.box[:, 1])
        beyond = (b < self.box[:, 0]) | (b > self.box[:, 1])
        shares = np.where(beyond, (ends - a) / np.where(b == a, 1.0, b - a), 1.0)
        k = int(shares.argmin())
        edge = crossing(system, inside, outside, float(ends[k]), k - 2)
        return [] if edge is None else [self._spot(system, edge)]

    def _closed(self, spots: list[_Spot]) -> bool:
        gaps = [np.linalg.norm((spot.u - spots[0].u) / self.scale) for spot in spots]
        near = 1.5 * np.linalg.norm((spots[-1].u - spots[-5].u) / self.scale)
        return bool(gaps[-1] < near and max(gaps) > 4 * near)

    def _renewed(self, system: Defining, here: Point) -> tuple[Defining, Point]:
        y, _, p = system.split(here.u)
        J = self._jacobian(y, p)
        renewed, z = self._system(np.append(y, p), J)
        n = len(self.size)
        tangent = np.zeros(len(z))
        tangent[:n], tangent[-2:] = here.tangent[:n], here.tangent[-2:]
        length = np.linalg.norm(tangent)
        if length < 1e-6:
            return system, here
        return renewed, onto(renewed, z, tangent / length, iterations=12, step=here.step)[0]

    def _jacobian(self, y: Array, p: Array) -> Array:
        import torch

        like = self.family.initial
        rows = (torch.as_tensor(x[None]).to(like) for x in (y, p))
        J: Array = self.family.linear(*rows)[1][0].cpu().numpy()
        return J

    def _spot(self, system: Defining, point: Point) -> _Spot:
        """Return the point with its normal form, and its test functions."""
        y, more, p = system.split(point.u)
        J = self._jacobian(y, p)
        values = np.linalg.eigvals(J * self.size / self.size[:, None])
        tests: dict[str, float] = {}
        if self.kind == "fold":
            coefficient = fold_coefficient(self.family, y, p, J, self.size)
            others = np.delete(values, np.abs(values).argmin())
            rest = float(np.prod(others).real)
            tests["bogdanov_takens"] = rest
            # with ψ·φ = 1, a turns its sign where ψ·φ = 0 too, at a second zero eigenvalue
            tests["cusp"] = coefficient * float(np.sign(rest))
            tests["fold_hopf"] = _sums(others)
            return _Spot(np.append(y, p), 0.0, coefficient, point.residual, tests)
        kappa = float(more[-1])
        tests["bogdanov_takens"] = kappa
        coefficient = np.nan
        pair = np.sqrt(complex(-kappa))
        one = int(np.abs(values - pair).argmin())
        others = np.delete(values, one)
        others = np.delete(others, int(np.abs(others + pair).argmin()))
        if kappa > 0:
            omega = float(np.sqrt(kappa))
            coefficient, _ = first_lyapunov(self.family, y, p, J, omega, self.size)
            tests["bautin"] = coefficient
        if len(others):
            tests["fold_hopf"] = float(np.prod(others).real)
        if len(others) > 1:
            tests["double_hopf"] = _sums(others)
        return _Spot(np.append(y, p), kappa, coefficient, point.residual, tests)

    def _look(self, system: Defining, a: Point, b: Point, at_a: _Spot, at_b: _Spot) -> None:
        """Add the special points between two points."""
        for kind in at_a.tests.keys() & at_b.tests.keys():
            before, after = at_a.tests[kind], at_b.tests[kind]
            if before * after < 0:
                found = self._special(system, a, b, kind, max(abs(before), abs(after)))
                if found is not None:
                    self.special.append(found)

    def _special(
        self, system: Defining, a: Point, b: Point, kind: str, size: float
    ) -> _Special | None:
        """Return where a test function vanishes; None where it jumps over zero."""
        try:
            spot = vanishing(
                system, a, b, lambda point: self._spot(system, point), lambda s: s.tests[kind]
            )
        except KeyError:  # it ends in between: a Hopf point has become a neutral saddle
            return None
        if spot is None or abs(spot.tests[kind]) > 1e-3 * size:
            return None
        if kind in ("fold_hopf", "double_hopf") and not self._imaginary(spot, kind):
            return None
        return _Special(kind, spot.u, spot.residual)

    def _imaginary(self, spot: _Spot, kind: str) -> bool:
        """Tell whether what meets the fold or Hopf point is an imaginary pair, or a zero."""
        n = len(self.size)
        values = np.linalg.eigvals(self._jacobian(spot.u[:n], spot.u[n:]))
        largest = np.abs(values).max()
        critical = values[np.abs(values.real) < 1e-6 * largest]
        turning = int((np.abs(critical.imag) > 1e-6 * largest).sum())
        return turning == (4 if kind == "double_hopf" else 2) and len(critical) > 2


def _sums(values: NDArray[np.complex128]) -> float:
    """Return the product of all sums of two eigenvalues: zero where a pair is imaginary."""
    i, j = np.triu_indices(len(values), 1)
    return float(np.prod(values[i] + values[j]).real) if len(i) else 1.0


def _points(family: ParametricField, curves: list[_Curve]) -> Dataset:
    spots = [spot for curve in curves for spot in curve.spots]
    kinds = [
        "fold" if curve.kind == "fold" else "hopf" if spot.kappa > 0 else "neutral_saddle"
        for curve in curves
        for spot in curve.spots
    ]
    omega = np.array([np.sqrt(s.kappa) if s.kappa > 0 else np.nan for s in spots])
    rate = {"units": divide_units("1", family.field.system.time_unit)}
    only = {"missing": "NaN where it is no Hopf point"}
    none = {"missing": "NaN at neutral saddles, which have no normal form"}
    lengths = [len(curve.spots) for curve in curves]
    return _states(family, np.stack([spot.u for spot in spots]), "point").assign(
        kind=("point", *flagged(kinds, CURVES)),
        angular_frequency=("point", omega, rate | only),
        coefficient=("point", [spot.coefficient for spot in spots], {"units": "1"} | none),
        residual=("point", [spot.residual for spot in spots], {"units": "1"}),
        curve=("point", np.repeat(np.arange(len(curves)), lengths), {"units": "1"}),
    )


def _special(family: ParametricField, curves: list[_Curve]) -> Dataset:
    every = [special for curve in curves for special in curve.special]
    scale = curves[0].scale
    kept: list[_Special] = []
    for special in every:
        if not any(
            special.kind == other.kind and np.abs((special.u - other.u) / scale).max() < 1e-3
            for other in kept
        ):
            kept.append(special)
    u = np.array([special.u for special in kept], float).reshape(-1, len(scale))
    return _states(family, u, "special").assign(
        kind=("special", *flagged([special.kind for special in kept], CODIMENSION_TWO)),
        residual=("special", np.array([s.residual for s in kept], float), {"units": "1"}),
    )


def _states(family: ParametricField, u: Array, dim: str) -> Dataset:
    import torch

    field = family.field
    dataset = field.to_xarray(torch.as_tensor(u[:, :-2]).to(field.initial), dim, held=False)
    columns: dict[str, Any] = {
        symbol_of(field, name): (dim, column, {"units": unit})
        for name, unit, column in zip(family.parameters, family.units, u[:, -2:].T, strict=True)
    }
    return dataset.assign(columns)


def special_findings(tree: DataTree) -> str:
    """Return in words what curves of bifurcations show, a line for each special point.

    Parameters
    ----------
    tree : xarray.DataTree
        From `bifurcation_curves`.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> cubic = ct.System(ct.TextNeuron("dx/dt = a + b*x - x**3 : 1", a=0.0, b=1.0))
    >>> tree = bifurcation_curves(cubic, {"a": (-1, 1), "b": (-1, 2)}, ranges={"x": (-3, 3)})
    >>> print(special_findings(tree))
    under a and b: 1 curve of folds, 0 of Hopf points
      a = 0, b = 0  cusp: two curves of folds meet
    """
    x, y = tree.attrs["parameters"]
    curves, special = tree["curves"].to_dataset(), tree["codimension_two"].to_dataset()
    folds = {
        int(c)
        for c, k in zip(curves["curve"].values, curves["kind"].values, strict=True)
        if CURVES[int(k)] == "fold"
    }
    others = int(curves["curve"].max()) + 1 - len(folds)
    lines = [
        f"under {x} and {y}: {len(folds)} {'curve' if len(folds) == 1 else 'curves'} of folds, "
        f"{others} of Hopf points"
    ]
    said = {
        "cusp": "cusp: two curves of folds meet",
        "bogdanov_takens": "Bogdanov-Takens: a curve of Hopf points ends on one of folds",
        "bautin": "Bautin: Hopf points turn from super- to subcritical",
        "fold_hopf": "fold-Hopf: a zero and an imaginary pair of eigenvalues",
        "double_hopf": "double Hopf: two imaginary pairs of eigenvalues",
    }
    for k in range(special.sizes["special"]):
        where = [
            f"{name} = {shown_number(float(special[name][k]), high - low)}"
            for name, (low, high) in zip((x, y), tree.attrs["bounds"].values(), strict=True)
        ]
        lines.append(f"  {', '.join(where)}  {said[CODIMENSION_TWO[int(special['kind'][k])]]}")
    return "\n".join(lines)
