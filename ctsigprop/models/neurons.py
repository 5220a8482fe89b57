"""Neurons: populations written as text, given as a function, or learned."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ctsigprop.affine import Bend, Leak, plain
from ctsigprop.equations import Equations
from ctsigprop.errors import did_you_mean, unknown
from ctsigprop.quantities import Parameter, Variable
from ctsigprop.signals import as_values
from ctsigprop.terms import Neuron, State
from ctsigprop.units import conversion

__all__ = ["NeuralField", "TextNeuron", "Value", "VectorField"]

Value = Parameter | Tensor | float


class TextNeuron(Neuron):
    """A population written in Brian2's equation language.

    Parameters
    ----------
    text : str
        ``dv/dt = … : unit`` for each variable, ``x = … : unit`` for subexpressions and
        ``I : unit`` for declared quantities: those with a value are parameters, the others are
        ports where currents enter.
    name : str
        Of the population; variables are then called ``v_<name>``.
    size : int
        How many units.
    output : str, optional
        What synapses see: a variable (the first by default), or an expression.
    initial : mapping of str to Tensor or float, optional
        Initial values by variable, 0 by default.
    time_unit : str, optional
        Unit of time; "ms" by default for dimensional equations.
    **parameters : Parameter, Tensor or float
        Values, in the units that the text declares; one for each unit where they are tensors.

    Raises
    ------
    UnitError
        Dimensions that do not agree, with the equation.
    ValueError
        A symbol without a value, a value without a symbol, a time constant that is not positive.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> cell = TextNeuron('''
    ...     dv/dt = (E - v + R*I)/tau : mV
    ...     I : nA
    ...     R : Mohm
    ...     E : mV
    ... ''', tau=ct.Parameter(20.0, "ms"), R=10.0, E=-70.0, initial={"v": -70.0})
    >>> cell.ports, cell.time_unit
    ({'I': 'nA'}, 'ms')
    """

    secluded: ClassVar[bool] = True

    def __init__(
        self,
        text: str,
        name: str = "",
        size: int = 1,
        *,
        output: str | None = None,
        initial: Mapping[str, Tensor | float] | None = None,
        time_unit: str | None = None,
        **parameters: Value,
    ) -> None:
        super().__init__(name, size)
        specs = {k: v if isinstance(v, Parameter) else Parameter(v) for k, v in parameters.items()}
        lines = set(re.findall(r"^\s*(\w+)\s*:", text, flags=re.MULTILINE))
        self.equations = Equations(
            text,
            units={k: spec.unit or "1" for k, spec in specs.items() if k not in lines},
            time_unit=time_unit,
        )
        declared = self.equations.declared
        known = {*declared, *self.equations.external}
        for symbol in specs:
            if symbol not in known:
                raise ValueError(
                    f"the equations have no parameter '{symbol}'{did_you_mean(symbol, known)}; "
                    f"they use: {', '.join(sorted(known)) or '-'}"
                )
        self.add_parameters({k: _in_unit(k, v, declared.get(k)) for k, v in specs.items()}, size)
        self.time_unit = self.equations.time_unit
        self.ports = {k: unit or "1" for k, unit in declared.items() if k not in specs}
        starts = dict(initial or {})
        shorts = [v.name for v in self.equations.variables]
        for short in starts:
            if short not in shorts:
                raise ValueError(f"initial: {unknown('variable', short, shorts)}")
        self.variables = tuple(
            Variable(
                self.full(v.name),
                {self.dim: size},
                v.unit or "1",
                tau=self._nominal(v.name),
                initial=starts.get(v.name, 0.0),
            )
            for v in self.equations.variables
        )
        self._shorts = {v.name: self.full(v.name) for v in self.equations.variables}
        self.output = output or shorts[0]
        if self.output in self._shorts:
            self.unit = next(v.unit for v in self.variables if v.name == self.full(self.output))
        else:
            self._output = self.equations.torch_of(self.output)
        self._rhs = self.equations.torch()
        self._leak: tuple[tuple[Any, ...], Leak] | None = None

    @property
    def autonomous(self) -> bool:
        """Whether no equation has the time in it."""
        return type(self) is TextNeuron and self.equations.autonomous

    def full(self, short: str) -> str:
        """Return the name of a variable in the system's state."""
        return f"{short}_{self.name}" if self.name else short

    def forward(self, t: Tensor, state: State, currents: Mapping[str, Tensor]) -> State:
        """Return the derivative of every variable."""
        values = self._values(state, currents)
        derivative = self._rhs(_clock(t, values), values)
        return {self._shorts[short]: value for short, value in derivative.items()}

    def activity(self, state: State) -> Tensor:
        """Return the output variable, or the output expression."""
        if self.output in self._shorts:
            return state[self._shorts[self.output]]
        values = self._values(state, {})
        return self._output(_clock(torch.zeros(()), values), values)

    def activity_rate(self, state: State, derivative: State) -> Tensor:
        """Return the time derivative of the output, by the chain rule where it is an expression."""
        if self.output in self._shorts:
            return derivative[self._shorts[self.output]]
        values = self._values(state, {})
        slopes = self.equations.gradient(self.output)(_clock(torch.zeros(()), values), values)
        parts = [slope * derivative[self._shorts[short]] for short, slope in slopes.items()]
        return torch.stack(parts).sum(0)

    def linear(self, t: Tensor, state: State, currents: Mapping[str, Tensor]) -> State:
        """Return a of dy/dt = a·y + rest for each variable, read from the equations."""
        values = self._values(state, currents)
        rates = self.equations.linear()(_clock(t, values), values)
        return {
            self._shorts[short]: value.expand_as(state[self._shorts[short]])
            for short, value in rates.items()
        }

    def leaky_form(self, like: Tensor) -> Leak | None:
        """Return what makes them leaky neurons, if they are that: one variable, linear in it."""
        if len(self._shorts) != 1:
            return None
        (short,) = self._shorts
        factors = self.equations.leak(short, tuple(self.ports))
        if factors is None:
            return None
        values = {symbol: getattr(self, symbol) for symbol in self.specs}
        numbers = [
            float(v.detach()) if v.dim() == 0 else math.nan  # NaN: no match
            for v in values.values()
        ]
        known = (like.dtype, like.device, *numbers)
        if self._leak is None or self._leak[0] != known:
            self._leak = known, self._evaluated(factors, short, values, like)
        return self._leak[1]

    def _evaluated(self, factors: Any, short: str, values: State, like: Tensor) -> Leak:
        values[short] = zero = like.new_zeros(())

        def number(factor: Callable[[Tensor, State], Tensor]) -> Tensor | float:
            return plain(factor(zero, values).detach().to(like))

        bend, bent = None, factors.bent
        if bent is not None:
            port, whole = bent.port, bent.whole
            bend = Bend(
                port, bent.kind, number(bent.shift), number(bent.height), bent.low, bent.high,
                lambda u: whole(zero, {**values, port: u}),
            )  # fmt: skip
        gains = {port: number(gain) for port, gain in factors.gains.items()}
        return Leak(number(factors.decay), number(factors.rest), gains, bend)

    def _values(self, state: State, currents: Mapping[str, Tensor]) -> State:
        values = {short: state[full] for short, full in self._shorts.items()}
        like = next(iter(values.values()))
        for port in self.ports:
            values[port] = currents[port] if port in currents else like.new_zeros(())
        for symbol in self.specs:
            values[symbol] = getattr(self, symbol)
        return values

    def _nominal(self, short: str) -> float | None:
        named = [f"tau_{short}", "tau"]
        found = next((getattr(self, n) for n in named if n in self.specs), None)
        return None if found is None else float(found.detach().mean())


