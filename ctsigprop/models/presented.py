"""Learning as it happens: fast neurons and slow weights, shown one pattern after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ctsigprop.models.averaged import correlated, shown
from ctsigprop.models.inputs import LearningSignal
from ctsigprop.models.rate import rate as rate_neurons
from ctsigprop.models.synapses import Synapse
from ctsigprop.quantities import Variable
from ctsigprop.signals import Held, Signal
from ctsigprop.system import System
from ctsigprop.terms import Current, Local, Plasticity, Population, Source, State

__all__ = ["Paced", "presented"]


class Paced(Plasticity):
    """A rule in its own slow time: all that it moves moves pace(t) times as fast.

        dw/dt = pace(t) · rule,    dθ/dt = pace(t) · (its own variables, such as thresholds)

    A gate stops the weights alone; here the rule's other variables keep step with them.

    Parameters
    ----------
    rule : Plasticity
        Without a gate.
    pace : Signal
        One number at each time, 0 while nothing is learned.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> Paced(ct.bcm(1.0, tau_theta=0.5), ct.Pulse(1.0, amplitude=0.01)).rule.eta.item()
    1.0
    """

    def __init__(self, rule: Plasticity, pace: Signal) -> None:
        super().__init__(rule.modulator, pace)
        if rule.gate is not None:
            raise ValueError("the rule has a gate of its own: leave it to the pace")
        self.rule, self.pace = rule, pace

    def variables(self, weight: Variable, post: str, pre: str) -> tuple[Variable, ...]:
        """Return those of the rule."""
        return self.rule.variables(weight, post, pre)

    def forward(self, local: Local) -> State:
        """Return what the rule says; the synapse itself gates dw/dt by the pace."""
        change: State = self.rule.forward(local)
        pace = self.pace(local.t)
        return {
            k: v
            if k == "w"
            else pace.to(v.dtype).reshape(*pace.shape, *(1,) * (v.dim() - pace.dim())) * v
            for k, v in change.items()
        }


def presented(
    patterns: Tensor,
    plasticity: Plasticity | Sequence[Plasticity],
    *,
    rate: float,
    duration: float,
    context: Tensor | None = None,
    strength: float = 1.0,
    rho: str = "identity",
    correlation: float = 0.0,
    modulator: Tensor | Literal["mean"] | None = None,
    units: int = 1,
    hold: float = 1.0,
    settle: float = 0.5,
    tau: float = 0.05,
    initial: Tensor | float = 0.1,
) -> System:
    """Return neurons and weights that learn from patterns presented in turn, each for a while.

        tau ds/dt = −s + ρ(w x(t) + strength · c(t)),    x(t) = x_p,  c(t) = c_p  for hold, in turn
            dw/dt = pace(t) Σ_rules rule(x, s, w),    pace = rate/(1 − settle), 0 at first

    Of each presentation the first share `settle` passes before anything is learned, so that the
    neurons answer to this pattern and no more to the last. In the time rate · t the weights then
    follow `AveragedLearning` with the same rules, but for an error of the order of rate · hold, and
    one of exp(−settle · hold/tau).

    Parameters
    ----------
    patterns, plasticity, context, strength, rho, correlation, modulator, units, initial
        As in `AveragedLearning`; the rules are in the slow time.
    rate : float
        How much slower learning is than the clock: the learning rate, where the rule's is 1.
    duration : float
        For how long patterns are presented, in the time of the neurons; the last one then stays.
    hold : float
        How long each is on.
    settle : float
        The share of it in which nothing is learned, 0 to 1.
    tau : float
        Time constant of the neurons.

    Returns
    -------
    System
        Sources ``x`` (and ``c``, ``m``), neurons ``y``, and weights ``w`` with the variables of
        their rules, called as in `AveragedLearning`.

    Raises
    ------
    ValueError
        Shapes that do not fit, numbers out of range.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> system = presented(torch.eye(2), ct.bcm(1.0, tau_theta=0.5), rate=0.05, duration=40.0)
    >>> list(system.variables)
    ['s_y', 'w', 'theta_w']
    """
    x, c, third = shown(patterns, context, modulator)
    x = correlated(x, correlation)
    for name, number in (("rate", rate), ("duration", duration), ("hold", hold), ("tau", tau)):
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be > 0; got {number}")
    if not 0 <= settle < 1:
        raise ValueError(f"settle must lie between 0 and 1, below 1; got {settle}")
    count = math.ceil(duration / hold)
    starts = hold * torch.arange(count, dtype=torch.float64)
    order = torch.arange(count) % len(x)

    def in_turn(values: Tensor) -> Held:
        return Held(starts, values[order])

    both = torch.stack([starts, starts + settle * hold], -1).reshape(-1)
    levels = torch.tensor([0.0, rate / (1 - settle)], dtype=torch.float64).repeat(count)
    pace = Held(both, levels) if settle else Held(starts[:1], levels[1:2])
    rules = [plasticity] if isinstance(plasticity, Plasticity) else list(plasticity)
    size = units if c is None else c.shape[1]
    populations: list[Population] = [Source("x", x.shape[1], in_turn(x))]
    currents: list[Current] = [
        Synapse("x", "y", initial, plasticity=[Paced(rule, pace) for rule in rules], name="w")
    ]
    if c is not None:
        populations.append(Source("c", size, in_turn(c)))
        identity = torch.eye(size, dtype=torch.float64)
        currents.append(LearningSignal("c", "y", strength * identity))
    m = x.mean(-1) if third is None else third
    named = dict.fromkeys(rule.modulator for rule in rules if isinstance(rule.modulator, str))
    if named and modulator is None:
        raise ValueError(f"the rules have modulators {list(named)}: say what they are, modulator=")
    populations += [Source(name, 1, in_turn(m[:, None])) for name in named]
    return System(*populations, rate_neurons("y", size, rho=rho, tau=tau), *currents)
