"""A network of text on a tape: neurons, currents and plasticity of one sample.

One sample may be a batch that shares the weights that learn.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctsigprop.models.inputs import Input
from ctsigprop.models.neurons import TextNeuron
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Rhythm, Signal
from ctsigprop.solvers.native import machine as ops
from ctsigprop.solvers.native.qualified import require_text
from ctsigprop.solvers.native.rules import Rule
from ctsigprop.solvers.native.tape import RATE, STATE, Names, Tape, UnfitError, Value
from ctsigprop.solvers.native.weights import Lazy, Variable, Weights
from ctsigprop.terms import Source

if TYPE_CHECKING:
    from ctsigprop.solvers.base import Layout
    from ctsigprop.system import System

__all__ = ["Network"]


class Network:
    """The tape of a system for states of one layout.

    Parameters
    ----------
    system : System
        What is integrated.
    layout : Layout
        How its state packs.
    low_rank : bool
        Whether weights are stepped by their factors where rules allow it.
    given : mapping of str to Signal
        Signals of sources that are not their own.

    Attributes
    ----------
    variables : list of Variable
        What is stepped as it is, in the order of the state.
    weights : list of Weights
        What is stepped by factors.
    parameters : list
        ``(place, samples, width, term, name)`` of values read at the start of a run.
    matrices : list
        ``(place, synapse)`` of fixed weights.
    sources, gates : list
        ``(place, samples, width, source, part)`` and ``(place, width, signal, open)``, read at
        every jump; the parts are those of rhythms.
    rhythms : list
        ``(place, place, source)`` of their angular frequencies and phases.

    Raises
    ------
    UnfitError
        Where something has no native form.
    """

    def __init__(
        self, system: System, layout: Layout, low_rank: bool, given: Mapping[str, Signal]
    ) -> None:
        self.system, self.layout, self.given = system, layout, given
        self.samples = math.prod(layout.batch)
        self.tape = Tape()
        self.variables: list[Variable] = []
        self.weights: list[Weights] = []
        self.parameters: list[tuple[int, int, int, Any, str]] = []
        self.matrices: list[tuple[int, Synapse]] = []
        self.bounds: list[tuple[int, int, Synapse]] = []
        self.masks: list[tuple[int, int, Synapse]] = []
        self.sources: list[tuple[int, int, int, Source, str]] = []
        self.rhythms: list[tuple[int, int, Source]] = []
        self.gates: list[tuple[int, int, Signal, bool]] = []
        self._read: dict[tuple[Any, ...], Value] = {}
        require_text(system, layout, given)
        lazy = {s.name: self._lazily(s) for s in self._learning()} if low_rank else {}
        self._place_state({name for name, weights in lazy.items() if weights is not None})
        self.by_name = {name: w for name, w in lazy.items() if w is not None}
        self.weights = list(self.by_name.values())
        self._activities: dict[str, Value] = {}
        self._currents: dict[tuple[str, str], Value] = {}
        for current in system.currents:
            self._enter(current)
        for neuron in system.neurons:
            assert isinstance(neuron, TextNeuron)
            self._neuron(neuron)
        for synapse in system.currents:
            if isinstance(synapse, Synapse):
                self._filter(synapse)
                if synapse.plasticity:
                    self._learn(synapse)
        del self.system, self.given  # a network is kept for as long as its system

    def _learning(self) -> list[Synapse]:
        return [s for s in self.system.currents if isinstance(s, Synapse) and s.plasticity]

    def _lazily(self, synapse: Synapse) -> Weights | None:
        products = synapse.products
        if products is None:
            return None
        for rule in synapse.plasticity:
            structure = rule.structure if isinstance(rule, TextPlasticity) else None
            if structure is None:
                return None
        post, pre = self.layout.dims[synapse.name]
        if 2 * max(1, products[0]) * self.samples > min(post, pre):
            return None
        return Weights(synapse.name, post, pre, by_row=products[1] != "column")

    def _place_state(self, lazy: set[str]) -> None:
        place = 0
        for name in self.layout.names:
            if name not in lazy:
                part = self.layout.slices[name]
                n = part.stop - part.start
                self.variables.append(Variable(name, place, n, len(self.layout.dims[name]) > 1))
                place += n
        self.rest = place
        self.places = {v.name: v for v in self.variables}

    # values

    def state(self, name: str) -> Value:
        """Return a variable that is stepped as it is."""
        variable = self.places[name]
        return Value(STATE + variable.place, variable.n)

    def parameter(self, term: Any, name: str, samples: int, width: int, scalar: bool) -> Value:
        """Return a parameter of a term, for all samples."""
        key = ("parameter", id(term), name, samples, width)
        if key not in self._read:
            shape = tuple(getattr(term, name).shape)
            if shape not in ((), (1,)) and (scalar or shape != (width,)):
                raise UnfitError(f"parameter '{name}' has the shape {shape}")
            n = samples * width
            value = Value(self.tape.space(n), n, held=True)
            self.parameters.append((value.place, samples, width, term, name))
            self._read[key] = value
        return self._read[key]

    def gate(self, signal: Signal, n: int, *, open_: bool = False) -> Value:
        """Return the value of a gate; with `open_`, whether it is open."""
        key = ("gate", id(signal), n, open_)
        if key not in self._read:
            if signal.size:
                raise UnfitError("a gate has channels")
            self._read[key] = Value(self.tape.space(n), n, held=True)
            self.gates.append((self._read[key].place, n, signal, open_))
        return self._read[key]

    def activity(self, name: str) -> Value:
        """Return the activity of a population, ``samples·size`` numbers."""
        if name not in self._activities:
            population = self.system.populations[name]
            if isinstance(population, Source):
                signal = self.given.get(name, population.signal)
                rhythmic = isinstance(signal, Rhythm)
                value = self._rhythm(population) if rhythmic else self._held(population)
            else:
                assert isinstance(population, TextNeuron)
                value = self._output(population, population.equations.code(population.output))
            self._activities[name] = value
        return self._activities[name]

    def _held(self, source: Source, part: str = "") -> Value:
        """Return what a source's signal holds, or a part of it."""
        n = self.samples * source.size
        value = Value(self.tape.space(n), n, held=True)
        self.sources.append((value.place, self.samples, source.size, source, part))
        return value

    def _rhythm(self, source: Source) -> Value:
        """Return offset + amplitude · cos(speed · t + phase)."""
        tape = self.tape
        speed, phase = (Value(tape.space(1), 1, held=True) for _ in "ab")
        self.rhythms.append((speed.place, phase.place, source))
        angle = tape.entrywise(ops.ADD, tape.entrywise(ops.MUL, tape.clock(1), speed), phase)
        wave = tape.entrywise(ops.UNARY, angle, None, ops.COS)
        one = tape.constant(1.0, 1)
        return tape.sum(
            [(one, self._held(source, "offset")), (wave, self._held(source, "amplitude"))]
        )

    def _output(self, neuron: TextNeuron, code: ast.expr) -> Value:
        n = self.samples * neuron.size
        return self.tape.expression(code, self._neuron_names(neuron, n, currents=False), n)

    def _neuron_names(self, neuron: TextNeuron, n: int, *, currents: bool) -> Names:
        shorts = {v.name for v in neuron.equations.variables}

        def name_of(name: str) -> Value:
            if name in shorts:
                return self.state(neuron.full(name))
            if name in neuron.equations.subexpressions:
                return self.tape.expression(neuron.equations.code(name), name_of, n)
            if name in neuron.ports:
                entered = self._currents.get((neuron.name, name)) if currents else None
                return self.tape.constant(0.0, n) if entered is None else entered
            if name == "t":
                return self.tape.clock(n) if currents else self.tape.constant(0.0, n)
            return self.parameter(neuron, name, self.samples, neuron.size, scalar=False)

        return name_of

    def rate(self, name: str) -> Value:
        """Return the derivative of a population's activity."""
        population = self.system.populations[name]
        n = self.samples * population.size
        if not isinstance(population, TextNeuron):
            return self.tape.constant(0.0, n)
        equations = population.equations
        shorts = [v.name for v in equations.variables]

        def speed(short: str) -> Value:
            variable = self.places[population.full(short)]
            return Value(RATE + variable.place, variable.n)

        if population.output in shorts:
            return speed(population.output)
        total: Value | None = None
        for short in shorts:
            slope = self._output(population, equations.code(population.output, by=short))
            part = self.tape.entrywise(ops.MUL, slope, speed(short))
            total = part if total is None else self.tape.entrywise(ops.ADD, total, part)
        assert total is not None
        return total

    # terms

    def _enter(self, current: Any) -> None:
        """Add what a current brings to its port."""
        value = self._current(current)
        key = (current.post, current.port)
        before = self._currents.get(key)
        self._currents[key] = (
            value if before is None else self.tape.entrywise(ops.ADD, before, value)
        )

    def _current(self, current: Any) -> Value:
        size = self.system.populations[current.post].size
        if isinstance(current, Synapse):
            return self._through(current, size)
        tape, source = self.tape, self.activity(current.source)
        if isinstance(current, Input):
            if source.n == self.samples and size > 1:
                source = tape.spread(source, self.samples, size)
            gain = self.parameter(current, "gain", self.samples, size, scalar=False)
            return tape.entrywise(ops.MUL, gain, source)
        if current.error:
            source = tape.entrywise(ops.SUB, source, self.activity(current.post))
        if not current.identity:
            source = self._matvec(current, source, size, source.n // self.samples)
        if current.gate is not None:
            return tape.entrywise(ops.MUL, self.gate(current.gate, source.n), source)
        return tape.entrywise(ops.MUL, tape.constant(current.strength, source.n), source)

    def _through(self, synapse: Synapse, post: int) -> Value:
        x, lazy = self.arriving(synapse), self.by_name.get(synapse.name)
        by_parts = lazy.by_row if lazy is not None else not synapse.plasticity
        if not (x.parts and by_parts):
            return self._image(synapse, x, post)
        return self.tape.sum([(k, self._image(synapse, part, post)) for k, part in x.parts])

    def _image(self, synapse: Synapse, x: Value, post: int) -> Value:
        """Return W x."""
        pre = x.n // self.samples
        lazy = self.by_name.get(synapse.name)
        if lazy is not None:
            d = Value(self.tape.space(self.samples * post), self.samples * post)
            u = self.tape.space(self.samples * (post if lazy.by_row else pre))
            if x.held and lazy.by_row:
                lazy.drives.append((x, u))
            elif lazy.by_row:
                lazy.known = Value(u, self.samples * post)
                self._read["applied", synapse.name] = x
            self.tape.stage.append(Lazy(lazy, x, d.place, u))
            return d
        if not synapse.plasticity:
            return self._matvec(synapse, x, post, pre)
        w = self.state(synapse.name)
        if synapse.sign is not None or synapse.bounds is not None:
            low, high = self._bounds(synapse, w.n)
            w = self.tape.entrywise(ops.BINARY, w, low, ops.FROM_BELOW)
            w = self.tape.entrywise(ops.BINARY, w, high, ops.FROM_ABOVE)
        return self._products(w.place, x, post, pre, held=False)

    def _bounds(self, synapse: Synapse, n: int) -> tuple[Value, Value]:
        """Return the least and the largest value of every weight."""
        key = ("bounds", synapse.name)
        if key not in self._read:
            self._read[key] = Value(self.tape.space(2 * n), n, held=True)
            self.bounds.append((self._read[key].place, n, synapse))
        low = self._read[key]
        return low, Value(low.place + n, n, held=True)

    def _matvec(self, term: Any, x: Value, post: int, pre: int) -> Value:
        key = ("matrix", id(term))
        if key not in self._read:
            self._read[key] = Value(self.tape.space(post * pre), post * pre, held=True)
            self.matrices.append((self._read[key].place, term))
        return self._products(self._read[key].place, x, post, pre, held=x.held)

    def _products(self, w: int, x: Value, post: int, pre: int, *, held: bool) -> Value:
        found = Value(self.tape.space(self.samples * post), self.samples * post, held)
        for s in range(self.samples):
            d, at = found.place + s * post, x.place + s * pre
            self.tape.write(ops.DOT, d, w, at, pre, post, 1, pre, 0, held=held)
        return found

    def arriving(self, synapse: Synapse) -> Value:
        """Return the presynaptic activity as it arrives."""
        if synapse.filter is None:
            return self.activity(synapse.pre)
        stages = self.state(f"z_{synapse.name}")
        order = synapse.filter[0]
        n = stages.n // order
        return Value(stages.place + (order - 1) * n, n)

    def _neuron(self, neuron: TextNeuron) -> None:
        n = self.samples * neuron.size
        names = self._neuron_names(neuron, n, currents=True)
        for variable in neuron.equations.variables:
            code = neuron.equations.code(f"d{variable.name}/dt")
            slope = self.tape.expression(code, names, n)
            place = self.places[neuron.full(variable.name)].place
            self.tape.write(ops.COPY, RATE + place, slope.place, 0, n)

    def _filter(self, synapse: Synapse) -> None:
        if synapse.filter is None:
            return
        if self.samples > 1:
            raise UnfitError(f"'{synapse.name}' has a filter, and there is a batch")
        order, tau = synapse.filter
        stages = self.places[f"z_{synapse.name}"]
        n = stages.n // order
        above = self.activity(synapse.pre)
        for k in range(order):
            own = Value(STATE + stages.place + k * n, n)
            gap = self.tape.entrywise(ops.SUB, above, own)
            speed = self.tape.entrywise(ops.MUL, gap, self.tape.constant(order / tau, n))
            self.tape.write(ops.COPY, RATE + stages.place + k * n, speed.place, 0, n)
            above = own

    # plasticity

    def _learn(self, synapse: Synapse) -> None:
        post, pre = self.layout.dims[synapse.name]
        lazy = self.by_name.get(synapse.name)
        if lazy is None:
            w = self.places[synapse.name]
            self.tape.write(ops.FILL, RATE + w.place, 0, 0, w.n)
        decays: list[Value] = []
        for rule in synapse.plasticity:
            assert isinstance(rule, TextPlasticity)
            side = Rule(self, synapse, rule, post, pre)
            if lazy is not None:
                decays += side.factors(lazy)
            else:
                side.entries()
            side.own()
        if lazy is not None:
            for decay in decays:
                lazy.decay = (
                    decay if lazy.decay is None else self.tape.entrywise(ops.ADD, lazy.decay, decay)
                )
            applied = self._read.get(("applied", synapse.name))
            if len(lazy.new) != self.samples or (
                applied is None or lazy.new[0][1].place != applied.place
            ):
                lazy.known = None
            self.tape.stage.append(Lazy(lazy))
        else:
            self._constrain(synapse)

    def _constrain(self, synapse: Synapse) -> None:
        """Stop weights where there is no connection, and at their bounds."""
        tape, w = self.tape, self.places[synapse.name]
        own, rate, n = self.state(synapse.name), RATE + w.place, w.n
        if synapse.mask is not None:
            mask = tape.space(n)
            self.masks.append((mask, n, synapse))
            tape.write(ops.MUL, rate, rate, mask, n)
        if synapse.sign is None and synapse.bounds is None:
            return
        low, high = self._bounds(synapse, n)
        zero = tape.constant(0.0, n).place
        outward, side = tape.space(n), tape.space(n)
        tape.write(ops.FILL, outward, 0, 0, n)
        for a, b, c, d in ((own, low, rate, zero), (high, own, zero, rate)):
            at = tape.entrywise(ops.BINARY, a, b, ops.LESS_OR_EQUAL)
            tape.write(ops.BINARY, side, c, d, n, 1, 0, 0, 0, ops.LESS)
            tape.write(ops.ADD_MUL, outward, at.place, side, n)
        tape.write(ops.BINARY, outward, outward, zero, n, 1, 0, 0, 0, ops.EQUAL)
        tape.write(ops.MUL, rate, rate, outward, n)
