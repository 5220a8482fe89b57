"""A system of text equations in Brian2's words: groups of neurons, and synapses between them.

Everything is dimensionless. Brian2's clock counts steps: one step is one second of Brian2, and the
derivatives are multiplied by the length h of the step in the system's time unit, so that steps may
have any length and outputs are landed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctsigprop.equations import Equations
from ctsigprop.models.neurons import TextNeuron
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.models.synapses import Input, LearningSignal, Synapse, rule_variable
from ctsigprop.signals import Signal
from ctsigprop.solvers.base import Problem
from ctsigprop.terms import Current, Moment, Neuron, Population, Source, Term

__all__ = ["Group", "Link", "Network", "Place", "translate"]

OTHERS = "Tsit5, RK4, SciPy and TorchDiffEq can"

_CLOCK = """\
h : 1 (shared)
begin : 1 (shared)
step : 1 (shared)
c = t/second - step : 1
time = begin + h*c : 1"""

_CONSTANT, _NUMBER = "(constant)", "(constant, shared)"

_TIME = r"\bt / second\b"

# Brian2's methods look at c = 0, 1/2 and 1, where the parabola is exact
_PARABOLA = "{0} = {0}_0*(1 - c)*(1 - 2*c) + {0}_1*4*c*(1 - c) + {0}_2*c*(2*c - 1) : 1"


@dataclass
class Group:
    """A NeuronGroup: the samples of a batch side by side.

    Attributes
    ----------
    size : int
        Units of one sample.
    text : list of str
        Lines of its equations.
    values : dict of str to Tensor
        Values at the start, ``(samples, size)``, or numbers that all share.
    driven : dict of str to callable
        Functions of time alone, ``(samples, size)``.
    """

    size: int
    text: list[str] = field(default_factory=lambda: [_CLOCK])
    values: dict[str, Tensor] = field(default_factory=dict)
    driven: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def drive(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        """Add a quantity that depends on time alone."""
        self.text += [f"{name}_{i} : 1" for i in range(3)] + [_PARABOLA.format(name)]
        self.driven[name] = function


@dataclass
class Link:
    """A Synapses object, all to all within each sample; values are ``(samples, post, pre)``."""

    pre: str
    post: str
    shape: tuple[int, int, int]
    text: list[str] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict)

    def put(self, name: str, value: Tensor) -> None:
        """Start a state variable."""
        self.values[name] = value.expand(self.shape)

    def declare(self, name: str, value: Tensor) -> None:
        """Declare a constant."""
        self.text.append(f"{name} : 1 {_CONSTANT if value.dim() else _NUMBER}")
        self.values[name] = value.expand(self.shape) if value.dim() else value


@dataclass(frozen=True)
class Place:
    """Where a state variable lives: an object's variables, stacked if they are several.

    A variable of one side is kept at every synapse; `index` picks one copy.
    """

    owner: str
    variables: tuple[str, ...]
    shape: tuple[int, ...]
    index: tuple[slice | int, ...] = ()


@dataclass
class Network:
    """All objects by name, and where each state variable is found."""

    groups: dict[str, Group] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)


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
        self.network = Network()
        self.currents: list[Current] = list(self.system.currents)
        for neuron in self.system.neurons:
            self._neuron(neuron)
        for number, current in enumerate(self.currents):
            if type(current) not in (Input, LearningSignal, Synapse):
                raise ValueError(_refusal(current))
            if isinstance(current, Synapse) and not self._timed(current):
                self._synapse(current, number)
        for neuron in self.system.neurons:
            for port in neuron.ports:  # type: ignore[union-attr]
                self._port(neuron, port)  # type: ignore[arg-type]

    def _neuron(self, neuron: Neuron) -> None:
        if type(neuron) is not TextNeuron:
            raise ValueError(_refusal(neuron))
        if neuron.size == 0:
            raise ValueError(f"Brian2 has no groups of size 0, as '{neuron.name}' is; {OTHERS}")
        name = _group(neuron.name)
        group = self.network.groups[name] = Group(neuron.size)
        group.text += _scaled(neuron.equations, _renamed(neuron.equations, "n_"))
        for symbol, value in _parameters(neuron).items():
            group.text.append(f"n_{symbol} : 1 {_CONSTANT if value.dim() else _NUMBER}")
            group.values[f"n_{symbol}"] = self._spread(value, neuron.size) if value.dim() else value
        for variable, full in zip(neuron.equations.variables, neuron.variables, strict=True):
            where = f"n_{variable.name}"
            group.values[where] = self._spread(self.problem.y0[full.name], neuron.size)
            shape = (self.layout.samples, neuron.size)
            self.network.places[full.name] = Place(name, (where,), shape)
        group.text.append(f"activity = {_written(neuron, neuron.output)} : 1")

    def _port(self, neuron: TextNeuron, port: str) -> None:
        group = self.network.groups[_group(neuron.name)]
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
            group.drive(f"u_{port}", lambda t: sum(self._current(c, neuron, t) for c in timed))
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
        link = self.network.links[name] = Link(_group(pre.name), _group(post.name), shape)
        arriving = self._filter(current, name, link)
        read = "w"
        if current.plasticity:
            link.put("w", self.problem.y0[current.name].reshape(shape))
            self.network.places[current.name] = Place(name, ("w",), shape)
            if current.sign is not None:
                link.declare("dale", current.sign.expand(pre.size))
                read = f"{read}*int(w*dale >= 0)"
            if current.bounds is not None:
                read = "clip({}, {!r}, {!r})".format(read, *map(float, current.bounds))
            self._plasticity(current, number, name, link, arriving)
        else:
            link.declare("w", current.weights(self.problem.y0).detach())
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

    def _plasticity(
        self, current: Synapse, number: int, name: str, link: Link, arriving: str
    ) -> None:
        changes = []
        for r, rule in enumerate(current.plasticity):
            if type(rule) is not TextPlasticity:
                raise ValueError(_refusal(rule, f" of '{current.name}'"))
            equations = rule.equations
            sides = {"w": "w", "x": arriving, "y": "activity_post", "dx": "rate_pre"}
            sides |= {"dy": "rate_post", "m": f"m_{number}_{r}_1_post"}
            rename = _renamed(equations, f"r{r}_")
            rename |= {symbol: new for symbol, new in sides.items() if symbol in rename}
            for symbol, population in (("dx", current.pre), ("dy", current.post)):
                if symbol in rename:
                    self._rate(self.system.populations[population], f"'{current.name}'")
            for line in _scaled(equations, rename, "h_post", "time_post", " (clock-driven)"):
                head = "dw/dt = h_post*"
                if line.startswith(head):
                    line = f"change_{r} = {line.removeprefix(head).rsplit('/second', 1)[0]} : 1"
                link.text.append(line)
            for symbol, value in _parameters(rule).items():
                if value.dim():
                    raise ValueError(
                        f"Brian2 takes one number for '{symbol}' of the rule of '{current.name}'; "
                        f"got shape {tuple(value.shape)}; {OTHERS}"
                    )
                link.declare(f"r{r}_{symbol}", value)
            self._own_variables(current, equations, r, name, link)
            changes.append(f"change_{r}{self._factors(current, rule, number, r)}")
        self._moving(current, " + ".join(changes), link)

    def _own_variables(
        self, current: Synapse, equations: Equations, r: int, name: str, link: Link
    ) -> None:
        samples, post, pre = link.shape
        everywhere: tuple[slice | int, ...]
        for variable in equations.variables:
            if variable.name == "w":
                continue
            shape, everywhere = link.shape, ()
            if "post" in variable.flags:
                shape, everywhere = (samples, post, 1), (slice(None), slice(None), 0)
            elif "pre" in variable.flags:
                shape, everywhere = (samples, 1, pre), (slice(None), 0)
            full = rule_variable(variable.name, current.name)
            where = f"r{r}_{variable.name}"
            link.put(where, self.problem.y0[full].reshape(shape))
            self.network.places[full] = Place(name, (where,), link.shape, everywhere)

    def _factors(self, current: Synapse, rule: TextPlasticity, number: int, r: int) -> str:
        """Put gate and modulator on the postsynaptic group; return the gate as a factor."""
        group = self.network.groups[_group(current.post)]
        modulator = rule.modulator
        if isinstance(modulator, str):
            population = self.system.populations[modulator]
            if not isinstance(population, Source):
                raise ValueError(
                    f"Brian2 cannot take the neurons '{modulator}' as the modulator of "
                    f"'{current.name}': it has to be a source or a signal; {OTHERS}"
                )
        if modulator is not None:
            group.drive(f"m_{number}_{r}", lambda t: self._modulator(modulator, group.size, t))
        if rule.gate is None:
            return ""
        gate = rule.gate
        group.drive(f"gate_{number}_{r}", lambda t: self._spread(_column(gate(t)), group.size))
        return f"*gate_{number}_{r}_1_post"

    def _moving(self, current: Synapse, change: str, link: Link) -> None:
        """Write dw/dt, stopped at signs and bounds."""
        if current.mask is not None:
            link.declare("mask", current.mask.double())
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

    def _rate(self, population: Population, by: str) -> None:
        """Give a group the derivative of its activity."""
        group = self.network.groups[_group(population.name)]
        if any(line.startswith("rate = ") for line in group.text):
            return
        if isinstance(population, Source):
            group.text.append("rate = 0.0 : 1")
            return
        if population.output not in {v.name for v in population.equations.variables}:
            raise ValueError(
                f"Brian2 has no derivative of the activity of '{population.name}', an expression, "
                f"and {by} needs it; {OTHERS}"
            )
        group.text.append(f"rate = {_written(population, f'd{population.output}/dt')} : 1")

    def _source_group(self, source: Source) -> None:
        if _group(source.name) not in self.network.groups:
            group = self.network.groups[_group(source.name)] = Group(source.size)
            group.drive("u", lambda t: self._source(source.name, source.size, t))
            group.text.append("activity = u_1 : 1")  # synapses hold what they read at mid-step

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

    def _current(self, current: Current, neuron: Neuron, t: Tensor) -> Tensor:
        return self._spread(current(self._moment(t)), neuron.size)

    def _source(self, name: str, size: int, t: Tensor) -> Tensor:
        return self._spread(self._moment(t).activity(name), size)

    def _modulator(self, modulator: str | Signal, size: int, t: Tensor) -> Tensor:
        if isinstance(modulator, str):
            return self._source(modulator, size, t)
        return self._spread(_column(modulator(t)), size)

    def _spread(self, value: Tensor, size: int) -> Tensor:
        """Return a value for each unit of each sample, ``(samples, size)``."""
        value = value.detach().double()
        return value.expand(*self.layout.batch, size).reshape(self.layout.samples, size)


def _group(name: str) -> str:
    return f"population_{name}"


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
