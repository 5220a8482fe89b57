"""Projective integration: bursts of the whole system, and leaps of the slow variables between."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from ctsigprop.errors import SeparationError
from ctsigprop.solvers.base import Problem, Recorder, Solver, State
from ctsigprop.solvers.explicit.adaptive import Tsit5
from ctsigprop.solvers.options import check_max_steps, check_positive
from ctsigprop.solvers.slow.inputs import require_forward, require_periodic
from ctsigprop.solvers.slow.macro import Macro, Piece
from ctsigprop.solvers.slow.split import Split, conclude, noise_like

__all__ = ["Projective"]

SETTLED = 0.1  # of the tolerance: how much of the first difference may be left
CENTRED = 0.05  # of the tolerance: how far a burst may be centred from where it is wanted
MACRO = 0.1  # the share of the tolerance that a macro step may take
LARGEST_CHANGE = 0.05  # of slow variables within a burst
ATTEMPTS = 3
EDGE = 1e-9


@final
@dataclass(frozen=True)
class Projective(Solver):
    """Projective integration, for weights that are much slower than neurons and their inputs.

    Where W(t) is wanted to move on, a burst of the whole system runs from the start of a period:
    some periods in which the fast variables settle, and one over which the change of the slow ones
    is taken, dW/dt = [w(T) − w(0)]/T, with w(T/2) = W. Tsitouras' pair leaps on with that, in
    float64. Unlike `Averaging`, neurons and weights move together in a burst, so that the error is
    of the second order in the change of the weights within a burst; it costs more, and takes any
    field whose fast variables forget where they start.

    Estimated errors, relative to the largest root mean square of a variable, are in
    ``solution.statistics.estimates``: "macro", how far a twin with halved steps is away;
    "settling", the change of dW/dt by one more period to settle; "averaging", the square of the
    change of W within a burst; and "total", their sum, which must not be above `rtol`.

    Every row of the output is the end of a burst: the state of all variables at that time.

    Parameters
    ----------
    period : float
        Of all inputs together, in the system's time unit. Constant inputs have any; a few time
        constants of the neurons are a good one.
    rtol : float, optional
        The largest estimated error, relative to the size of a slow variable.
    slow : tuple of str, optional
        Names of the slow variables; by default all weights that learn, and what their rules keep
        besides where it is as slow.
    micro : Solver, optional
        What integrates the bursts.
    max_settle : int, optional
        The most periods in which fast variables must have forgotten their start.
    max_steps : int, optional
        The most macro steps.

    Raises
    ------
    ValueError
        A period that the inputs do not have, options out of range, time that runs backward, or a
        state of float32: the small changes of the weights in a burst would be lost.
    SeparationError
        Where weights are not slow, where fast variables do not forget their start, or where the
        estimate is above `rtol`.

    References
    ----------
    Gear & Kevrekidis 2003, SIAM J. Sci. Comput. 24:1091-1106; Calvo, Chartier, Murua & Sanz-Serna
    2011, Appl. Numer. Math. 61:1077-1095: the flow that goes through w at whole periods.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> system = ct.System(
    ...     ct.Source("x", 1, ct.Rhythm(1.0, 0.25)),
    ...     ct.leaky_integrator("y"),
    ...     ct.Synapse("x", "y", 0.1, plasticity=ct.oja(1e-4)),
    ... )
    >>> run = ct.solve(system, t=[0.0, 2e4], solver=Projective(period=4.0))
    >>> run.statistics.estimates["total"] < 1e-2
    True
    """

    period: float
    rtol: float = 1e-2
    slow: tuple[str, ...] | None = None
    micro: Solver = Tsit5()  # noqa: RUF009
    max_settle: int = 50
    max_steps: int = 1000

    gradients = False

    def __post_init__(self) -> None:
        check_positive("period", self.period)
        check_positive("rtol", self.rtol)
        check_max_steps(self.max_steps)
        if not isinstance(self.micro, Solver):
            raise TypeError(f"micro must be a solver such as Tsit5(rtol=1e-8); got {self.micro!r}")
        if not isinstance(self.max_settle, int) or self.max_settle < 1:
            raise ValueError(f"max_settle must be a whole number >= 1, got {self.max_settle!r}")

    def integrate(self, problem: Problem) -> Callable[[Tensor], State] | None:
        """Fill ``problem.recorder``."""
        require_forward(problem)
        _Leaps(self, problem).run()
        return None


class _Leaps:
    """One run."""

    def __init__(self, options: Projective, problem: Problem) -> None:
        self.options, self.problem, self.period = options, problem, options.period
        self.t0, self.end = float(problem.t[0]), float(problem.t[-1])
        self.split = split = Split(problem, options.slow, self.period)
        if split.dtype != torch.float64:
            raise ValueError(
                f"Projective needs a state of float64, got {split.dtype}: the small changes of "
                "the weights in a burst would be lost; use Averaging"
            )
        problem.recorder.statistics.slow = split.slow
        self.fast = {name: problem.y0[name] for name in split.fast}
        self.speed = torch.zeros_like(split.pack(problem.y0))
        self.change = 0.0
        self.pieces: list[Piece] = []
        self.times = problem.t.tolist()
        self.row = 1

    def run(self) -> None:
        """Let the fast variables settle, then leap."""
        require_periodic(self.problem, self.period)
        first = self._first_burst()
        W = self.split.pack(first)
        self.begin, self.first = self.t0 + self.settle * self.period, first
        if self.begin + 2 * self.period >= self.end:
            self._rows(self.end)
            return
        settling = self._settling(W)
        macro = Macro(
            self._rate,
            self.split.sizes,
            self.options.rtol * MACRO,
            self.options.max_steps,
            project=lambda W: self.split.projected(self.problem, W),
            statistics=self.problem.recorder.statistics,
        )
        W_end = macro.run(self.begin, self.end, W, self._accepted)
        scale = self.split.scale(W_end)
        moved = float((self.split.sizes(W_end - W) / scale).max())
        found = {
            "macro": macro.error,
            "settling": settling * moved,
            "averaging": self.change**2,
        }
        conclude(self.problem, found, self.options.rtol)

    # bursts

    def _burst(self, state: State, times: list[float]) -> State:
        """Integrate the whole system; return all variables at each of the times."""
        problem = self.problem
        recorder = Recorder(problem.layout, len(times))
        recorder.row(0, state)
        t = torch.tensor(times, dtype=torch.float64)
        jumps = problem.system.jumps(times[0], times[-1], problem.inputs)
        part = replace(
            problem,
            y0=state,
            t=t,
            jumps=torch.tensor(jumps, dtype=torch.float64),
            recorder=recorder,
            accepted=lambda _t, _y, _f: None,
        )
        try:
            self.options.micro.integrate(part)
        finally:
            whole = problem.recorder.statistics
            whole.evaluations += recorder.statistics.evaluations
            whole.low_rank = recorder.statistics.low_rank
        return recorder.states()

    def _first_burst(self) -> State:
        """Run from the given state until the fast variables have forgotten it; find how long."""
        problem, period = self.problem, self.period
        given = {name: problem.y0[name] for name in problem.layout.names}
        flat = self.split.flat(given)
        one = self._row(self._burst(given, [self.t0, self.t0 + period]), 1)
        spread = self.split.flat(one).abs().mean().clamp(min=1e-3)
        starts = [flat, flat + spread * noise_like(flat), -self.split.flat(one)]
        states = [{**given, **self._named(start)} for start in starts]
        apart = max(float((start - flat).abs().max()) for start in starts[1:])
        wanted = max(SETTLED * self.options.rtol, 1e-7)
        ratio = 1.0
        for count in range(1, self.options.max_settle + 1):
            t = self.t0 + (count - 1) * period
            weights = {name: states[0][name] for name in self.split.slow}  # the same in all
            states = [
                self._row(self._burst({**state, **weights}, [t, t + period]), 1) for state in states
            ]
            ends = [self.split.flat(state) for state in states]
            ratio = max(float((end - ends[0]).abs().max()) for end in ends[1:]) / apart
            if ratio < wanted:
                self.settle = count
                self.fast = {name: states[0][name] for name in self.split.fast}
                return states[0]
        raise SeparationError(
            time=self.t0,
            cause=f"the fast variables do not forget where they start: after {count} periods "
            f"{100 * ratio:.2g} % of a difference is left; neurons that oscillate by themselves, "
            "or have several stable states, have no average (or raise max_settle)",
        )

    def _named(self, flat: Tensor) -> State:
        sizes = [self.problem.y0[name].numel() for name in self.split.fast]
        parts = torch.split(flat, sizes)
        return {
            name: part.reshape(self.problem.y0[name].shape)
            for name, part in zip(self.split.fast, parts, strict=True)
        }

    @staticmethod
    def _row(states: State, k: int) -> State:
        return {name: values[k] for name, values in states.items()}

    def _rate(self, t: float, W: Tensor) -> Tensor:
        """Return dW/dt from a burst that is centred at W."""
        return self._measured(t, W, self.settle)

    def _measured(self, t: float, W: Tensor, settle: int) -> Tensor:
        begin = W - (settle + 0.5) * self.period * self.speed
        times = [self.t0 + k * self.period for k in (0, settle, settle + 1)]
        for _ in range(ATTEMPTS):
            state = {**self.fast, **self.split.unpack(begin)}
            found = self._burst({name: state[name] for name in self.problem.layout.names}, times)
            early, late = (self.split.pack(self._row(found, k)) for k in (1, 2))
            self.fast = {name: found[name][2] for name in self.split.fast}
            self.speed = (late - early) / self.period
            away = W - (early + late) / 2
            if (
                float((self.split.sizes(away) / self.split.scale(W)).max())
                < CENTRED * self.options.rtol
            ):
                break
            begin = begin + away
        change = (settle + 1) * self.period * self.split.sizes(self.speed) / self.split.scale(W)
        if float(change.max()) > LARGEST_CHANGE:
            name = self.split.slow[int(change.argmax())]
            raise SeparationError(
                time=t,
                variable=name,
                cause=f"it changes by {100 * float(change.max()):.2g} % within a burst of "
                f"{settle + 1} periods; leaps take at most {100 * LARGEST_CHANGE:g} %: use Tsit5",
            )
        self.change = max(self.change, float(change.max()))
        return self.speed

    def _settling(self, W: Tensor) -> float:
        """Return how much one more period to settle changes dW/dt."""
        far = {name: value * 0.5 for name, value in self.fast.items()}
        self.speed = self._measured(self.t0, W, self.settle)
        self.fast = far
        less = self._measured(self.t0, W, self.settle)
        more = self._measured(self.t0, W, self.settle + 1)
        size = self.split.sizes(more).clamp(min=1e-300)
        return float((self.split.sizes(more - less) / size).max())

    # output

    def _accepted(self, pieces: list[Piece], slope: Tensor) -> None:
        del slope
        self.pieces += pieces
        t = pieces[-1].t + pieces[-1].h
        span = t - pieces[0].t
        if span < (self.settle + 1) * self.period and t < self.end * (1 - EDGE):
            raise SeparationError(
                time=t,
                cause=f"a macro step of {span:.3g} is shorter than a burst of {self.settle + 1} "
                f"periods ({self.period:.3g}): the slow variables are not slow; use Tsit5",
            )
        self._rows(t)
        self.problem.accepted(torch.tensor(t, dtype=torch.float64), {}, None)

    def _rows(self, t: float) -> None:
        while self.row < len(self.times) and self.times[self.row] <= t + EDGE * abs(t):
            self.problem.recorder.row(self.row, self._state_at(self.times[self.row]))
            self.row += 1

    def _state_at(self, t: float) -> State:
        """Return all variables at a time: the end of a burst that begins at whole periods."""
        periods = math.floor((t - self.t0) / self.period + EDGE) - self.settle
        start = self.t0 + periods * self.period
        if start < self.begin or not self.pieces:
            start = self.begin if t > self.begin else self.t0
            given = self.problem.y0
            state = self.first if t > self.begin else {n: given[n] for n in given}
        else:
            piece = next(p for p in self.pieces if start <= p.t + p.h)
            own = {**self.fast, **self.split.unpack(piece.at(start))}
            state = {name: own[name] for name in self.problem.layout.names}
        if t - start <= EDGE * abs(t):
            return state
        return self._row(self._burst(state, [start, t]), 1)
