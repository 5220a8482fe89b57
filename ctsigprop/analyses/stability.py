"""Fixed points of a system, and what the linear flow around them is like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.analyses.flat import At, FlatField, Inputs, Ranges, check_ranges
from ctsigprop.system import System
from ctsigprop.units import divide_units

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

__all__ = ["STABILITIES", "TYPES", "fixed_points", "jacobian"]

Array = NDArray[np.float64]

STABILITIES = ("stable", "unstable", "saddle", "marginal")
"""Verdicts from the signs of the eigenvalues' real parts; marginal: none positive, one zero."""

TYPES = (
    *("stable_node", "unstable_node", "stable_focus", "unstable_focus"),
    *("stable_star", "unstable_star", "stable_improper_node", "unstable_improper_node"),
    *("saddle", "saddle_focus", "centre", "degenerate", "marginal"),
)
"""Types of a fixed point.

A star has one eigenvalue and every direction, an improper node only one direction (both in the
plane). Where the linear flow does not decide: centre (the plane, imaginary eigenvalues),
degenerate (a zero eigenvalue), marginal (an imaginary pair among others).
"""

ITERATIONS = 100
_DAMPING = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.015625, 0.00390625)
_ROUNDING = 1e-14  # of an eigenvalue, relative to the norm of the matrix


def jacobian(
    system: System,
    state: Mapping[str, Tensor | float] | None = None,
    t: float = 0.0,
    *,
    inputs: Inputs | None = None,
) -> DataArray:
    """Return the Jacobian J_ij = ∂(dy_i/dt)/∂y_j, exact, at one state.

    Parameters
    ----------
    system : System
        Without delays, in float64.
    state : mapping of str to Tensor or float, optional
        Each ``(*dims)``; initial values for variables left out.
    t : float
        The time.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.

    Returns
    -------
    xarray.DataArray
        Dims ``(row, column)``, labelled by components such as ``v[0]``. The unit of an entry is
        that of its ``row_unit`` over its ``column_unit``, and it stands in ``units`` where it is
        the same for all.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> J = jacobian(ct.System(ct.fitzhugh_nagumo()), {"v": 2.0})
    >>> J.sel(row="v[0]", column="w[0]").item(), J.attrs["units"]
    (-1.0, '1')
    """
    import xarray as xr

    field = FlatField(system, t=t, inputs=inputs)
    units = {divide_units(a, b) for a in field.rate_units for b in field.units}
    same = len(units) == 1
    attrs = {"units": units.pop() if same else "1", "long_name": "Jacobian"}
    if not same:
        attrs["comment"] = "each entry in row_unit / column_unit"
    return xr.DataArray(
        field.jacobian(field.vector(state or {})).cpu().numpy(),
        dims=("row", "column"),
        coords={
            "row": list(field.names),
            "column": list(field.names),
            "row_unit": ("row", list(field.rate_units)),
            "column_unit": ("column", list(field.units)),
        },
        name="jacobian",
        attrs=attrs,
    )


