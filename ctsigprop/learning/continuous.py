"""Continuous signal propagation: presentations during which neurons and weights move together."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ctsigprop.errors import ConvergenceError, unknown
from ctsigprop.learning.coupled import CoupledLearner, rate_of
from ctsigprop.models.inputs import LearningSignal
from ctsigprop.signals import Constant, Pulse, Rhythm, as_values
from ctsigprop.solvers.base import Solver, State
from ctsigprop.solvers.explicit.fixed import Euler
from ctsigprop.solvers.relaxation import Relaxation, Steady
from ctsigprop.system import System

__all__ = ["ContinuousSigprop"]


@dataclass
class ContinuousSigprop(CoupledLearner):
    """A network of `sigprop_network` that learns from presentations of inputs and their labels.

    Each presentation runs freely from 0 to the network's `onset`, then with the learning signal to
    `end`; where the signal rides on a rhythm, there is no free interval, and input and signal come
    together at `onset`. The weights are integrated with the neurons, by the rule of the network; or
    they rest, and a two-point form compares the ends of the two intervals,

        delta:        ΔW_k = (eta_k/beta) (s_kᵝ − s_k⁰) ⊗ s_{k−1}⁰
        contrastive:  ΔW_k = (eta_k/beta) (s_kᵝ ⊗ s_{k−1}ᵝ − s_k⁰ ⊗ s_{k−1}⁰)

    The ends are found by integration, or straight, where the solver is `Steady`.

    Parameters
    ----------
    network : System
        From `sigprop_network`; it becomes the learner's own, and float32.
    end : float
        When the presentation ends: by default 6 after the onset, or with the first period during
        which the synapses hear the rhythm.
    solver : Solver or Steady
        Fixed steps by default. `Steady` is for the two-point forms.
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
    end: float = math.inf
    solver: Solver | Steady = field(default_factory=lambda: Euler(dt=0.6))
    update: Literal["integrated", "delta", "contrastive"] = "integrated"
    weights: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.network, System):
            raise TypeError(f"network must be a System; got {type(self.network).__name__}")
        if not isinstance(self.solver, Solver | Steady):
            raise TypeError(f"solver must be a solver; got {type(self.solver).__name__}")
        updates = ("integrated", "delta", "contrastive")
        if self.update not in updates:
            raise ValueError(unknown("update", self.update, updates))
        if isinstance(self.solver, Steady) and self.update == "integrated":
            raise ValueError(
                "update 'integrated' moves the weights along the way, which Steady does not go; "
                "take update='delta' or 'contrastive', or a solver of fixed steps"
            )
        if self.rhythmic and self.update != "integrated":
            raise ValueError(f"a signal on a rhythm needs update='integrated'; got {self.update!r}")
        begin, length = self.onset, 6.0
        if isinstance(self._gate, Rhythm):  # its synapses wait as long again
            begin, length = 2 * self.onset, 1 / self._gate.frequency
        if self.end == math.inf:
            self.end = begin + length
        if not begin < self.end:
            raise ValueError(f"end must be later than the onset, {begin}; got {self.end}")
        self._take(self.network)
        if self.update != "integrated":  # the weights rest while the neurons move
            for synapse in self.synapses:
                synapse.plasticity[0].gate = Constant(0.0)
                name = synapse.name  # products take them faster in this order
                self.weights[name] = self.weights[name].T.contiguous().T
        self._begun = False
        self._shown = {"x": Constant(0.0), "c": Constant(0.0)}
        self._relaxation: Relaxation | None = None

    @property
    def onset(self) -> float:
        """When the learning signal comes on, as the network was built."""
        return self._gate.onset

    @property
    def rhythmic(self) -> bool:
        """Whether the signal rides on a rhythm, all through a presentation."""
        return isinstance(self._gate, Rhythm)

    @cached_property
    def _gate(self) -> Pulse | Rhythm:
        """The gate of the nudge."""
        for current in self.network.currents:
            if isinstance(current, LearningSignal) and current.error and current.post == "y":
                named = {"x", "c", "y"} <= {*self.network.populations}
                if isinstance(current.gate, Pulse | Rhythm) and named:
                    return current.gate
        raise ValueError(
            "network must be one of sigprop_network, with sources x and c, and an output y that a "
            "Pulse or a Rhythm of the learning signal nudges; this one has the populations "
            f"{', '.join(self.network.populations)}"
        )

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides how it learns but for its weights now; the network as a fingerprint."""
        return {"update": self.update, "end": self.end, **super().settings}

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
        ConvergenceError
            The loop amplifies: by `loop_gain` before the first presentation, or because `Steady`
            finds no rest later.
        KeyboardInterrupt
            After Ctrl-C: the weights are those before this presentation.
        """
        context = self._context(x, labels)
        if not self._begun:
            self._check_loop(x)
            self._begun = True
        if self.rhythmic:
            output = self.respond(x)
            self.weights = self.integrated(x, labels, self.onset, self.end)
            return output
        if self.update == "integrated":
            run = self._solve(x, context, [0.0, self.onset, self.end])
            self.weights = {name: run.final[name] for name in self.weights}
            return run["s_y"][1]
        relaxes = isinstance(self.solver, Steady | Euler)
        with self.network.inference() if relaxes else nullcontext():
            free, held = self._ends(x, context)
        self.weights = self._two_point(x, free, held)
        return free["s_y"].clone()

    def respond(self, x: Tensor) -> Tensor:
        """Return the outputs at the end of the free interval, ``(batch, classes)``; no learning."""
        return self.activities(x)["s_y"]

    @torch.no_grad()
    def activities(self, x: Tensor) -> State:
        """Return every variable at the end of the free interval, run with empty tags."""
        matrices = {synapse.name for synapse in self.synapses}
        still = {n: w if n in matrices else torch.zeros_like(w) for n, w in self.weights.items()}
        context = x.new_zeros(x.shape[0], self.classes)
        if isinstance(self.solver, Steady | Euler):
            return still | self._relax(self._held(x, context), self._zeros(x), self.onset)
        return self._solve(x, context, [0.0, self.onset], still).final

    @torch.no_grad()
    def loop_gain(self, x: Tensor) -> Tensor:
        """Return by how much each layer amplifies what goes round the loop, ``(batch,)``.

            gain = max Re λ^(1/N),   λ the eigenvalues of ∂s_N'/∂s_N, s_N' the output that s_N makes

        at the free state, by finite differences, for N layers of one time constant; 0 without a
        loop. Small changes grow as exp((gain − 1) t/tau): below 1 the free state is stable.
        """
        relaxation = self._held(x, x.new_zeros(x.shape[0], self.classes))
        state = relaxation.march(self._zeros(x), 0.6, self.onset)
        step, rest = 1e-3, relaxation.sweep(state)["s_y"]
        columns = []
        for unit in range(self.classes):
            moved = state["s_y"].clone()
            moved[:, unit] += step
            columns.append((relaxation.sweep({**state, "s_y": moved})["s_y"] - rest) / step)
        eigenvalues = torch.linalg.eigvals(torch.stack(columns, -1).double())
        gain: Tensor = eigenvalues.pow(1 / len(self.network.neurons)).real.amax(-1)
        return gain

    def _check_loop(self, x: Tensor) -> None:
        """Refuse to begin with a loop that amplifies."""
        gain = float(self.loop_gain(x).max())
        if not gain < 1:
            raise ConvergenceError(
                time=0.0,
                variable="s_y",
                cause=f"the loop amplifies by {gain:.3g} a layer, and has to stay below 1: lower "
                "`strength` of sigprop_network or the learning rates",
            )

    def _ends(self, x: Tensor, context: Tensor) -> tuple[State, State]:
        """Return the neurons at the ends of the free interval and of that with the signal."""
        if not isinstance(self.solver, Steady | Euler):
            run = self._solve(x, context, [0.0, self.onset, self.end])
            free, held = ({k: v[i] for k, v in run.states.items()} for i in (1, 2))
            return free, held
        relaxation = self._held(x, context)
        free = self._relax(relaxation, self._zeros(x), self.onset)
        relaxation.move((self.onset + self.end) / 2)
        return free, self._relax(relaxation, free, self.end - self.onset)

    def _held(self, x: Tensor, context: Tensor) -> Relaxation:
        """Return the neurons at the beginning of a presentation."""
        self.check_input(x)
        shown = self._shown
        shown["x"].value, shown["c"].value = as_values(x.float(), "x"), context.float()
        native = getattr(self.solver, "native", None) is not False
        known = self._relaxation
        if known is None or known.native != native or known.t.device != self.device:
            known = Relaxation(self.network, self.weights, 0.0, shown, native=native)
            self._relaxation = known
        else:
            known.hold(self.weights, 0.0, shown)
        return known

    def _relax(self, relaxation: Relaxation, state: State, duration: float) -> State:
        if isinstance(self.solver, Steady):
            return relaxation.settle(state, self.solver).state
        return relaxation.march(state, self.solver.dt, duration)  # type: ignore[attr-defined]

    def _two_point(self, x: Tensor, free: State, held: State) -> State:
        after, synapses = dict(self.weights), self.synapses
        alike = {"x": x.float(), "one": x.new_ones(x.shape[0], 1, dtype=torch.float32)}
        ends = {name: (value, value) for name, value in alike.items()}
        for name in {name for synapse in synapses for name in (synapse.pre, synapse.post)}:
            if name not in ends:
                before, now = (self.network.activity(state, name) for state in (free, held))
                ends[name] = before, now
        moved = {name: ends[name][1] - ends[name][0] for name in {s.post for s in synapses}}
        for synapse in synapses:
            rate = float(rate_of(synapse)) / x.shape[0]
            pre, weight = ends[synapse.pre], self.weights[synapse.name]
            weight = torch.addmm(weight.T, pre[0].T, moved[synapse.post], alpha=rate)
            if self.update == "contrastive":
                weight.addmm_((pre[1] - pre[0]).T, ends[synapse.post][1], alpha=rate)
            after[synapse.name] = weight.T
        return after
