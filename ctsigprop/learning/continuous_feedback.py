"""Feedback alignment in continuous time: neurons, errors and weights move together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ctsigprop.learning.coupled import CoupledLearner
from ctsigprop.signals import Constant, Pulse
from ctsigprop.solvers.base import Solver
from ctsigprop.solvers.explicit.fixed import Euler
from ctsigprop.solvers.relaxation import Relaxation
from ctsigprop.system import System
from ctsigprop.terms import Source, State

__all__ = ["ContinuousFeedbackAlignment"]


@dataclass
class ContinuousFeedbackAlignment(CoupledLearner):
    """A network of `feedback_network` that learns while it answers.

    In a presentation the input is on for `duration`, and its target from `delay` after it begins:
    weights learn where the two overlap. Whether this is feedback alignment or direct feedback
    alignment lies in the network.

    Parameters
    ----------
    network : System
        From `feedback_network`; it becomes the learner's own, and float32.
    duration : float
        Of the input.
    delay : float
        How long the target comes after it.
    solver : Solver
        Fixed steps by default.
    weights : State, optional
        Weights to go on from; by default those that the network was built with.

    Raises
    ------
    TypeError, ValueError
        A network that `feedback_network` did not build, a delay that leaves no overlap.

    References
    ----------
    Bacvanski, Ziyin & Poggio, arXiv 2510.18808; see `feedback_network`.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> learner = ContinuousFeedbackAlignment(ct.feedback_network([4, 8, 2]))
    >>> learner.present(torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])).shape
    torch.Size([5, 2])
    """

    network: System
    duration: float = 12.0
    delay: float = 0.0
    solver: Solver = field(default_factory=lambda: Euler(dt=0.6))
    weights: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.network, System):
            raise TypeError(f"network must be a System; got {type(self.network).__name__}")
        if not isinstance(self.solver, Solver):
            raise TypeError(f"solver must be a solver; got {type(self.solver).__name__}")
        if not 0 <= self.delay < self.duration:
            raise ValueError(
                f"delay must lie between 0 and the duration, {self.duration}; got {self.delay}"
            )
        _ = self.onset  # a network of another kind has none
        self._take(self.network)

    @property
    def onset(self) -> float:
        """When the target comes on, as the network was built."""
        gate = self.network.populations.get("g")
        signal = gate.signal if isinstance(gate, Source) else None
        if isinstance(signal, Pulse) and {"x", "c", "y", "e_y"} <= {*self.network.populations}:
            return signal.onset
        raise ValueError(
            "network must be one of feedback_network, with sources x, c and g, an output y and its "
            f"error e_y; this one has the populations {', '.join(self.network.populations)}"
        )

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides how it learns but for its weights now; the network as a fingerprint."""
        return {"duration": self.duration, "delay": self.delay, **super().settings}

    @torch.no_grad()
    def present(self, x: Tensor, labels: Tensor) -> Tensor:
        """Show a batch of inputs with their labels, and learn; return the outputs from before.

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
        self.check_presentation(x, labels)
        output, start = self.respond(x), self.onset - self.delay
        self.weights = self.integrated(x, labels, start, start + self.duration)
        return output

    def respond(self, x: Tensor) -> Tensor:
        """Return the outputs at rest, ``(batch, classes)``; no learning."""
        return self.activities(x)["s_y"]

    @torch.no_grad()
    def activities(self, x: Tensor) -> State:
        """Return every variable where it rests without a target."""
        self.check_input(x)
        nothing = x.new_zeros(x.shape[0], self.classes, dtype=torch.float32)
        inputs = {"x": Constant(x.float()), "c": Constant(nothing)}
        relaxation = Relaxation(self.network, self.weights, 0.0, inputs)
        return {**self.weights, **relaxation.sweep(self._zeros(x))}
