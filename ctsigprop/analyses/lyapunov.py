"""Lyapunov exponents: the mean rates at which neighbouring trajectories part or meet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctsigprop.analyses.flat import At, FlatField, Inputs
from ctsigprop.checks import check_state_and_times, with_options
from ctsigprop.errors import IntegrationError
from ctsigprop.quantities import Variable
from ctsigprop.solve import solve
from ctsigprop.solvers.base import Solver, State
from ctsigprop.solvers.explicit.adaptive import Tsit5
from ctsigprop.system import System
from ctsigprop.terms import Neuron
from ctsigprop.units import divide_units

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from xarray import Dataset

__all__ = ["kaplan_yorke", "lyapunov_spectrum"]

SPREAD = 5.0  # of the logarithms of a frame's growths, when it is made orthonormal again
ABSOLUTE = {"y": 1e-9, "frame": 1e-6, "divergence": 1e-6}  # tolerances; tangents are of size 1
COLLAPSED = 12.0  # a frame that has come so far takes the stretch once more, in halves


def lyapunov_spectrum(
    system: System,
    duration: float,
    *,
    start: Mapping[str, Tensor | float] | None = None,
    count: int | None = None,
    transient: float | None = None,
    interval: float | None = None,
    ensemble: int | None = None,
    spread: float = 0.01,
    seed: int = 0,
    solver: Solver | None = None,
    at: At | None = None,
    t: float = 0.0,
    inputs: Inputs | None = None,
    **options: Any,
) -> Dataset:
    r"""Return the Lyapunov exponents of a system, from frames of tangents along trajectories.

    A frame Q of orthonormal tangents moves with its trajectory, dy/dt = f(t, y), dQ/dt = J(t, y) Q,
    with the exact Jacobian J, and is made orthonormal again, Q → Q R, before it collapses:

        λ_i = lim_{T→∞} (1/T) Σ ln R_ii,        Σ_i λ_i = lim (1/T) ∫ tr J dt.

    An ensemble of trajectories side by side costs what one costs, and its spread is the error.

    Parameters
    ----------
    system : System
        Without delays, in float64. Resets by events are no part of the tangent flow.
    duration : float
        T of every trajectory, in the system's unit of time, after the transient.
    start : mapping of str to Tensor or float, optional
        Where the trajectories start: one state, or one for each member, ``(member, *dims)``.
        Initial values for variables left out.
    count : int, optional
        How many exponents, the largest first; all of them by default.
    transient : float, optional
        Time before the averages begin, a quarter of `duration` by default, spent twice: first
        without frames, when the members are left at different times after its first third, so that
        they do not move in phase; then with frames, whose error decays as exp(−(λ_i − λ_{i+1}) t).
    interval : float, optional
        Time between the rows of the finite-time exponents; a fiftieth of `duration` by default.
    ensemble : int, optional
        How many trajectories; 32 by default.
    spread : float
        Standard deviation by which the starts of the members differ from the one that is given, in
        every component, as a part of its size (or of 1, where that is larger).
    seed : int
        Of these differences, and of the first frames.
    solver : Solver, optional
        ``Tsit5(rtol=1e-6)`` by default, with an absolute tolerance of 1e-6 for tangents.
    at : mapping of str to Tensor or float, optional
        Values of variables or components that are held: the exponents are those of the others.
    t : float
        The time at which the transient begins.
    inputs : mapping of str to Signal, Tensor or float, optional
        Signals of sources, as in `solve`.
    **options
        Options of the solver, such as ``rtol=1e-9``.

    Returns
    -------
    xarray.Dataset
        By ``order`` = 1, 2, … (largest first): ``exponent`` and its ``standard_error`` over the
        members (over the rows, where there is one member), which knows nothing of a transient that
        is too short: then ``drift``, the mean of the second half of the rows less that of the
        first, is more than a few times as large. ``member_exponent`` ``(member, order)``;
        ``finite_time_exponent`` ``(time, order)``, the mean over members from the end of the
        transient to ``time``;
        ``kaplan_yorke``, the dimension (sums within two standard errors of zero, and a millionth
        of the largest exponent, count as zero).
        Where all exponents were asked for: ``exponent_sum`` and ``divergence``, the mean of tr J,
        which are the same up to the error of the integration.

    Raises
    ------
    ValueError
        A duration, count or ensemble out of range, starts that do not fit, delays.
    IntegrationError
        A trajectory that cannot be integrated, with the component.

    References
    ----------
    Benettin, Galgani, Giorgilli & Strelcyn 1980, Meccanica 15:9-20 and 21-30, eq. 12; Shimada &
    Nagashima 1979, Prog. Theor. Phys. 61:1605-1616.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> pair = ct.System(ct.TextNeuron("dx/dt = -x + 2*y : 1\ndy/dt = -3*y : 1"))
    >>> found = lyapunov_spectrum(pair, 20.0, start={"x": 1.0}, ensemble=2)
    >>> found["exponent"].values.round(3).tolist()
    [-1.0, -3.0]
    """
    field = FlatField(system, at=at, t=t, inputs=inputs)
    n = len(field.names)
    k = n if count is None else count
    if not 1 <= k <= n:
        raise ValueError(f"count must be 1 to {n}, the number of components; got {count}")
    before = duration / 4 if transient is None else transient
    step = duration / 50 if interval is None else interval
    if not (math.isfinite(duration) and duration > 0 and 0 <= before < math.inf):
        raise ValueError(
            f"duration must be > 0, transient >= 0, both finite; got {duration}, {transient}"
        )
    if not 0 < step <= duration:
        raise ValueError(f"interval must lie between 0 and the duration, {duration}; got {step}")
    y = _starts(field, start, at, ensemble, spread, seed)
    if before and len(y) > 1:
        y = _apart(field, y, t, before)
    rows = max(round(duration / step), 1)
    solver = with_options(Tsit5(rtol=1e-6, atol=ABSOLUTE) if solver is None else solver, options)
    flow = _Flow(field, k, y, t, seed, solver)
    if before:
        flow.run_to(t + before)
    times = [duration * (i + 1) / rows for i in range(rows)]
    growths, divergences = zip(*(flow.run_to(t + before + time) for time in times), strict=True)
    found = _labelled(field, torch.stack(growths), torch.stack(divergences), times)
    found.attrs = {
        "duration": duration,
        "transient": before,
        "ensemble": len(y),
        "seed": seed,
        "solver": repr(flow.solver),
        "held": field.held,
    }
    return found


def kaplan_yorke(exponents: Iterable[float], tolerance: float = 0.0) -> float:
    """Return the Kaplan-Yorke dimension, D = j + Σ_{i≤j} λ_i / |λ_{j+1}|.

    The exponents are sorted, and j is the largest number of them whose sum is not negative: D is 0
    where all are negative, and their number where the sum of all is not.

    Parameters
    ----------
    exponents : iterable of float
        All Lyapunov exponents, or the largest ones, if their sum is negative.
    tolerance : float
        A sum down to ``-tolerance`` counts as zero: exponents that are zero are never measured so.

    Raises
    ------
    ValueError
        No exponent, or one that is not finite.

    References
    ----------
    Kaplan & Yorke 1979, Lecture Notes in Mathematics 730:204-227.

    Examples
    --------
    >>> round(kaplan_yorke([0.9056, 0.0, -14.5723]), 4), kaplan_yorke([-1, -2]), kaplan_yorke([1])
    (2.0621, 0.0, 1.0)
    """
    values = sorted((float(value) for value in exponents), reverse=True)
    if not values or not all(map(math.isfinite, values)) or not tolerance >= 0:
        raise ValueError(
            "kaplan_yorke takes finite exponents, at least one, and a tolerance >= 0; "
            f"got {values}, {tolerance}"
        )
    total = 0.0
    for j, value in enumerate(values):
        if total + value < -tolerance:
            return j + max(total, 0.0) / abs(value)
        total += value
    return float(len(values))


class _Tangents(Neuron):
    """A trajectory with a frame of tangents, and the divergence along it."""

    ports: Mapping[str, str] = {}

    def __init__(self, field: FlatField, count: int) -> None:
        n = len(field.names)
        super().__init__("", n)
        self.field, self.count, self.last = field, count, math.inf
        self.time_unit = field.system.time_unit
        self.shared = any(variable.shared for variable in field.system.variables.values())
        self.variables = (
            Variable("y", {"component": n}),
            Variable("frame", {"component": n, "order": count}),
            Variable("divergence", {"one": 1}),
        )

    def forward(self, t: Tensor, state: State, currents: Mapping[str, Tensor]) -> State:
        """Return f, J Q and tr J."""
        del currents
        y, frame = state["y"], state["frame"]
        t = t.clamp(max=self.last)
        if not self.count:
            return {"y": self._rate(t, y)}
        if self.count < y.shape[-1]:
            f, moved = self._along(t, y, frame)
            return {"y": f, "frame": moved}
        f, jacobian = self._linear(t, y)
        trace = jacobian.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        return {"y": f, "frame": jacobian @ frame, "divergence": trace}

    def activity(self, state: State) -> Tensor:
        """Return y."""
        return state["y"]

    def activity_rate(self, state: State, derivative: State) -> Tensor:
        """Return dy/dt."""
        del state
        return derivative["y"]

    def _rate(self, t: Tensor, y: Tensor) -> Tensor:
        t = t.expand(y.shape[:-1])
        if not self.shared:
            self.field.t = t
            return self.field(y)

        def one(t: Tensor, y: Tensor) -> Tensor:
            self.field.t = t
            return self.field(y)

        flat = torch.func.vmap(one)(t.reshape(-1), y.reshape(-1, y.shape[-1]))
        return flat.reshape(y.shape)

    def _linear(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return f ``(member, n)`` and J ``(member, n, n)``: one pass, with a copy for each row."""
        n = y.shape[-1]
        with torch.enable_grad():
            copies = y.detach().expand(n, *y.shape).clone().requires_grad_()
            f = self._rate(t, copies)
            rows = torch.eye(n, dtype=y.dtype, device=y.device)[:, None].expand(f.shape)
            if not f.requires_grad:
                return f[0], torch.zeros(*y.shape, n, dtype=y.dtype, device=y.device)
            (pulled,) = torch.autograd.grad(f, copies, rows, materialize_grads=True)
        return f[0].detach(), pulled.movedim(0, -2)

    def _along(self, t: Tensor, y: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return f and J Q, the derivative of Jᵀ u by u along Q, with a copy for each tangent."""
        with torch.enable_grad():
            copies = y.detach().expand(self.count, *y.shape).clone().requires_grad_()
            f = self._rate(t, copies)
            if not f.requires_grad:
                return f[0], torch.zeros_like(frame)
            u = torch.zeros_like(f, requires_grad=True)
            (pulled,) = torch.autograd.grad(f, copies, u, create_graph=True, materialize_grads=True)
            if not pulled.requires_grad:
                return f[0].detach(), torch.zeros_like(frame)
            tangents = frame.movedim(-1, 0)
            (moved,) = torch.autograd.grad(pulled, u, tangents, materialize_grads=True)
        return f[0].detach(), moved.movedim(0, -1)


class _Flow:
    """An ensemble with its frames on the way: `run_to` returns the growths since the last call."""

    def __init__(
        self,
        field: FlatField,
        count: int,
        y: Tensor,
        t: float,
        seed: int,
        solver: Solver,
    ) -> None:
        self.field = field
        self.tangents = _Tangents(field, count)
        self.joint = System(self.tangents)
        self.solver, self.time = solver, t
        noise = torch.randn(*y.shape, count, generator=torch.Generator().manual_seed(seed))
        frame = torch.linalg.qr(noise.to(y))[0]
        self.state = {"y": y, "frame": frame, "divergence": y.new_zeros(len(y), 1)}
        size = float(self.tangents(torch.tensor(t), self.state, {})["frame"].abs().max())
        self.stretch = SPREAD / size if size > 0 else math.inf

    def run_to(self, end: float) -> tuple[Tensor, Tensor]:
        """Return Σ ln R_ii ``(member, count)`` and ∫ tr J dt ``(member,)``."""
        frame = self.state["frame"]
        growth = frame.new_zeros(len(frame), frame.shape[-1])
        divergence = frame.new_zeros(len(frame))
        jumps = self.field.system.jumps(self.time, end, self.field.inputs)
        for edge in [*jumps, end]:
            # up to a jump the field is that before it
            self.tangents.last = math.nextafter(edge, -math.inf) if edge in jumps else math.inf
            while self.time < edge:
                gained, passed = self._stretch(edge)
                growth += gained
                divergence += passed
        return growth, divergence

    def _stretch(self, edge: float) -> tuple[Tensor, Tensor]:
        left = edge - self.time
        while True:
            pieces = max(math.ceil(left / self.stretch), 1)
            stop = edge if pieces == 1 else self.time + left / pieces
            after = _solved(
                self.joint, self.field.names, self.state, [self.time, stop], self.solver
            )
            frame, R = torch.linalg.qr(after["frame"])
            gained = R.diagonal(dim1=-2, dim2=-1).abs().log()
            spread = float((gained.amax(-1) - gained.amin(-1)).max())
            size = max(spread, float(gained.abs().max()))
            length = stop - self.time
            if size <= COLLAPSED:
                break
            self.stretch = length / 2
        self.stretch = length * min(SPREAD / size, 2.0) if size > 0 else 2 * length
        self.state = {
            "y": after["y"],
            "frame": frame,
            "divergence": torch.zeros_like(after["divergence"]),
        }
        self.time = stop
        return gained, after["divergence"][:, 0]


def _solved(
    joint: System,
    names: Sequence[str],
    state: State,
    times: Tensor | Sequence[float],
    solver: Solver,
) -> State:
    """Return the last state of a stretch; errors name the component of the system."""
    try:
        return solve(joint, state, times, solver=solver, differentiable=False).final
    except IntegrationError as error:
        if error.variable not in ("y", "frame") or not error.component:
            raise
        name = names[error.component[-1 if error.variable == "y" else -2]]
        name = name if error.variable == "y" else f"a tangent along {name}"
        raise type(error)(time=error.time, variable=name, cause=error.cause) from error


def _starts(
    field: FlatField,
    start: Mapping[str, Tensor | float] | None,
    at: At | None,
    ensemble: int | None,
    spread: float,
    seed: int,
) -> Tensor:
    """Return one start for each member, ``(member, n)``."""
    both = sorted(set(start or {}) & set(at or {}))
    if both:
        raise ValueError(f"'{both[0]}' is in start and in at: a variable moves or is held")
    if not (math.isfinite(spread) and spread >= 0):
        raise ValueError(f"spread must be >= 0 and finite; got {spread}")
    if ensemble is not None and ensemble < 1:
        raise ValueError(f"ensemble must be >= 1; got {ensemble}")
    state, batch, _ = check_state_and_times(field.system, start, [0.0], field.inputs)
    if len(batch) > 1:
        raise ValueError(f"start must hold one state, or (member, *dims); got batch axes {batch}")
    if batch:
        if ensemble not in (None, batch[0]):
            raise ValueError(f"start has {batch[0]} members, and ensemble is {ensemble}")
        shared = [name for name, v in field.system.variables.items() if v.shared]
        if shared:
            raise ValueError(f"'{shared[0]}' is shared by a batch; give one start, and ensemble=")
        return field.select(state)
    y = field.select(state) if start else field.initial
    members = 32 if ensemble is None else ensemble
    noise = torch.randn(members, len(y), generator=torch.Generator().manual_seed(seed + 1))
    if members == 1:
        return y[None].clone()
    return y + spread * y.abs().clamp(min=1.0) * noise.to(y)


def _apart(field: FlatField, y: Tensor, t0: float, duration: float) -> Tensor:
    """Return where members are at different times of a stretch, after its first third.

    The times are quantiles of Hann's window: for any rhythm that turns a few times in the stretch
    the phases are then uniform to a percent, and averages do not depend on where they begin.
    """
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    below = grid - torch.sin(2 * math.pi * grid) / (2 * math.pi)
    wanted = (torch.arange(len(y), dtype=torch.float64) + 0.5) / len(y)
    share = grid[torch.searchsorted(below, wanted).clamp(max=2000)]
    ends = t0 + duration * (1 + 2 * share) / 3
    state = {"y": y, "frame": y.new_zeros(*y.shape, 0), "divergence": y.new_zeros(len(y), 1)}
    times = torch.stack([torch.full_like(ends, t0), ends], -1)
    return _solved(System(_Tangents(field, 0)), field.names, state, times, Tsit5())["y"]


def _labelled(
    field: FlatField, growths: Tensor, divergences: Tensor, times: Sequence[float]
) -> Dataset:
    """Return the dataset, from growths ``(row, member, order)``."""
    import numpy as np
    import xarray as xr

    duration, k = times[-1], growths.shape[-1]
    logs = growths.cpu().numpy()
    members = logs.sum(0) / duration
    order = np.argsort(-members.mean(0), kind="stable")
    logs, members = logs[..., order], members[:, order]
    exponent = members.mean(0)
    error = _standard_errors(logs, np.asarray(times))
    course = logs.mean(1).cumsum(0) / np.asarray(times)[:, None]
    rate = {"units": divide_units("1", field.system.time_unit)}
    one = {"units": "1"}
    few = {} if len(logs) > 1 else {"missing": "NaN: it needs more rows, or members"}
    whole = k == len(field.names)
    uncertainty = 2 * float(np.nan_to_num(error).sum()) + 1e-6 * float(np.abs(exponent).max())
    dimension = math.nan
    if whole or exponent.sum() < 0:
        dimension = kaplan_yorke(exponent, uncertainty)
    known = {"missing": "NaN: more exponents are needed, up to a negative sum"}
    data: dict[str, Any] = {
        "exponent": ("order", exponent, rate | {"long_name": "Lyapunov exponent"}),
        "standard_error": ("order", error, rate | few),
        "drift": ("order", _drift(logs, np.asarray(times)), rate | few),
        "member_exponent": (("member", "order"), members, rate),
        "finite_time_exponent": (("time", "order"), course, rate),
        "kaplan_yorke": (
            (),
            dimension,
            one | {"long_name": "Kaplan-Yorke dimension"} | ({} if dimension >= 0 else known),
        ),
    }
    if whole:
        divergence = float(divergences.sum(0).mean()) / duration
        data["exponent_sum"] = ((), float(exponent.sum()), rate)
        data["divergence"] = ((), divergence, rate | {"long_name": "mean trace of the Jacobian"})
    elapsed = {"units": field.system.time_unit, "long_name": "time after the transient"}
    return xr.Dataset(
        data,
        coords={
            "order": ("order", np.arange(1, k + 1), one),
            "member": ("member", np.arange(len(members)), one),
            "time": ("time", np.asarray(times), elapsed),
        },
    )


def _standard_errors(logs: NDArray[Any], times: NDArray[Any]) -> NDArray[Any]:
    """Return those of the mean over members, or over rows where there is one member."""
    import numpy as np

    rows, members, k = logs.shape
    if members > 1:
        samples = logs.sum(0) / times[-1]
    elif rows > 1:
        samples = logs[:, 0] / np.diff(times, prepend=0.0)[:, None]
    else:
        return np.full(k, np.nan)
    errors: NDArray[Any] = samples.std(0, ddof=1) / math.sqrt(len(samples))
    return errors


def _drift(logs: NDArray[Any], times: NDArray[Any]) -> NDArray[Any]:
    """Return the mean over the second half of the rows less that over the first."""
    import numpy as np

    half = len(times) // 2
    if not half:
        return np.full(logs.shape[-1], np.nan)
    first = logs[:half].sum(0).mean(0) / times[half - 1]
    drift: NDArray[Any] = logs[half:].sum(0).mean(0) / (times[-1] - times[half - 1]) - first
    return drift
