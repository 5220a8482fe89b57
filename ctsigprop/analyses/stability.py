"""Fixed points of a system, and what the linear flow around them is like."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.analyses.flags import flagged
from ctsigprop.analyses.flat import At, FlatField, Inputs, Ranges, check_ranges
from ctsigprop.analyses.newton import find_roots
from ctsigprop.system import System
from ctsigprop.units import divide_units

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

__all__ = ["STABILITIES", "TYPES", "fixed_points", "index", "jacobian"]

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

LARGEST_CERTIFIED = 12
"""The most components for which `fixed_points` looks for a certificate."""

SAFETY = 2.0  # of the Lipschitz constant, over what was sampled
SAMPLES = 24  # of the second derivative, in the ball of a certificate
TURN = 0.5  # radians that the field may turn between two points of a boundary


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
    no proof that there is nothing else (`steady_state` finds the one to which a large network of
    leaky neurons relaxes). In the plane the indices of all that lies inside add up to
    the winding number of the field on the boundary (`index`), which is one check.

    Each point of a system of at most 12 components comes with the numbers of Newton and
    Kantorovich, in units of the ranges and the largest norm:

        beta = |J⁻¹|,  eta = |J⁻¹ f|,  K: |J(x) − J(y)| <= K |x − y| in a ball,  h = beta K eta

    Where h <= 1/2 there is a zero within eta·2/(1 + √(1 − 2h)) of the point, and no other one
    within `radius` = (1 + √(1 − 2h))/(beta K), or the radius of the ball where that is smaller.
    This is a numerical certificate and no proof by computer: K is twice the largest second
    derivative at the point and at 24 others in the ball, found from differences of the exact
    Jacobian, and eta, with the rounding of f added, is not rounded upwards.

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
        the flags ``stability`` and ``type``; ``certificate`` (h) and ``radius`` (in widths of the
        ranges), NaN where there is none: where J is singular, in more than 12 components, and, for
        the radius, where h > 1/2. In the plane ``index``, ±1 where J is regular, else the winding
        number of the field on a small circle, and the attribute ``boundary_index``.

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
    >>> bool(found["certificate"] < 0.5), found["index"].item(), found.attrs["boundary_index"]
    (True, 1, 1)

    References
    ----------
    L. V. Kantorovich, Functional analysis and applied mathematics, Uspekhi Mat. Nauk 3 (1948) 89;
    J. M. Ortega, W. C. Rheinboldt, Iterative Solution of Nonlinear Equations in Several Variables
    (1970), theorem 12.6.2. For indices: S. H. Strogatz, Nonlinear Dynamics and Chaos (1994), 6.8.
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
    dataset = described(field, y, verdicts)
    dataset.attrs = {"starts": starts, "seed": seed, "tolerance": tolerance, "time": t}
    kinds = [kind for _, _, kind in verdicts]
    h, radius = _certificates(field, y, error, size, [kind == "degenerate" for kind in kinds])
    for name, values, meaning in (
        ("certificate", h, "h = beta K eta of Newton and Kantorovich"),
        ("radius", radius, "where the zero is the only one, in widths of the ranges"),
    ):
        attrs = {"units": "1", "long_name": meaning, "missing": "NaN: not certified"}
        dataset[name] = ("fp", values, attrs)
    if len(field.names) == 2 and len(box) == 2:
        numbers = [_index_of(field, y[k], J[k], size, kinds[k]) for k in range(len(y))]
        dataset["index"] = ("fp", np.array(numbers, int), {"units": "1"})
        around = _winding(field, _rectangle(low, high))
        if around is not None:
            dataset.attrs["boundary_index"] = around
    return dataset


def index(
    system: System,
    ranges: Ranges,
    *,
    at: At | None = None,
    t: float = 0.0,
    inputs: Inputs | None = None,
) -> int:
    """Return the Poincaré index of the boundary of a box in the plane.

    The number of turns that the field makes while the boundary is followed once, anticlockwise:
    1/2π ∮ d arctan(f_2/f_1). It is the sum of the indices of the fixed points inside, +1 for nodes,
    foci and centres and −1 for saddles.

    Parameters
    ----------
    system : System
        Without delays, in float64.
    ranges : mapping of str to (float, float)
        The two axes, as in `vector_field`; the first one is to the right.
    at : mapping of str to Tensor or float, optional
        Values of the other variables; initial values for those left out.
    t : float
        The time at which the field stands still.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.

    Raises
    ------
    ValueError
        Where the field vanishes or is not finite on the boundary, or jumps there, so that it has no
        index; ranges and names that do not fit.

    References
    ----------
    S. H. Strogatz, Nonlinear Dynamics and Chaos (1994), section 6.8.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> saddle = ct.System(ct.TextNeuron("dx/dt = x : 1" + chr(10) + "dy/dt = -y : 1"))
    >>> index(saddle, {"x": (-1, 1), "y": (-1, 1)})
    -1
    """
    box = check_ranges(ranges)
    if len(box) != 2:
        raise ValueError(f"index takes two ranges; got {list(ranges)}")
    plane = FlatField(system, free=list(ranges), at=at, t=t, inputs=inputs)
    turns = _winding(plane, _rectangle(*box.T))
    if turns is None:
        raise ValueError(
            f"the field vanishes, jumps or is not finite on the boundary of {dict(ranges)}, which "
            "has no index; take ranges without a fixed point on their edge"
        )
    return turns


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


def _certificates(
    field: FlatField, y: Tensor, error: Tensor, size: Tensor, singular: list[bool]
) -> tuple[Array, Array]:
    """Return h and the radius of uniqueness of each point, NaN where there is none."""
    count, n = y.shape
    h, radius = np.full((2, count), np.nan)
    regular = [k for k in range(count) if not singular[k]]
    if n > LARGEST_CERTIFIED or not regular:
        return h, radius
    y, error = y[regular], error[regular]
    # the norms of sup-spaces: |A| = max_i Σ_j |A_ij|, |B| = max_i Σ_jk |B_ijk|
    inverse = torch.linalg.inv(torch.as_tensor(_scaled_jacobian(field, y, size)))
    f = (field(y).detach() / size).cpu()
    newton = (inverse @ f.unsqueeze(-1)).squeeze(-1)
    eta = (newton.abs() + (error / size).cpu()).amax(-1).numpy()
    beta = inverse.abs().sum(-1).amax(-1).numpy()
    corners = torch.rand(SAMPLES, n, generator=torch.Generator().manual_seed(0)) * 2 - 1
    corners[: SAMPLES // 2] = corners[: SAMPLES // 2].sign()
    shifts = torch.cat([torch.zeros(1, n), corners]).to(y)
    ball = np.full(len(y), 0.1)
    for _ in range(4):  # the ball, as large as the zero's own neighbourhood
        places = (y / size)[:, None] + torch.as_tensor(ball).to(y)[:, None, None] * shifts
        second = _second_derivative(field, places, size).amax(-1)
        known = torch.isfinite(second).numpy()
        K = SAFETY * np.where(known, second.numpy(), np.inf)
        with np.errstate(invalid="ignore", divide="ignore"):
            own = beta * K * eta
            unique = np.where(own <= 0.5, (1 + np.sqrt(np.maximum(1 - 2 * own, 0))) / (beta * K), 0)
        wanted = np.where(known, 2 / np.maximum(beta * K, 1e-3), ball / 10)
        done = known & (own <= 0.5) & (ball >= 2 * eta)
        better = done & ~(np.minimum(unique, ball) <= np.nan_to_num(radius[regular]))
        for k in np.flatnonzero(better):
            radius[regular[k]], h[regular[k]] = min(unique[k], ball[k]), own[k]
        first = known & np.isnan(h[regular])
        h[np.array(regular)[first]] = own[first]
        ball = np.where(wanted < ball, wanted, ball)
    return h, radius


def _second_derivative(field: FlatField, u: Tensor, size: Tensor) -> Tensor:
    """Return the norm of D²f at points in units of the ranges, from differences of the Jacobian."""
    n, step = u.shape[-1], 1e-5
    total = torch.zeros(u.shape, dtype=u.dtype, device=u.device)
    for k in range(n):
        shift = step * torch.eye(n, dtype=u.dtype, device=u.device)[k]
        ahead, behind = (field.jacobian((u + side * shift) * size) for side in (1, -1))
        total += ((ahead - behind) * size / size[:, None]).abs().sum(-1) / (2 * step)
    return total.amax(-1).cpu()


def _rectangle(low: Array, high: Array) -> Array:
    """Return the corners of a box in the plane, anticlockwise, the first one again at the end."""
    shares = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    return low + shares * (high - low)


def _winding(field: FlatField, corners: Array) -> int | None:
    """Return how often the field turns along a polygon; None where it vanishes or jumps."""
    edges = itertools.pairwise(corners)
    line = np.concatenate([np.linspace(a, b, 65)[:-1] for a, b in edges] + [corners[-1:]])
    for _ in range(24):
        f = field(torch.as_tensor(line).to(field.initial)).detach().cpu().numpy()
        if not np.isfinite(f).all() or (f == 0).all(-1).any():
            return None
        # in units of their largest values, which changes no winding number
        scale = np.abs(f).max(0)
        f = f / np.where(scale > 0, scale, 1.0)
        angle = np.arctan2(f[:, 1], f[:, 0])
        turns = (np.diff(angle) + np.pi) % (2 * np.pi) - np.pi
        wide = np.flatnonzero(np.abs(turns) > TURN)
        if not len(wide):
            return round(float(turns.sum()) / (2 * np.pi))
        if len(line) > 20_000:
            return None
        line = np.insert(line, wide + 1, (line[wide] + line[wide + 1]) / 2, axis=0)
    return None


def _index_of(field: FlatField, y: Tensor, J: Array, size: Tensor, kind: str) -> int:
    """Return the index of one point: the sign of det J, or a winding number."""
    if kind != "degenerate":
        return int(np.sign(np.linalg.det(J)))
    angles = np.linspace(0, 2 * np.pi, 65)
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    turns = _winding(field, (y + 1e-3 * size * torch.as_tensor(circle).to(y)).cpu().numpy())
    return 0 if turns is None else turns


def _scaled_jacobian(field: FlatField, y: Tensor, size: Tensor) -> Array:
    J: Array = (field.jacobian(y) * size / size[:, None]).cpu().numpy()
    return J


def described(field: FlatField, y: Tensor, verdicts: list[tuple[Array, str, str]]) -> Dataset:
    """Return points with what `classify` says of each."""
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
        stability=("fp", *flagged([stability for _, stability, _ in verdicts], STABILITIES)),
        type=("fp", *flagged([kind for _, _, kind in verdicts], TYPES)),
    )
    mode = ("mode", np.arange(n), {"units": "1"})
    return dataset.assign_coords(mode=mode, part=["re", "im"])