class VectorField(Neuron):
    """A population whose field is a function: dy/dt = f(t, y).

    Parameters
    ----------
    field : callable or torch.nn.Module
        ``field(t, y) -> dy/dt``, with y and its derivative ``(*batch, size)``, and t a number, or
        ``(*batch, 1)`` where each sample has a time of its own. It has no native form; one made
        with ``torch.compile`` is taken as it is.
    size : int
        Length of y.
    name, variable : str
        Names of the population and of its variable.
    initial : Tensor or float
        Initial value.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> system = ct.System(VectorField(lambda t, y: -y, size=2))
    >>> ct.solve(system, {"y": torch.ones(2).double()}, [0.0, 1.0])["y"].shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        field: Callable[[Tensor, Tensor], Tensor] | nn.Module,
        size: int = 1,
        name: str = "",
        *,
        variable: str = "y",
        initial: Tensor | float = 0.0,
    ) -> None:
        super().__init__(name, size)
        self.field = field
        self.ports = {}
        full = f"{variable}_{name}" if name else variable
        self.variables = (Variable(full, {self.dim: size}, initial=initial),)

    def forward(self, t: Tensor, state: State, currents: Mapping[str, Tensor]) -> State:
        """Return f(t, y)."""
        del currents
        name = self.variables[0].name
        return {name: self.field(_clock(t, state), state[name])}

    def activity(self, state: State) -> Tensor:
        """Return y."""
        return state[self.variables[0].name]

    def activity_rate(self, state: State, derivative: State) -> Tensor:
        """Return dy/dt."""
        del state
        return derivative[self.variables[0].name]


class NeuralField(Neuron):
    """A learned vector field, a neural ODE: tau ds/dt = −s + MLP(s, I).

    Parameters
    ----------
    size : int
        Length of s, and of the input current I.
    hidden : sequence of int
        Widths of the hidden layers (tanh).
    name : str
        Of the population.
    tau : Parameter or float
        Time constant.
    seed : int
        Seed of the initial weights.

    References
    ----------
    Chen, Rubanova, Bettencourt & Duvenaud 2018, arXiv 1806.07366.

    Examples
    --------
    >>> field = NeuralField(2, hidden=(16,))
    >>> sum(p.numel() for p in field.parameters())
    115
    """

    def __init__(
        self,
        size: int = 1,
        hidden: Sequence[int] = (64, 64),
        name: str = "",
        *,
        tau: Value = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(name, size)
        self.ports = {"I": "1"}
        self.add_parameters({"tau": tau}, size)
        full = f"s_{name}" if name else "s"
        self.variables = (Variable(full, {self.dim: size}, tau=float(self.tau.mean())),)
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([2 * size, *hidden, size]):
            layer = nn.Linear(fan_in, fan_out, dtype=torch.float64)
            with torch.no_grad():
                layer.weight.normal_(0.0, fan_in**-0.5, generator=generator)
                layer.bias.zero_()
            layers += [layer, nn.Tanh()]
        self.network = nn.Sequential(*layers[:-1]).requires_grad_(False)

    def learn(self, *names: str) -> NeuralField:
        """Switch on the gradient of named parameters; without names, of the network."""
        if not names:
            self.network.requires_grad_(True)
        super().learn(*names)
        return self

    def forward(self, t: Tensor, state: State, currents: Mapping[str, Tensor]) -> State:
        """Return ds/dt."""
        del t
        s = self.activity(state)
        drive = currents.get("I", s.new_zeros(()))
        both = torch.cat([s, drive.expand_as(s)], dim=-1)
        return {self.variables[0].name: (self.network(both) - s) / self.tau}

    def activity(self, state: State) -> Tensor:
        """Return s."""
        return state[self.variables[0].name]

    def activity_rate(self, state: State, derivative: State) -> Tensor:
        """Return ds/dt."""
        del state
        return derivative[self.variables[0].name]


def _in_unit(name: str, spec: Parameter, declared: str | None) -> Parameter:
    if declared is None or spec.unit in (None, declared):
        return Parameter(
            spec.value, declared or spec.unit or "1", spec.lower, spec.upper, spec.learn
        )
    factor = conversion(str(spec.unit), declared)
    return Parameter(
        as_values(spec.value, name) * factor,
        declared,
        None if spec.lower is None else spec.lower * factor,
        None if spec.upper is None else spec.upper * factor,
        spec.learn,
    )


def _clock(t: Tensor, values: State) -> Tensor:
    state = next(iter(values.values()))
    t = t if t.dtype == state.dtype else t.to(state.dtype)
    return t.unsqueeze(-1) if t.dim() else t
