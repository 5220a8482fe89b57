"""The loop over the steps of a run, in which every sample has a clock of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsigprop.errors import StepLimitError
from ctsigprop.solvers.base import Problem, unheard
from ctsigprop.solvers.explicit.checkpoints import Checkpoints
from ctsigprop.solvers.explicit.control import Control
from ctsigprop.solvers.explicit.dense import Interpolant
from ctsigprop.solvers.explicit.onestep import OneStep, Step
from ctsigprop.solvers.explicit.watch import Watch
from ctsigprop.solvers.failures import blown_up, diverged, grows, not_finite, stuck, too_stiff
from ctsigprop.solvers.stops import Stops, clocks, spacing

__all__ = ["March"]

PROBES = (0.2, 0.4, 0.6, 0.8)  # shares of an adaptive step at which events are looked for
STRETCH = 1.05  # a stop so little beyond the step is landed on: one step less
ROUNDINGS = 10  # a step below so many roundings of t makes no headway
RETREATS = 10  # from a NaN before it is taken for one
PATIENCE = 15  # stiff steps in a row
EVERY = 32  # steps between the looks at whether the run will end


class March:
    """A run in progress: the samples' times, states and derivatives.

    Parameters
    ----------
    problem : Problem
        What to integrate.
    method : OneStep
        How a step is taken.
    stops : Stops
        Where steps have to end.
    control : Control or None
        Chooses the steps between stops; None takes one step from stop to stop.
    max_steps : int
        The most steps of a sample, rejected ones included.
    tape : float
        Memory of the graph that is kept for gradients, in MiB, before steps are repeated.
    """

    def __init__(
        self,
        problem: Problem,
        method: OneStep,
        stops: Stops,
        control: Control | None,
        max_steps: int,
        tape: float = math.inf,
    ) -> None:
        self.checkpoints = Checkpoints(problem, tape)
        self.problem, self.layout, self.method = problem, problem.layout, method
        self.stops, self.control, self.max_steps = stops, control, max_steps
        self.y0 = self.y = self.layout.pack(problem.y0)
        samples, device = len(self.y), self.y.device
        self.times = clocks(problem)[0].reshape(-1, problem.t.shape[-1])
        self.start = self.t = self.times[:, 0].expand(samples)
        self.end = self.times[:, -1].detach().expand(samples)
        self.sign = torch.sign(self.end - self.start.detach())
        self.ordered = (self.times.detach() * self.sign[: len(self.times), None]).contiguous()
        self.pointer = torch.zeros(samples, dtype=torch.long, device=device)
        self.next_row = torch.ones_like(self.pointer)
        self.due = self._due()
        self.tried = torch.zeros_like(self.pointer)
        self.rejected = torch.zeros_like(self.pointer)
        self.missed = torch.zeros_like(self.pointer)
        self.stiff = torch.zeros_like(self.pointer)
        self.everyone = self.active = torch.ones(samples, dtype=torch.bool, device=device)
        self.under_way = samples > 0
        self.retreating = False  # whether a sample has met a NaN
        self.forward = bool((self.sign >= 0).all())
        furthest = torch.maximum(self.start.detach().abs(), self.end.abs())
        self.least = ROUNDINGS * spacing(furthest)
        self.least_of_all = float(self.least.max()) if samples else 0.0
        self.together = control is None and problem.t.dim() == 1 and not problem.events
        self.stopped = False  # whether an event has ended a sample
        self.suspects: Tensor | None = None
        self.watch: Watch | None = None
        self.steps: list[Step] = []

    def go_on(
        self, t: float, y: Tensor, f: Tensor, pointer: int, row: int, tried: int, rejected: int
    ) -> None:
        """Go on with a run of one sample that has come to `t`, by the same method elsewhere.

        `y` and `f` are its state and derivative, `pointer` its next stop, `row` its next output;
        the control of the steps is as it was there.
        """
        self.t, self.y, self.f = torch.full_like(self.t, t), y, f
        self.pointer, self.next_row = self.pointer + pointer, self.next_row * row
        self.tried, self.rejected = self.tried + tried, self.rejected + rejected
        self.due = self._due()
        self._aim()
        self.run(tried)

    def run(self, turn: int | None = None) -> Interpolant | None:
        """Step every sample to the end of its span, and fill the recorder.

        A run that has begun elsewhere goes on after so many turns.
        """
        if self.times.shape[1] > 1 and len(self.y):
            try:
                if turn is None:
                    self.begin()
                    turn = 0
                while self.under_way:
                    turn += 1
                    self._look_ahead(turn)
                    self._step()
            finally:
                statistics = self.problem.recorder.statistics
                statistics.rejections += int(self.rejected.max())
                statistics.steps += int((self.tried - self.rejected).max())
        elif not len(self.y):
            for row in range(self.times.shape[1]):
                self.problem.recorder.row(row, self.problem.y0)
        if not self.problem.dense:
            return None
        return Interpolant(self.layout, self.y0, self.steps, self.start, self.t, self.sign)

    def begin(self) -> None:
        """Take the derivatives at the start, and choose the first steps."""
        self._aim()
        self.f = self._slope(self.t, self.y)
        self.problem.require_finite(self.t, self.f, "the derivative")
        reach = (self.target - self.t).detach()
        if self.control is not None:
            self.control.start(self._slope, self.t, self.y, self.f, reach)
            reach = self.control.h * self.sign
        if self.problem.events:
            probes = () if self.control is None else PROBES
            self.watch = Watch(self.problem, self.t, self.y, self.f, reach, probes)

    def _derivative(self, t: Tensor, y: Tensor) -> Tensor:
        # one clock for all where it can be: a history of delays knows no other
        f = self.problem.derivative(t[0] if self.together and t.dim() else t, y)
        return f if f.dtype == y.dtype else f.to(y.dtype)

    def _aim(self) -> None:
        self.target = self.stops.pick(self.stops.times, self.pointer)
        self.low = self.stops.pick(self.stops.low, self.pointer)
        self.high = self.stops.pick(self.stops.high, self.pointer)

    def _inside(self, t: Tensor) -> Tensor:
        """Keep times on this side of a jump; their gradient is kept as it is."""
        inside = torch.clamp(t, self.low, self.high)
        return t + (inside - t).detach() if t.requires_grad else inside

    def _slope(self, t: Tensor, y: Tensor) -> Tensor:
        (f,) = self.checkpoints.call(self._evaluated, 1, self._inside(t), y)
        return f

    def _evaluated(self, t: Tensor, y: Tensor) -> tuple[Tensor]:
        return (self._derivative(t, y),)

    def _take(self, size: Tensor) -> Step:
        times = self._inside(torch.addcmul(self.t, self.method.nodes, size))
        if len(size) == 1 or self.together:
            times = times[:, 0]  # one clock needs no axis
        if self.checkpoints.spent and torch.is_grad_enabled():
            end, last, stages = self.checkpoints.call(
                self._stepped, 2, times, self.t, self.y, self.f, size
            )
            return Step(self.t, size, self.y, stages, end, last, self.method.dense)
        step = self.method(self._derivative, times, self.t, self.y, self.f, size)
        if torch.is_grad_enabled():
            self.checkpoints.taped(
                len(step.stages) - 1,
                lambda: self._derivative(times[0], self.y.detach().requires_grad_()),
            )
        return step

    def _stepped(
        self, times: Tensor, t: Tensor, y: Tensor, f: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        step = self.method(self._derivative, times, t, y, f, size)
        # a slice would hold on to all stages
        last = step.last if torch.is_grad_enabled() else step.last.clone()
        return step.end, last, step.stages

    def _propose(self) -> tuple[Tensor, Tensor | None]:
        """Return the signed size of each sample's step, and who lands on its stop, if any does."""
        remaining = self.target - self.t
        if self.control is None:
            landing = self.active
            if self.watch is not None:  # whoever met an event catches up with the others
                landing = landing & (self.pointer == self.pointer[self.active].min())
            return torch.where(landing, remaining, 0.0), landing
        h = self.control.h
        size = h if self.forward else h * self.sign
        near = h * STRETCH >= remaining.detach().abs()
        lands = bool(near.any())
        if lands:
            size = torch.where(near, remaining, size)
        if self.stopped:
            size = torch.where(self.active, size, 0.0)
        return size, near & self.active if lands or self.stopped else None

    def _step(self) -> None:
        size, landing = self._propose()
        step = self.last = self._take(size)
        self.tried = self.tried + self.active
        accepted = self._judge(step, landing)
        if accepted is None:
            return
        at = self.t + step.h
        reached = at if landing is None else torch.where(landing, self.target, at)
        fired = None
        if self.watch is not None:
            step, fired = self.watch.truncate(step, reached, accepted, self._take)
        if fired is not None:
            at = self.t + step.h
            short = (self.target - at).detach().abs() > spacing(at.detach())
            landing = torch.zeros_like(accepted) if landing is None else landing
            landing = landing & ~(fired.any(dim=0) & short)
            reached = torch.where(landing, self.target, at)
        self._record(step, reached, accepted)
        if self.problem.dense:
            self.steps.append(step)
        self._advance(step, reached, accepted)
        self._turn(None if landing is None else landing & accepted, fired, at)
        self._tell()

    def _judge(self, step: Step, landing: Tensor | None) -> Tensor | None:
        """Say which samples' steps stand; None if none does."""
        if self.control is None:
            if not bool(torch.isfinite(step.end).all()):
                sample = int(torch.nonzero(~torch.isfinite(step.end.detach()))[0, 0])
                time = float(self.t[sample])
                raise diverged(self.layout, time, self.y.detach(), step.end.detach())
            return self.active
        errors = self.control.errors(step)
        size = step.h.detach().abs()
        cut = None if landing is None else landing | (size == 0)
        if float(errors.max()) <= 1:
            accepted = self.everyone
            self.control.follow(size, errors, cut)
            if float(self.control.h.min()) < self.least_of_all and bool(
                (self.control.h < self.least).any()
            ):
                self._require_headway(step, self.active)
        else:
            accepted = errors <= 1
            wrong = ~torch.isfinite(errors)
            self.rejected = self.rejected + ~accepted
            if bool(wrong.any()):
                # nobody goes on: a NaN in the graph of one would reach the gradients of all
                self.control.back_off(size, wrong)
                self.missed = self.missed + wrong
                self.retreating = True
                self._require_headway(step, wrong)
                return None
            self.control.follow_some(size, errors, accepted, cut)
            self._require_headway(step, ~accepted)
        if self.suspects is not None:
            self._require_ease(step, self.suspects)
        if self.retreating:
            self.missed = torch.where(accepted, 0, self.missed)
            self.retreating = bool(self.missed.any())
        return accepted if accepted is self.everyone or bool(accepted.any()) else None

    def _record(self, step: Step, reached: Tensor, accepted: Tensor) -> None:
        """Hand over the rows that lie in the step of each sample."""
        now = reached.detach() if self.forward else reached.detach() * self.sign
        if not bool((now >= self.due).any()):
            return
        if len(self.y) == 1:
            row, last = int(self.next_row), self.times.shape[1] - 1
            if float(now) == float(self.due) and (row == last or self.stops.every_row):
                self.problem.recorder.row(row, self.layout.unpack(step.end))
                self.next_row = self.next_row + 1
                self.due = self._due()
                return
        now = now[None] if len(self.ordered) == 1 else now[:, None]
        count = torch.searchsorted(self.ordered, now, right=True).reshape(-1)
        count = torch.where(accepted, count - self.next_row, 0)
        total = int(count.sum())
        samples = torch.arange(len(count), device=count.device)
        sample = samples.repeat_interleave(count)
        index = torch.arange(total, device=count.device) - (count.cumsum(0) - count)[sample]
        index = index + self.next_row[sample]
        t = self.times[sample if len(self.times) > 1 else torch.zeros_like(sample), index]
        exact = t.detach() == reached.detach()[sample]
        if not self.stops.every_row:
            exact = exact & (index == self.times.shape[1] - 1)
        values = step.end[sample]
        if not bool(exact.all()):
            # a step of no length has no inside: a NaN there would reach the gradients
            size = torch.where(exact, 1.0, step.h[sample])
            inside = step.rows(sample, (t - step.t[sample]) / size)
            values = torch.where(exact[:, None], values, inside)
        self.problem.recorder.scatter(index, sample, values)
        self.next_row = self.next_row + count
        self.due = self._due()

    def _due(self) -> Tensor:
        """Return when the next row of each sample comes, in the order of its own time."""
        rows = self.ordered.expand(len(self.next_row), -1)
        due = rows.gather(1, self.next_row.clamp(max=rows.shape[1] - 1)[:, None])[:, 0]
        return torch.where(self.next_row < rows.shape[1], due, torch.inf)

    def _advance(self, step: Step, reached: Tensor, accepted: Tensor) -> None:
        if accepted is self.everyone or bool(accepted.all()):
            self.t = reached
            self.y, self.f = self.method.carried(step)
        else:
            self.t = torch.where(accepted, reached, self.t)
            self.y = torch.where(accepted[:, None], step.end, self.y)
            self.f = torch.where(accepted[:, None], step.last, self.f)

    def _turn(self, landed: Tensor | None, fired: Tensor | None, at: Tensor) -> None:
        """Go on to the next stop, and through events."""
        lands = landed is not None and bool(landed.any())
        if fired is None and not lands:
            return
        renew = torch.zeros_like(self.active)
        if landed is not None and lands:
            done = landed & (self.target.detach() == self.end)
            renew = landed & ~done & self.stops.pick(self.stops.jumps, self.pointer)
            self.active = self.active & ~done
            self.pointer = (self.pointer + landed).clamp(max=self.stops.count - 1)
            self._aim()
        before = self.y
        if fired is not None and self.watch is not None:
            self.y, reset, ended = self.watch.fire(fired, at, self.y)
            self.active = self.active & ~ended
            self.stopped = self.stopped or bool(ended.any())
            renew = renew | reset
        self.under_way = bool(self.active.any())
        if bool(renew.any()):
            f = self._slope(self.t, self.y)
            self.f = torch.where(renew[:, None], f, self.f)
            self.problem.require_finite(self.t, self.f, "the derivative")
        if fired is not None and self.watch is not None:
            h = self.target - self.t if self.control is None else self.control.h * self.sign
            self.watch.rearm(fired, self.t, before, self.y, self.f, h.detach())

    def _tell(self) -> None:
        if self.problem.accepted is unheard:
            return
        if self.watch is not None and self.control is None:
            pointer = self.pointer[self.active]
            if pointer.numel() and bool((pointer != pointer[0]).any()):
                return
        clock = self.t[0] if self.together else self.layout.clock(self.t)
        self.problem.accepted(clock, self.layout.unpack(self.y), self.layout.unpack(self.f))

    def _look_ahead(self, turn: int) -> None:
        """Stop a run that has taken, or will take, too many steps."""
        if turn > self.max_steps:
            over = self.active & (self.tried >= self.max_steps)
            if bool(over.any()):
                sample = int(torch.nonzero(over)[0])
                variable, component = self._worst(sample)
                raise StepLimitError(
                    time=float(self.t[sample]),
                    variable=variable,
                    component=component,
                    cause=f"{self.max_steps} steps did not reach t={float(self.end[sample]):g}; "
                    "raise max_steps, loosen rtol and atol, or try an implicit method: "
                    "SciPy('LSODA')",
                )
        if self.control is not None and turn % EVERY == 0:
            left = (self.end - self.t).detach().abs() / self.control.h
            slow = self.active & (left > self.max_steps - self.tried)
            self.suspects = slow if bool(slow.any()) else None

    def _worst(self, sample: int) -> tuple[str | None, tuple[int, ...] | None]:
        """Return where the error of a sample's last step is largest."""
        if self.control is None:
            return None, None
        return self.layout.locate(sample, self.control.largest(self.last, sample))

    def _require_ease(self, step: Step, suspects: Tensor) -> None:
        """Stop early where stability holds the steps so short that the run cannot end."""
        control = self.control
        if control is None:
            return
        self.stiff = torch.where(control.stiff(step) & suspects, self.stiff + 1, 0)
        if bool((self.stiff >= PATIENCE).any()):
            sample = int(self.stiff.argmax())
            t, h = float(self.t[sample]), float(control.h[sample])
            left = abs(float(self.end[sample]) - t) / h
            raise too_stiff(self.layout, sample, t, h, control.largest(step, sample), left)

    def _require_headway(self, step: Step, repeated: Tensor) -> None:
        """Stop where no step is short enough."""
        control = self.control
        if control is None:
            return
        t = self.t.detach()
        lost = self.missed > RETREATS
        short = repeated & (control.h < ROUNDINGS * spacing(t))
        if not bool((lost | short).any()):
            return
        sample = int(torch.nonzero(lost | short)[0])
        time, h = float(t[sample]), float(control.h[sample])
        elapsed = t[sample] - self.start[sample].detach()
        y0, y, f = (x[sample].detach() for x in (self.y0, self.y, self.f))
        position = grows(y, f, y0, elapsed)
        if position is not None:
            # where the pole lies is known no better than the tolerance
            unsure = 10 * control.looseness(y0) * float(elapsed)
            raise blown_up(self.layout, sample, time - unsure, position)
        if bool(torch.isfinite(step.stages[:, sample]).all()):
            position = control.largest(step, sample)
            raise stuck(self.layout, sample, time, h, position)
        raise not_finite(self.layout, sample, time, step.stages.detach())