def fixed_points(
    system: System,
    ranges: Ranges,
    *,
    at: At | None = None,
    starts: int = 256,
    seed: int = 0,
    tolerance: float = 1e-12,
    marginal: float = 1e-9,
    t: float = 0.0,
    inputs: Inputs | None = None,
) -> Dataset:
    """Find the fixed points f(y) = 0 by Newton's method from many starts, and classify each.

    Half of the starts lie on a grid in the ranges, half at random; all are damped Newton
    iterations with the exact Jacobian. What is found inside the ranges is returned; the search is
    no proof that there is nothing else.

    Parameters
    ----------
    system : System
        Without delays, in float64.
    ranges : mapping of str to (float, float)
        Where to look, by variable or component. Components neither here nor in `at` start at
        their initial value, and are not bounded.
    at : mapping of str to Tensor or float, optional
        Values of variables that are held: the fixed points are those of the others.
    starts : int
        How many starts, at least.
    seed : int
        Of the random starts.
    tolerance : float
        A point is accepted where the last Newton step is below `tolerance` times the size of
        the range; or, as at a multiple root, where the derivative is below `tolerance` times its
        median over the starts, and the step below the root of `tolerance`.
    marginal : float
        A real part below `marginal` times the largest eigenvalue counts as zero, and so does one
        that is below its own uncertainty.
    t : float
        The time at which the field stands still.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.

    Returns
    -------
    xarray.Dataset
        Dims ``fp`` (sorted by the components), ``mode`` (one for each free component, sorted by
        the real part) and ``part`` = (re, im): every variable ``(fp, *dims)``, ``eigenvalue``
        ``(fp, mode, part)``, ``residual`` (the largest of the derivatives, each in its own unit),
        and the flags ``stability`` and ``type``.

    Raises
    ------
    ValueError
        Ranges, names or values that do not fit; a field that is finite at none of the starts.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> found = fixed_points(ct.System(ct.fitzhugh_nagumo(I=0.5)), {"v": (-3, 3), "w": (-3, 3)})
    >>> [TYPES[k] for k in found["type"]], round(found["v"].item(), 6)
    (['unstable_focus'], -0.804848)
    """
    box = check_ranges(ranges)
    if not (starts >= 1 and tolerance > 0 and marginal >= 0):
        raise ValueError(
            "fixed_points takes starts >= 1, tolerance > 0, marginal >= 0; "
            f"got {starts}, {tolerance}, {marginal}"
        )
    FlatField(system, free=list(ranges), at=at, t=t, inputs=inputs)  # refuses names that misfit
    field = FlatField(system, at=at, t=t, inputs=inputs)
    low, high = _bounds(field, ranges, box)
    bounded = np.isfinite(low)
    centre = field.initial.cpu().numpy()
    width = np.where(bounded, high - low, np.maximum(np.abs(centre), 1.0))
    grid = np.tile(centre, (starts, 1))
    points = _starts(low[bounded], high[bounded], starts, seed)
    grid = np.tile(centre, (len(points), 1))
    grid[:, bounded] = points
    y, step = _newton(field, torch.as_tensor(grid).to(field.initial), width, tolerance)
    inside = (y >= low - 1e-9 * width) & (y <= high + 1e-9 * width)
    y, step = y[inside.all(-1)], step[inside.all(-1)]
    chosen = _distinct(y / width, step / width)
    y, step = y[chosen], step[chosen]
    found = torch.as_tensor(y).to(field.initial)
    J = field.jacobian(found).cpu().numpy() * width / width[:, None]
    beside = torch.as_tensor(y + 10 * step).to(field.initial)
    shifted = field.jacobian(beside).cpu().numpy() * width / width[:, None]
    looseness = np.abs(shifted - J).sum(-1).max(-1, initial=0.0)
    verdicts = [classify(*pair, marginal) for pair in zip(J, looseness, strict=True)]
    result = field.to_xarray(found, "fp")
    residual = field(found).detach().abs().amax(-1).cpu().numpy() if len(y) else np.zeros(0)
    n = len(field.names)
    eigenvalues = np.array([v[0] for v in verdicts], complex).reshape(-1, n)
    same = set(field.rate_units)
    result = result.assign(
        eigenvalue=(
            ("fp", "mode", "part"),
            np.stack([eigenvalues.real, eigenvalues.imag], -1),
            {"units": divide_units("1", system.time_unit)},
        ),
        residual=(
            "fp",
            residual,
            {
                "units": same.pop() if len(same) == 1 else "1",
                "long_name": "largest derivative, each in its own unit",
            },
        ),
        stability=("fp", *_flags([v[1] for v in verdicts], STABILITIES)),
        type=("fp", *_flags([v[2] for v in verdicts], TYPES)),
    ).assign_coords(mode=("mode", np.arange(n), {"units": "1"}), part=["re", "im"])
    result.attrs = {"starts": len(grid), "seed": seed, "tolerance": tolerance, "time": t}
    return result


def classify(J: Array, looseness: float, marginal: float) -> tuple[Array, str, str]:
    """Return eigenvalues sorted by real part, stability and type of one Jacobian.

    `looseness` is how much J may be off, because the point is known to so many digits only.
    """
    from scipy.linalg import eig

    eigenvalues, left, right = eig(J, left=True)
    order = np.lexsort((eigenvalues.imag, eigenvalues.real))
    eigenvalues = eigenvalues[order]
    norm = np.abs(J).sum(-1).max()
    # the rounding of an eigenvalue grows with its condition, to the root of it where it is defective
    condition = np.abs((left.conj() * right).sum(0))[order]
    rounding = _ROUNDING * norm / np.maximum(condition, np.sqrt(_ROUNDING))
    tolerance = rounding + looseness + marginal * np.abs(eigenvalues).max()
    real, imaginary = eigenvalues.real, eigenvalues.imag
    grows, decays = real > tolerance, real < -tolerance
    turns = np.abs(imaginary) > tolerance
    if grows.any():
        stability = "saddle" if decays.any() else "unstable"
    else:
        stability = "stable" if decays.all() else "marginal"
    if (np.abs(eigenvalues) <= tolerance).any():
        return eigenvalues, stability, "degenerate"
    if not (grows | decays).all():
        return eigenvalues, stability, "centre" if len(J) == 2 else "marginal"
    if stability == "saddle":
        return eigenvalues, stability, "saddle_focus" if turns.any() else "saddle"
    if turns.any():
        return eigenvalues, stability, f"{stability}_focus"
    if len(J) == 2 and abs(real[1] - real[0]) <= tolerance.sum():
        rest = np.abs(J - real.mean() * np.eye(2)).sum(-1).max()
        star = rest <= looseness + (marginal + _ROUNDING) * norm
        return eigenvalues, stability, f"{stability}_{'star' if star else 'improper_node'}"
    return eigenvalues, stability, f"{stability}_node"


