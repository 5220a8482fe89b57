"""What inputs must be for slow variables to be averaged: constant, or of the period given."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctsigprop.solvers.base import Problem

__all__ = ["require_constant", "require_forward", "require_periodic"]

ALIKE = 1e-6  # relative
PHASES = (0.13, 0.61)
EDGE = 1e-9


def require_forward(problem: Problem) -> None:
    """Refuse time that runs backward: fast variables that forget would grow."""
    if float(problem.t[-1]) < float(problem.t[0]):
        raise ValueError("slow and fast variables are separated forward in time only: t must grow")


def require_periodic(problem: Problem, period: float) -> None:
    """Refuse sources, gates and fields that do not repeat after a period, or after many."""
    start, end = float(problem.t[0]), float(problem.t[-1])
    if end - start < 2 * period:
        raise ValueError(f"period={period:g} must be at most half the span of {end - start:g}")
    many = max(1, math.floor((end - start) / period) - 1)
    times = [[start + (phase + k) * period for k in (0, 1, many)] for phase in PHASES]
    _require_equal(problem, times, f"period={period:g} is none of theirs")


def require_constant(problem: Problem) -> None:
    """Refuse sources, gates and fields that change within the span."""
    start, end = float(problem.t[0]), float(problem.t[-1])
    said = "inputs vary, and neither period=... nor presentations=... was given"
    times = [start + share * (end - start) for share in (0.0, 0.0131, 0.5, 1.0)]
    if problem.jumps.numel():
        times.append(float(problem.jumps[0]) + EDGE * (end - start))
    _require_equal(problem, [times], said)


def _require_equal(problem: Problem, times: list[list[float]], said: str) -> None:
    """Refuse what is not at the first time of a row what it is at the others."""
    for name, seen in _seen(problem, [t for row in times for t in row]).items():
        if not seen.numel():
            continue
        value = seen.reshape(len(times), len(times[0]), -1)
        size = value.abs().amax(-1)
        apart = (value[:, 1:] - value[:, :1]).abs().amax(-1)
        least = ALIKE if value.dtype == torch.float64 else 1e3 * ALIKE
        unlike = (apart > least * torch.maximum(size[:, 1:], size[:, :1])).tolist()
        for i, row in enumerate(unlike):
            if any(row):
                k = row.index(True)
                raise ValueError(
                    f"{name} differs between t={times[i][0]:g} and t={times[i][k + 1]:g} by "
                    f"{float(apart[i, k]):.2g}: {said}"
                )


def _seen(problem: Problem, times: list[float]) -> dict[str, Tensor]:
    """Return all that may depend on time, at each: sources, gates, and the first state's field.

    The field is left out where nothing but the others carries the time into it.
    """
    device = next(iter(problem.y0.values())).device
    at = torch.tensor(times, dtype=torch.float64, device=device)
    layout = problem.layout
    own = layout.batch and not layout.coupled  # clocks
    clocks = [t.expand(layout.batch) if own else t for t in at]
    seen: dict[str, Tensor] = {}
    for source in problem.system.sources:
        signal = problem.inputs.get(source.name, source.signal)
        if signal is None:
            continue
        if layout.batch:
            values = torch.stack([source.values(signal, clock) for clock in clocks])
        else:
            values = source.values(signal, at).expand(len(at), source.size)
        seen[f"source '{source.name}'"] = values
    for current in problem.system.currents:
        for k, signal in enumerate(current.signals()):
            seen[f"signal {k} of '{current.name}'"] = torch.stack([signal(t) for t in at])
    if not problem.system.autonomous:
        fields = [problem.field(clock, problem.y0) for clock in clocks]
        for name in fields[0]:
            seen[f"the derivative of '{name}'"] = torch.stack([rate[name] for rate in fields])
    return seen
