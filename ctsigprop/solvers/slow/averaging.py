"""Averaging: slow variables follow the mean of their derivatives over the motion of the fast."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from ctsigprop.errors import SeparationError
from ctsigprop.solvers.base import Problem, Solver, State
from ctsigprop.solvers.options import check_max_steps, check_positive
from ctsigprop.solvers.slow.cycle import Cycle, Fourier, Panels, Stretch, graded
from ctsigprop.solvers.slow.inputs import require_constant, require_forward, require_periodic
from ctsigprop.solvers.slow.macro import Macro, Piece
from ctsigprop.solvers.slow.motion import Motion, Settled
from ctsigprop.solvers.slow.presentations import WINDOWS, Presentations
from ctsigprop.solvers.slow.split import Split, conclude, noise_like

__all__ = ["Averaging"]

NODES, MOST_NODES = 9, 513  # of a smooth period
NODE_ERROR = 1e-4  # at most, of the mean derivative
MEMORY = 25  # relaxations of fast variables, after which all is forgotten
CHUNKS = 4  # of a period, between which slow variables swing
LARGEST_CHANGE = 0.05  # of slow variables while fast ones forget
FORGOTTEN = 0.1  # a larger share of a difference between starts is not forgotten
PATIENCE = 3  # how often it is looked at again, three times as late
MACRO = 0.1  # the share of the tolerance that a macro step may take
EDGE = 1e-9


@final
@dataclass(frozen=True)
class Averaging(Solver):
    """Averaging, for weights that are much slower than neurons and their inputs.

        ds/dt = f(t, s, w),    dw/dt = g(t, s, w)  with small g
        dW/dt = G(W) = mean over a period of g(t, s*(t; W), W)

    s* is the periodic motion of the fast variables while W rests: all of ds/dt is kept. The macro
    steps of W are those of Tsitouras' pair, in float64, as long as W allows; cost no longer depends
    on the number of periods. The error is of the order of the change of the weights within a period
    and within a relaxation of the neurons; it is estimated, and with the others stored in
    ``solution.statistics.estimates``: relative to the largest root mean square of a variable,

    - "macro": how far a twin with halved macro steps is away;
    - "averaging": the change of W while the fast variables relax and within half a period, and the
      swing of w within a period;
    - "nodes": the change of G with twice the nodes in a period;
    - "sampling": of presentations, half the width of the 95 % interval of the mean over those that
      were taken, from their windows apart, and of the mean over those that came;
    - "total": their sum, which must not be above `rtol`.

    Output has W at every time, by the interpolant of the macro steps, without the swing within a
    period; and the fast variables in their periodic motion at that phase of the period, as far
    behind as the moving weights leave it, or, with presentations, in their motion under the last
    ones before that time. The row at the start is the initial state.

    Parameters
    ----------
    period : float, optional
        Of all inputs together, in the system's time unit. Without it, and without presentations,
        inputs must be constant.
    presentations : int, optional
        How many presentations make an average, where inputs are held ones drawn at random: in 8
        windows of successive ones, evenly through the span. At least 16. Their statistics must be
        the same all through the span.
    rtol : float, optional
        The largest estimated error, relative to the size of a slow variable; a larger one is
        refused.
    slow : tuple of str, optional
        Names of the slow variables; by default all weights that learn, and what their rules keep
        besides where it is as slow.
    max_steps : int, optional
        The most macro steps.

    Raises
    ------
    ValueError
        Before the run: a period that the inputs do not have, none where they vary, options out of
        range, time that runs backward.
    SeparationError
        Where weights are not slow, where fast variables do not forget their start (they oscillate
        by themselves, or have several stable states), or where the estimate is above `rtol`.

    Notes
    -----
    Weights that are stopped at a sign or a bound are stopped by the mean of their derivative.
    Leaky neurons without loops forget their start, whatever the weights are, within the time
    constants along the longest way. Elsewhere forgetting is measured at the first and at the last
    weights, from a few starts: it does not prove that there is no other stable state.

    References
    ----------
    Sanders, Verhulst & Murdock 2007, Averaging Methods in Nonlinear Dynamical Systems, ch. 2;
    E & Engquist 2003, Commun. Math. Sci. 1:87-132; Vanden-Eijnden 2003, Commun. Math. Sci.
    1:385-391: the heterogeneous multiscale method.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> system = ct.System(
    ...     ct.Source("x", 1, ct.Rhythm(1.0, 0.25)),
    ...     ct.leaky_integrator("y"),
    ...     ct.Synapse("x", "y", 0.1, plasticity=ct.oja(1e-4)),
    ... )
    >>> run = ct.solve(system, t=[0.0, 2e4], solver=Averaging(period=4.0))
    >>> run.statistics.slow, run.statistics.estimates["total"] < 1e-2
    (('W_y_x',), True)
    """

    period: float | None = None
    presentations: int | None = None
    rtol: float = 1e-2
    slow: tuple[str, ...] | None = None
    max_steps: int = 1000

    gradients = False

    def __post_init__(self) -> None:
        if self.period is not None:
            check_positive("period", self.period)
        if self.presentations is not None:
            if self.period is not None:
                raise ValueError("period and presentations exclude each other")
            if not isinstance(self.presentations, int) or self.presentations < 2 * WINDOWS:
                raise ValueError(
                    f"presentations must be a whole number >= {2 * WINDOWS}, "
                    f"got {self.presentations!r}"
                )
        check_positive("rtol", self.rtol)
        check_max_steps(self.max_steps)

    def integrate(self, problem: Problem) -> Callable[[Tensor], State] | None:
        """Fill ``problem.recorder``."""
        require_forward(problem)
        with problem.system.inference():
            _Run(self, problem).run()
        return None


class _Run:
    """One run: the cycle, the motion on it, and what is known of the errors."""

    def __init__(self, options: Averaging, problem: Problem) -> None:
        self.options, self.problem = options, problem
        self.t0, self.end = float(problem.t[0]), float(problem.t[-1])
        self.inside = options.rtol * MACRO
        count = options.presentations
        self.shown = Presentations(problem, count) if count else None
        self.period = options.period or (self.shown.hold if self.shown else 0.0)
        self.split = split = Split(problem, options.slow, self.period)
        problem.recorder.statistics.slow = split.slow
        speeds = [-a for a in split.rates.values() if a < 0] or [1.0]
        self.relaxation, self.tau = 1 / min(speeds), 1 / max(speeds)
        least = 1e-5 if split.dtype == torch.float32 else 1e-9
        self.tol = max(least, min(1e-6, 1e-3 * options.rtol))
        self.W0 = split.pack(problem.y0)
        self.estimates: dict[str, float] = {}
        self.swing = self.lag = self.added = torch.zeros_like(split.largest)

    def run(self) -> None:
        """Step the slow variables to the end."""
        if options_period := self.options.period:
            require_periodic(self.problem, options_period)
        elif not self.shown:
            require_constant(self.problem)
        self.motion = self._resolved(Motion(self.problem, self.split, self._cycle(), self.tol))
        if self.motion.path:
            self.relaxation = max(self.relaxation, self.motion.path.memory)
        W = self._forget(self.motion.settled(self.W0), shift=True)
        least = (0.5 * self.period + self.relaxation) / LARGEST_CHANGE
        self.macro = Macro(
            self.motion.rate,
            self.split.sizes,
            self.inside,
            self.options.max_steps,
            least=least,
            project=self.motion.project,
            statistics=self.problem.recorder.statistics,
        )
        self.row, self.times = 1, self.problem.t.tolist()
        self.pieces: list[Piece] = []
        W = self.macro.run(self.t0, self.end, W, self._accepted)
        last = self.motion.settled(W)
        if not self.motion.path:  # the last weights may not let it forget
            before = self.relaxation
            self._forget(last, shift=False)
            self.lag = self.lag * (self.relaxation / before)
        self._swing(last)
        if self.shown:
            self.estimates["sampling"] = self.shown.error(
                self.motion.on, self.split, self.inside, self.pieces, self.split.scale(W), self.tau
            )
        self._conclude()

    def _cycle(self) -> Cycle:
        problem = self.problem
        if self.shown:
            return self.shown.cycle(self.tau)
        period = self.options.period
        if period is None:
            return Fourier(self.t0, 1.0, 1)
        jumps = problem.system.jumps(self.t0, self.t0 + 1.5 * period, problem.inputs)
        if not jumps:
            return Fourier(self.t0, period, NODES)
        inside = [t for t in jumps if t < self.t0 + period * (1 - EDGE)]
        return Panels([graded([self.t0, *inside, self.t0 + period], self.tau)])

    def _resolved(self, motion: Motion) -> Motion:
        """Return the motion on nodes enough for the mean derivative."""
        if len(motion.times) == 1:
            self.estimates["nodes"] = 0.0
            return motion
        error = math.inf
        while True:
            coarse = motion.settled(self.W0)
            finer = motion.on(motion.cycle.refined())
            finer.known = finer.start(motion.named(coarse.fast[0]))
            fine = finer.settled(self.W0)
            size = self.split.sizes(fine.rate).clamp(min=1e-300)
            before, error = error, float((self.split.sizes(fine.rate - coarse.rate) / size).max())
            if error <= min(self.inside / 10, NODE_ERROR):
                self.estimates["nodes"] = error
                return motion
            if (len(finer.times) > MOST_NODES and not self.shown) or error > 0.7 * before:
                raise SeparationError(
                    time=self.t0,
                    cause=f"{len(finer.times)} nodes in a period do not resolve it: the mean "
                    f"derivative still changes by {error:.2g}; inputs with kinks or pulses inside "
                    "a period need signals that say where they jump",
                )
            motion = finer

    def _require_slow(self, W: Tensor, G: Tensor, t: float, span: float) -> None:
        """Refuse weights that change while the fast variables relax, or within half a period.

        They are compared with the largest size so far, and with the change in a macro step.
        """
        lag = self.split.sizes(G) * (0.5 * self.period + self.relaxation)
        self.lag = torch.maximum(self.lag, lag)
        size = torch.maximum(self.split.scale(W), span * self.split.sizes(G))
        worst = float((lag / size).max())
        if worst > LARGEST_CHANGE:
            name = self.split.slow[int((lag / size).argmax())]
            raise SeparationError(
                time=t,
                variable=name,
                cause=f"it changes by {100 * worst:.2g} % within a relaxation of the fast "
                f"variables ({self.relaxation:.3g}) and half a period; averaging takes at most "
                f"{100 * LARGEST_CHANGE:g} %: use Tsit5",
            )

    def _forget(self, now: Settled, *, shift: bool) -> Tensor:
        """Refuse fast variables that do not forget where they start; return the first W.

        The first W is that of the state given, and what the fast variables, on their way from there
        to their periodic motion, add to it.
        """
        motion, split = self.motion, self.split
        rest = split.flat(motion.at(self.t0, now.rest))
        starts = [rest, split.flat(self.problem.y0)]
        if not motion.path:
            spread = now.fast.std(0, unbiased=False) + 0.5 * now.fast.abs().mean()
            spread = torch.where(spread > 0, spread, torch.ones_like(spread))
            starts += [rest + spread * noise_like(rest), 2 * now.fast.mean() - rest]
        from_ = torch.stack(starts)
        apart = (from_[1:] - from_[0]).abs().amax(1)
        far = apart > 1e-9 * (1e-300 + rest.abs().max())
        ratio, rounds = 0.0, math.ceil(4 * self.relaxation / self.period) if self.period else 1
        for _ in range(PATIENCE + 1):
            duration = rounds * self.period or rounds * 4 * self.relaxation
            step = min(duration / 16, 0.25 * self.tau if shift else 0.5 * self.tau)
            layer = motion.on(Stretch(self.t0, duration, math.ceil(duration / step)))
            path, drive = layer.march(now.slow, from_)
            left = (path[-1, 1:] - path[-1, 0]).abs().amax(1)
            ratio = float((left / apart)[far].max()) if bool(far.any()) else 0.0
            if ratio < FORGOTTEN:
                break
            rounds *= 3
        else:
            raise SeparationError(
                time=self.t0,
                cause=f"the fast variables do not forget where they start: after {duration:.3g} "
                f"{100 * ratio:.0f} % of a difference is left; neurons that oscillate by "
                "themselves, or have several stable states, cannot be averaged",
            )
        if ratio > 0 and not motion.path:
            self.relaxation = max(self.relaxation, duration / -math.log(min(ratio, 0.99)))
        if not shift:
            return self.W0
        means = [layer.average(now.slow, path[:, k], drive[:, k]) for k in (0, 1)]
        added = duration * (means[1] - means[0])
        self.added = split.sizes(added)
        return self.W0 + added

    def _swing(self, now: Settled) -> None:
        """Note how far the slow variables swing within a period."""
        nodes = len(self.motion.times)
        if nodes == 1:
            return
        if self.shown:
            self.swing = self.period * self.split.sizes(now.rate)
            return
        edges = [nodes * k // CHUNKS for k in range(CHUNKS)]
        low = high = place = torch.zeros_like(now.rate)
        for a, b in pairwise(edges):  # after the last part it is where it was
            share = float(self.motion.cycle.share[a:b].sum())
            mean = self.motion.average(now.slow, now.fast, now.rest, range(a, b))
            place = place + self.period * share * (mean - now.rate)
            low, high = torch.minimum(low, place), torch.maximum(high, place)
        self.swing = self.split.sizes((high - low) / 2)

    def _conclude(self) -> None:
        W = self.pieces[-1].end
        late = (self.lag + self.swing + 0.1 * self.added) / self.split.scale(W)
        self.estimates["macro"] = self.macro.error
        self.estimates["averaging"] = float(late.max())
        conclude(self.problem, self.estimates, self.options.rtol)

    def _accepted(self, pieces: list[Piece], slope: Tensor) -> None:
        self.pieces += pieces
        t = pieces[-1].t + pieces[-1].h
        span = t - pieces[0].t
        if span < self.period and t < self.end * (1 - EDGE):
            raise SeparationError(
                time=t,
                cause=f"a macro step of {span:.3g} is shorter than a period ({self.period:.3g}): "
                "the slow variables are not slow, or rtol is too small; use Tsit5",
            )
        self._require_slow(pieces[-1].end, slope, pieces[0].t, span)
        while self.row < len(self.times) and self.times[self.row] <= t + EDGE * abs(t):
            at = self.times[self.row]
            piece = next(p for p in pieces if at <= p.t + p.h + EDGE * abs(t))
            W = piece.at(at)
            self.problem.recorder.row(self.row, self._whole(at, W))
            self.row += 1
        self.problem.accepted(torch.tensor(t, dtype=torch.float64), {}, None)

    def _whole(self, t: float, W: Tensor) -> State:
        """Return all variables at an output time."""
        slow = self.split.unpack(W)
        if self.shown:
            fast = self._lately(t, slow)
        else:
            now = self.motion.settled(W)
            back = self.period + self.relaxation
            before = self.split.unpack(W - back * now.rate)
            drift = (now.fast - self.motion.settle(before)[0]) / back
            _, rest = self.motion.settle(slow, drift)
            phase = (t - self.t0) % self.period if self.period else 0.0
            fast = self.motion.at(self.t0 + phase, rest, drift)
        state = {**slow, **fast}
        return {name: state[name] for name in self.problem.layout.names}

    def _lately(self, t: float, slow: State) -> State:
        """Return the fast variables under the last presentations before a time."""
        assert self.shown is not None
        motion = self.motion.on(self.shown.lately(t, MEMORY * self.relaxation, self.tau))
        return motion.at(t, motion.settle(slow)[1])
