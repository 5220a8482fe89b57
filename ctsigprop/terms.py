"""The terms that a system is a sum of: populations, currents and plasticity."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ctsigprop.affine import Affine, Leak
from ctsigprop.errors import unknown
from ctsigprop.provenance import Recorded
from ctsigprop.quantities import Bounded, Parameter, Variable
from ctsigprop.signals import Signal, as_signal, as_values

__all__ = [
    "Current",
    "Local",
    "Moment",
    "Neuron",
    "Plasticity",
    "Population",
    "Source",
    "Term",
]

State = dict[str, Tensor]


class Term(Recorded, abc.ABC):
    """Anything that a system is made of. It remembers how it was built, so that a run can be rerun.

    Parameters are created without gradient; `learn` switches on those that are fitted or trained.
    A system calls `forward` itself, so that torch's hooks on a term see nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.units: dict[str, str | None] = {}
        self.specs: dict[str, Parameter] = {}

    @property
    def autonomous(self) -> bool:
        """Whether it reads the time through signals alone, and needs no autograd for its values.

        False where that is not known.
        """
        return False

    def add_parameters(
        self, values: Mapping[str, Parameter | Tensor | float], size: int | None = None
    ) -> None:
        """Register parameters by name; refuse what is not finite, out of bounds or misshapen."""
        for name, given in values.items():
            spec = given if isinstance(given, Parameter) else Parameter(given)
            value = as_values(spec.value, name).to(torch.float64).clone()
            if size is not None and value.dim() and tuple(value.shape) != (size,):
                raise ValueError(
                    f"{name} must be a number or one for each of the {size} units; "
                    f"got shape {tuple(value.shape)}"
                )
            if name.split("_")[0] == "tau" and not bool((value > 0).all()):
                unit = f" {spec.unit}" if spec.unit else ""
                raise ValueError(f"{name} must be > 0, got {float(value.min()):g}{unit}")
            low = -torch.inf if spec.lower is None else spec.lower
            high = torch.inf if spec.upper is None else spec.upper
            if not bool(((value >= low) & (value <= high)).all()):
                raise ValueError(f"{name} must lie in [{low}, {high}]; got {value.tolist()}")
            if spec.unit not in (None, "1"):
                from ctsigprop.units import parse_unit

                parse_unit(str(spec.unit), of=name)
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))
            self.units[name] = spec.unit
            self.specs[name] = spec
            if spec.learn:
                self.learn(name)

    def learn(self, *names: str) -> Self:
        """Switch on the gradient of the named parameters; bounded ones move inside their bounds."""
        for name in names:
            if name not in self.specs:
                raise ValueError(unknown("parameter", name, self.specs))
            spec = self.specs[name]
            bounded = spec.lower is not None or spec.upper is not None
            if bounded and not parametrize.is_parametrized(self, name):
                value = getattr(self, name)
                inside = (value > (-torch.inf if spec.lower is None else spec.lower)) & (
                    value < (torch.inf if spec.upper is None else spec.upper)
                )
                if not bool(inside.all()):
                    raise ValueError(
                        f"{name} must lie strictly inside ({spec.lower}, {spec.upper}) "
                        f"to be learned; got {value.tolist()}"
                    )
                parametrize.register_parametrization(self, name, Bounded(spec.lower, spec.upper))
            if bounded:
                self.parametrizations[name].original.requires_grad_(True)
            else:
                getattr(self, name).requires_grad_(True)
        return self


class Population(Term):
    """What synapses connect: something with a name, a size and an activity."""

    name: str
    size: int
    unit: str  # of the activity

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        if name and not name.isidentifier():
            raise ValueError(f"a population's name must be an identifier; got {name!r}")
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"size of population '{name}' must be an integer >= 0; got {size}")
        self.name, self.size, self.unit = name, size, "1"

    @property
    def dim(self) -> str:
        """The name of the population's axis."""
        return self.name or "neuron"


