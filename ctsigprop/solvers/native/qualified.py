"""Which networks have a tape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ctsigprop.models.inputs import Input, LearningSignal
from ctsigprop.models.neurons import TextNeuron
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Rhythm, Signal
from ctsigprop.solvers.native.tape import UnfitError
from ctsigprop.terms import Source

if TYPE_CHECKING:
    from ctsigprop.solvers.base import Layout
    from ctsigprop.system import System

__all__ = ["require_text"]


def require_text(system: System, layout: Layout, given: Mapping[str, Signal]) -> None:
    """Refuse a network of which something is no text, or moves between the jumps of its inputs.

    A source may be a rhythm. `given` are signals of sources that are not their own.
    """
    for neuron in system.neurons:
        if type(neuron) is not TextNeuron:
            raise UnfitError(f"population '{neuron.name}' is no TextNeuron")
    for population in system.populations.values():
        if population.size == 0:
            raise UnfitError(f"population '{population.name}' is empty")
    for source in system.sources:
        entering = _signal(source, given)
        if not isinstance(entering, Rhythm) or entering.onset > -math.inf:
            _require_held(entering, f"source '{source.name}'")
    for current in system.currents:
        if type(current) not in (Synapse, Input, LearningSignal):
            raise UnfitError(f"current '{current.name}' is no Synapse, Input or LearningSignal")
        if isinstance(current, LearningSignal) and current.gate is not None:
            _require_held(current.gate, f"the gate of '{current.name}'")
        if isinstance(current, Synapse):
            for rule in current.plasticity:
                if type(rule) is not TextPlasticity:
                    raise UnfitError(f"a rule of '{current.name}' is no TextPlasticity")
                for signal in (rule.gate, rule.modulator):
                    if isinstance(signal, Signal):
                        _require_held(signal, f"a gate or modulator of '{current.name}'")
    for name, shape in layout.shapes.items():
        own = layout.dims[name]
        if len(own) == 2 and math.prod(layout.batch) > 1 and len(shape) > 2:
            raise UnfitError(f"every sample of the batch has weights or stages '{name}' of its own")


def _signal(source: Source, given: Mapping[str, Signal]) -> Signal:
    signal = given.get(source.name, source.signal)
    if signal is None:
        raise UnfitError(f"source '{source.name}' has no signal")
    return signal


def _require_held(signal: Signal, what: str) -> None:
    if not signal.stepwise:
        raise UnfitError(f"{what} moves between jumps: it is a {type(signal).__name__}")
