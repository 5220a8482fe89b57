"""A system cut open: every activity, rate and variable a number of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ctsigprop.checks import check_inputs
from ctsigprop.signals import Signal
from ctsigprop.system import System
from ctsigprop.terms import Moment, Population, State

__all__ = ["Cut", "cut", "cut_at", "leaves"]


class Cut(Moment):
    """A moment in which nothing follows from anything else."""

    def __init__(
        self,
        t: float,
        populations: Mapping[str, Population],
        state: State,
        activities: State,
        rates: State,
        modulator: Tensor | None = None,
    ) -> None:
        super().__init__(torch.tensor(t, dtype=torch.float64), leaves(state), populations, {})
        self.activities, self.rates = leaves(activities), leaves(rates)
        self.modulator = modulator

    def activity(self, name: str, delay: float = 0.0) -> Tensor:
        """Return the activity; how old it is makes no difference here."""
        del delay
        return self.activities[name]

    def rate(self, name: str) -> Tensor:
        """Return the rate."""
        return self.rates[name]


def leaves(values: State) -> State:
    """Return copies that gradients are taken by."""
    return {name: value.detach().clone().requires_grad_() for name, value in values.items()}


def cut(system: System, t: float, generator: torch.Generator) -> Cut:
    """Return a moment in which everything is drawn as a standard normal number of its own."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    state = {name: draw(*variable.shape) for name, variable in system.variables.items()}
    activities, rates = (
        {name: draw(population.size) for name, population in system.populations.items()}
        for _ in range(2)
    )
    return Cut(t, system.populations, state, activities, rates, draw())


def cut_at(
    system: System,
    state: Mapping[str, Tensor],
    t: float,
    inputs: Mapping[str, Signal | Tensor | float],
) -> Cut:
    """Return a moment with the values that everything has in a state without batch axes."""
    system.check_state(state)
    signals = check_inputs(system, inputs)
    whole = system.initial_state() | dict(state)
    for name, variable in system.variables.items():
        if tuple(whole[name].shape) != variable.shape:
            raise ValueError(
                f"'{name}' must have shape {variable.shape}, one sample; "
                f"got {tuple(whole[name].shape)}"
            )
    at = torch.tensor(t, dtype=torch.float64)
    with torch.no_grad():
        moment = Moment(at, whole, system.populations, signals)
        moment.derivative = system(at, whole, inputs=signals)
        activities = {name: moment.activity(name) for name in system.populations}
        rates = {name: moment.rate(name) for name in system.populations}
    return Cut(t, system.populations, whole, activities, rates)
