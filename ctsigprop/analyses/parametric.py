"""A system as a field of its state and of a few of its parameters: what continuation works on."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import final

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from ctsigprop.analyses.flat import At, FlatField, Inputs
from ctsigprop.errors import unknown
from ctsigprop.signals import Signal
from ctsigprop.system import System
from ctsigprop.terms import State, Term

__all__ = ["FrozenField", "ParametricField", "with_parameters"]


@final
class ParametricField:
    """dy/dt = f(y, p), y the components of the state and p parameters of the system.

    A parameter is called by its name, ``I``, which is then one number for all terms that have a
    parameter of that name; by its term and its name, ``E.I``, where terms differ; with an index,
    ``I[0]``, where it has a value for each unit. The name of a source is the level of its input.
    The name of a variable, ``z``, or of a component, ``w[0,1]``, is a part of the state that is
    held at p, as a slow variable is on the time scale of the fast ones.

    Parameters
    ----------
    system : System
        Without delays, in float64.
    parameters : sequence of str
        The components of p, in this order.
    free, at, t, inputs : optional
        As in `FlatField`.

    Attributes
    ----------
    field : FlatField
        The field at the parameters that the system has.
    parameters : tuple of str
        Their names.
    units : tuple of str
        Their units; "1" where the system does not say.
    initial : Tensor
        The values that the system has, ``(k,)``.
    held : dict of str to float
        Value of every component of the state that is neither free nor a parameter.

    Raises
    ------
    ValueError
        Unknown names, a parameter that has several values where one is asked for.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> family = ParametricField(ct.System(ct.fitzhugh_nagumo(I=0.5)), ["I"])
    >>> y, p = torch.zeros(2).double(), torch.tensor([0.3], dtype=torch.float64)
    >>> family(y, p).tolist(), family.units
    ([0.3, 0.055999999999999994], ('1',))
    """

    def __init__(
        self,
        system: System,
        parameters: Sequence[str],
        *,
        free: Sequence[str] | None = None,
        at: At | None = None,
        t: float = 0.0,
        inputs: Inputs | None = None,
    ) -> None:
        if isinstance(parameters, str) or len(set(parameters)) < len(parameters):
            raise ValueError(f"parameters must be a list of different names; got {parameters!r}")
        levels = {name: 0.0 for name in parameters if _is_bare_source(system, name, inputs)}
        moved = _held(system, parameters, at)
        held, given = {**(at or {}), **moved}, {**levels, **(inputs or {})}
        self.field = FlatField(system, free=free, at=held, t=t, inputs=given)
        self.held = {k: v for k, v in self.field.held.items() if k not in moved}
        self.parameters = tuple(parameters)
        parts = iter(moved)
        self._places: list[Sequence[_Place]] = [
            [_OfState(self.field, next(parts))]
            if _is_part(system, name)
            else _places(self.field, name)
            for name in parameters
        ]
        self.units = tuple(places[0].unit for places in self._places)
        first = [float(places[0].value()) for places in self._places]
        self.initial = torch.tensor(first, dtype=torch.float64).to(self.field.initial)

    def __call__(self, y: Tensor, p: Tensor) -> Tensor:
        """Return the derivative at many points ``(..., n)``, each with parameters ``(..., k)``."""
        if y.dim() == 1 and p.dim() == 1:
            return self._rate(y, p)
        lead = (y[..., 0] + p[..., 0]).shape
        rows = (x.expand(*lead, x.shape[-1]).reshape(-1, x.shape[-1]) for x in (y, p))
        rates: Tensor = torch.func.vmap(self._rate)(*rows)
        return rates.reshape(*lead, y.shape[-1])

    def at(self, *p: float) -> FrozenField:
        """Return the field of y alone, at some values of the parameters."""
        return FrozenField(self, torch.tensor(p, dtype=torch.float64).to(self.initial))

    def check(self, name: str, low: float, high: float) -> None:
        """Refuse a range of a parameter that goes beyond its own bounds."""
        for place in self._places[self.parameters.index(name)]:
            least, most = place.bounds()
            if low < least or high > most:
                raise ValueError(
                    f"{name} must lie in [{least:g}, {most:g}]; got the range ({low:g}, {high:g})"
                )

    def linear(self, y: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return f ``(b, n)``, ∂f/∂y ``(b, n, n)`` and ∂f/∂p ``(b, n, k)``, exact, in one pass.

        A copy of every point for each row of the Jacobian: then one sweep back gives all rows.
        """
        b, n = y.shape
        if not b:
            return y.detach(), y.new_zeros(0, n, n), y.new_zeros(0, n, p.shape[-1])
        Y = y.detach().repeat(n, 1).requires_grad_()
        P = p.detach().expand(b, p.shape[-1]).repeat(n, 1).requires_grad_()
        f = torch.func.vmap(self._rate)(Y, P)
        rows = torch.eye(n, dtype=y.dtype, device=y.device).repeat_interleave(b, 0)
        by_y, by_p = torch.autograd.grad(f, (Y, P), rows, allow_unused=True)
        J = torch.zeros(n, b, n).to(y) if by_y is None else by_y.reshape(n, b, n)
        Jp = torch.zeros(n, b, P.shape[1]).to(y) if by_p is None else by_p.reshape(n, b, -1)
        return f.detach()[:b], J.movedim(0, 1), Jp.movedim(0, 1)

    def derivative(self, y: Tensor, p: Tensor, *directions: Tensor) -> Tensor:
        """Return the exact derivative of f at one point along several directions of y in turn.

        One direction u: ∂f·u; two, u and v: B(u, v); three: C(u, v, w). A copy of the point for
        each component of f is moved along each direction; sweeping back gives the mixed
        derivatives by these moves.
        """
        n = len(y)
        moves = [torch.zeros(n).to(y).requires_grad_() for _ in directions]
        points = y.detach() + sum(
            move[:, None] * direction for move, direction in zip(moves, directions, strict=True)
        )
        value = torch.func.vmap(self._rate, (0, None))(points, p.detach()).diagonal()
        for move in moves:
            if not value.requires_grad:
                return torch.zeros_like(y)
            (value,) = torch.autograd.grad(
                value.sum(), move, create_graph=True, materialize_grads=True
            )
        return value.detach()

    def _rate(self, y: Tensor, p: Tensor) -> Tensor:
        field = self.field
        swapped: dict[str, Tensor] = {}
        stored: dict[str, Tensor] = {}
        levels: dict[str, Signal] = dict(field.inputs)
        state = field.state(y)
        for value, places in zip(p, self._places, strict=True):
            for place in places:
                if isinstance(place, _OfState):
                    place.put(value, state)
                else:
                    place.put(value, swapped, levels)
        for place in chain.from_iterable(self._places):
            if isinstance(place, _OfTerm) and place.path in swapped:
                stored[place.path] = place.unbounded(swapped[place.path])
        arguments = ((field.t, state), {"inputs": levels})
        derivative = torch.func.functional_call(field.system, stored, *arguments)
        at_rest = {name: torch.zeros_like(value) for name, value in state.items()}
        return field.select(at_rest | derivative)


