"""The times at which steps have to end: jumps, the end of the span, or the points of a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsigprop.errors import StepLimitError
from ctsigprop.solvers.base import Problem

__all__ = [
    "Interval",
    "Stops",
    "clocks",
    "edges",
    "grid",
    "intervals",
    "landings",
    "require_steps",
    "spacing",
]


@dataclass(frozen=True)
class Stops:
    """Where each sample has to land, in order: shape ``(g,)``, or ``(samples, g)``.

    Attributes
    ----------
    times : Tensor
        The stops, differentiable in the output times that they are made of.
    low, high : Tensor
        Between which times the field may be evaluated on the way to each stop: a field is
        continuous from the right, and has no jump inside [jump, next jump).
    jumps : Tensor
        Whether the derivative has to be taken again after the stop.
    every_row : bool
        Whether every output time is a stop.
    """

    times: Tensor
    low: Tensor
    high: Tensor
    jumps: Tensor
    every_row: bool

    @property
    def count(self) -> int:
        """How many stops a sample has."""
        return self.times.shape[-1]

    def pick(self, table: Tensor, pointer: Tensor) -> Tensor:
        """Return an entry for each sample."""
        if table.dim() == 1:
            return table[pointer]
        return table.gather(1, pointer[:, None])[:, 0]


@dataclass(frozen=True)
class Interval:
    """A stretch from one output time or jump to the next, and the equal steps it is cut into."""

    start: Tensor
    stop: Tensor
    steps: int
    row: int | None
    jump: bool


def intervals(t: Tensor, jumps: Tensor, dt: float) -> Iterator[Interval]:
    """Yield the stretches of a shared span, each with n = ceil(length/dt) equal steps."""
    times = t.detach().tolist()
    forward = times[-1] >= times[0]
    rows = t.unbind()
    pending = list(jumps.unbind()) if forward else list(jumps.flip(0).unbind())
    start = rows[0]
    for index in range(1, len(times)):
        while pending and (times[index] - float(pending[0])) * (1 if forward else -1) > 0:
            stop = pending.pop(0)
            yield _interval(start, stop, dt, None, True)
            start = stop
        jump = bool(pending) and float(pending[0]) == times[index]
        if jump:
            pending.pop(0)
        yield _interval(start, rows[index], dt, index, jump)
        start = rows[index]


def _interval(start: Tensor, stop: Tensor, dt: float, row: int | None, jump: bool) -> Interval:
    # a length that is a whole number of steps but for rounding takes that number
    steps = math.ceil(abs(float((stop - start).detach())) / dt * (1 - 1e-9))
    return Interval(start, stop, max(1, steps), row, jump)


def edges(stretches: list[Interval]) -> list[tuple[float, float]]:
    """Between which times the field may be evaluated: it is continuous on [jump, next jump)."""
    found: list[tuple[float, float]] = []
    first = 0
    for i, stretch in enumerate(stretches):
        if stretch.jump or i == len(stretches) - 1:
            low, high = sorted([float(stretches[first].start), float(stretch.stop)])
            found += [(low, math.nextafter(high, -math.inf))] * (i + 1 - first)
            first = i + 1
    return found


def require_steps(steps: int, max_steps: int, start: float) -> None:
    """Refuse a grid of more steps than are allowed, before the first of them."""
    if steps > max_steps:
        raise StepLimitError(
            time=start,
            cause=f"the span takes {steps} steps of dt, and max_steps={max_steps}; "
            "raise max_steps, or dt",
        )


def clocks(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return the output times and the jumps, beside the state."""
    device = next(iter(problem.y0.values())).device
    return problem.t.to(device), problem.jumps.to(device)


def grid(problem: Problem, dt: float, max_steps: int) -> Stops:
    """Return the ends of all fixed steps."""
    t, jumps = clocks(problem)
    ragged = t.dim() > 1
    if ragged and jumps.numel():
        raise ValueError(
            "times of their own for each sample, and inputs with jumps, need steps that adapt: "
            "Tsit5, Dopri5 or BogackiShampine without dt"
        )
    columns, flags = [], []
    for row in t.reshape(-1, t.shape[-1]):
        pieces, jump = [row[:0]], [torch.zeros(0, dtype=torch.bool)]
        for stretch in intervals(row, jumps, dt):
            share = torch.arange(1, stretch.steps, dtype=t.dtype, device=t.device) / stretch.steps
            inner = stretch.start + (stretch.stop - stretch.start) * share
            pieces += [inner, stretch.stop.reshape(1)]
            jump.append(torch.zeros(stretch.steps, dtype=torch.bool))
            jump[-1][-1] = stretch.jump
        columns.append(torch.cat(pieces))
        flags.append(torch.cat(jump).to(t.device))
        require_steps(len(columns[-1]), max_steps, float(row[0].detach()))
    if not ragged:
        return Stops(columns[0], *_between(columns[0], t, jumps), flags[0], every_row=True)
    longest = max((len(column) for column in columns), default=0)
    times = (
        torch.stack([torch.cat([c, c[-1:].expand(longest - len(c))]) for c in columns])
        if columns
        else t[:, :0]
    )
    ends = t.detach().reshape(-1, t.shape[-1])[:, [0, -1]].sort(dim=1).values
    low, high = ends[:, :1].expand_as(times), just_before(ends[:, 1:]).expand_as(times)
    return Stops(times, low, high, torch.zeros_like(times, dtype=torch.bool), every_row=True)


def _between(stops: Tensor, t: Tensor, jumps: Tensor) -> tuple[Tensor, Tensor]:
    ends = t[[0, -1]].detach()
    edges = torch.cat([ends.min()[None], jumps, ends.max()[None]])
    forward = bool(ends[1] >= ends[0])
    later = torch.searchsorted(edges, stops.detach(), right=not forward)
    later = later.clamp(min=1, max=len(edges) - 1)
    return edges[later - 1], just_before(edges[later])


def spacing(t: Tensor) -> Tensor:
    """Return the distance from times to the floating-point numbers next larger in size."""
    size = t.abs()
    return torch.nextafter(size, torch.full_like(size, torch.inf)) - size


def just_before(t: Tensor) -> Tensor:
    """Return the next smaller floating-point numbers."""
    return torch.nextafter(t, torch.full_like(t, -torch.inf))


def landings(problem: Problem) -> Stops:
    """Return the jumps and the end of the span, which is all that an adaptive step must hit."""
    times, jumps = clocks(problem)
    t = times.reshape(-1, times.shape[-1])
    start, end = t[:, :1].detach(), t[:, -1:]
    if problem.t.dim() == 1 and not jumps.numel():
        ends = t[0, [0, -1]].detach()
        fresh = torch.ones_like(end[0], dtype=torch.bool)
        return Stops(end[0], ends.min()[None], just_before(ends.max()[None]), fresh, False)
    sign = torch.where(end.detach() >= start, 1.0, -1.0).to(t.dtype)
    jumps = jumps.expand(len(t), -1)
    inside = ((jumps - start) * sign > 0) & ((end.detach() - jumps) * sign > 0)
    times = torch.cat([torch.where(inside, jumps, end), end], dim=1)
    order = torch.argsort((times * sign).detach(), dim=1, stable=True)
    times = times.gather(1, order)
    before = torch.cat([start, times[:, :-1].detach()], dim=1)
    low = torch.minimum(before, times.detach())
    high = just_before(torch.maximum(before, times.detach()))
    fresh = torch.ones_like(times, dtype=torch.bool)
    if problem.t.dim() == 1:
        times, low, high, fresh = times[0], low[0], high[0], fresh[0]
    return Stops(times, low, high, fresh, every_row=False)
