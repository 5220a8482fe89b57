"""A system: named state variables whose derivatives are sums of terms."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from ctsigprop.errors import did_you_mean, unknown
from ctsigprop.provenance import Recorded
from ctsigprop.quantities import Variable
from ctsigprop.signals import Signal
from ctsigprop.terms import Current, Moment, Neuron, Population, Source, State, Term

__all__ = ["System"]

History = Callable[[Tensor], State]


class System(Recorded):
    """Named variables whose derivatives are sums of terms.

        tau_v dv/dt = f(v, sum of currents)        tau_w dw/dt = sum of plasticity(pre, post, w)

    Parameters
    ----------
    *terms : Term
        Neurons, sources and currents (synapses, inputs, learning signals), in any order.
    time_unit : str, optional
        Unit of time; by default that of the equations ("1" for dimensionless models).

    Raises
    ------
    ValueError
        Two things with one name; a current that reads or enters an unknown population or port;
        sizes that do not fit; a source that nothing reads; two units of time.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> system = ct.System(ct.fitzhugh_nagumo(I=0.5))
    >>> {name: variable.shape for name, variable in system.variables.items()}
    {'v': (1,), 'w': (1,)}
    """

    def __init__(self, *terms: Term, time_unit: str | None = None) -> None:
        super().__init__()
        for term in terms:
            if not isinstance(term, Population | Current):
                raise TypeError(
                    f"a system is made of neurons, sources and currents; got {type(term).__name__}"
                )
        self.populations: dict[str, Population] = {}
        for term in terms:
            if isinstance(term, Population):
                if term.name in self.populations:
                    raise ValueError(f"two populations are named '{term.name}'")
                self.populations[term.name] = term
        self.terms = nn.ModuleList(terms)
        self.neurons = tuple(term for term in terms if isinstance(term, Neuron))
        self.sources = tuple(term for term in terms if isinstance(term, Source))
        self.currents = tuple(term for term in terms if isinstance(term, Current))
        if not self.neurons:
            raise ValueError("a system needs at least one population of neurons")
        self.time_unit = self._common_time_unit(time_unit)
        for current in self.currents:
            self._connect(current)
        self.variables = self._gather_variables()
        read = {name for current in self.currents for name in current.reads()}
        for source in self.sources:
            if source.name not in read:
                raise ValueError(f"nothing reads source '{source.name}'")
        self._probed: set[Any] = set()

    def forward(
        self,
        t: Tensor,
        state: State,
        *,
        inputs: Mapping[str, Signal] | None = None,
        history: History | None = None,
    ) -> State:
        """Return the derivative of every variable; those at rest may be left out.

        Parameters
        ----------
        t : Tensor
            Time, of shape ``()`` or ``batch``.
        state : dict of str to Tensor
            Each ``(*batch, *dims)``.
        inputs : mapping of str to Signal, optional
            Signals of sources by name.
        history : callable, optional
            ``history(t) -> state`` in the past, where synapses have delays.
        """
        moment = Moment(t, state, self.populations, inputs or {}, history)
        derivative = moment.derivative
        derivative.update(self.slopes(moment))
        for current in self.currents:
            if current.variables:
                derivative.update(current.derivative(moment))
        return derivative

    def slopes(self, moment: Moment) -> State:
        """Return the derivatives of the neurons' variables alone."""
        net = self._net_currents(moment)
        found: State = {}
        for neuron in self.neurons:
            found.update(neuron.forward(moment.t, moment.state, net.get(neuron.name, {})))
        return found

    def linear(
        self,
        t: Tensor,
        state: State,
        *,
        inputs: Mapping[str, Signal] | None = None,
        history: History | None = None,
    ) -> State:
        """Return a of dy/dt = a·y + rest for each variable that has it (exponential methods)."""
        moment = Moment(t, state, self.populations, inputs or {}, history)
        net = self._net_currents(moment)
        rates: State = {}
        for neuron in self.neurons:
            rates.update(neuron.linear(t, state, net.get(neuron.name, {})))
        for current in self.currents:
            if current.variables:
                rates.update(current.linear(moment))
        return rates

    @cached_property
    def autonomous(self) -> bool:
        """Whether all its terms are known to be; the signals need not be constant."""
        return all(term.autonomous for term in (*self.neurons, *self.currents))

    def inference(self) -> AbstractContextManager[object]:
        """Return torch's inference mode, if no term may need autograd; else what does nothing."""
        return torch.inference_mode() if self.autonomous else nullcontext()

    @property
    def dtype(self) -> torch.dtype:
        """The type of its parameters; float64 where there are none, or of more than one type."""
        found = {parameter.dtype for parameter in self.numbers()[0]}
        return found.pop() if len(found) == 1 else torch.float64

    @property
    def device(self) -> torch.device:
        """Where its numbers are: ``system.to("cuda")`` moves them."""
        numbers = itertools.chain(*self.numbers())
        return next((number.device for number in numbers), torch.device("cpu"))

    def numbers(self) -> tuple[list[nn.Parameter], list[Tensor]]:
        """Return all parameters and all buffers, of terms within terms too.

        What `parameters` and `buffers` yield, in a tenth of the time: every run looks at them.
        """
        parameters: list[nn.Parameter] = []
        buffers: list[Tensor] = []
        left: list[nn.Module] = [self]
        while left:
            module = left.pop()
            parameters += [p for p in module._parameters.values() if p is not None]
            buffers += [b for b in module._buffers.values() if b is not None]
            left += [m for m in module._modules.values() if m is not None]
        return parameters, buffers

    def initial_state(
        self,
        batch: Sequence[int] = (),
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> State:
        """Return every variable at its initial value; shared ones have no batch axes.

        By default in the type of the parameters, and where they are.

        Examples
        --------
        >>> import ctsigprop as ct
        >>> ct.System(ct.fitzhugh_nagumo(size=2)).initial_state(batch=(3,))["v"].shape
        torch.Size([3, 2])
        """
        device = device or self.device
        state: State = {}
        for name, variable in self.variables.items():
            lead = () if variable.shared else tuple(batch)
            value = torch.as_tensor(variable.initial, dtype=dtype or self.dtype, device=device)
            state[name] = value.expand(*lead, *variable.shape).clone()
        return state

    def activity(self, state: State, name: str) -> Tensor:
        """Return the activity of a population of neurons."""
        population = self.populations.get(name)
        if not isinstance(population, Neuron):
            names = [neuron.name for neuron in self.neurons]
            raise ValueError(unknown("population of neurons", name, names))
        return population.activity(state)

    def project(self, state: State) -> State:
        """Return the state with hard constraints of synapses (signs, bounds, masks) applied."""
        moved: State = {}
        for current in self.currents:
            if current.variables:
                moved.update(current.project(state))
        return {**state, **moved} if moved else state

    def jumps(
        self, start: float, stop: float, inputs: Mapping[str, Signal] | None = None
    ) -> list[float]:
        """Return every known jump of any signal strictly between two times, sorted."""
        bound = inputs or {}
        found = {x for c in self.currents for s in c.signals() for x in s.jumps(start, stop)}
        for source in self.sources:
            signal = bound.get(source.name, source.signal)
            if signal is not None:
                for delay in self._delays_of(source.name):
                    late = signal.jumps(start - delay, stop - delay)
                    found.update(x + delay for x in late if start < x + delay < stop)
        return sorted(found)

    def _delays_of(self, source: str) -> set[float]:
        return {current.delay for current in self.currents if source in current.reads()} | {0.0}

    @property
    def delay(self) -> float:
        """The longest delay of any synapse."""
        return max((current.delay for current in self.currents), default=0.0)

    def learn(self, *names: str) -> Self:
        """Switch on the gradient of parameters given as ``"term.parameter"``, or by name alone.

        Examples
        --------
        >>> import ctsigprop as ct
        >>> system = ct.System(ct.fitzhugh_nagumo()).learn("a")
        >>> [name for name, p in system.named_parameters() if p.requires_grad]
        ['terms.0.a']
        """
        for name in names:
            owner, _, parameter = name.rpartition(".")
            terms = [
                t
                for t in self.every_term()
                if parameter in t.specs and owner in ("", getattr(t, "name", ""))
            ]
            if not terms:
                every = [p for t in self.every_term() for p in t.specs]
                raise ValueError(unknown("parameter", name, every))
            for term in terms:
                term.learn(parameter)
        return self

    def every_term(self) -> list[Term]:
        """Return every term, plasticity included, in the order of construction."""
        return [module for module in self.modules() if isinstance(module, Term)]

    def _net_currents(self, moment: Moment) -> dict[str, dict[str, Tensor]]:
        net: dict[str, dict[str, Tensor]] = {}
        for current in self.currents:
            ports = net.setdefault(current.post, {})
            value = current.forward(moment)
            ports[current.port] = ports[current.port] + value if current.port in ports else value
        return net

    def _connect(self, current: Current) -> None:
        named = {neuron.name: neuron for neuron in self.neurons}
        if current.post not in named:
            raise ValueError(
                f"{current.name}: {unknown('postsynaptic population', current.post, named)}"
            )
        for name in current.reads():
            if name not in self.populations:
                raise ValueError(f"{current.name}: {unknown('population', name, self.populations)}")
        ports = named[current.post].ports
        if not current.port and ports:
            current.port = next(iter(ports))
        if current.port not in ports:
            raise ValueError(f"{current.name}: {unknown('port', current.port, ports)}")
        current.connect(self.populations)

    def _gather_variables(self) -> dict[str, Variable]:
        variables: dict[str, Variable] = {}
        sizes: dict[str, int] = {}
        names: set[str] = set()
        for term in [*self.neurons, *self.currents]:
            if isinstance(term, Current):
                if term.name in names:
                    raise ValueError(f"two currents are named '{term.name}'; give one a name=")
                names.add(term.name)
            for variable in term.variables:
                if variable.name in variables:
                    raise ValueError(f"two variables are named '{variable.name}'")
                for dim, size in variable.dims.items():
                    if sizes.setdefault(dim, size) != size:
                        raise ValueError(
                            f"dim '{dim}' has size {size} in '{variable.name}', "
                            f"and {sizes[dim]} elsewhere"
                        )
                variables[variable.name] = variable
        return variables

    def _common_time_unit(self, given: str | None) -> str:
        units = {
            neuron.name or type(neuron).__name__: getattr(neuron, "time_unit", None)
            for neuron in self.neurons
        }
        known = {unit for unit in units.values() if unit is not None}
        if given is not None:
            known.add(given)
        if len(known) > 1:
            raise ValueError(f"the terms have different units of time: {units}, given {given}")
        return known.pop() if known else "1"

    def check_state(self, names: Mapping[str, Any]) -> None:
        """Refuse a state with a name that is no variable of this system."""
        for name in names:
            if name not in self.variables:
                known = list(self.variables)
                raise ValueError(
                    f"the state has no variable '{name}'{did_you_mean(name, known)}; "
                    f"variables: {', '.join(known)}"
                )
