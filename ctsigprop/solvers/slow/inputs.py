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
    for phase in PHASES:
        t = start + phase * period
        later = [t + count * period for count in (1, many)]
        _require_equal(problem, t, later, f"period={period:g} is none of theirs")


def require_constant(problem: Problem) -> None:
    """Refuse sources, gates and fields that change within the span."""
    start, end = float(problem.t[0]), float(problem.t[-1])
    said = "inputs vary, and neither period=... nor presentations=... was given"
    times = [start + share * (end - start) for share in (0.0131, 0.5, 1.0)]
    if problem.jumps.numel():
        times.append(float(problem.jumps[0]) + EDGE * (end - start))
    _require_equal(problem, start, times, said)


def _require_equal(problem: Problem, t: float, later: list[float], said: str) -> None:
    first = _seen(problem, t)
    for other in later:
        second = _seen(problem, other)
        for name, value in first.items():
            if not value.numel():
                continue
            size = float(torch.maximum(value.abs().max(), second[name].abs().max()))
            apart = float((second[name] - value).abs().max())
            least = ALIKE if value.dtype == torch.float64 else 1e3 * ALIKE
            if apart > least * size:
                raise ValueError(
                    f"{name} differs between t={t:g} and t={other:g} by {apart:.2g}: {said}"
                )


def _seen(problem: Problem, t: float) -> dict[str, Tensor]:
    """Return all that may depend on time: sources, gates, and the field of the first state.

    The field is left out where nothing but these carries the time into it.
    """
    device = next(iter(problem.y0.values())).device
    at = torch.tensor(t, dtype=torch.float64, device=device)
    clock = at if problem.layout.coupled else at.expand(problem.layout.batch)
    seen: dict[str, Tensor] = {}
    for source in problem.system.sources:
        signal = problem.inputs.get(source.name, source.signal)
        if signal is not None:
            seen[f"source '{source.name}'"] = source.values(signal, clock)
    for current in problem.system.currents:
        for k, signal in enumerate(current.signals()):
            seen[f"signal {k} of '{current.name}'"] = signal(at)
    terms = (*problem.system.neurons, *problem.system.currents)
    if not all(term.autonomous for term in terms):
        for name, rate in problem.field(clock, problem.y0).items():
            seen[f"the derivative of '{name}'"] = rate
    return seen
