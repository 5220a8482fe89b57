"""Which variables are slow, and how fast the others forget."""

from __future__ import annotations

import torch
from torch import Tensor

from ctsigprop.errors import SeparationError, unknown
from ctsigprop.models.synapses import Synapse
from ctsigprop.solvers.base import Problem, State, slices

__all__ = ["Split", "conclude", "noise_like"]

NUDGE = 1e-3  # of a variable, for the slope that says how fast it relaxes


class Split:
    """Slow variables as one vector of float64, apart from the fast ones.

    Parameters
    ----------
    problem : Problem
        What is solved.
    named : tuple of str or None
        Names of the slow variables; None finds them.
    period : float
        Of the inputs.

    Attributes
    ----------
    rates : dict of str to float
        a <= 0 of dy/dt = a·y + rest, for each fast variable.

    Raises
    ------
    ValueError
        A name that is no variable, none at all, or nothing left that is fast.
    """

    def __init__(self, problem: Problem, named: tuple[str, ...] | None, period: float) -> None:
        names = problem.layout.names
        for name in named or ():
            if name not in names:
                raise ValueError(f"slow: {unknown('variable', name, names)}")
        weights, kept = _plastic(problem)
        rates = _decay_rates(problem, weights if named is None else named)
        slow = weights + _slow_kept(kept, rates, period) if named is None else named
        if not slow:
            raise ValueError(
                "no variable is slow: no synapse has plasticity; name those that are, slow=(...)"
            )
        self.slow = tuple(name for name in names if name in slow)
        self.fast = tuple(name for name in names if name not in slow)
        if not self.fast:
            raise ValueError("every variable is slow; use Tsit5")
        self.rates = {name: a for name, a in rates.items() if name in self.fast}
        self.shapes = problem.layout.shapes
        self.dtype = problem.y0[self.slow[0]].dtype
        self.parts = slices({name: self.shapes[name] for name in self.slow})
        self.largest = self.sizes(self.pack(problem.y0))

    def pack(self, state: State) -> Tensor:
        """Return the slow variables as one vector of float64."""
        parts = [state[name].reshape(-1).to(torch.float64) for name in self.slow]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def unpack(self, flat: Tensor) -> State:
        """Return them by name, in the type of the state."""
        flat = flat.to(self.dtype)
        return {name: flat[part].reshape(self.shapes[name]) for name, part in self.parts.items()}

    def flat(self, state: State) -> Tensor:
        """Return the fast variables as one vector, in their own type."""
        return torch.cat([state[name].reshape(-1) for name in self.fast])

    def scale(self, flat: Tensor) -> Tensor:
        """Return the largest size of each slow variable so far, this state's included."""
        self.largest = torch.maximum(self.largest, self.sizes(flat))
        return self.largest.clamp(min=1e-300)

    def projected(self, problem: Problem, flat: Tensor) -> Tensor:
        """Return the slow variables inside the signs and bounds of their synapses."""
        state = {name: flat[part].reshape(self.shapes[name]) for name, part in self.parts.items()}
        whole = {**problem.y0, **state}
        moved = problem.system.project(whole)
        return flat if moved is whole else self.pack(moved)

    def sizes(self, flat: Tensor) -> Tensor:
        """Return the root mean square of each variable, ``(variables,)``."""
        if len(self.parts) == 1:
            return flat.square().mean().sqrt().reshape(1)
        return torch.stack([flat[part].square().mean().sqrt() for part in self.parts.values()])


def noise_like(flat: Tensor) -> Tensor:
    """Return the same normal numbers each time, to start fast variables elsewhere."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(flat.shape, generator=generator, dtype=torch.float64).to(flat)


def conclude(problem: Problem, estimates: dict[str, float], rtol: float) -> None:
    """Add up the estimated errors, and store them; refuse a total above `rtol`."""
    estimates["total"] = sum(estimates.values())
    problem.recorder.statistics.estimates = dict(estimates)
    if not estimates["total"] <= rtol:
        parts = ", ".join(f"{k} {v:.2g}" for k, v in estimates.items())
        raise SeparationError(
            time=float(problem.t[-1]),
            cause=f"the estimated error is above rtol={rtol:g}: {parts}",
        )


def _plastic(problem: Problem) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the weights that learn, and what their rules keep besides."""
    weights, kept = [], []
    for current in problem.system.currents:
        if isinstance(current, Synapse) and current.plasticity:
            own = [v.name for v in current.variables if v.name != f"z_{current.name}"]
            weights.append(own[0])
            kept += own[1:]
    return tuple(weights), tuple(kept)


def _decay_rates(problem: Problem, besides: tuple[str, ...]) -> dict[str, float]:
    """Return a < 0 of dy/dt = a·y + rest for every variable, the mean over its units.

    From the equations where they say it; else from the change of the derivative with the variable.
    One that does not decay has a = 0. Those `besides` are left out.
    """
    t, y = problem.t[0].detach(), problem.y0
    known = {} if problem.linear is None else problem.linear(t, y)
    still: State | None = None
    rates: dict[str, float] = {}
    for name, value in y.items():
        if name in besides:
            continue
        if not value.numel():
            rates[name] = 0.0
            continue
        a = float(known[name].mean()) if name in known else 0.0
        if not a < 0:
            still = still or problem.field(t, y)
            if name in still:
                step = NUDGE * max(1.0, float(value.abs().mean()))
                moved = problem.field(t, {**y, name: value + step})
                a = float(((moved[name] - still[name]) / step).mean())
        rates[name] = min(a, 0.0)
    return rates


def _slow_kept(kept: tuple[str, ...], rates: dict[str, float], period: float) -> tuple[str, ...]:
    """Return what rules keep besides weights that is as slow as these.

    It is slow where it relaxes by less than a twentieth within a period, and within the slowest
    relaxation of the neurons.
    """
    own = [-a for name, a in rates.items() if name not in kept and a < 0]
    scale = max(period, 1 / min(own) if own else 0.0)
    return tuple(name for name in kept if -rates.get(name, 0.0) * scale < 0.05)