@final
class FrozenField:
    """The field of a family at one value of its parameters."""

    def __init__(self, family: ParametricField, p: Tensor) -> None:
        self.family, self.p = family, p
        self.initial = family.field.initial

    def __call__(self, y: Tensor) -> Tensor:
        """Return the derivative at many points ``(..., n)``."""
        return self.family(y, self.p)

    def jacobian(self, y: Tensor) -> Tensor:
        """Return the exact ∂f_i/∂y_j, ``(..., n, n)``."""
        flat = y.reshape(-1, y.shape[-1])
        return self.family.linear(flat, self.p)[1].reshape(*y.shape, y.shape[-1])


@final
class _Level(Signal):
    """A constant input, whose value may be followed by vmap and gradients."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    @property
    def size(self) -> int:
        return int(self.value.shape[-1]) if self.value.dim() else 0

    def forward(self, t: Tensor) -> Tensor:
        del t
        return self.value


@final
class _OfTerm:
    """A parameter of a term, or one component of it."""

    def __init__(self, path: str, term: Term, name: str, index: tuple[int, ...] | None) -> None:
        self.term, self.name, self.index = term, name, index
        self.path = f"{path}.{name}"
        self.bounded = parametrize.is_parametrized(term, name)
        if self.bounded:
            self.path = f"{path}.parametrizations.{name}.original"
        unit = term.units.get(name)
        self.unit = "1" if unit is None else unit

    def value(self) -> Tensor:
        """Return the value that the system has."""
        every: Tensor = getattr(self.term, self.name).detach()
        return every.reshape(-1)[0] if self.index is None else every[self.index]

    def bounds(self) -> tuple[float, float]:
        """Return what the values may be: a time constant is positive."""
        spec = self.term.specs[self.name]
        positive = 0.0 if self.name.split("_")[0] == "tau" else -math.inf
        low = positive if spec.lower is None else spec.lower
        return low, math.inf if spec.upper is None else spec.upper

    def put(self, value: Tensor, swapped: dict[str, Tensor], levels: Mapping[str, Signal]) -> None:
        """Say what stands in its place."""
        del levels
        every = getattr(self.term, self.name).detach()
        if self.index is None:
            new = value.expand(every.shape)
        else:
            if self.path in swapped:
                every = swapped[self.path]
            new = every.index_put(tuple(torch.tensor(i) for i in self.index), value)
        swapped[self.path] = new

    def unbounded(self, value: Tensor) -> Tensor:
        """Return what is stored for a value: a learned parameter is kept in its bounds."""
        if not self.bounded:
            return value
        inner: Tensor = self.term.parametrizations[self.name][0].right_inverse(value)
        return inner


@final
class _OfSource:
    """The level of an input, or one channel of it."""

    def __init__(self, field: FlatField, source: str, index: int | None) -> None:
        self.source, self.index = source, index
        own = next(s for s in field.system.sources if s.name == source)
        signal = field.inputs.get(source, own.signal)
        assert signal is not None  # the field has checked it
        self.now = own.values(signal, field.t).detach()
        self.unit = own.unit

    def value(self) -> Tensor:
        """Return the level now."""
        return self.now.reshape(-1)[self.index or 0]

    def bounds(self) -> tuple[float, float]:
        """Return what the level may be."""
        return -math.inf, math.inf

    def put(self, value: Tensor, swapped: Mapping[str, Tensor], levels: dict[str, Signal]) -> None:
        """Say what stands in its place."""
        del swapped
        before = levels.get(self.source)
        every = before.value if isinstance(before, _Level) else self.now
        if self.index is None:
            levels[self.source] = _Level(value.expand(self.now.shape))
        else:
            levels[self.source] = _Level(every.index_put((torch.tensor(self.index),), value))


@final
class _OfState:
    """A component of the state that is held."""

    def __init__(self, field: FlatField, component: str) -> None:
        self.variable, _, inside = component.rstrip("]").partition("[")
        self.index = tuple(torch.tensor(int(i)) for i in inside.split(",")) if inside else ()
        self.now = torch.tensor(field.held[component], dtype=torch.float64)
        self.unit = field.system.variables[self.variable].unit

    def value(self) -> Tensor:
        """Return the value at which it is held."""
        return self.now

    def bounds(self) -> tuple[float, float]:
        """Return what the value may be."""
        return -math.inf, math.inf

    def put(self, value: Tensor, state: State) -> None:
        """Put a value in its place."""
        every = state[self.variable]
        state[self.variable] = every.index_put(self.index, value) if self.index else value


_Place = _OfTerm | _OfSource | _OfState


def with_parameters(system: System, values: Mapping[str, float]) -> System:
    """Return a copy of a system in which some parameters have other values.

    Parameters
    ----------
    system : System
        It stays as it is.
    values : mapping of str to float
        By name, as in `ParametricField`; of terms, not of sources or of the state.

    Raises
    ------
    ValueError
        Unknown names, values out of bounds.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> neuron = with_parameters(ct.System(ct.fitzhugh_nagumo(I=0.5)), {"I": 0.7})
    >>> neuron(torch.tensor(0.0), neuron.initial_state())["v"].tolist()
    [0.7]
    """
    other = copy.deepcopy(system)
    family = ParametricField(other, list(values))
    for name, value in values.items():
        family.check(name, value, value)
        for place in family._places[family.parameters.index(name)]:
            if not isinstance(place, _OfTerm):
                raise ValueError(f"'{name}' is no parameter of a term: give it as inputs= or at=")
            every = getattr(place.term, place.name).detach().clone()
            if place.index is None:
                every.fill_(value)
            else:
                every[place.index] = value
            if place.bounded:
                setattr(place.term, place.name, every)
            else:
                getattr(place.term, place.name).data = every
    return other


def _held(system: System, parameters: Sequence[str], at: At | None) -> dict[str, float]:
    """Return by component where the parameters that are parts of the state are held."""
    chosen = [name for name in parameters if _is_part(system, name)]
    if not chosen:
        return {}
    start = FlatField(system, at=at)
    values = start.held | dict(zip(start.names, start.initial.tolist(), strict=True))
    held: dict[str, float] = {}
    for name in chosen:
        own = [c for c in values if c == name or c.partition("[")[0] == name]
        if len(own) != 1:
            every = [c for c in values if c.partition("[")[0] == name.partition("[")[0]]
            raise ValueError(f"'{name}' is no single component; there are {', '.join(every[:6])}")
        held[own[0]] = values[own[0]]
    return held


def _is_part(system: System, name: str) -> bool:
    """Tell whether a name is a part of the state; parameters and sources come first."""
    base = name.partition("[")[0]
    return (
        isinstance(system, System)
        and base in system.variables
        and not any(base == source.name for source in system.sources)
        and not any(base in term.specs for term in system.every_term())
    )


def _is_bare_source(system: System, name: str, inputs: Inputs | None) -> bool:
    """Tell whether a name is a source that has no signal of its own, nor one given."""
    return isinstance(system, System) and any(
        source.name == name and source.signal is None and name not in (inputs or {})
        for source in system.sources
    )


def _places(field: FlatField, name: str) -> Sequence[_Place]:
    """Return everything that a name of a parameter moves."""
    base, bracket, inside = name.rstrip("]").partition("[")
    try:
        index = tuple(int(i) for i in inside.split(",")) if bracket else None
    except ValueError:
        raise ValueError(f"'{name}' has no index of whole numbers in its brackets") from None
    if any(base == source.name for source in field.system.sources):
        if index is not None and len(index) != 1:
            raise ValueError(f"'{name}' must have one index, that of the channel")
        return [_OfSource(field, base, None if index is None else index[0])]
    owner, _, parameter = base.rpartition(".")
    found: list[_OfTerm | _OfSource] = []
    for path, term in field.system.named_modules():
        if not isinstance(term, Term) or parameter not in term.specs:
            continue
        if owner not in ("", getattr(term, "name", "")):
            continue
        shape = tuple(getattr(term, parameter).shape)
        if index is None and math.prod(shape) != 1 and not _alike(getattr(term, parameter)):
            raise ValueError(
                f"'{name}' has {math.prod(shape)} values that differ, shape {shape}; "
                f"name one: {base}[{','.join('0' * len(shape))}]"
            )
        if index is not None and (
            len(index) != len(shape)
            or any(not 0 <= i < s for i, s in zip(index, shape, strict=True))
        ):
            raise ValueError(f"'{name}' does not fit the shape {shape} of {base}")
        found.append(_OfTerm(path, term, parameter, index))
    if not found:
        every = dict.fromkeys(p for term in field.system.every_term() for p in term.specs)
        known = [*every, *(s.name for s in field.system.sources), *field.system.variables]
        raise ValueError(unknown("parameter", name, known))
    return found


def _alike(values: Tensor) -> bool:
    return bool((values == values.reshape(-1)[0]).all())
