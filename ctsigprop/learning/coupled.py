"""What learners share whose weights are state variables, integrated together with the neurons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ctsigprop.errors import unknown
from ctsigprop.learning.learner import Learner
from ctsigprop.learning.relaxing import one_hot
from ctsigprop.models.synapses import Synapse
from ctsigprop.provenance import describe
from ctsigprop.solution import Solution
from ctsigprop.solve import solve
from ctsigprop.solvers.base import Solver
from ctsigprop.solvers.relaxation import Steady
from ctsigprop.system import System
from ctsigprop.terms import State

__all__ = ["CoupledLearner", "rate_of"]


class CoupledLearner(Learner):
    """A learner that is a `System` with the sources x and c, and an output population y.

    Attributes
    ----------
    network : System
        Neurons, synapses and what moves their weights.
    solver : Solver or Steady
        What integrates a presentation.
    weights : State
        The weights that learn and their traces, carried on from presentation to presentation.
    """

    network: System
    solver: Solver | Steady

    @property
    def onset(self) -> float:
        """When the learning signal comes on, as the network was built."""
        raise NotImplementedError

    def to(self, device: torch.device | str) -> Self:
        """Go to another device with all that it holds, its network too."""
        self.network.to(device)
        self.restore(self.weights)
        return self

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
            "onset": self.onset,
            "solver": repr(self.solver),
            "rates": dict(self._rates),
            "network": hashlib.sha256(b"".join(parts)).hexdigest()[:16],
        }

    def dims(self, name: str) -> tuple[str, ...]:
        """Return the names of the axes of a weight."""
        return tuple(self.network.variables[name].dims)

    def snapshot(self) -> State:
        """Return the weights and their traces."""
        return dict(self.weights)

    def restore(self, kept: State) -> None:
        """Go on from a snapshot."""
        device = self.network.device
        self.weights = {name: value.to(device) for name, value in kept.items()}

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to `factor` times the one that it was built with."""
        for synapse in self.synapses:
            rate_of(synapse).fill_(self._rates[synapse.name] * factor)

    @torch.no_grad()
    def integrated(self, x: Tensor, labels: Tensor, start: float, end: float) -> State:
        """Return the weights after a presentation of the input from `start` to `end`.

        Neurons begin at zero. An input that begins before the `onset` has to wait for its signal.

        Parameters
        ----------
        x : Tensor
            ``(batch, channels)``.
        labels : Tensor
            Integers, ``(batch,)``.
        start, end : float
            Times of the network.
        """
        run = self._solve(x, self._context(x, labels), [start, end])
        return {name: run.final[name] for name in self.weights}

    def _take(self, network: System) -> None:
        """Make the network this learner's own, in float32, and complete the weights."""
        network.float()
        start = network.initial_state(dtype=torch.float32)
        learned = {v.name for synapse in self.synapses for v in synapse.variables}
        for name in self.weights:
            if name not in learned:
                raise ValueError(unknown("weights", name, learned))
        self.weights = {**{n: v for n, v in start.items() if n in learned}, **self.weights}
        self._rates = {synapse.name: float(rate_of(synapse)) for synapse in self.synapses}

    def _context(self, x: Tensor, labels: Tensor) -> Tensor:
        self.check_presentation(x, labels)
        return one_hot(labels, self.classes, x)

    def _zeros(self, x: Tensor) -> State:
        return {
            variable.name: x.new_zeros(x.shape[0], *variable.shape, dtype=torch.float32)
            for neuron in self.network.neurons
            for variable in neuron.variables
        }

    def _solve(
        self, x: Tensor, context: Tensor, times: Sequence[float], weights: State | None = None
    ) -> Solution:
        run = solve(
            self.network,
            {**self._zeros(x), **(self.weights if weights is None else weights)},
            times,
            solver=self.solver,  # type: ignore[arg-type]
            inputs={"x": x, "c": context},
        )
        if run.status == "interrupted":  # solve() keeps what it reached; half a batch is no batch
            raise KeyboardInterrupt
        return run


def rate_of(synapse: Synapse) -> Tensor:
    """Return the learning rate of a synapse, that of its first rule."""
    eta: Tensor = synapse.plasticity[0].eta
    return eta.detach()
