"""A system of text equations, translated into Brian2's words."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ctsigprop.equations import Equations
from ctsigprop.models.inputs import Input, LearningSignal
from ctsigprop.models.neurons import TextNeuron
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.models.synapses import Synapse, rule_variable
from ctsigprop.signals import Signal
from ctsigprop.solvers.base import Problem
from ctsigprop.solvers.brian2_.network import Group, Link, Network, Place
from ctsigprop.terms import Current, Moment, Neuron, Plasticity, Source, Term

__all__ = ["translate"]

OTHERS = "Tsit5, RK4, SciPy and TorchDiffEq can"

_TIME = r"\bt / second\b"


def translate(problem: Problem) -> Network:
    """Return a problem's system in Brian2's words.

    Raises
    ------
    ValueError
        Naming what has no such words, and the solvers that can.
    """
    return _Translator(problem).network


class _Translator:
    """The network while it is put together."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.system, self.layout = problem, problem.system, problem.layout
        if self.layout.coupled:
            shared = [name for name, v in self.system.variables.items() if v.shared]
            raise ValueError(
                f"Brian2 cannot share {', '.join(shared)} among the samples of a batch; {OTHERS}"
            )
        self.network = Network(self.layout.samples)
        self.currents: list[Current] = list(self.system.currents)
        for neuron in self.system.neurons:
            self._neuron(neuron)
        for number, current in enumerate(self.currents):
            if type(current) not in (Input, LearningSignal, Synapse):
                raise ValueError(_refusal(current))
            if isinstance(current, Synapse) and not self._timed(current):
                self._synapse(current, number)
        for neuron in self.system.neurons:
            for port in neuron.ports:
                self._port(neuron, port)

    def _neuron(self, neuron: Neuron) -> None:
        if type(neuron) is not TextNeuron:
            raise ValueError(_refusal(neuron))
        if neuron.size == 0:
            raise ValueError(f"Brian2 has no groups of size 0, as '{neuron.name}' is; {OTHERS}")
        name = self._group(neuron.name)
        group = self.network.groups[name] = Group(size=neuron.size)
        group.text += _scaled(neuron.equations, _renamed(neuron.equations, "n_"))
        for symbol, value in _parameters(neuron).items():
            group.declare(f"n_{symbol}", self._spread(value, neuron.size) if value.dim() else value)
        for variable, full in zip(neuron.equations.variables, neuron.variables, strict=True):
            where = f"n_{variable.name}"
            group.values[where] = self._spread(self.problem.y0[full.name], neuron.size)
            shape = (self.layout.samples, neuron.size)
            self.network.places[full.name] = Place(name, (where,), shape)
        group.text.append(f"activity = {_written(neuron, neuron.output)} : 1")

    def _port(self, neuron: Neuron, port: str) -> None:
        group = self.network.groups[self._group(neuron.name)]
        terms, timed = [], []
        for number, current in enumerate(self.currents):
            if (current.post, current.port) != (neuron.name, port):
                continue
            if self._timed(current):
                timed.append(current)
            elif isinstance(current, Synapse):
                terms.append(f"in_{number}")
            elif isinstance(current, LearningSignal):
                terms.append(self._nudge(current, group, number))
        if timed:
            group.drive(f"u_{port}", lambda t: self._sum(timed, neuron.size, t))
            terms.append(f"u_{port}")
        group.text.append(f"n_{port} = {' + '.join(terms) or '0.0'} : 1")

    def _nudge(self, current: LearningSignal, group: Group, number: int) -> str:
        """Return gate · (c − activity); the context c is a function of time."""
        if not current.identity:
            raise ValueError(
                f"Brian2 cannot take '{current.name}', an error through a matrix; {OTHERS}"
            )

        def level(t: Tensor) -> Tensor:
            gate = current.strength if current.gate is None else current.gate(t)
            return self._spread(_column(torch.as_tensor(gate)), group.size)

        group.drive(f"level_{number}", level)
        group.drive(f"context_{number}", lambda t: self._source(current.source, group.size, t))
        return f"level_{number}*(context_{number} - activity)"

    def _synapse(self, current: Synapse, number: int) -> None:
        pre, post = (self.system.populations[name] for name in (current.pre, current.post))
        if pre.size == 0:
            raise ValueError(f"Brian2 has no groups of size 0, as '{pre.name}' is; {OTHERS}")
        if isinstance(pre, Source):
            self._source_group(pre)
        name = f"synapse_{number}"
        shape = (self.layout.samples, post.size, pre.size)
        link = self.network.links[name] = Link(
            pre=self._group(pre.name), post=self._group(post.name), shape=shape
        )
        arriving = self._filter(current, name, link)
        read = "w"
        if current.plasticity:
            link.put("w", self.problem.y0[current.name].reshape(shape))
            self.network.places[current.name] = Place(name, ("w",), shape)
            if current.sign is not None:
                link.declare("dale", current.sign.expand(shape))
                read = f"{read}*int(w*dale >= 0)"
            if current.bounds is not None:
                read = "clip({}, {!r}, {!r})".format(read, *map(float, current.bounds))
            rules = enumerate(current.plasticity)
            changes = [self._rule(current, number, arriving, r, rule) for r, rule in rules]
            self._moving(current, " + ".join(changes), link)
        else:
            link.declare("w", current.weights(self.problem.y0).expand(shape))
        self.network.groups[link.post].text.append(f"in_{number} : 1")
        link.text.append(f"in_{number}_post = {read}*{arriving} : 1 (summed)")

    def _filter(self, current: Synapse, name: str, link: Link) -> str:
        """Return the presynaptic activity as it arrives, after the stages of a gamma chain."""
        arriving = "activity_pre"
        if current.filter is None:
            return arriving
        order, tau = current.filter
        full = f"z_{current.name}"
        start = self.problem.y0[full].reshape(link.shape[0], order, 1, link.shape[2])
        stages = tuple(f"z_{k}" for k in range(order))
        for k, stage in enumerate(stages):
            rate = f"h_post*({arriving} - {stage})*{order / tau!r}"
            link.text.append(f"d{stage}/dt = {rate}/second : 1 (clock-driven)")
            link.put(stage, start[:, k])
            arriving = stage
        self.network.places[full] = Place(name, stages, link.shape, (slice(None), 0))
        return arriving

    def _rule(self, current: Synapse, number: int, arriving: str, r: int, rule: Plasticity) -> str:
        """Add a rule's equations to its synapse; return what it adds to dw/dt."""
        if type(rule) is not TextPlasticity:
            raise ValueError(_refusal(rule, f" of '{current.name}'"))
        link = self.network.links[f"synapse_{number}"]
        rename = _renamed(rule.equations, f"r{r}_")
        sides = {"w": "w", "x": arriving, "y": "activity_post", "dx": "rate_pre"}
        sides |= {"dy": "rate_post", "m": f"m_{number}_{r}_1_post"}
        rename |= {symbol: new for symbol, new in sides.items() if symbol in rename}
        for symbol, population in (("dx", current.pre), ("dy", current.post)):
            if symbol in rename:
                self._rate(population, current.name)
        self._modulate(current, number, r, rule.modulator)
        h, gate = "h_post", self._gate(current, number, r, rule.gate)
        if gate:  # while it is closed, the rule's own variables rest
            h = f"h_post*int({gate} != 0)"
        for line in _scaled(rule.equations, rename, h, "time_post", " (clock-driven)"):
            if line.startswith("dw/dt = "):
                change = line.removeprefix(f"dw/dt = {h}*").rsplit("/second", 1)[0]
                line = f"change_{r} = {change} : 1"
            link.text.append(line)
        for symbol, value in _parameters(rule).items():
            if value.dim():
                raise ValueError(
                    f"Brian2 takes one number for '{symbol}' of the rule of '{current.name}'; "
                    f"got shape {tuple(value.shape)}; {OTHERS}"
                )
            link.declare(f"r{r}_{symbol}", value)
        self._own_variables(current, number, r, rule.equations)
        return f"{gate}*change_{r}" if gate else f"change_{r}"

    def _own_variables(self, current: Synapse, number: int, r: int, equations: Equations) -> None:
        link = self.network.links[f"synapse_{number}"]
        samples, post, pre = link.shape
        for variable in equations.variables:
            if variable.name == "w":
                continue
            shape: tuple[int, ...] = link.shape
            one_copy: tuple[slice | int, ...] = ()
            if "post" in variable.flags:
                shape, one_copy = (samples, post, 1), (slice(None), slice(None), 0)
            elif "pre" in variable.flags:
                shape, one_copy = (samples, 1, pre), (slice(None), 0)
            full = rule_variable(variable.name, current.name)
            where = f"r{r}_{variable.name}"
            link.put(where, self.problem.y0[full].reshape(shape))
            place = Place(f"synapse_{number}", (where,), link.shape, one_copy)
            self.network.places[full] = place

    def _modulate(
        self, current: Synapse, number: int, r: int, modulator: str | Signal | None
    ) -> None:
        """Put the third factor on the postsynaptic group."""
        group = self.network.groups[self._group(current.post)]
        if modulator is None:
            return
        if isinstance(modulator, Signal):
            group.drive(
                f"m_{number}_{r}", lambda t: self._spread(_column(modulator(t)), group.size)
            )
        elif isinstance(self.system.populations[modulator], Source):
            group.drive(f"m_{number}_{r}", lambda t: self._source(modulator, group.size, t))
        else:
            raise ValueError(
                f"Brian2 cannot take the neurons '{modulator}' as the modulator of "
                f"'{current.name}': it has to be a source or a signal; {OTHERS}"
            )

    def _gate(self, current: Synapse, number: int, r: int, gate: Signal | None) -> str:
        """Put a gate on the postsynaptic group; return its name."""
        if gate is None:
            return ""
        group = self.network.groups[self._group(current.post)]
        group.drive(f"gate_{number}_{r}", lambda t: self._spread(_column(gate(t)), group.size))
        return f"gate_{number}_{r}_1_post"

    def _moving(self, current: Synapse, change: str, link: Link) -> None:
        """Write dw/dt, stopped at signs and bounds."""
        if current.mask is not None:
            link.declare("mask", current.mask.double().expand(link.shape))
            change = f"mask*({change})"
        link.text.append(f"change = {change} : 1")
        outward = []
        if current.sign is not None:
            outward.append("(w*dale <= 0 and change*dale < 0)")
        if current.bounds is not None:
            low, high = map(float, current.bounds)
            outward.append(f"(w <= {low!r} and change < 0)")
            outward.append(f"(w >= {high!r} and change > 0)")
        stop = f"*(1 - int({' or '.join(outward)}))" if outward else ""
        link.text.append(f"dw/dt = h_post*change{stop}/second : 1 (clock-driven)")

    def _rate(self, name: str, by: str) -> None:
        """Give a group the derivative of its activity."""
        group, population = self.network.groups[self._group(name)], self.system.populations[name]
        if any(line.startswith("rate = ") for line in group.text):
            return
        if isinstance(population, Source):
            group.text.append("rate = 0.0 : 1")
            return
        if not (
            isinstance(population, TextNeuron)
            and population.output in {v.name for v in population.equations.variables}
        ):
            raise ValueError(
                f"Brian2 has no derivative of the activity of '{name}', an expression, "
                f"and '{by}' needs it; {OTHERS}"
            )
        group.text.append(f"rate = {_written(population, f'd{population.output}/dt')} : 1")

    def _source_group(self, source: Source) -> None:
        if self._group(source.name) not in self.network.groups:
            group = self.network.groups[self._group(source.name)] = Group(size=source.size)
            group.drive("u", lambda t: self._source(source.name, source.size, t))
            group.text.append("activity = u_1 : 1")  # synapses hold what they read at mid-step

    def _group(self, name: str) -> str:
        return f"population_{list(self.system.populations).index(name)}"

    # functions of time

    def _timed(self, current: Current) -> bool:
        """Tell whether a current is a function of time alone."""
        if isinstance(current, LearningSignal) and current.error:
            return False
        if isinstance(current, Synapse) and (current.plasticity or current.filter):
            return False
        return all(isinstance(self.system.populations[n], Source) for n in current.reads())

    def _moment(self, t: Tensor) -> Moment:
        return Moment(t, self.problem.y0, self.system.populations, self.problem.inputs)

    def _sum(self, currents: list[Current], size: int, t: Tensor) -> Tensor:
        moment = self._moment(t)
        parts = [self._spread(current.forward(moment), size) for current in currents]
        return torch.stack(parts).sum(0)

    def _source(self, name: str, size: int, t: Tensor) -> Tensor:
        return self._spread(self._moment(t).activity(name), size)

    def _spread(self, value: Tensor, size: int) -> Tensor:
        """Return a value for each unit of each sample, ``(samples, size)``."""
        value = value.detach().double()
        return value.expand(*self.layout.batch, size).reshape(self.layout.samples, size)