class Source(Population):
    """An input population: its activity is a signal, given here or to `solve` by name.

    Parameters
    ----------
    name : str
        What synapses and `inputs` call it.
    size : int
        How many channels.
    signal : Signal, Tensor or float, optional
        Its activity; without one, `solve(..., inputs={name: ...})` must bring it.

    Examples
    --------
    >>> Source("x", 3).size
    3
    """

    def __init__(
        self,
        name: str,
        size: int = 1,
        signal: Signal | Tensor | float | None = None,
        unit: str = "1",
    ) -> None:
        super().__init__(name, size)
        if not name:
            raise ValueError("a source needs a name")
        self.unit = unit
        self.signal = None if signal is None else as_signal(signal)
        if self.signal is not None and self.signal.size not in (0, size):
            raise ValueError(
                f"the signal of source '{name}' must have {size} channels; got {self.signal.size}"
            )

    def values(self, signal: Signal, t: Tensor) -> Tensor:
        """Return a signal at `t`, one value for each channel: a single one goes to all of them."""
        value: Tensor = signal(t)
        if signal.size or value.shape[-1:] == (0,) == (self.size,):
            return value
        return value.unsqueeze(-1).expand(*value.shape, self.size)


class Neuron(Population):
    """A population whose activity follows differential equations, given its net input currents.

        tau_v dv/dt = f(v, sum of currents)

    Attributes
    ----------
    variables : tuple of Variable
        Its state; names end in ``_<population>`` where the population has a name.
    ports : mapping of str to str
        Where currents may enter, and the unit of each; the first is the usual one.
    """

    variables: tuple[Variable, ...]
    ports: Mapping[str, str]

    secluded: ClassVar[bool] = False
    """Whether it reads no variables but its own, whatever `state` holds."""

    @abc.abstractmethod
    def forward(self, t: Tensor, state: State, currents: Mapping[str, Tensor]) -> State:
        """Return the derivative of every variable of this population."""

    @abc.abstractmethod
    def activity(self, state: State) -> Tensor:
        """Return what synapses see of the state, ``(*batch, size)``."""

    @abc.abstractmethod
    def activity_rate(self, state: State, derivative: State) -> Tensor:
        """Return the time derivative of the activity, ``(*batch, size)``."""

    def linear(self, t: Tensor, state: State, currents: Mapping[str, Tensor]) -> State:
        """Return a of dy/dt = a·y + rest, for each variable that has it (exponential Euler)."""
        del t, state, currents
        return {}

    def leaky_form(self, like: Tensor) -> Leak | None:
        """Return what makes them leaky neurons, if they are that, in the type of a tensor."""
        del like
        return None


class Moment:
    """Everything that a current may read at one time.

    Attributes
    ----------
    t : Tensor
        The time, of shape ``()`` or ``batch``.
    state : State
        All variables.
    derivative : State
        The neurons' derivatives, once they are known: plasticity may depend on them.

    Activities that are `known` are taken as they are, and no signal is asked for them; `slopes`
    computes the derivatives when something asks for a rate.
    """

    def __init__(
        self,
        t: Tensor,
        state: State,
        populations: Mapping[str, Population],
        inputs: Mapping[str, Signal],
        history: Callable[[Tensor], State] | None = None,
        known: Mapping[str, Tensor] | None = None,
        slopes: Callable[[], State] | None = None,
    ) -> None:
        self.t, self.state = t, state
        self.derivative: State = {}
        self._slopes = slopes
        self._populations, self._inputs, self._history = populations, inputs, history
        self._activity = {(name, 0.0): value for name, value in (known or {}).items()}

    def activity(self, name: str, delay: float = 0.0) -> Tensor:
        """Return the activity of a population, now or `delay` ago."""
        key = (name, delay)
        if key not in self._activity:
            population = self._populations[name]
            if isinstance(population, Source):
                self._activity[key] = self._value(population, self.t - delay)
            elif delay == 0.0:
                self._activity[key] = self._neuron(name).activity(self.state)
            elif self._history is None:
                raise ValueError(
                    f"the delay of {delay} on '{name}' needs the past: "
                    "use solve() with a fixed-step solver"
                )
            else:
                past = self._history(self.t - delay)
                self._activity[key] = self._neuron(name).activity(past)
        return self._activity[key]

    def rate(self, name: str) -> Tensor:
        """Return the time derivative of a population's activity; zero for a held source."""
        population = self._populations[name]
        if isinstance(population, Source):
            return torch.zeros_like(self.activity(name))
        if self._slopes is not None and not self.derivative:
            self.derivative = self._slopes()
        return self._neuron(name).activity_rate(self.state, self.derivative)

    def _neuron(self, name: str) -> Neuron:
        population = self._populations[name]
        if not isinstance(population, Neuron):
            raise TypeError(f"'{name}' is no population of neurons")
        return population

    def _value(self, source: Source, t: Tensor) -> Tensor:
        signal = self._inputs.get(source.name, source.signal)
        if signal is None:
            raise ValueError(
                f"source '{source.name}' has no signal: pass inputs={{'{source.name}': ...}}"
            )
        value = source.values(signal, t)
        dtype = next((v.dtype for v in self.state.values()), value.dtype)
        return value.to(dtype)


