"""Continuous signal propagation: presentations during which neurons and weights move together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Constant
from ctsigprop.solution import Solution
from ctsigprop.solve import solve
from ctsigprop.solvers.base import Solver, State
from ctsigprop.solvers.fixed import Euler
from ctsigprop.system import System

__all__ = ["Sigprop"]


@dataclass
class Sigprop:
    """A network of `sigprop_network` that learns from presentations of inputs and their labels.

    Each presentation runs freely from 0 to `onset`, then with the learning signal to `end`. The
    weights are integrated with the neurons, by the rule of the network; or they rest, and a
    two-point form compares the ends of the two intervals,

        delta:        ΔW_k = (eta_k/beta) (s_kᵝ − s_k⁰) ⊗ s_{k−1}
        contrastive:  ΔW_k = (eta_k/beta) (s_kᵝ ⊗ s_{k−1}ᵝ − s_k⁰ ⊗ s_{k−1}⁰)

    Parameters
    ----------
    network : System
        From `sigprop_network`.
    onset, end : float
        When the learning signal comes on, and when the presentation ends.
    solver : Solver
        Fixed steps by default.
    update : {"integrated", "delta", "contrastive"}
        How the weights move.

    Attributes
    ----------
    weights : State
        The weights that learn and their tags, carried on from presentation to presentation.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> learner = Sigprop(ct.sigprop_network([4, 8, 2], seed=0))
    >>> learner.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    """

    network: System
    onset: float = 8.4
    end: float = 14.4
    solver: Solver = field(default_factory=lambda: Euler(dt=0.6))
    update: Literal["integrated", "delta", "contrastive"] = "integrated"
    weights: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.update not in ("integrated", "delta", "contrastive"):
            raise ValueError(
                f"update must be 'integrated', 'delta' or 'contrastive'; got {self.update!r}"
            )
        if not 0 < self.onset < self.end:
            raise ValueError(
                f"a presentation needs 0 < onset < end; got onset={self.onset}, end={self.end}"
            )
        self.network.float()
        start = self.network.initial_state(dtype=torch.float32)
        learned = {v.name for synapse in self.synapses for v in synapse.variables}
        self.weights = {**{n: v for n, v in start.items() if n in learned}, **self.weights}
        if self.update != "integrated":  # the weights rest while the neurons move
            for synapse in self.synapses:
                synapse.plasticity[0].gate = Constant(0.0)
        self._rates = {synapse.name: float(_rate(synapse)) for synapse in self.synapses}

    @property
    def synapses(self) -> list[Synapse]:
        """The synapses that learn."""
        return [c for c in self.network.currents if isinstance(c, Synapse) and c.plasticity]

    @property
    def classes(self) -> int:
        """How many output units there are."""
        return self.network.populations["y"].size

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to `factor` times the one that it was built with."""
        for synapse in self.synapses:
            _rate(synapse).fill_(self._rates[synapse.name] * factor)

    def present(self, x: Tensor, labels: Tensor) -> Tensor:
        """Show a batch of inputs with their labels, and learn; return the free outputs.

        Parameters
        ----------
        x : Tensor
            ``(batch, channels)``.
        labels : Tensor
            Integers, ``(batch,)``.
        """
        context = torch.nn.functional.one_hot(labels, self.classes).to(torch.float32)
        times = [0.0, self.onset, self.end]
        run = self._run(x, context, times)
        if self.update == "integrated":
            self.weights = {name: run.final[name] for name in self.weights}
        else:
            free, held = ({k: v[i] for k, v in run.states.items()} for i in (1, 2))
            self.weights = self._two_point(x, free, held)
        return run["s_y"][1]

    def respond(self, x: Tensor) -> Tensor:
        """Return the outputs at the end of the free interval, ``(batch, classes)``; no learning."""
        context = torch.zeros(x.shape[0], self.classes)
        return self._run(x, context, [0.0, self.onset])["s_y"][-1]

    def activities(self, x: Tensor) -> State:
        """Return every population's state at the end of the free interval."""
        context = torch.zeros(x.shape[0], self.classes)
        return self._run(x, context, [0.0, self.onset]).final

    def _run(self, x: Tensor, context: Tensor, times: list[float]) -> Solution:
        zeros = {
            variable.name: x.new_zeros(x.shape[0], *variable.shape)
            for neuron in self.network.neurons
            for variable in neuron.variables
        }
        return solve(
            self.network,
            {**zeros, **self.weights},
            times,
            solver=self.solver,
            inputs={"x": x, "c": context},
        )

    def _two_point(self, x: Tensor, free: State, held: State) -> State:
        before = {name: free[name] for name in self.weights}
        after = dict(before)
        for synapse in self.synapses:
            pre0, pre1 = (_activity(self.network, synapse.pre, s, x) for s in (free, held))
            post0, post1 = (self.network.activity(s, synapse.post) for s in (free, held))
            if self.update == "delta":
                change = (post1 - post0).T @ pre0
            else:
                change = post1.T @ pre1 - post0.T @ pre0
            after[synapse.name] = before[synapse.name] + _rate(synapse) * change / x.shape[0]
        return after


def _rate(synapse: Synapse) -> Tensor:
    eta: Tensor = synapse.plasticity[0].eta
    return eta


def _activity(network: System, name: str, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    if name == "x":
        return x
    if name == "one":
        return x.new_ones(x.shape[0], 1)
    return network.activity(dict(state), name)
