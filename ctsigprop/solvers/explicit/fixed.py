"""Methods of fixed step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from ctsigprop.errors import IntegrationError
from ctsigprop.signals import all_finite
from ctsigprop.solvers.base import Problem, Solver, State
from ctsigprop.solvers.explicit.checkpoints import Checkpoints
from ctsigprop.solvers.explicit.held import HeldSteps
from ctsigprop.solvers.explicit.march import March
from ctsigprop.solvers.explicit.onestep import Exponential, OneStep, RungeKutta, phi1
from ctsigprop.solvers.explicit.structured import StructuredSteps, structured
from ctsigprop.solvers.explicit.tableaus import EULER, HEUN, MIDPOINT, Tableau
from ctsigprop.solvers.explicit.tableaus import RK4 as CLASSICAL
from ctsigprop.solvers.failures import diverged
from ctsigprop.solvers.inplace import Net
from ctsigprop.solvers.options import TAPE, check_max_steps, check_positive, check_tape
from ctsigprop.solvers.stops import clocks, edges, grid, intervals, require_steps

__all__ = ["RK4", "Euler", "ExponentialEuler", "Heun", "Midpoint", "run_fixed"]

CHUNK = 64  # steps between the looks at whether the state is finite

Advance = Callable[[Problem, Sequence[Tensor], State, float], State]


@dataclass(frozen=True)
class FixedStep(Solver):
    """A method of fixed step.

    Each stretch between output times and jumps of the field is cut into equal steps of at most
    `dt`, so that outputs and jumps are landed on.

    Parameters
    ----------
    dt : float
        The longest step, in the system's time unit.
    max_steps : int, optional
        The most steps of a run.
    tape : float, optional
        Memory of the graph that is kept for gradients, in MiB, as in `Tsit5`.

    Raises
    ------
    ValueError
        If an option is out of its range.
    """

    dt: float
    max_steps: int = 100_000
    tape: float = TAPE

    events: ClassVar[bool] = True
    delays: ClassVar[bool] = True
    ragged: ClassVar[bool] = True
    interpolates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("dt", self.dt)
        check_max_steps(self.max_steps)
        check_tape(self.tape)


@dataclass(frozen=True)
class FixedRungeKutta(FixedStep):
    """A Runge-Kutta method of fixed step.

    Options and errors are those of `FixedStep`, and two more.

    Parameters
    ----------
    dt, max_steps, tape : float, int, float
        As in `FixedStep`.
    low_rank : bool, optional
        Whether large weights are stepped by their factors, as in `Tsit5`.
    native : bool or None, optional
        Whether a kernel compiled from the text of the equations takes the steps, as in `Tsit5`.
    """

    low_rank: bool = True
    native: bool | None = None

    tableau: ClassVar[Tableau]

    def integrate(self, problem: Problem) -> Callable[[Tensor], State] | None:
        """Fill ``problem.recorder``; return the interpolant where one was asked for."""
        from ctsigprop.solvers.native.paths import run_native  # many modules

        native = self.native is not False
        if native and run_native(problem, self):
            return None
        return run_fixed(
            problem, self.tableau, self.dt, self.max_steps, self.low_rank, self.tape, native=native
        )


@final
@dataclass(frozen=True)
class Euler(FixedRungeKutta):
    """The explicit Euler method, order 1: y_1 = y + h f(t, y).

    Options and errors are those of `FixedRungeKutta`.

    Examples
    --------
    >>> Euler(dt=0.1)
    Euler(dt=0.1, max_steps=100000, tape=1024.0, low_rank=True, native=None)
    """

    tableau: ClassVar[Tableau] = EULER


@final
@dataclass(frozen=True)
class Midpoint(FixedRungeKutta):
    """The midpoint rule of Runge, order 2: y_1 = y + h f(t + h/2, y + h/2 f(t, y)).

    Options and errors are those of `FixedRungeKutta`.

    Examples
    --------
    >>> Midpoint(dt=0.1).max_steps
    100000
    """

    tableau: ClassVar[Tableau] = MIDPOINT


@final
@dataclass(frozen=True)
class Heun(FixedRungeKutta):
    """The trapezoid of Heun, order 2: y_1 = y + h/2 (k_1 + k_2), k_2 = f(t + h, y + h k_1).

    Options and errors are those of `FixedRungeKutta`.

    Examples
    --------
    >>> Heun(dt=0.1).dt
    0.1
    """

    tableau: ClassVar[Tableau] = HEUN


@final
@dataclass(frozen=True)
class RK4(FixedRungeKutta):
    """The classical Runge-Kutta method, order 4.

    Options and errors are those of `FixedRungeKutta`.

    Examples
    --------
    >>> RK4(dt=0.1, max_steps=10).with_options(dt=0.2)
    RK4(dt=0.2, max_steps=10, tape=1024.0, low_rank=True, native=None)

    Notes
    -----
    HNW I, II.1, Table 1.2.
    """

    tableau: ClassVar[Tableau] = CLASSICAL


@final
@dataclass(frozen=True)
class ExponentialEuler(FixedStep):
    """The exponential Euler method ETD1, order 1: y_1 = y + h φ₁(a h) f(t, y).

    φ₁(z) = (e^z - 1)/z, and a is the linear coefficient of each variable, dy/dt = a y + rest: exact
    where the rest is constant, and stable for any step where a carries the stiffness. A variable
    without a linear coefficient takes a = 0. Options and errors are those of `FixedStep`.

    Examples
    --------
    >>> ExponentialEuler(dt=0.5).dt
    0.5

    Notes
    -----
    M. Hochbruck, A. Ostermann, Acta Numerica 19 (2010) 209, (2.3).
    """

    def integrate(self, problem: Problem) -> Callable[[Tensor], State] | None:
        """Fill ``problem.recorder``; return the interpolant where one was asked for."""
        start = problem.t[..., 0].detach()
        if problem.linear is None or not problem.linear(start, problem.y0):
            raise ValueError(
                "ExponentialEuler needs the linear coefficients of the system, and it has none; "
                "use Euler"
            )
        if _plain(problem):
            _run(problem, (0.0,), _advance_exponential, self.dt, self.max_steps, self.tape)
            return None
        method = Exponential(problem, _like(problem))
        return _march(problem, method, self.dt, self.max_steps, self.tape)


def run_fixed(
    problem: Problem,
    tableau: Tableau,
    dt: float,
    max_steps: int,
    low_rank: bool = True,
    tape: float = TAPE,
    *,
    native: bool = True,
) -> Callable[[Tensor], State] | None:
    """Integrate with a Runge-Kutta method in fixed steps."""
    pays = low_rank and _plain(problem)
    lazy = structured(problem, tableau, measured=False) if pays else None
    if lazy is not None:
        method = StructuredSteps(tableau, lazy.problem.layout.pack(lazy.problem.y0), lazy)
        return _march(lazy.problem, method, dt, max_steps, tape)
    if not _plain(problem):
        return _march(problem, RungeKutta(tableau, _like(problem)), dt, max_steps, tape)
    # a last stage that the new state does not need is for others
    stages = tableau.stages - (tableau.b[-1] == 0.0)

    def advance(problem: Problem, times: Sequence[Tensor], state: State, h: float) -> State:
        slopes = [_slope(problem, times[0], state)]
        for i in range(1, stages):
            shifted = _shift(state, slopes, tableau.a[i], h)
            slopes.append(_slope(problem, times[i], shifted))
        return _shift(state, slopes, tableau.b, h)

    held = HeldSteps.of(problem, native=native) if tableau is EULER else None
    _run(problem, tableau.c[:stages], advance, dt, max_steps, tape, held)
    return None


def _plain(problem: Problem) -> bool:
    """Whether all samples share every step, and nothing is asked for inside a step."""
    differentiable = problem.t.requires_grad and torch.is_grad_enabled()
    return not (differentiable or problem.t.dim() > 1 or problem.events or problem.dense)


def _like(problem: Problem) -> Tensor:
    return next(iter(problem.y0.values())).detach()


def _march(
    problem: Problem, method: OneStep, dt: float, max_steps: int, tape: float
) -> Callable[[Tensor], State] | None:
    problem.recorder.row(0, problem.y0)
    return March(problem, method, grid(problem, dt, max_steps), None, max_steps, tape).run()


def _run(
    problem: Problem,
    nodes: tuple[float, ...],
    advance: Advance,
    dt: float,
    max_steps: int,
    tape: float,
    held: HeldSteps | None = None,
) -> None:
    """Step the named tensors; a variable at rest is passed on as it is."""
    state, recorder = problem.y0, problem.recorder
    recorder.row(0, state)
    if problem.t.numel() < 2:
        return
    t, jumps = clocks(problem)
    stretches = list(intervals(t, jumps, dt))
    require_steps(sum(s.steps for s in stretches), max_steps, float(t[0]))
    ends = edges(stretches)
    checkpoints = Checkpoints(problem, tape)
    places = torch.tensor([*nodes, 1.0], dtype=torch.float64)
    for stretch, (low, high) in zip(stretches, ends, strict=True):
        start, stop = float(stretch.start), float(stretch.stop)
        h = (stop - start) / stretch.steps
        net = held.net(low, high, state) if held is not None else None
        for first in range(0, stretch.steps, CHUNK):
            count = min(CHUNK, stretch.steps - first)
            times = start + h * (torch.arange(first, first + count)[:, None] + places)
            if first + count == stretch.steps:
                times[-1, -1] = stop
            inside = times[:, :-1].clamp(low, high).to(t.device)
            good = state
            if net is not None:
                state = _in_place(problem, net, times[:, -1].to(t.device), state, h)
            else:
                for at, now in zip(inside, times[:, -1].to(t.device), strict=True):
                    if checkpoints.spent:
                        state = _repeatable(checkpoints, problem, advance, at, state, h)
                    else:
                        state = advance(problem, at.unbind(), state, h)
                        if torch.is_grad_enabled():
                            checkpoints.taped(len(at), partial(_graph, problem, at[0], state))
                    problem.accepted(now, state, None)
            recorder.statistics.steps += count
            if not _finite(state):
                raise _culprit(problem, advance, inside, good, h)
        if stretch.row is not None:
            recorder.row(stretch.row, state)


def _repeatable(
    checkpoints: Checkpoints, problem: Problem, advance: Advance, at: Tensor, state: State, h: float
) -> State:
    def body(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(state, values, strict=True))
        return tuple(advance(problem, at.unbind(), given, h).values())

    values = checkpoints.call(body, len(state), *state.values())
    return dict(zip(state, values, strict=True))


def _graph(problem: Problem, at: Tensor, state: State) -> State:
    return _slope(problem, at, {name: y.detach().requires_grad_() for name, y in state.items()})


def _in_place(problem: Problem, net: Net, ends: Tensor, state: State, h: float) -> State:
    """Take a step to each of these times; return the whole state."""

    def tell(step: int) -> None:
        problem.recorder.statistics.evaluations += 1
        problem.accepted(ends[step], {**state, **net.view()}, None)

    net.march(h, len(ends), tell)
    return {**state, **net.state()}


def _slope(problem: Problem, t: Tensor, state: State) -> State:
    problem.recorder.statistics.evaluations += 1
    return {name: k.to(state[name].dtype) for name, k in problem.field(t, state).items()}


def _shift(state: State, slopes: Sequence[State], weights: Sequence[float], h: float) -> State:
    """Return y + h Σ_i w_i k_i."""
    new = dict(state)
    for weight, slope in zip(weights, slopes, strict=False):
        if weight:
            for name, k in slope.items():
                if new[name] is state[name]:
                    new[name] = torch.add(state[name], k, alpha=weight * h)
                else:
                    new[name].add_(k, alpha=weight * h)
    return new


def _advance_exponential(
    problem: Problem, times: Sequence[Tensor], state: State, h: float
) -> State:
    slopes = _slope(problem, times[0], state)
    rates = {} if problem.linear is None else problem.linear(times[0], state)
    new = dict(state)
    for name, slope in slopes.items():
        weighted = phi1(h * rates[name]).to(slope.dtype) * slope if name in rates else slope
        new[name] = torch.add(state[name], weighted, alpha=h)
    return new


def _finite(state: State) -> bool:
    return all(all_finite(y) for y in state.values())


@torch.no_grad()
def _culprit(
    problem: Problem, advance: Advance, times: Tensor, good: State, h: float
) -> IntegrationError:
    """Repeat the last steps to find the one that failed."""
    layout = problem.layout
    state, at, last = good, times[0], times[-1]
    for at in times:
        new = advance(problem, at.unbind(), state, h)
        if not _finite(new):
            return diverged(layout, float(at[0]), layout.pack(state), layout.pack(new))
        state = new
    return IntegrationError(
        time=float(last[0]), cause="the state is NaN or infinite, but not when it is run again"
    )