def _bounds(field: FlatField, ranges: Ranges, box: Array) -> tuple[Array, Array]:
    low, high = np.full(len(field.names), -np.inf), np.full(len(field.names), np.inf)
    for name, bounds in zip(ranges, box, strict=True):
        names = field.names if name in field.names else field.symbols
        low[names.index(name)], high[names.index(name)] = bounds
    return low, high


def _starts(low: Array, high: Array, count: int, seed: int) -> Array:
    """Return a grid of half the starts or less, off the edges, and random points for the rest."""
    n = len(low)
    side = max(int((count / 2) ** (1 / n) + 1e-9), 1)
    axis = (np.arange(side) + 0.5) / side
    grid = np.stack(np.meshgrid(*[axis] * n, indexing="ij"), -1).reshape(-1, n)
    random = np.random.default_rng(seed).random((max(count - len(grid), 0), n))
    shares: Array = np.concatenate([grid, random])
    return low + shares * (high - low)


def _newton(field: FlatField, y: Tensor, width: Array, tolerance: float) -> tuple[Array, Array]:
    """Return where the iterations from all starts converged, and the last step of each.

    A damped step is accepted if the simplified Newton correction shrinks (Deuflhard's natural
    monotonicity test), which does not depend on the units of f.
    """
    size = torch.as_tensor(width).to(y)
    f = field(y).detach()
    finite = f.isfinite().all(-1)
    if not bool(finite.any()):
        raise ValueError("the derivative is not finite at any start; look at ranges and at=")
    y, f = y[finite], f[finite]
    typical = f.abs().median(0).values
    typical = torch.where(typical > 0, typical, 1.0)
    step = torch.full_like(y, torch.inf)
    active = torch.ones(len(y), dtype=torch.bool, device=y.device)
    for _ in range(ITERATIONS):
        rows = active.nonzero()[:, 0]
        if not len(rows):
            break
        J = field.jacobian(y[rows]) * size / typical[:, None]
        known = J.isfinite().all(-1).all(-1)
        active[rows[~known]] = False
        rows, inverse = rows[known], torch.linalg.pinv(J[known])
        correction = -_apply(inverse, f[rows] / typical)
        step[rows] = correction * size
        moved, value, accepted = _damped(field, y[rows], f[rows], inverse, correction, size, typical)
        y[rows], f[rows] = moved, value
        small = correction.abs().amax(-1) <= 1e-16 + tolerance * 1e-3
        active[rows] = accepted & ~small
    relative = (step.abs() / (size + y.abs())).amax(-1)
    flat = (f.abs() / typical).amax(-1) <= tolerance
    good = (relative <= tolerance) | (flat & (relative <= tolerance**0.5))
    return y[good].cpu().numpy(), step[good].cpu().numpy()


def _damped(
    field: FlatField,
    y: Tensor,
    f: Tensor,
    inverse: Tensor,
    correction: Tensor,
    size: Tensor,
    typical: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points after the longest step that passes the test, and which found one."""
    y, f = y.clone(), f.clone()
    start, length = y.clone(), correction.abs().amax(-1)
    accepted = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for share in _DAMPING:
        rows = (~accepted).nonzero()[:, 0]
        if not len(rows):
            break
        trial = start[rows] + share * correction[rows] * size
        value = field(trial).detach()
        left = _apply(inverse[rows], value / typical).abs().amax(-1)
        passed = value.isfinite().all(-1) & (left <= (1 - share / 4) * length[rows])
        y[rows[passed]], f[rows[passed]] = trial[passed], value[passed]
        accepted[rows[passed]] = True
    return y, f, accepted


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)


def _distinct(y: Array, step: Array) -> list[int]:
    """Return one of each cluster, the best known, sorted; points and their last steps."""
    error = np.abs(step).max(-1, initial=0.0)
    kept: list[int] = []
    for i in np.argsort(error, kind="stable"):
        near = [np.abs(y[i] - y[k]).max() <= 1e-8 + 10 * (error[i] + error[k]) for k in kept]
        if not any(near):
            kept.append(int(i))
    return sorted(kept, key=lambda i: tuple(np.round(y[i], 7)))


def _flags(verdicts: list[str], meanings: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    values = np.array([meanings.index(verdict) for verdict in verdicts], np.int8)
    attrs = {"flag_values": list(range(len(meanings))), "flag_meanings": " ".join(meanings)}
    return values, attrs
