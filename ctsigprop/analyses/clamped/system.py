"""Continuous sigprop held still: states, rates and weights of its system as separate numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import final

import torch
from torch import Tensor

from ctsigprop.analyses.clamped.base import (
    INPUT,
    NO_EDITS,
    Clamped,
    Course,
    Edit,
    Updates,
    moved,
    noisy,
)
from ctsigprop.analyses.cut import Cut, cut
from ctsigprop.learning.continuous import ContinuousSigprop
from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Constant
from ctsigprop.terms import State

__all__ = ["ClampedSystem"]


@final
class ClampedSystem(Clamped):
    """The two-point form between its two states, or the derivative of every weight."""

    def __init__(self, learner: ContinuousSigprop, x: Tensor, labels: Tensor) -> None:
        self.learner, self.system = learner, learner.network
        self.x, self.context = x.float(), learner._context(x, labels)
        self.layers = tuple(neuron.name for neuron in self.system.neurons)
        self.synapses = {  # by layer, the widest that learns: the others are its biases
            synapse.post: synapse
            for synapse in sorted(learner.synapses, key=lambda s: s.variables[0].shape[1])
        }
        self.learned = tuple(name for name in self.layers if name in self.synapses)
        with torch.no_grad():
            self.free, self.held = learner._ends(self.x, self.context)
        self.moment = cut(self.system, self._signal_on, torch.Generator().manual_seed(0))
        self.owners = tuple(range(len(x))) if self._two_point else (0,)

    @property
    def _two_point(self) -> bool:
        return self.learner.update in ("delta", "contrastive")

    @property
    def _signal_on(self) -> float:
        return (self.learner.onset + self.learner.end) / 2

    def update(
        self,
        activities: Mapping[str, Edit] = NO_EDITS,
        weights: Mapping[str, Edit] = NO_EDITS,
        *,
        inside: bool = False,
        relabel: bool = False,
    ) -> Updates:
        """Return what every matrix does: its jump, or the derivatives of it and of its traces.

        A label reaches the synapses by the activities alone, which are held.
        """
        del inside, relabel
        if self._two_point:
            return self._jump(activities, weights)
        return self._derivatives(activities, weights)

    @torch.no_grad()
    def drive(
        self,
        activities: Mapping[str, Edit] = NO_EDITS,
        weights: Mapping[str, Edit] = NO_EDITS,
        *,
        learning: bool = True,
    ) -> State:
        """Return the derivative of every neuron's state, with the signal on or off."""
        t = self._signal_on if learning else self.learner.onset / 2
        state = self._edited(self.held if learning else self.free, activities)
        inputs = {"x": self._input(activities), "c": self.context}
        found = self._field(t, {**state, **self._weights(weights)}, inputs)
        return {
            neuron.name: torch.cat([found[v.name] for v in neuron.variables], -1)
            for neuron in self.system.neurons
        }

    def course(self) -> dict[str, Course]:
        """Return what happens to each layer; all of them move at once, and none in turn."""
        waits = not self._learns_from_the_start()
        late = self._reads_the_free_state()
        return {
            name: Course(
                passes=1,
                rows=2.0 if self._two_point else 1.0,
                stored=int(late[name]),
                waited=len(self.layers) - 1 - k if waits else 0,
                after_next=False,
                in_turn=False,
            )
            for k, name in enumerate(self.layers)
        }

    @torch.no_grad()
    def _learns_from_the_start(self) -> bool:
        """Say whether a weight that has no tag yet begins to move before the onset."""
        if self._two_point:
            return False
        fresh = self.system.initial_state(dtype=torch.float32)
        own = {synapse.variables[0].name for synapse in self.learner.synapses}
        weights = {n: w if n in own else fresh[n] for n, w in self.learner.weights.items()}
        state = {name: noisy(value) for name, value in self._edited(self.free, {}).items()}
        inputs = {"x": self.x, "c": self.context}
        found = self._field(self.learner.onset / 2, {**state, **weights}, inputs)
        return any(bool(found[name].any()) for name in self.learner.weights)

    def _reads_the_free_state(self) -> dict[str, bool]:
        """Say of which layers the update reads the state at the end of the free interval."""
        if not self._two_point:
            return dict.fromkeys(self.layers, False)
        base = self._jump({}, {})
        found = {}
        for name in self.layers:
            edited = self._jump({}, {}, free={name: noisy})
            found[name] = any(moved(edited[layer], base[layer]) > 0 for layer in self.learned)
        return found

    @torch.no_grad()
    def _jump(
        self,
        activities: Mapping[str, Edit],
        weights: Mapping[str, Edit],
        free: Mapping[str, Edit] = NO_EDITS,
    ) -> Updates:
        before = self.learner.weights
        kept = dict(before)
        try:
            self.learner.weights = self._weights(weights)
            after = self.learner._two_point(
                self._input(activities),
                self._edited(self.free, {**activities, **free}),
                self._edited(self.held, activities),
            )
            return {
                name: after[s.name] - self.learner.weights[s.name]
                for name, s in self.synapses.items()
            }
        finally:
            self.learner.weights = kept

    def _derivatives(self, activities: Mapping[str, Edit], weights: Mapping[str, Edit]) -> Updates:
        whole = self.moment
        edited: dict[str, State] = {}
        for what, values in (("activities", whole.activities), ("rates", whole.rates)):
            edited[what] = {
                name: activities[name](value.detach()) if name in activities else value
                for name, value in values.items()
            }
        state = dict(whole.state)
        for layer, edit in weights.items():
            name = self.synapses[layer].variables[0].name
            state[name] = edit(state[name].detach())
        moment = Cut(
            self._signal_on,
            self.system.populations,
            state,
            edited["activities"],
            edited["rates"],
            whole.modulator,
        )
        return {name: self._changes(s, moment) for name, s in self.synapses.items()}

    def _changes(self, synapse: Synapse, moment: Cut) -> Tensor:
        """Return the derivatives of a matrix and its traces, ``(post, pre, equation)``."""
        shape, found = synapse.variables[0].shape, []
        for rule in synapse.plasticity:
            local = synapse.local(moment, rule)
            value = moment.modulator
            if local.modulator is not None and value is not None:
                local.modulator = partial(_same, value)
            found += [v.expand(shape).detach() for v in rule(local).values()]
        return torch.stack(found, -1)

    def _field(self, t: float, state: State, inputs: Mapping[str, Tensor]) -> State:
        signals = {name: Constant(value) for name, value in inputs.items()}
        found: State = self.system(torch.tensor(t, dtype=torch.float64), state, inputs=signals)
        return found

    def _weights(self, edits: Mapping[str, Edit]) -> State:
        found = dict(self.learner.weights)
        for layer, edit in edits.items():
            name = self.synapses[layer].variables[0].name
            found[name] = edit(found[name])
        return found

    def _edited(self, state: State, edits: Mapping[str, Edit]) -> State:
        found = {}
        for neuron in self.system.neurons:
            for variable in neuron.variables:
                value = state[variable.name]
                found[variable.name] = edits[neuron.name](value) if neuron.name in edits else value
        return found

    def _input(self, edits: Mapping[str, Edit]) -> Tensor:
        return edits[INPUT](self.x) if INPUT in edits else self.x


def _same(value: Tensor) -> Tensor:
    return value
