"""The methods of torchdiffeq, made safe: finite limits, typed failures, no lost rows."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from ctsigprop.errors import IntegrationError, StepLimitError, unknown
from ctsigprop.solvers.base import Problem, Solver, State
from ctsigprop.solvers.torchdiffeq_.monitor import Monitor

__all__ = ["TorchDiffEq"]

_ADAPTIVE = frozenset(
    {"rtol", "atol", "land_on_outputs", "first_step", "max_step", "safety", "ifactor", "dfactor"}
)
_FIXED = frozenset({"dt"})
_ADAMS = _FIXED | {"max_order"}

# the options that each method uses, besides adjoint and max_steps, which all do
_METHODS = {
    "dopri8": _ADAPTIVE,
    "dopri5": _ADAPTIVE,
    "bosh3": _ADAPTIVE,
    "fehlberg2": _ADAPTIVE,
    "adaptive_heun": _ADAPTIVE,
    "euler": _FIXED,
    "midpoint": _FIXED,
    "heun2": _FIXED,
    "heun3": _FIXED,
    "rk4": _FIXED,
    "explicit_adams": _ADAMS,
    "implicit_adams": _ADAMS | {"rtol", "atol", "max_iters"},
    "fixed_adams": _ADAMS | {"rtol", "atol", "max_iters"},
}
# how far stability reaches along the negative real axis; the Adams methods of highest order least
_REACH = {
    "dopri8": 5.1,
    "dopri5": 3.3,
    "bosh3": 2.5,
    "heun3": 2.5,
    "rk4": 2.7,
    "explicit_adams": 0.3,
    "implicit_adams": 1.0,
    "fixed_adams": 1.0,
}
_CALLS = 16  # of torchdiffeq between two jumps: only one that succeeds hands out its rows
_NOT_CONVERGED = "Functional iteration did not converge"


@dataclass(frozen=True)
class TorchDiffEq(Solver):
    """Explicit methods of torchdiffeq, differentiable directly or through the adjoint equation.

    Adaptive: ``"dopri5"``, ``"dopri8"``, ``"bosh3"``, ``"fehlberg2"``, ``"adaptive_heun"``. A step
    is accepted when the largest, over the variables, of

        sqrt(mean((error / (atol + rtol · max(abs(y_n), abs(y_n+1))))²))

    is at most 1. The mean runs over the batch as well: the whole batch shares its steps, so the
    result for one sample depends, within the tolerance, on its neighbours.

    Fixed steps: ``"euler"``, ``"midpoint"``, ``"heun2"``, ``"heun3"``, ``"rk4"`` (the 3/8 rule),
    ``"explicit_adams"``, ``"implicit_adams"`` (also named ``"fixed_adams"``). They need `dt`: each
    output interval is divided into equal steps of at most `dt`, so that nothing is interpolated.
    The Adams methods start anew at each output unless all intervals are equal.

    torchdiffeq rounds times to the dtype of the state before it evaluates the field.

    Parameters
    ----------
    method : str
        One of the names above.
    rtol, atol : float
        Relative and absolute tolerance of the adaptive methods, and of the corrector of
        ``"implicit_adams"``.
    dt : float, optional
        Longest step of the fixed-step methods.
    adjoint : bool
        Gradients from the adjoint equation, solved backward [1]_: memory that does not grow with
        the steps, gradients only as exact as the tolerances. They reach `y0`, the times, and every
        tensor that requires a gradient and is a parameter of the system or enters its derivative
        at the start.
    max_steps : int
        Most steps tried in a run.
    land_on_outputs : bool, optional
        End a step at each output, instead of interpolating with order 4. By default only
        ``"dopri8"`` does, whose accuracy the interpolant would spoil.
    first_step, max_step : float, optional
        First and longest step of the adaptive methods.
    safety, ifactor, dfactor : float, optional
        Safety, largest growth and largest cut of a step, for the adaptive methods.
    max_order, max_iters : int, optional
        Highest order of the Adams methods, 4 to 12; most iterations of their corrector.

    Raises
    ------
    ValueError
        An unknown method, an option that the method does not use, or one out of its range.

    Examples
    --------
    >>> TorchDiffEq("rk4", dt=0.1).method
    'rk4'
    >>> TorchDiffEq("dopri9")
    Traceback (most recent call last):
        ...
    ValueError: unknown method 'dopri9' (did you mean 'dopri8'?); accepted: adaptive_heun, ...

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural ordinary differential
       equations, NeurIPS 31 (2018), Algorithm 1.
    """

    method: str = "dopri5"
    rtol: float = 1e-6
    atol: float = 1e-9
    dt: float | None = None
    adjoint: bool = False
    max_steps: int = 100_000
    land_on_outputs: bool | None = None
    first_step: float | None = None
    max_step: float | None = None
    safety: float | None = None
    ifactor: float | None = None
    dfactor: float | None = None
    max_order: int | None = None
    max_iters: int | None = None

    def __post_init__(self) -> None:
        if self.method == "scipy_solver":
            raise ValueError(
                "method 'scipy_solver' drops gradients and rows without a word; "
                "use SciPy(method='LSODA') instead"
            )
        if self.method not in _METHODS:
            raise ValueError(unknown("method", self.method, _METHODS))
        used = _METHODS[self.method] | {"method", "adjoint", "max_steps"}
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in used and value != option.default:
                raise ValueError(
                    f"method '{self.method}' does not use {option.name}={value!r}; "
                    f"it uses {', '.join(sorted(used))}"
                )
        if self.dt is None and "dt" in used:
            raise ValueError(f"method '{self.method}' takes fixed steps: give their length, dt=...")
        self._check_ranges()

    def _check_ranges(self) -> None:
        for name in ("rtol", "atol", "dt", "max_steps", "first_step", "max_step", "max_iters"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {value}")
        for name, low, high in (
            ("safety", 0, 1),
            ("dfactor", 0, 1),
            ("ifactor", 1, math.inf),
            ("max_order", 4, 12),
        ):
            value = getattr(self, name)
            if value is not None and not (low <= value <= high and value > 0):
                raise ValueError(f"{name} must be within {low} and {high}; got {value}")

    @property
    def reach(self) -> float:
        """How far the method's stability reaches along the negative real axis."""
        return _REACH.get(self.method, 2.0)

    def integrate(self, problem: Problem) -> None:
        """Fill ``problem.recorder``, a stretch of outputs at a time."""
        if self.adjoint and not isinstance(problem.system, nn.Module):
            raise ValueError(
                "adjoint=True differentiates the parameters of a torch.nn.Module, and the system "
                f"is a {type(problem.system).__name__}; use adjoint=False"
            )
        state = problem.y0
        problem.recorder.row(0, state)
        if problem.t.numel() == 1:
            return
        self._require_few_steps(problem.t)
        wanted = _differentiable(problem) if self.adjoint else ()
        for segment in problem.segments():
            monitor = Monitor(problem, segment.field, self)
            for first, last in self._stretches(segment.t):
                rows, t = segment.rows[first:last], segment.t[first : last + 1]
                try:
                    states = self._solve(monitor, state, t, wanted)
                except (IntegrationError, KeyboardInterrupt):
                    self._record_passed(monitor, state, t, rows, wanted)
                    raise
                monitor.record(rows, states)
                state = states[-1]

    def _require_few_steps(self, t: Tensor) -> None:
        start, end = t.detach()[[0, -1]].tolist()
        span = abs(end - start)
        if self.dt is not None and span / self.dt > self.max_steps:
            raise StepLimitError(
                time=start,
                cause=f"dt={self.dt:g} needs {span / self.dt:.3g} steps and max_steps is "
                f"{self.max_steps}: raise either",
            )

    def _stretches(self, t: Tensor) -> Iterator[tuple[int, int]]:
        """Divide the intervals of a segment among calls of torchdiffeq."""
        intervals = t.detach().diff()
        count = len(intervals)
        if "max_order" in _METHODS[self.method]:
            equal = bool(torch.allclose(intervals, intervals[0], rtol=1e-9, atol=0))
            length = count if equal else 1
        else:
            length = 1 if self._lands else math.ceil(count / _CALLS)
        for first in range(0, count, length):
            yield first, min(first + length, count)

    def _record_passed(
        self,
        monitor: Monitor,
        state: State,
        t: Tensor,
        rows: list[int],
        wanted: tuple[Tensor, ...],
    ) -> None:
        """Solve again up to the last output that a stretch passed: its call handed out nothing."""
        passed = monitor.passed(t)
        if passed > 1:
            with contextlib.suppress(IntegrationError):
                monitor.record(rows, self._solve(monitor.silent(), state, t[:passed], wanted))

    @property
    def _lands(self) -> bool:
        return self.method == "dopri8" if self.land_on_outputs is None else self.land_on_outputs

    def _solve(
        self, monitor: Monitor, state: State, t: Tensor, wanted: tuple[Tensor, ...]
    ) -> list[State]:
        """Return the state at every time after the first."""
        from torchdiffeq import odeint, odeint_adjoint

        monitor.depart(t, state)
        t = t.to(next(iter(state.values())).device)
        forward, backward = self._options(t.detach(), monitor.first_step)
        arguments: dict[str, Any] = {"method": self.method, "options": forward}
        if "rtol" in _METHODS[self.method]:
            arguments |= {"rtol": self.rtol, "atol": self.atol}
        if self.adjoint:
            arguments |= {"adjoint_options": backward, "adjoint_params": wanted}
        call = odeint_adjoint if self.adjoint else odeint
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=_NOT_CONVERGED)
            try:
                solution = call(monitor, tuple(state.values()), t, **arguments)
            except UserWarning as warning:
                raise monitor.last_good().too_stiff(
                    "the corrector did not converge: dt is too long, or max_iters too small"
                ) from warning
        monitor.arrive(t[-1], [values[-1] for values in solution])
        return [dict(zip(state, row, strict=True)) for row in zip(*solution, strict=True)][1:]

    def _options(
        self, t: Tensor, first_step: float | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return torchdiffeq's options of the forward and of the backward solve."""
        names = ("max_step", "safety", "ifactor", "dfactor", "max_order", "max_iters")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.dt is not None:
            given["grid_constructor"] = self._grid
            return given, given
        # no step beyond the end, where the field may jump
        ends = {"step_t": t[-1:], "first_step": first_step, "norm": _largest_rms}
        return given | ends, given | {"step_t": t}

    def _grid(self, _field: object, _y0: Tensor, t: Tensor) -> Tensor:
        """Divide each interval into equal steps of at most dt."""
        pieces = []
        for a, b in itertools.pairwise(t.unbind()):
            length = abs(float((b - a).detach()))
            steps = max(1, math.ceil(length / cast("float", self.dt) - 1e-9))
            pieces.append(a + (b - a) * torch.arange(steps, dtype=t.dtype, device=t.device) / steps)
        return torch.cat([*pieces, t[-1:]])


def _largest_rms(tensors: tuple[Tensor, ...]) -> Tensor:
    """Return the largest root mean square of any variable, NaN if one is NaN."""
    with torch.no_grad():  # the derivative of a root is infinite at zero
        return torch.stack([y.square().mean().sqrt() for y in tensors if y.numel()]).amax()


def _differentiable(problem: Problem) -> tuple[Tensor, ...]:
    """Return what the adjoint equation is to differentiate by.

    The system's parameters, and the leaf tensors (values of inputs, say) that its derivative at
    the start depends on.
    """
    parameters = problem.system.parameters()
    found: dict[int, Tensor] = {id(p): p for p in parameters if p.requires_grad}
    state = {name: y.detach() for name, y in problem.y0.items()}
    derivative = problem.field(problem.t[0].detach(), state)
    found |= {id(y): y for y in derivative.values() if y.is_leaf and y.requires_grad}
    nodes = [y.grad_fn for y in derivative.values() if y.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        fresh = {parent for parent, _ in node.next_functions if parent is not None} - seen
        seen |= fresh
        nodes.extend(fresh)
    return tuple(found.values())