class Current(Term):
    """Adds to the net input of one population; it may have state of its own.

    Attributes
    ----------
    name : str
        Its name in the system.
    post, port : str
        Which population it enters, and where; an empty port is the population's first.
    variables : tuple of Variable
        Its own state (weights that learn, synaptic filters), known once it is in a system.
    """

    name: str
    post: str
    port: str
    variables: tuple[Variable, ...] = ()
    delay: float = 0.0

    def reads(self) -> tuple[str, ...]:
        """Return the names of the populations whose activity it reads."""
        return ()

    def hears(self) -> tuple[str, ...]:
        """Return those of them that the current itself depends on, and not only its own state."""
        return self.reads()

    def connect(self, populations: Mapping[str, Population]) -> None:
        """Learn the sizes of what it connects, and declare its variables; refuse what misfits."""

    @property
    def products(self) -> tuple[int, str] | None:
        """The outer products and the decay of its weights, as of `Plasticity`, if it has such."""
        return None

    @abc.abstractmethod
    def forward(self, moment: Moment) -> Tensor:
        """Return the current, ``(*batch, size of post)``."""

    def affine(self, moment: Moment) -> Affine | None:
        """Return the current as W r + b, r the activity of one population, if it is such."""
        del moment
        return None

    def derivative(self, moment: Moment) -> State:
        """Return the derivative of its own variables; those at rest may be left out."""
        del moment
        return {}

    def linear(self, moment: Moment) -> State:
        """Return a of dy/dt = a·y + rest for its own variables where it is known."""
        del moment
        return {}

    def signals(self) -> tuple[Signal, ...]:
        """Return the signals it holds, for their jumps."""
        return ()

    def gates(self) -> tuple[Signal, ...]:
        """Return those of them that the current itself depends on, and not only its own state."""
        return self.signals()

    def project(self, state: State) -> State:
        """Return its own variables where hard constraints (signs, bounds) move them."""
        del state
        return {}


@dataclass
class Local:
    """What is present at one synapse, and all that a local rule may read.

    Attributes
    ----------
    t : Tensor
        The time.
    w : Tensor
        The weights, ``(post, pre)`` with the batch in front unless they are shared.
    x, y : Tensor
        Presynaptic activity as it arrives, ``(*batch, pre)``, and postsynaptic activity.
    dx, dy : callable
        Their time derivatives, computed when asked for.
    modulator : Tensor or None
        The third factor, ``(*batch, 1)`` or a number.
    own : State
        The rule's auxiliary variables by short name.
    shared : bool
        Whether the weights are shared by the batch: their derivative is then the mean over it.
    """

    t: Tensor
    w: Tensor
    x: Tensor
    y: Tensor
    dx: Callable[[], Tensor]
    dy: Callable[[], Tensor]
    modulator: Callable[[], Tensor] | None
    own: State
    shared: bool


class Plasticity(Term):
    """dW/dt of one synapse; rules on the same synapse add up.

    Attributes
    ----------
    modulator : str or Signal, optional
        The third factor: a population whose activity, or a signal whose value, multiplies.
    """

    modulator: str | Signal | None
    gate: Signal | None

    def __init__(self, modulator: str | Signal | None = None, gate: Signal | None = None) -> None:
        super().__init__()
        self.modulator, self.gate = modulator, gate

    @property
    def products(self) -> tuple[int, str] | None:
        """How many outer products dW/dt is, and which decay it has besides; None: it is no such.

        The decay is "row" or "column", or "" for none or for one number.
        """
        return None

    def variables(self, weight: Variable, post: str, pre: str) -> tuple[Variable, ...]:
        """Return the rule's auxiliary variables for a weight with dims (post, pre)."""
        del weight, post, pre
        return ()

    @abc.abstractmethod
    def forward(self, local: Local) -> State:
        """Return ``{"w": dW/dt, ...}`` with the auxiliary variables by short name."""
