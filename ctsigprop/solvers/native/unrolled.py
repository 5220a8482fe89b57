"""How a system is written over single numbers, unit by unit and synapse by synapse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product

import torch
from torch import Tensor, nn

from ctsigprop.models.inputs import Input, LearningSignal
from ctsigprop.models.neurons import TextNeuron
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Constant, Rhythm, Signal
from ctsigprop.solvers.base import Layout
from ctsigprop.solvers.native.scalars import LARGEST, MOST_CHANNELS, NotScalarError, Scalars
from ctsigprop.system import System
from ctsigprop.terms import Current, Source, Term

__all__ = ["scalars"]


def scalars(system: System, layout: Layout, inputs: Mapping[str, Signal]) -> Scalars:
    """Write a system over single numbers.

    Raises
    ------
    NotScalarError
        If it cannot be.
    """
    if layout.size > LARGEST:
        raise NotScalarError(
            f"a sample has {layout.size} state variables, more than the {LARGEST} that are "
            "written out"
        )
    return _Writer(system, layout, inputs).write()


class _Writer:
    def __init__(self, system: System, layout: Layout, inputs: Mapping[str, Signal]) -> None:
        self.system, self.layout, self.inputs = system, layout, inputs
        self.lines: list[str] = []
        self.values: list[Tensor] = []
        self.known: dict[tuple[int, str, int], str] = {}
        self.channels: dict[tuple[int, str, int], tuple[Signal, Source | None, int]] = {}
        self.rhythms: dict[Rhythm, tuple[str, Constant, Constant]] = {}
        self.results: dict[str, str] = {}
        self.seen: dict[tuple[str, int], str] = {}
        self.blocks = 0

    def write(self) -> Scalars:
        net: dict[tuple[str, str, int], str] = {}
        for current in self.system.currents:
            for unit, value in enumerate(self._current(current)):
                key = (current.post, current.port, unit)
                net[key] = f"{net[key]} + {value}" if key in net else value
        for neuron in self.system.neurons:
            self._neuron(neuron, net)
        for current in self.system.currents:
            if isinstance(current, Synapse):
                self._learning(current)
        return Scalars(
            tuple(self.lines),
            tuple(self.results.get(f"y{k}", "0.0") for k in range(self.layout.size)),
            torch.stack(self.values) if self.values else torch.zeros(0, dtype=torch.float64),
            tuple(self.channels.values()),
        )

    def _state(self, name: str, position: int) -> str:
        return f"y{self.layout.slices[name].start + position}"

    def _value(self, owner: nn.Module, name: str, value: Tensor, position: int) -> str:
        """Return the parameter that is one number of a tensor."""
        position = position if value.dim() else 0
        key = (id(owner), name, position)
        if key not in self.known:
            self.known[key] = f"p{len(self.values)}"
            self.values.append(value.detach().reshape(-1)[position].double().cpu())
        return self.known[key]

    def _signal(self, signal: Signal, source: Source | None, channel: int) -> str:
        if isinstance(signal, Rhythm) and signal.onset == -math.inf:
            return self._rhythm(signal, source, channel)
        if not signal.stepwise:
            what = "a gate" if source is None else f"source '{source.name}'"
            raise NotScalarError(f"the signal of {what} changes between its jumps")
        key = (id(signal), "" if source is None else source.name, channel)
        if key not in self.channels:
            if len(self.channels) == MOST_CHANNELS:
                raise NotScalarError(f"signals have more than {MOST_CHANNELS} channels")
            self.channels[key] = (signal, source, channel)
        return f"a{list(self.channels).index(key)}"

    def _rhythm(self, signal: Rhythm, source: Source | None, channel: int) -> str:
        if signal not in self.rhythms:
            speed, phase = (
                self._value(
                    signal, name, torch.tensor(getattr(signal, name), dtype=torch.float64), 0
                )
                for name in ("angular", "phase")
            )
            wave = self._define(f"cos({speed} * t + {phase})")
            self.rhythms[signal] = wave, Constant(signal.offset), Constant(signal.amplitude)
        wave, offset, amplitude = self.rhythms[signal]
        mean, most = (self._signal(part, source, channel) for part in (offset, amplitude))
        return self._define(f"{mean} + {most} * {wave}")

    def _gate(self, signal: Signal) -> str:
        if signal.size:
            raise NotScalarError("a gate has more than one channel")
        return self._signal(signal, None, 0)

    def _define(self, text: str) -> str:
        """Give a text a name, unless it is one."""
        if text.isidentifier():
            return text
        self.blocks += 1
        self.lines.append(f"u{self.blocks} = {text}")
        return f"u{self.blocks}"

    def _enter(self, lines: list[str]) -> None:
        self.lines += lines

    def _prefix(self) -> str:
        self.blocks += 1
        return f"u{self.blocks}_"

    def _names(self, neuron: TextNeuron, unit: int, t: str) -> dict[str, str]:
        names = {v.name: self._state(neuron.full(v.name), unit) for v in neuron.equations.variables}
        names |= {k: self._value(neuron, k, getattr(neuron, k), unit) for k in neuron.specs}
        return {**names, "t": t}

    def activity(self, name: str, unit: int) -> str:
        """Return one number of what synapses see of a population."""
        population = self.system.populations[name]
        if isinstance(population, Source):
            signal = self.inputs.get(name, population.signal)
            if signal is None:
                raise NotScalarError(f"source '{name}' has no signal")
            return self._signal(signal, population, unit if signal.size else 0)
        if not isinstance(population, TextNeuron):
            raise NotScalarError(f"population '{name}' has no text")
        if population.output in population._shorts:
            return self._state(population.full(population.output), unit)
        if (name, unit) not in self.seen:
            names = self._names(population, unit, "0.0")
            names |= dict.fromkeys(population.ports, "0.0")
            lines, (result,) = population.equations.scalars(
                names, self._prefix(), population.output
            )
            self._enter(lines)
            self.seen[name, unit] = self._define(result)
        return self.seen[name, unit]

    def _neuron(self, neuron: Term, net: Mapping[tuple[str, str, int], str]) -> None:
        if not isinstance(neuron, TextNeuron):
            raise NotScalarError(f"population '{getattr(neuron, 'name', '')}' has no text")
        for unit in range(neuron.size):
            names = self._names(neuron, unit, "t")
            for port in neuron.ports:
                names[port] = self._define(net.get((neuron.name, port, unit), "0.0"))
            lines, results = neuron.equations.scalars(names, self._prefix())
            self._enter(lines)
            for variable, result in zip(neuron.equations.variables, results, strict=True):
                where = self._state(neuron.full(variable.name), unit)
                self.results[where] = self._define(result)

    def _current(self, current: Current) -> Iterator[str]:
        post = self.system.populations[current.post]
        if current.delay:
            raise NotScalarError(f"{current.name} has a delay")
        if isinstance(current, Synapse):
            yield from self._synapse(current)
        elif type(current) is Input:
            channels = self.system.populations[current.source].size
            for i in range(post.size):
                gain = self._value(current, "gain", current.gain, i)
                yield f"{gain} * {self.activity(current.source, i if channels > 1 else 0)}"
        elif type(current) is LearningSignal:
            yield from self._learning_signal(current, post.size)
        else:
            raise NotScalarError(f"{current.name} is a {type(current).__name__}")

    def _learning_signal(self, current: LearningSignal, size: int) -> Iterator[str]:
        if current.gate is None:
            level = self._value(
                current, "strength", torch.tensor(current.strength, dtype=torch.float64), 0
            )
        else:
            level = self._gate(current.gate)
        channels = self.system.populations[current.source].size
        context = []
        for j in range(channels):
            c = self.activity(current.source, j)
            if current.error:
                c = f"{c} - {self.activity(current.post, j)}"
            context.append(self._define(c))
        for i in range(size):
            if current.identity:
                yield f"{level} * {context[i]}"
                continue
            terms = [
                f"{c} * {self._value(current, 'weight', current.weight, i * channels + j)}"
                for j, c in enumerate(context)
            ]
            yield f"{level} * ({' + '.join(terms) or '0.0'})"

    def _arriving(self, synapse: Synapse, j: int) -> str:
        if synapse.filter is not None:
            size = self.system.populations[synapse.pre].size
            return self._state(f"z_{synapse.name}", (synapse.filter[0] - 1) * size + j)
        return self.activity(synapse.pre, j)

    def _synapse(self, synapse: Synapse) -> Iterator[str]:
        if type(synapse) is not Synapse:
            raise NotScalarError(f"{synapse.name} is a {type(synapse).__name__}")
        pre, post = (self.system.populations[name] for name in (synapse.pre, synapse.post))
        if not synapse.plasticity and synapse.weight.dim() != 2:
            raise NotScalarError(f"the weights of {synapse.name} differ by sample")
        fixed = None if synapse.plasticity else synapse.weights({})
        for i in range(post.size):
            terms = []
            for j in range(pre.size):
                if fixed is None:
                    w = self._constrained(synapse, i, j, pre.size)
                elif synapse.mask is not None and not bool(synapse.mask.expand(fixed.shape)[i, j]):
                    continue
                else:
                    w = self._value(synapse, "weight", fixed, i * pre.size + j)
                terms.append(f"{w} * {self._arriving(synapse, j)}")
            yield self._define(" + ".join(terms) or "0.0")

    def _constrained(self, synapse: Synapse, i: int, j: int, columns: int) -> str:
        w = self._state(synapse.name, i * columns + j)
        if synapse.sign is not None:
            sign = self._value(synapse, "sign", synapse.sign, j)
            w = self._define(f"{w} if {w} * {sign} >= 0.0 else 0.0")
        if synapse.bounds is not None:
            w = self._define(f"clip({w}, {self._bound(synapse, 0)}, {self._bound(synapse, 1)})")
        return w

    def _bound(self, synapse: Synapse, side: int) -> str:
        bounds = torch.tensor(synapse.bounds, dtype=torch.float64)
        return self._value(synapse, "bounds", bounds, side)

    def _learning(self, synapse: Synapse) -> None:
        pre, post = (self.system.populations[name] for name in (synapse.pre, synapse.post))
        if synapse.filter is not None:
            self._filter(synapse, pre.size)
        if not synapse.plasticity:
            return
        changes: dict[tuple[int, int], list[str]] = {}
        for rule in synapse.plasticity:
            if type(rule) is not TextPlasticity:
                raise NotScalarError(f"{synapse.name} learns by a {type(rule).__name__}")
            if rule.gate is not None and len(rule.equations.variables) > 1:
                raise NotScalarError(f"a gate on variables of a rule's own, of {synapse.name}")
            for i, j in product(range(post.size), range(pre.size)):
                change = self._rule(synapse, rule, i, j)
                changes.setdefault((i, j), []).append(change)
        for (i, j), parts in changes.items():
            where = self._state(synapse.name, i * pre.size + j)
            total = self._define(" + ".join(parts))
            self.results[where] = self._stopped(synapse, where, total, i, j)

    def _rule(self, synapse: Synapse, rule: TextPlasticity, i: int, j: int) -> str:
        """Write one rule at one synapse; return its part of dw/dt."""
        post = self.system.populations[synapse.post].size
        columns = self.system.populations[synapse.pre].size
        at = {"synapse": i * columns + j, "post": i, "pre": j}
        names = {
            "w": self._state(synapse.name, at["synapse"]),
            "x": self._arriving(synapse, j),
            "y": self.activity(synapse.post, i),
            "t": "t",
        }
        if rule._reads_dx:
            names["dx"] = self._rate(synapse.pre, j)
        if rule._reads_dy:
            names["dy"] = self._rate(synapse.post, i)
        if isinstance(rule.modulator, str):
            size = self.system.populations[rule.modulator].size
            if size not in (1, post) or (size > 1 and "pre" in rule._side.values()):
                raise NotScalarError(f"the modulator of {synapse.name} has {size} channels")
            names["m"] = self.activity(rule.modulator, i if size > 1 else 0)
        elif rule.modulator is not None:
            names["m"] = self._gate(rule.modulator)
        for own, side in rule._side.items():
            names[own] = self._state(f"{own}_{synapse.name}", at[side])
        names |= {k: self._value(rule, k, getattr(rule, k), 0) for k in rule.specs}
        if any(getattr(rule, k).dim() for k in rule.specs):
            raise NotScalarError(f"a parameter of a rule of {synapse.name} is no single number")
        lines, results = rule.equations.scalars(names, self._prefix())
        self._enter(lines)
        part = ""
        for variable, result in zip(rule.equations.variables, results, strict=True):
            if variable.name == "w":
                part = self._define(result)
            else:
                where = names[variable.name]
                self.results.setdefault(where, self._define(result))
        return part if rule.gate is None else f"{part} * {self._gate(rule.gate)}"

    def _rate(self, name: str, unit: int) -> str:
        population = self.system.populations[name]
        if isinstance(population, Source):
            return "0.0"
        if not isinstance(population, TextNeuron) or population.output not in population._shorts:
            raise NotScalarError(f"a rule reads the rate of '{name}', whose output is computed")
        return self.results[self._state(population.full(population.output), unit)]

    def _filter(self, synapse: Synapse, size: int) -> None:
        assert synapse.filter is not None
        order, tau = synapse.filter
        speed = self._value(synapse, "speed", torch.tensor(order / tau, dtype=torch.float64), 0)
        for k, j in product(range(order), range(size)):
            z = self._state(f"z_{synapse.name}", k * size + j)
            above = (
                self._state(f"z_{synapse.name}", (k - 1) * size + j)
                if k
                else self.activity(synapse.pre, j)
            )
            self.results[z] = self._define(f"({above} - {z}) * {speed}")

    def _stopped(self, synapse: Synapse, w: str, change: str, i: int, j: int) -> str:
        if synapse.mask is not None and not bool(synapse.mask[i, j]):
            return "0.0"
        if synapse.sign is not None:
            s = self._value(synapse, "sign", synapse.sign, j)
            outward = f"({w} * {s} <= 0.0) & ({change} * {s} < 0.0)"
            change = self._define(f"0.0 if {outward} else {change}")
        if synapse.bounds is not None:
            low, high = self._bound(synapse, 0), self._bound(synapse, 1)
            outward = f"(({w} <= {low}) & ({change} < 0.0)) | (({w} >= {high}) & ({change} > 0.0))"
            change = self._define(f"0.0 if {outward} else {change}")
        return change
