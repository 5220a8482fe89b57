"""Euler's method where inputs are held and weights rest: every product once a step, in place.

The same steps as of any other system, but for rounding.
"""

from __future__ import annotations

from typing import final

import torch

from ctsigprop.signals import closed
from ctsigprop.solvers.base import Problem, State
from ctsigprop.solvers.inplace import Net
from ctsigprop.solvers.relaxation import Relaxation

__all__ = ["HeldSteps"]


@final
class HeldSteps:
    """Finds the stretches of a run in which leaky neurons are all that moves.

    Parameters
    ----------
    problem : Problem
        One clock for all samples, no gradients.
    native : bool
        Whether a kernel may take the steps.
    """

    def __init__(self, problem: Problem, *, native: bool) -> None:
        self.problem, self.system, self.native = problem, problem.system, native
        self.names = [v.name for neuron in self.system.neurons for v in neuron.variables]

    @classmethod
    def of(cls, problem: Problem, *, native: bool) -> HeldSteps | None:
        """Return it for a problem that may have such stretches."""
        system = problem.system
        if torch.is_grad_enabled() or system.delay or not system.currents:
            return None
        if any(len(neuron.variables) != 1 for neuron in system.neurons):
            return None
        filtered = any(v.name[:2] == "z_" for c in system.currents for v in c.variables)
        like = next(iter(problem.y0.values()))
        leaks = (neuron.leaky_form(like) for neuron in system.neurons)
        if filtered or not all(leak is not None and leak.target is not None for leak in leaks):
            return None
        signals = [problem.inputs.get(source.name, source.signal) for source in system.sources]
        signals += [signal for current in system.currents for signal in current.gates()]
        if not all(signal is not None and signal.stepwise for signal in signals):
            return None
        return cls(problem, native=native)

    def net(self, low: float, high: float, state: State) -> Net | None:
        """Return the neurons in buffers where the weights rest between two times, else None."""
        if not self._rests(low, high):
            return None
        weights = {name: value for name, value in state.items() if name not in self.names}
        inputs, native = self.problem.inputs, self.native
        relaxation = Relaxation(self.system, weights, low, inputs, native=native)
        self.problem.recorder.statistics.hoisted = relaxation.hoisted
        return relaxation.net({name: state[name] for name in self.names})

    def _rests(self, low: float, high: float) -> bool:
        """Whether every rule waits behind a gate that stays closed."""
        at = torch.tensor(low, dtype=torch.float64)
        for current in self.system.currents:
            if not current.variables:
                continue
            rules = getattr(current, "plasticity", ())
            gates = [rule.gate for rule in rules]
            if not gates or any(g is None or not g.quiet(low, high) for g in gates):
                return False
            if not all(closed(gate(at)) for gate in gates):
                return False
        return True
