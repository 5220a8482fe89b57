"""The watch over the events of a run: which crossed zero in a step, and where."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctsigprop.errors import NonFiniteError, StepLimitError
from ctsigprop.solvers.base import Problem
from ctsigprop.solvers.events import EventRecord
from ctsigprop.solvers.explicit.onestep import Step
from ctsigprop.solvers.stops import spacing

__all__ = ["Watch"]

TIE = 1e4  # roundings of the state, in shares of a step
NEAR = 10  # roundings of t; an event that comes again so soon comes infinitely often


class Watch:
    """How the conditions of a run stand: the side of zero each is on, and how often it crossed.

    All tables have the shape ``(events, samples)``.
    """

    def __init__(
        self,
        problem: Problem,
        t: Tensor,
        y: Tensor,
        f: Tensor,
        h: Tensor,
        probes: tuple[float, ...],
    ) -> None:
        self.problem = problem
        self.layout = problem.layout
        self.events = problem.events
        self.probes = probes
        self.direction = torch.tensor(
            [event.direction for event in self.events], dtype=y.dtype, device=y.device
        )[:, None]
        self.terminal = torch.tensor([e.terminal for e in self.events], device=y.device)[:, None]
        self.resets = torch.tensor([e.reset is not None for e in self.events], device=y.device)[
            :, None
        ]
        self.left = torch.tensor(
            [torch.inf if e.limit is None else e.limit for e in self.events], device=y.device
        )[:, None].repeat(1, len(y))
        with torch.no_grad():
            now = torch.sign(self.values(t, y))
            self.side = self.passed = torch.where(now == 0, self._drift(t, y, f, h), now)
        self.latest = torch.full_like(self.left, torch.nan, dtype=torch.float64)

    def values(self, t: Tensor, y: Tensor) -> Tensor:
        """Return every condition of every sample, ``(events, samples)``."""
        clock, state = self.layout.clock(t), self.layout.unpack(y)
        rows = []
        for event in self.events:
            value = event.condition(clock, state)
            expected = () if self.layout.coupled else self.layout.batch
            if value.shape not in ((), expected):
                raise ValueError(
                    f"the condition of event '{event.name}' must be of shape {expected} or (), "
                    f"got {tuple(value.shape)}"
                    + (
                        "; the batch shares a variable, so that it has one clock"
                        if self.layout.coupled
                        else ""
                    )
                )
            rows.append(value.reshape(-1).expand(len(y)))
        return torch.stack(rows).to(y.dtype)

    def truncate(
        self, step: Step, reached: Tensor, accepted: Tensor, again: Callable[[Tensor], Step]
    ) -> tuple[Step, Tensor | None]:
        """End the steps that cross an event at its time.

        `reached` is when the steps end, and ``again(h)`` repeats them with another size for each
        sample. Returns the step, and which events fired, ``(events, samples)``, or None.
        """
        with torch.no_grad():
            crossed, low, high, self.passed = self._crossings(step, reached, accepted)
            if not bool(crossed.any()):
                self.side = self.passed
                return step, None
            roots = self._roots(step, crossed, low, high)
            first, which = roots.min(dim=0)
            some = crossed.any(dim=0)
            # the interpolant tells no events apart that are closer than its rounding
            fired = crossed & (roots <= first + TIE * torch.finfo(step.y.dtype).eps)
            first = torch.where(some, first, 1.0)
            size, short = self._polish(step, first, which, some, again)
        if torch.is_grad_enabled():
            size = self._differentiable(step, size, which, some, again)
            short = again(torch.where(some, size, step.h))
        return short, fired

    def fire(self, fired: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Record the events; return the state after the resets, who was reset, and who ended."""
        layout, recorder = self.layout, self.problem.recorder
        for row, sample in fired.nonzero().tolist():
            shapes = layout.shapes if layout.coupled else layout.dims
            state = {
                name: y[sample, part].reshape(shapes[name]) for name, part in layout.slices.items()
            }
            recorder.events.append(EventRecord(self.events[row].name, t[sample], sample, state))
        self.left = self.left - fired.to(self.left.dtype)
        self._pile_up(fired, t)
        ended = (fired & self.terminal).any(dim=0)
        clock = layout.clock(t)
        for row, event in enumerate(self.events):
            if event.reset is not None and bool(fired[row].any()):
                state = layout.unpack(y)
                new = event.reset(clock, state)
                after = layout.changed(state, new, f"the reset of event '{event.name}'")
                y = torch.where(fired[row][:, None], layout.pack(after), y)
        return y, (fired & self.resets).any(dim=0), ended

    def rearm(
        self, fired: Tensor, t: Tensor, before: Tensor, y: Tensor, f: Tensor, h: Tensor
    ) -> None:
        """Note the side on which each condition goes on, from the state before any reset."""
        with torch.no_grad():
            value = self.values(t, y)
            # at its zero the sign of a condition is rounding
            there = (value == 0) | (fired & (value == self.values(t, before)))
            side = torch.where(there, self._drift(t, y, f, h), torch.sign(value))
            self.side = torch.where(fired.any(dim=0), side, self.passed)

    def _drift(self, t: Tensor, y: Tensor, f: Tensor, h: Tensor) -> Tensor:
        """Return the signs of the conditions' slopes."""
        ahead = 1e-6 * h
        later = self.values(t + ahead, y + ahead.to(y.dtype)[:, None] * f)
        return torch.sign(later - self.values(t, y))

    def _crossings(
        self, step: Step, reached: Tensor, accepted: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return which conditions cross, between which shares first, and the side at the end."""
        side = self.side
        found = torch.zeros_like(side, dtype=torch.bool)
        low = torch.zeros_like(side, dtype=torch.float64)
        high = torch.ones_like(low)
        watched = (self.left > 0) & accepted & (step.h != 0)
        before = 0.0
        for share in (*self.probes, 1.0):
            if share < 1.0:
                inside = step.at(torch.full_like(step.h, share))
                value = self.values(step.t + share * step.h, inside)
            else:
                value = self.values(reached, step.end)
                self._require_finite(value, reached, accepted)
            now = torch.sign(value)
            allowed = (self.direction == 0) | (side == -self.direction)
            crossing = watched & ~found & (side != 0) & (now != side) & allowed
            low = torch.where(crossing, before, low)
            high = torch.where(crossing, share, high)
            found |= crossing
            side = torch.where(now != 0, now, side)
            before = share
        return found, low, high, torch.where(accepted, side, self.side)

    def _require_finite(self, values: Tensor, t: Tensor, accepted: Tensor) -> None:
        wrong = ~torch.isfinite(values) & accepted
        if bool(wrong.any()):
            row, sample = wrong.nonzero()[0].tolist()
            raise NonFiniteError(
                time=float(t[sample]),
                cause=f"the condition of event '{self.events[row].name}' is "
                f"{float(values[row, sample])}",
            )

    def _roots(self, step: Step, crossed: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the share of the step at which each condition crosses, inf where it does not."""
        roots = torch.full_like(low, torch.inf)
        finest = _rounding(step) / step.h.abs().clamp(min=torch.finfo(torch.float64).tiny)
        finest = finest.clamp(min=torch.finfo(torch.float64).eps)
        for row in range(len(self.events)):
            if bool(crossed[row].any()):
                root = self._bracket(step, row, crossed[row], low[row], high[row], finest)
                roots[row] = torch.where(crossed[row], root, torch.inf)
        return roots

    def _bracket(
        self, step: Step, row: int, crossed: Tensor, low: Tensor, high: Tensor, finest: Tensor
    ) -> Tensor:
        """Close in on a root of the interpolant: Illinois, with a bisection every third time."""

        def condition(share: Tensor) -> Tensor:
            return self.values(step.t + share * step.h, step.at(share))[row].double()

        # a crossing in both directions is the first change of all
        side = torch.where(self.direction == 0, self.side, -self.direction)[row].double()
        low = torch.where(crossed, low, 1.0)
        high = torch.where(crossed, high, 1.0)
        at_low, at_high = condition(low), condition(high)
        kept = torch.zeros_like(low)
        for turn in range(200):
            if bool((high - low <= finest).all()):
                break
            secant = high - at_high * (high - low) / (at_high - at_low)
            secant = torch.maximum(torch.minimum(secant, high - finest), low + finest)
            middle = (low + high) / 2
            usable = torch.isfinite(secant) & (high - low > 2 * finest) & (at_low * side > 0)
            share = torch.where(usable, secant, middle) if turn % 3 != 2 else middle
            value = condition(share)
            before = value * side > 0
            # an end that stays twice in a row loses weight
            at_high = torch.where(before & (kept > 0), at_high / 2, at_high)
            at_low = torch.where(~before & (kept < 0), at_low / 2, at_low)
            kept = torch.where(before, 1.0, -1.0).to(kept.dtype)
            low, at_low = torch.where(before, share, low), torch.where(before, value, at_low)
            high, at_high = torch.where(before, high, share), torch.where(before, at_high, value)
        return high

    def _polish(
        self,
        step: Step,
        first: Tensor,
        which: Tensor,
        some: Tensor,
        again: Callable[[Tensor], Step],
    ) -> tuple[Tensor, Step]:
        """Correct the time on steps of its size: they are more accurate than the interpolant.

        Newton's iteration with the slope of the interpolant. Returns the sizes, and the step.
        """
        apart = (0.1 * first).clamp(max=1e-4)
        ends = [first - apart, (first + apart).clamp(max=1.0)]
        a, b = (self._chosen(which, step.t + at * step.h, step.at(at)) for at in ends)
        slope = (b - a) / ((ends[1] - ends[0]) * step.h)
        size, rounding = first * step.h, _rounding(step)
        low, high = torch.clamp(step.h, max=0.0), torch.clamp(step.h, min=0.0)
        for _ in range(4):
            trial = again(torch.where(some, size, step.h))
            change = -self._chosen(which, trial.t + size, trial.end) / slope
            usable = some & torch.isfinite(change) & (change.abs() <= 0.1 * step.h.abs())
            change = torch.where(usable, change, 0.0)
            if bool((change.abs() <= rounding).all()):
                return size, trial
            size = torch.maximum(torch.minimum(size + change, high), low)
        return size, again(torch.where(some, size, step.h))

    def _differentiable(
        self,
        step: Step,
        size: Tensor,
        which: Tensor,
        some: Tensor,
        again: Callable[[Tensor], Step],
    ) -> Tensor:
        """Give the size its gradient: that of one Newton correction on the step itself."""
        trial = again(torch.where(some, size, step.h))
        value = self._chosen(which, trial.t + size, trial.end)
        if not value.requires_grad:
            return size
        with torch.no_grad():
            apart = torch.finfo(step.y.dtype).eps ** (1 / 3) * step.h
            a, b = (
                self._chosen(which, step.t + at, again(torch.where(some, at, step.h)).end)
                for at in (size - apart, size + apart)
            )
            slope = torch.where(some, (b - a) / (2 * apart), 1.0)
        return size - (value - value.detach()) / slope

    def _chosen(self, which: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.values(t, y).gather(0, which[None])[0].double()

    def _pile_up(self, fired: Tensor, t: Tensor) -> None:
        t = t.detach()
        piled = fired & ((t - self.latest).abs() <= NEAR * spacing(t))
        self.latest = torch.where(fired, t, self.latest)
        if bool(piled.any()):
            row, sample = piled.nonzero()[0].tolist()
            raise StepLimitError(
                time=float(t[sample]),
                cause=f"event '{self.events[row].name}' fires again and again at one time: "
                "infinitely many pile up here, or its reset does not leave its zero; "
                "give it a limit, or end the run before with a terminal event",
            )


def _rounding(step: Step) -> Tensor:
    t = step.t.detach()
    return spacing(torch.maximum(t.abs(), (t + step.h.detach()).abs()))
