"""Fixed points of a system, and what the linear flow around them is like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.analyses.flat import At, FlatField, Inputs, Ranges, check_ranges
from ctsigprop.analyses.newton import find_roots
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
    >>> [TYPES[k] for k in found["type"].values], round(found["v"].item(), 6)
    (['unstable_focus'], -0.804848)
    """
    box = check_ranges(ranges)
    if not (starts >= 1 and tolerance > 0 and marginal >= 0):
        raise ValueError(
            "fixed_points takes starts >= 1, tolerance > 0, marginal >= 0; "
            f"got {starts}, {tolerance}, {marginal}"
        )
    bounded = FlatField(system, free=list(ranges), at=at, t=t, inputs=inputs).names
    field = FlatField(system, at=at, t=t, inputs=inputs)
    low, high = np.full((2, len(field.names)), [[-np.inf], [np.inf]])
    where = [field.names.index(name) for name in bounded]
    low[where], high[where] = box.T
    y, error, size = find_roots(field, low, high, starts, seed, tolerance)
    J = _scaled_jacobian(field, y, size)
    shifts = torch.diag_embed(error).movedim(-1, 0)
    changes = sum(abs(_scaled_jacobian(field, y + shift, size) - J) for shift in shifts)
    looseness = np.asarray(changes).sum(-1).max(-1, initial=0.0)
    verdicts = [classify(*pair, marginal) for pair in zip(J, looseness, strict=True)]
    dataset = _described(field, y, verdicts)
    dataset.attrs = {"starts": starts, "seed": seed, "tolerance": tolerance, "time": t}
    return dataset


def classify(J: Array, looseness: float, marginal: float) -> tuple[Array, str, str]:
    """Return eigenvalues sorted by real part, stability and type of one Jacobian.

    `looseness` is how much J may be off, because the point is known to so many digits only.
    """
    from scipy.linalg import eig

    eigenvalues, left, right = eig(J, left=True, right=True)  # type: ignore[misc]
    order = np.lexsort((eigenvalues.imag, eigenvalues.real))
    eigenvalues = eigenvalues[order]
    norm = np.abs(J).sum(-1).max()
    # rounding of an eigenvalue grows with its condition, up to its root where it is defective
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


def _scaled_jacobian(field: FlatField, y: Tensor, size: Tensor) -> Array:
    J: Array = (field.jacobian(y) * size / size[:, None]).cpu().numpy()
    return J


def _described(field: FlatField, y: Tensor, verdicts: list[tuple[Array, str, str]]) -> Dataset:
    n = len(field.names)
    modes = np.array([eigenvalues for eigenvalues, _, _ in verdicts], complex).reshape(-1, n)
    units = set(field.rate_units)
    residual = {
        "units": units.pop() if len(units) == 1 else "1",
        "long_name": "largest derivative, each in its own unit",
    }
    rate = {"units": divide_units("1", field.system.time_unit)}
    dataset = field.to_xarray(y, "fp").assign(
        eigenvalue=(("fp", "mode", "part"), np.stack([modes.real, modes.imag], -1), rate),
        residual=("fp", field(y).detach().abs().amax(-1).cpu().numpy(), residual),
        stability=("fp", *_flags([stability for _, stability, _ in verdicts], STABILITIES)),
        type=("fp", *_flags([kind for _, _, kind in verdicts], TYPES)),
    )
    mode = ("mode", np.arange(n), {"units": "1"})
    return dataset.assign_coords(mode=mode, part=["re", "im"])


def _flags(verdicts: list[str], meanings: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    values = np.array([meanings.index(verdict) for verdict in verdicts], np.int8)
    attrs = {"flag_values": list(range(len(meanings))), "flag_meanings": " ".join(meanings)}
    return values, attrs
