"""The flow of a large network on a plane: of principal components, of rotations, or a given one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.analyses.flat import At, FlatField, Inputs
from ctsigprop.analyses.slow_points import start_states
from ctsigprop.errors import unknown
from ctsigprop.solution import Solution, root_attributes
from ctsigprop.system import System

if TYPE_CHECKING:
    from xarray import DataTree

__all__ = ["fit_rotation", "reduced_flow"]

Array = NDArray[np.float64]

AXES = ("first", "second")


def reduced_flow(
    source: System | Solution,
    basis: Literal["pca", "jpca"] | Tensor | Array = "pca",
    *,
    states: Mapping[str, Tensor] | None = None,
    at: At | None = None,
    components: int = 6,
    points: int = 25,
    margin: float = 0.15,
    outside: Literal["mean", "slaved"] = "mean",
    t: float | None = None,
    inputs: Inputs | None = None,
    title: str = "",
) -> DataTree:
    """Project the flow of a system on a plane, and say everywhere how much of it is left out.

    With the states y of a run, their mean ȳ, and an orthonormal basis B ``(n, 2)``, the coordinates
    of the plane are z = Bᵀ(y − ȳ), and the flow in it, at the points y = ȳ + B z, is

        dz/dt = Bᵀ f(y),    left out:  |f − B Bᵀ f| / |f|

    Instead of at the mean, what is outside of the plane can be slaved to it: y = ȳ + B z + Q w,
    with w where Qᵀ f = 0, Q the rest of an orthonormal basis: as if it were infinitely fast.

    The basis is that of the two largest principal components ("pca"); or, with "jpca", the plane of
    fastest rotation: of the skew-symmetric M that fits dx/dt = M x + const. best, x the first
    `components` principal components (see `fit_rotation`), with the velocities of the system.

    Parameters
    ----------
    source : Solution or System
        A run, whose states and inputs are used; or a system, with `states`.
    basis : {"pca", "jpca"} or array
        Or columns ``(n, 2)`` by which the plane is spanned; they are made orthonormal, and the
        first one keeps its direction.
    states : mapping of str to Tensor, optional
        For a system: values of its variables, each ``(..., *dims)``.
    at : mapping of str to Tensor or float, optional
        Values of variables that are held, such as learned weights; the plane is one of the others.
    components : int
        How many principal components the rotation is looked for in, at most.
    points : int
        Of the grid, along each axis.
    margin : float
        By what share of their extent the grid goes beyond the states.
    outside : {"mean", "slaved"}
        Where the flow is taken, in the directions out of the plane.
    t : float, optional
        The time at which the field stands still; of a run, the last one by default, else 0.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, without batch axes; by default those of the run.
    title : str
        Of the tree, and of its figure.

    Returns
    -------
    xarray.DataTree
        /plane: ``basis`` (component, axis), ``mean`` (component), ``variance`` (axis, the share
        that each explains), the field ``first_rate``, ``second_rate`` on the grid (first, second),
        and ``left_out`` there, the share of the speed that leads out of the plane; slaved, also
        ``distance`` from the plane. With "jpca" ``frequency``, in radians, and ``fit_rotation`` and
        ``fit_linear``, R² of M and of an unconstrained matrix. /trajectories: ``place`` (…, axis),
        ``left_out`` (of the speed there) and ``distance`` from the plane, over its root mean square
        from the mean; the field there has the run's own inputs and time.

    Raises
    ------
    ValueError
        Names, shapes or numbers that do not fit; states of no extent; components of different
        units.

    References
    ----------
    M. M. Churchland et al., Neural population dynamics during reaching, Nature 487 (2012) 51,
    supplementary eqs. 1 to 5 (jPCA).

    Examples
    --------
    >>> import ctsigprop as ct
    >>> pair = ct.System(ct.TextNeuron("dx/dt = -3*y : 1" + chr(10) + "dy/dt = 3*x : 1"))
    >>> run = ct.solve(pair, {"x": 1.0, "y": 0.0}, torch.linspace(0, 4, 41), rtol=1e-10)
    >>> tree = reduced_flow(run, "jpca")
    >>> round(tree["plane"]["frequency"].item(), 9), ct.validate(tree)
    (3.0, [])
    """
    import xarray as xr

    _check(source, basis, states, components, points, margin, outside)
    run = source if isinstance(source, Solution) else None
    system = source.system if isinstance(source, Solution) else source
    when = float(run.t.max() if t is None else t) if run is not None else float(t or 0.0)
    signals: Any = run.inputs if inputs is None and run is not None else inputs
    field = FlatField(system, at=at, t=when, inputs=signals)
    if len(set(field.units)) > 1:
        raise ValueError(
            "reduced_flow needs components of one unit, whose sizes can be compared; hold others "
            f"by at=. Units: {', '.join(sorted(set(field.units)))}"
        )
    n = len(field.names)
    if n < 2:
        raise ValueError("reduced_flow needs a system of at least two free components; it has one")
    track, dims, coords = _track(field, run, states)
    y = track.reshape(-1, n)
    y = y[y.isfinite().all(-1)]
    f = _velocities(field, run, track).reshape(-1, n)
    f = f[track.reshape(-1, n).isfinite().all(-1)]
    mean = y.mean(0)
    x = (y - mean).cpu().numpy()
    total = float((x**2).sum())
    if not total > 0:
        raise ValueError("the states must not all be the same: they span no plane")
    extra: dict[str, Any] = {}
    unit = field.units[0]
    if isinstance(basis, str):
        axes = np.linalg.svd(x, full_matrices=False)[2].T
        axes = axes * np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1, 1)
        if axes.shape[1] < 2:
            axes = _completed(axes)[:, :2]
        B = axes[:, :2]
        if basis == "jpca":
            axes = axes[:, : min(components, axes.shape[1])]
            velocity = (f - f.mean(0)).cpu().numpy()
            M, rotation, free = fit_rotation(x @ axes, velocity @ axes)
            B, frequency = _plane(M)
            B = axes @ B
            rate = {"units": _per(field), "long_name": "angular frequency, in radians"}
            extra["frequency"] = ((), frequency, rate)
            for name, value in (("fit_rotation", rotation), ("fit_linear", free)):
                extra[name] = ((), value, {"units": "1", "long_name": f"R² of the {name[4:]} fit"})
    else:
        B = _orthonormal(basis, n)
    columns = torch.from_numpy(np.ascontiguousarray(B)).to(y)
    z = x @ B
    low, high = z.min(0), z.max(0)
    reach = np.maximum(high - low, 0.05 * (high - low).max())
    grid = [
        np.linspace(a - margin * r, b + margin * r, points)
        for a, b, r in zip((low + high - reach) / 2, (low + high + reach) / 2, reach, strict=True)
    ]
    mesh = torch.from_numpy(np.stack(np.meshgrid(*grid, indexing="ij"), -1)).to(y)
    places = mean + mesh @ columns.T
    if outside == "slaved" and n > 2:
        places = _slaved(field, places, columns)
        apart = (places - mean - mesh @ columns.T).norm(dim=-1).cpu().numpy()
        note = {"units": unit, "long_name": "distance from the plane"}
        extra["distance"] = (AXES, apart, note | {"missing": "NaN: nothing to be slaved to"})
    flow = field(places).detach()
    rates = (flow @ columns).cpu().numpy()
    away = _left_out(flow, columns)
    one = {"units": "1"}
    missing = {"missing": "NaN where the field is not finite, or nothing can be slaved"}
    rate = {"units": field.rate_units[0]} | missing
    finite = np.isfinite(rates).all(-1)
    rates = np.where(finite[..., None], rates, np.nan)
    plane = xr.Dataset(
        {
            "basis": (("component", "axis"), B, one),
            "mean": ("component", mean.cpu().numpy(), {"units": unit}),
            "variance": (
                *("axis", (z**2).sum(0) / total),
                one | {"long_name": "share of the variance"},
            ),
            "first_rate": (AXES, rates[..., 0], rate),
            "second_rate": (AXES, rates[..., 1], rate),
            "left_out": (
                *(AXES, np.where(finite, away, np.nan)),
                one | missing | {"long_name": "share of the speed out of the plane"},
            ),
            **extra,
        },
        coords={
            "component": ("component", list(field.names)),
            "axis": ("axis", list(AXES)),
            "first": ("first", grid[0], {"units": unit}),
            "second": ("second", grid[1], {"units": unit}),
        },
    )
    tree = xr.DataTree.from_dict(
        {
            "/plane": plane,
            "/trajectories": _projected(field, run, track, mean, columns, dims, coords),
        }
    )
    name = basis if isinstance(basis, str) else "given"
    tree.attrs = root_attributes(title or f"flow on a plane ({name})") | {
        "basis": name,
        "outside": outside,
        "time": when,
    }
    return tree


def fit_rotation(x: Array, velocity: Array) -> tuple[Array, float, float]:
    """Return the skew-symmetric M that fits dx/dt = M x best, and how well it does.

    Least squares over skew matrices have one solution, where D − Dᵀ = M C + C M, with C = Σ x xᵀ
    and D = Σ ẋ xᵀ; in the basis in which C is diagonal, with entries c,

        M_ij = (D − Dᵀ)_ij / (c_i + c_j)

    Parameters
    ----------
    x, velocity : array
        ``(samples, k)``.

    Returns
    -------
    M : array
        ``(k, k)``, in the basis of x.
    rotation, linear : float
        R² of M, and of the best matrix without constraint.

    References
    ----------
    Churchland et al., Nature 487 (2012) 51, supplementary eqs. 3 to 5, which are solved there by
    iteration.

    Examples
    --------
    >>> angle = np.linspace(0, 5, 50)
    >>> circle = np.c_[np.cos(angle), np.sin(angle)]
    >>> M, rotation, _ = fit_rotation(circle, 2 * circle @ [[0, 1], [-1, 0]])
    >>> bool(np.allclose(M, [[0, -2], [2, 0]])), round(rotation, 12)
    (True, 1.0)
    """
    if x.ndim != 2 or x.shape != velocity.shape:
        raise ValueError(
            f"x and velocity must be (samples, k) both; got {x.shape}, {velocity.shape}"
        )
    c, U = np.linalg.eigh(x.T @ x)
    c = np.maximum(c, 0.0)
    D = U.T @ velocity.T @ x @ U
    sums = c[:, None] + c
    solid = sums > 1e-14 * sums.max(initial=0.0)
    M = U @ np.where(solid, (D - D.T) / np.where(solid, sums, 1.0), 0.0) @ U.T
    total = float((velocity**2).sum())
    if not total > 0:
        return M, 0.0, 0.0
    free = np.linalg.lstsq(x, velocity, rcond=None)[0]
    left = [float(((velocity - x @ A) ** 2).sum()) for A in (M.T, free)]
    return M, 1 - left[0] / total, 1 - left[1] / total


def _check(
    source: Any, basis: Any, states: Any, components: int, points: int, margin: float, outside: str
) -> None:
    if not isinstance(source, System | Solution):
        raise TypeError(f"source must be a System or a Solution; got {type(source).__name__}")
    if isinstance(source, System) != (states is not None):
        raise ValueError("states must be given with a System, and not with a Solution")
    if isinstance(basis, str) and basis not in ("pca", "jpca"):
        raise ValueError(unknown("basis", basis, ("pca", "jpca")))
    if outside not in ("mean", "slaved"):
        raise ValueError(unknown("outside", outside, ("mean", "slaved")))
    if components < 2 or points < 2 or not margin >= 0:
        raise ValueError(
            "reduced_flow takes components >= 2, points >= 2, margin >= 0; "
            f"got {components}, {points}, {margin}"
        )


def _track(
    field: FlatField, run: Solution | None, states: Mapping[str, Tensor] | None
) -> tuple[Tensor, tuple[str, ...], dict[str, Any]]:
    """Return the states as vectors ``(..., n)``, and the names and coordinates of their axes."""
    n = len(field.names)
    if run is None:
        return start_states(field, states or {}), ("sample",), {}
    needed = field.variables
    rank = {name: len(field.system.variables[name].shape) for name in needed}
    lead = {run[name].shape[: run[name].dim() - rank[name]] for name in needed}
    if len(lead) > 1:
        raise ValueError("variables of one batch and of each sample do not mix; hold some by at=")
    axes = lead.pop()
    blank = field.state(field.initial.expand(*axes, n))
    own = {name: run[name].detach().to(field.initial) for name in needed}
    track = field.select(blank | own).reshape(axes[0], -1, n)
    if run.t.dim() > 1:
        return track.reshape(-1, n), ("sample",), {}
    times = run.t.detach().cpu().numpy()[: axes[0]]
    clock = {"units": field.system.time_unit, "long_name": "time"}
    return track, ("time", "sample"), {"time": ("time", times, clock)}


def _velocities(field: FlatField, run: Solution | None, track: Tensor) -> Tensor:
    """Return the derivative along the states, each at its own time."""
    if run is None or track.dim() == 2:
        return field(track).detach()
    steady = field.t
    flows = []
    for t, y in zip(run.t, track, strict=False):
        field.t = t.detach()
        flows.append(field(y).detach())
    field.t = steady
    return torch.stack(flows)


def _projected(
    field: FlatField,
    run: Solution | None,
    track: Tensor,
    mean: Tensor,
    columns: Tensor,
    dims: tuple[str, ...],
    coords: dict[str, Any],
) -> Any:
    import xarray as xr

    away = track - mean
    place = away @ columns
    apart = (away - place @ columns.T).norm(dim=-1)
    spread = away[away.isfinite().all(-1)].square().sum(-1).mean().sqrt()
    left = _left_out(_velocities(field, run, track), columns)
    gone = {"missing": "NaN after the last time that a sample reached"}
    one = {"units": "1"} | gone
    index = {
        dim: (dim, np.arange(size), {"units": "1"})
        for dim, size in zip(dims, track.shape[:-1], strict=True)
    }
    return xr.Dataset(
        {
            "place": (
                *((*dims, "axis"), place.cpu().numpy()),
                {"units": field.units[0], "long_name": "place in the plane"} | gone,
            ),
            "left_out": (dims, left, one | {"long_name": "share of the speed out of the plane"}),
            "distance": (
                *(dims, (apart / spread).cpu().numpy()),
                one | {"long_name": "distance from the plane, over the spread of the states"},
            ),
        },
        coords=index | coords | {"axis": ("axis", list(AXES))},
    )


def _left_out(flow: Tensor, columns: Tensor) -> Array:
    """Return |f − B Bᵀ f|/|f|, 0 where f is 0."""
    rest = (flow - (flow @ columns) @ columns.T).norm(dim=-1)
    size = flow.norm(dim=-1)
    share: Array = torch.where(size > 0, rest / size, rest).cpu().numpy()
    return share


def _plane(M: Array) -> tuple[Array, float]:
    """Return an orthonormal basis of the plane that a skew matrix turns fastest, anticlockwise."""
    values, vectors = np.linalg.eigh(1j * M)  # Hermitian: M v = −i w v
    v = vectors[:, -1]
    B = np.stack([v.real, v.imag], -1)
    B, _ = np.linalg.qr(B)
    if B[:, 1] @ M @ B[:, 0] < 0:
        B[:, 1] *= -1
    return B, float(values[-1])


def _orthonormal(basis: Any, n: int) -> Array:
    given = np.asarray(basis, float)
    if given.shape != (n, 2) or not np.isfinite(given).all():
        raise ValueError(
            f"basis must be 'pca', 'jpca' or finite numbers ({n}, 2), a row for each component; "
            f"got {given.shape}"
        )
    q, r = np.linalg.qr(given)
    if abs(np.diag(r)).min() <= 1e-10 * np.abs(r).max():
        raise ValueError("basis must have two independent columns; its columns are parallel")
    B: Array = q * np.sign(np.diag(r))
    return B


def _completed(B: Array) -> Array:
    """Return an orthonormal basis of the whole space that begins with the columns of B."""
    q, r = np.linalg.qr(np.concatenate([B, np.eye(len(B))], 1))
    q[:, : B.shape[1]] *= np.sign(np.diag(r)[: B.shape[1]])
    whole: Array = q
    return whole


def _slaved(field: FlatField, places: Tensor, columns: Tensor) -> Tensor:
    """Return the points above the plane where the rest of the flow stands still; NaN where none."""
    Q = torch.from_numpy(_completed(columns.cpu().numpy())[:, 2:].copy()).to(places)
    y = places.reshape(-1, places.shape[-1]).clone()
    typical = (field(y).detach() @ Q).norm(dim=-1).median().clamp(min=1e-300)
    active = torch.ones(len(y), dtype=torch.bool, device=y.device)
    for _ in range(50):
        rows = active.nonzero()[:, 0]
        if not len(rows):
            break
        f = field(y[rows]).detach() @ Q
        J = Q.T @ field.jacobian(y[rows]) @ Q
        step = -torch.linalg.lstsq(J, f.unsqueeze(-1)).solution.squeeze(-1)
        size = f.norm(dim=-1)
        taken = torch.zeros_like(size)
        for share in (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125):
            trial = (field(y[rows] + share * step @ Q.T).detach() @ Q).norm(dim=-1)
            taken = torch.where((taken == 0) & (trial < (1 - share / 4) * size), share, taken)
            if bool((taken > 0).all()):
                break
        y[rows] += (taken[:, None] * step) @ Q.T
        active[rows] = (taken > 0) & (size > 1e-13 * typical)
    rest = (field(y).detach() @ Q).norm(dim=-1)
    y[~(rest <= 1e-8 * typical)] = torch.nan
    return y.reshape(places.shape)


def _per(field: FlatField) -> str:
    from ctsigprop.units import divide_units

    return divide_units("1", field.system.time_unit)
