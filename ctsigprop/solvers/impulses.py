"""Jumps of the state at known times: spikes that arrive, pulses that kick."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ctsigprop.solvers.base import Problem, Recorder, Solver, State

__all__ = ["Impulse", "integrate_between"]


@dataclass(frozen=True)
class Impulse:
    """At known times the state jumps: y(t⁺) = {**y(t⁻), **change(t, y(t⁻))}.

    Parameters
    ----------
    times : Tensor
        float64, strictly increasing, ``(k,)`` for all samples, or ``(*batch, k)`` for times of
        their own.
    change : callable
        ``change(t, state)`` returns the new values of the variables that jump.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> trace = ct.System(ct.TextNeuron("dr/dt = -r/tau : 1", tau=10.0))
    >>> spikes = Impulse(torch.tensor([0.0, 5.0]), lambda t, y: {"r": y["r"] + 1})
    >>> run = ct.solve(trace, {"r": 0.0}, [0.0, 5.0], impulses=spikes)
    >>> round(run["r"][-1].item(), 6)
    1.606531
    """

    times: Tensor
    change: Callable[[Tensor, State], State]

    def __post_init__(self) -> None:
        times = torch.as_tensor(self.times, dtype=torch.float64)
        if times.dim() == 0 or not bool((times.detach().diff(dim=-1) > 0).all()):
            raise ValueError("the times of an impulse must be a list of strictly increasing times")
        if not bool(torch.isfinite(times.detach()).all()):
            raise ValueError("the times of an impulse must be finite")
        object.__setattr__(self, "times", times)


def integrate_between(solver: Solver, problem: Problem, impulses: Sequence[Impulse]) -> None:
    """Integrate from impulse to impulse, and let the state jump at each.

    Impulses at the start count; the first row of the output is the state before them, and a row at
    the time of a later one is the state after it. Impulses outside the span are left out where
    their times are common to all samples.

    Raises
    ------
    ValueError
        Backward in time; a change of what is no variable, or of another shape; events with a
        limit, or in a batch terminal ones; or for impulses of each sample, output times other than
        start and end, or impulses outside the span or at one time.
    """
    if bool((problem.t[..., -1] < problem.t[..., 0]).any()):
        raise ValueError("impulses only go forward in time; t must increase")
    for event in problem.events:  # a sample may end between impulses, where others go on
        if event.limit is not None or (event.terminal and problem.layout.samples > 1):
            raise ValueError(
                f"impulses exclude events with a limit, and in a batch terminal ones; "
                f"'{event.name}' is one"
            )
    own = any(impulse.times.dim() > 1 for impulse in impulses)
    plan = _own_times(problem, impulses) if own else _common_times(problem, impulses)
    y = problem.y0
    for times, rows, changes in plan:
        if bool((times[..., -1] > times[..., 0]).any()):
            ended, y = _stretch(solver, problem, y, times, rows)
            if ended:
                return
        for change in changes:
            y = problem.layout.changed(y, change(times[..., -1], y), "an impulse")
        if rows and bool((times[..., -1] == problem.t[..., rows[-1]]).all()):
            problem.recorder.row(rows[-1], y)


Change = Callable[[Tensor, State], State]
Plan = Iterator[tuple[Tensor, list[int], list[Change]]]


def _common_times(problem: Problem, impulses: Sequence[Impulse]) -> Plan:
    t = problem.t
    if t.dim() > 1:
        raise ValueError("impulses common to all samples need output times common to all samples")
    at: dict[float, list[Change]] = {}
    first, last = t[0].detach().item(), t[-1].detach().item()
    edges = {first: t[0], last: t[-1]}  # as tensors, which may be differentiated
    for impulse in impulses:
        for time, value in zip(impulse.times.detach().tolist(), impulse.times, strict=True):
            if first <= time <= last:
                at.setdefault(time, []).append(impulse.change)
                edges[time] = value
    yield t[:1], [], at.get(first, [])
    for a, b in itertools.pairwise(sorted(edges)):
        rows = torch.nonzero((t > a) & (t <= b)).flatten().tolist()
        inner = [row for row in rows if t[row].detach().item() != b]
        times = torch.stack([edges[a], *t[inner].unbind(), edges[b]])
        yield times, rows, at.get(b, [])


def _own_times(problem: Problem, impulses: Sequence[Impulse]) -> Plan:
    t = problem.t
    if t.shape[-1] != 2:
        raise ValueError(
            "impulses with times of their own for each sample take two output times, start and "
            f"end; got {t.shape[-1]}"
        )
    batch = problem.layout.batch
    all_times = torch.cat([i.times.expand(*batch, i.times.shape[-1]) for i in impulses], dim=-1)
    kinds = torch.cat([torch.full((i.times.shape[-1],), k) for k, i in enumerate(impulses)])
    ordered, order = all_times.sort(dim=-1)
    if bool((ordered[..., 0] < t[..., 0]).any() or (ordered[..., -1] > t[..., -1]).any()):
        raise ValueError("impulses with times of their own must lie inside the span of t")
    if bool((ordered.diff(dim=-1) <= 0).any()):
        raise ValueError("two impulses of one sample are at the same time; their order is unclear")
    kind = kinds[order]
    before = t[..., 0].expand(batch)
    for k in range(ordered.shape[-1]):
        now = ordered[..., k]
        changes = [
            _masked(impulse.change, kind[..., k] == which)
            for which, impulse in enumerate(impulses)
            if bool((kind[..., k] == which).any())
        ]
        yield torch.stack([before, now], dim=-1), [], changes
        before = now
    yield torch.stack([before, t[..., 1].expand(batch)], dim=-1), [1], []


def _masked(change: Change, chosen: Tensor) -> Change:
    def only_chosen(t: Tensor, state: State) -> State:
        new = change(t, state)
        return {
            name: torch.where(
                chosen.reshape(*chosen.shape, *[1] * (value.dim() - chosen.dim())),
                value,
                state[name],
            )
            for name, value in new.items()
        }

    return only_chosen


def _stretch(
    solver: Solver, problem: Problem, y: State, times: Tensor, rows: list[int]
) -> tuple[bool, State]:
    """Return whether an event ended the run, and the last state."""
    inside = Recorder(problem.layout, times.shape[-1])
    inside.statistics = problem.recorder.statistics
    inside.row(0, y)
    low, high = float(times.detach().min()), float(times.detach().max())
    jumps = problem.jumps[(problem.jumps > low) & (problem.jumps < high)]
    try:
        solver.integrate(replace(problem, y0=y, t=times, jumps=jumps, recorder=inside))
    finally:
        states = inside.states()
        for k, row in enumerate(rows, start=1):
            if bool((inside.done > k).all()):
                problem.recorder.row(row, {name: value[k] for name, value in states.items()})
        problem.recorder.events.extend(inside.events)
    ended = bool((inside.done < times.shape[-1]).any())
    return ended, {name: value[-1] for name, value in states.items()}
