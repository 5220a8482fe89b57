"""Continuous signal propagation: presentations during which neurons and weights move together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ctsigprop.errors import unknown
from ctsigprop.learning.learner import Learner
from ctsigprop.models.inputs import LearningSignal
from ctsigprop.models.synapses import Synapse
from ctsigprop.provenance import describe
from ctsigprop.signals import Constant, Pulse
from ctsigprop.solution import Solution
from ctsigprop.solve import solve
from ctsigprop.solvers.base import Solver, State
from ctsigprop.solvers.explicit.fixed import Euler
from ctsigprop.system import System

__all__ = ["ContinuousSigprop"]


@dataclass
class ContinuousSigprop(Learner):
    """A network of `sigprop_network` that learns from presentations of inputs and their labels.

    Each presentation runs freely from 0 to the network's `onset`, then with the learning signal to
    `end`. The weights are integrated with the neurons, by the rule of the network; or they rest,
    and a two-point form compares the ends of the two intervals,

        delta:        ΔW_k = (eta_k/beta) (s_kᵝ − s_k⁰) ⊗ s_{k−1}⁰
        contrastive:  ΔW_k = (eta_k/beta) (s_kᵝ ⊗ s_{k−1}ᵝ − s_k⁰ ⊗ s_{k−1}⁰)

    Parameters
    ----------
    network : System
        From `sigprop_network`; it becomes the learner's own, and float32.
    end : float
        When the presentation ends.
    solver : Solver
        Fixed steps by default.
    update : {"integrated", "delta", "contrastive"}
        How the weights move.
    weights : State, optional
        Weights to go on from; by default those that the network was built with.

    Attributes
    ----------
    weights : State
        The weights that learn and their tags, carried on from presentation to presentation.

    Raises
    ------
    TypeError, ValueError
        A network that `sigprop_network` did not build, an `end` before the onset, a name or a
        solver that is not accepted.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> learner = ContinuousSigprop(ct.sigprop_network([4, 8, 2], seed=0))
    >>> learner.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    """

    network: System
    end: float = 14.4
    solver: Solver = field(default_factory=lambda: Euler(dt=0.6))
    update: Literal["integrated", "delta", "contrastive"] = "integrated"
    weights: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.network, System):
            raise TypeError(f"network must be a System; got {type(self.network).__name__}")
        if not isinstance(self.solver, Solver):
            raise TypeError(f"solver must be a solver; got {type(self.solver).__name__}")
        updates = ("integrated", "delta", "contrastive")
        if self.update not in updates:
            raise ValueError(unknown("update", self.update, updates))
        if not self.onset < self.end:
            raise ValueError(f"end must be later than the onset, {self.onset}; got {self.end}")
        self.network.float()
        start = self.network.initial_state(dtype=torch.float32)
        learned = {v.name for synapse in self.synapses for v in synapse.variables}
        for name in self.weights:
            if name not in learned:
                raise ValueError(unknown("weights", name, learned))
        self.weights = {**{n: v for n, v in start.items() if n in learned}, **self.weights}
        if self.update != "integrated":  # the weights rest while the neurons move
            for synapse in self.synapses:
                synapse.plasticity[0].gate = Constant(0.0)
        self._rates = {synapse.name: float(_rate(synapse)) for synapse in self.synapses}

    @property
    def onset(self) -> float:
        """When the learning signal comes on, as the network was built."""
        for current in self.network.currents:
            if isinstance(current, LearningSignal) and current.error and current.post == "y":
                gate = current.gate
                if isinstance(gate, Pulse) and {"x", "c", "y"} <= {*self.network.populations}:
                    return gate.onset
        raise ValueError(
            "network must be one of sigprop_network, with sources x and c, and an output y that a "
            "Pulse of the learning signal nudges; this one has the populations "
            f"{', '.join(self.network.populations)}"
        )

    @property
    def synapses(self) -> list[Synapse]:
        """The synapses that learn."""
        return [c for c in self.network.currents if isinstance(c, Synapse) and c.plasticity]

    @property
    def inputs(self) -> int:
        """How many channels the input has."""
        return self.network.populations["x"].size

    @property
    def classes(self) -> int:
        """How many output units there are."""
        return self.network.populations["y"].size

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides how it learns but for its weights now; the network as a fingerprint."""
        arrays: dict[str, Tensor] = {}
        recipe = json.dumps(describe(self.network, arrays))
        parts = [recipe.encode(), *(a.cpu().numpy().tobytes() for a in arrays.values())]
        return {
            "update": self.update,
            "onset": self.onset,
            "end": self.end,
            "solver": repr(self.solver),
            "rates": dict(self._rates),
            "network": hashlib.sha256(b"".join(parts)).hexdigest()[:16],
        }

    def dims(self, name: str) -> tuple[str, ...]:
        """Return the names of the axes of a weight."""
        return tuple(self.network.variables[name].dims)

    def snapshot(self) -> State:
        """Return the weights and their tags."""
        return dict(self.weights)

    def restore(self, kept: State) -> None:
        """Go on from a snapshot."""
        self.weights = dict(kept)

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to `factor` times the one that it was built with."""
        for synapse in self.synapses:
            _rate(synapse).fill_(self._rates[synapse.name] * factor)

    @torch.no_grad()
    def present(self, x: Tensor, labels: Tensor) -> Tensor:
        """Show a batch of inputs with their labels, and learn; return the free outputs.

        What the tagged rule learns waits in the tags, and moves the weights during the next
        presentation.

        Parameters
        ----------
        x : Tensor
            ``(batch, channels)``.
        labels : Tensor
            Integers, ``(batch,)``.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C: the weights are those before this presentation.
        """
        context = self._context(x, labels)
        run = self._run(x, context, [0.0, self.onset, self.end], self.weights)
        if self.update == "integrated":
            self.weights = {name: run.final[name] for name in self.weights}
        else:
            free, held = ({k: v[i] for k, v in run.states.items()} for i in (1, 2))
            self.weights = self._two_point(x, free, held)
        return run["s_y"][1]

    def respond(self, x: Tensor) -> Tensor:
        """Return the outputs at the end of the free interval, ``(batch, classes)``; no learning."""
        return self.activities(x)["s_y"]

    @torch.no_grad()
    def activities(self, x: Tensor) -> State:
        """Return every variable at the end of the free interval, run with empty tags."""
        matrices = {synapse.name for synapse in self.synapses}
        still = {n: w if n in matrices else torch.zeros_like(w) for n, w in self.weights.items()}
        context = x.new_zeros(x.shape[0], self.classes)
        return self._run(x, context, [0.0, self.onset], still).final

    def _context(self, x: Tensor, labels: Tensor) -> Tensor:
        self.check_presentation(x, labels)
        return torch.nn.functional.one_hot(labels.long(), self.classes).to(x)

    def _run(self, x: Tensor, context: Tensor, times: list[float], weights: State) -> Solution:
        zeros = {
            variable.name: x.new_zeros(x.shape[0], *variable.shape, dtype=torch.float32)
            for neuron in self.network.neurons
            for variable in neuron.variables
        }
        run = solve(
            self.network,
            {**zeros, **weights},
            times,
            solver=self.solver,
            inputs={"x": x, "c": context},
        )
        if run.status == "interrupted":  # solve() keeps what it reached; half a batch is no batch
            raise KeyboardInterrupt
        return run

    def _two_point(self, x: Tensor, free: State, held: State) -> State:
        after = {name: free[name] for name in self.weights}
        for synapse in self.synapses:
            pre0, pre1 = (_activity(self.network, synapse.pre, s, x) for s in (free, held))
            post0, post1 = (self.network.activity(s, synapse.post) for s in (free, held))
            if self.update == "delta":
                change = (post1 - post0).T @ pre0
            else:
                change = post1.T @ pre1 - post0.T @ pre0
            after[synapse.name] = free[synapse.name] + _rate(synapse) * change / x.shape[0]
        return after


def _rate(synapse: Synapse) -> Tensor:
    eta: Tensor = synapse.plasticity[0].eta
    return eta


def _activity(network: System, name: str, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    if name == "x":
        return x.float()
    if name == "one":
        return x.new_ones(x.shape[0], 1, dtype=torch.float32)
    return network.activity(dict(state), name)