def _column(value: Tensor) -> Tensor:
    return value.unsqueeze(-1) if value.dim() else value


def _renamed(equations: Equations, prefix: str) -> dict[str, str]:
    """Put a prefix before every symbol: Brian2 reserves names, and groups share theirs."""
    return {s: f"{prefix}{s}" for s in (*equations.arguments, *equations.subexpressions)}


def _scaled(
    equations: Equations,
    rename: Mapping[str, str],
    h: str = "h",
    time: str = "time",
    flags: str = "",
) -> list[str]:
    """Return the lines of the equations, with the derivatives of a step."""
    text = re.sub(_TIME, time, equations.brian2(rename))
    return [
        line.replace("/dt = (", f"/dt = {h}*(") + (flags if "/dt = " in line else "")
        for line in text.splitlines()
    ]


def _parameters(term: TextNeuron | TextPlasticity) -> dict[str, Tensor]:
    return {symbol: getattr(term, symbol).detach().double() for symbol in term.units}


def _written(neuron: TextNeuron, expression: str) -> str:
    """Return an expression in a neuron's variables, as its group knows them."""
    text = neuron.equations.brian2_of(expression, _renamed(neuron.equations, "n_"))
    return re.sub(_TIME, "time", text)


def _refusal(term: Term, where: str = "") -> str:
    name = getattr(term, "name", "")
    called = f" '{name}'" if name else ""
    return (
        f"Brian2 integrates what is written as text, and {type(term).__name__}{called}{where} "
        f"is not; {OTHERS}"
    )
