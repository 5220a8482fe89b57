"""Relaxation: neurons that move while weights rest and inputs are held, step by step or at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctsigprop.errors import ConvergenceError, NonFiniteError
from ctsigprop.models.inputs import LearningSignal
from ctsigprop.signals import Constant, Signal
from ctsigprop.solvers.options import check_max_steps, check_positive
from ctsigprop.system import System
from ctsigprop.terms import Current, Moment, Neuron, Source, State

__all__ = ["Relaxation", "Steady"]


@dataclass(frozen=True)
class Steady:
    """Straight to the steady state of the neurons, population after population.

    Each sweep sets every population, in the order of the system, to where it would rest with what
    it then receives (Gauss and Seidel's iteration). A network without loops is there after one
    sweep; one with a weak loop after a few. What is heard in loops is extrapolated from the sweeps
    before (Anderson's acceleration), so that loops with strong negative gain settle as well.

    Parameters
    ----------
    tol : float
        The largest change of any unit by a sweep at which the state counts as steady.
    max_sweeps : int
        The most sweeps; more are an error.

    Raises
    ------
    ValueError
        An option out of its range.

    References
    ----------
    Anderson 1965, J. ACM 12:547-560; Walker & Ni 2011, SIAM J. Numer. Anal. 49:1715-1735.

    Examples
    --------
    >>> Steady(tol=1e-6)
    Steady(tol=1e-06, max_sweeps=100)
    """

    tol: float = 1e-3
    max_sweeps: int = 100

    def __post_init__(self) -> None:
        check_positive("tol", self.tol)
        check_max_steps(self.max_sweeps)


@dataclass
class _Receiver:
    """A population with what enters it: held while it relaxes, from others, and from itself."""

    neuron: Neuron
    held: dict[str, Tensor] = field(default_factory=dict)
    others: list[Current] = field(default_factory=list)
    itself: list[Current] = field(default_factory=list)


class Relaxation:
    """The neurons of a system under inputs that are held and weights that rest.

    Parameters
    ----------
    system : System
        Currents have no state but their weights, and no delay.
    weights : State
        Of the synapses that have plasticity.
    t : float
        The time at which gates and inputs are read.
    inputs : mapping of str to Signal
        Signals of sources.

    Raises
    ------
    ValueError
        A neuron of more than one variable, a synapse with a delay or a filter.
    """

    def __init__(
        self, system: System, weights: State, t: float, inputs: Mapping[str, Signal]
    ) -> None:
        self.system, self.weights, self.inputs = system, weights, inputs
        self._receivers = {neuron.name: _Receiver(neuron) for neuron in system.neurons}
        for neuron in system.neurons:
            if len(neuron.variables) != 1:
                raise ValueError(
                    f"population '{neuron.name}' must have one variable to relax; it has "
                    f"{', '.join(v.name for v in neuron.variables)}"
                )
        self._held: list[Current] = []
        for current in system.currents:
            if current.delay or any(v.name[:2] == "z_" for v in current.variables):
                raise ValueError(f"{current.name} has a delay or a filter, which do not relax")
            receiver = self._receivers[current.post]
            reads = [system.populations[name] for name in current.reads()]
            if isinstance(current, LearningSignal) and current.error:
                receiver.itself.append(current)
            elif all(isinstance(population, Source) for population in reads):
                self._held.append(current)
            else:
                receiver.others.append(current)
        order = [neuron.name for neuron in system.neurons]
        backward = [
            k
            for k, receiver in enumerate(self._receivers.values())
            for current in receiver.others
            if any(name in order[k:] for name in current.reads())
        ]
        self._last = max(backward, default=-1)  # the last population that hears a later one
        self._heard = sorted(
            {
                system.populations[name].variables[0].name
                for k, receiver in enumerate(self._receivers.values())
                for current in receiver.others
                for name in current.reads()
                if name in order[k:]
            }
        )
        self._values: dict[str, Tensor] = {}
        self.move(t)

    @torch.no_grad()
    def move(self, t: float) -> None:
        """Go to another time: gates and inputs are read anew, but for those that never change."""
        self.t = torch.tensor(t, dtype=torch.float64)
        moment = Moment(self.t, self.weights, self.system.populations, self.inputs)
        for receiver in self._receivers.values():
            receiver.held = {}
        for current in self._held:
            if current.name not in self._values or not self._constant(current):
                self._values[current.name] = current(moment)
            _add(self._receivers[current.post].held, current.port, self._values[current.name])

    def _constant(self, current: Current) -> bool:
        sources = [self.system.populations[name] for name in current.reads()]
        signals = [self.inputs.get(s.name, s.signal) for s in sources if isinstance(s, Source)]
        return not current.signals() and all(isinstance(signal, Constant) for signal in signals)

    @torch.no_grad()
    def march(self, state: State, dt: float, duration: float) -> State:
        """Return the neurons after `duration` by Euler's method, in equal steps of at most `dt`."""
        steps = max(1, math.ceil(duration / dt - 1e-9))
        names = [r.neuron.variables[0].name for r in self._receivers.values()]
        for _ in range(steps):
            slopes = {
                name: self._slope(receiver, state, self._received(receiver, state))
                for name, receiver in zip(names, self._receivers.values(), strict=True)
            }
            state = {
                name: torch.add(state[name], slope, alpha=duration / steps)
                for name, slope in slopes.items()
            }
        self._check_finite(state)
        return state

    @torch.no_grad()
    def settle(self, state: State, method: Steady) -> State:
        """Return the steady state that sweeps lead to from here.

        Raises
        ------
        ConvergenceError
            The state does not come to rest.
        """
        state = dict(state)
        change, worst = math.inf, ""
        memory = _Anderson()
        pulls: dict[str, Tensor] = {}
        for sweep in range(method.max_sweeps):
            change = 0.0
            heard = {name: state[name] for name in self._heard}
            for k, receiver in enumerate(self._receivers.values()):
                name = receiver.neuron.variables[0].name
                old = state[name]
                state[name] = self._rest(receiver, state, pulls)
                if sweep and k <= self._last:
                    moved = float((state[name] - old).abs().max())
                    if not moved <= change:  # so that NaN is seen
                        change, worst = moved, name
                    if k == self._last and change < method.tol:
                        break
            if self._last < 0 or (sweep and change < method.tol):
                self._check_finite(state)
                return state
            state |= memory.extrapolate(heard, {name: state[name] for name in self._heard})
        self._check_finite(state)
        raise ConvergenceError(
            time=float(self.t),
            variable=worst,
            cause=f"a sweep still changes it by {change:.3g} after {method.max_sweeps} sweeps: a "
            "loop with a gain near 1 or more; weaken the loop, or lower the learning rates",
        )

    @torch.no_grad()
    def sweep(self, state: State) -> State:
        """Return the state after every population, in turn, has gone where it rests."""
        state = dict(state)
        for receiver in self._receivers.values():
            state[receiver.neuron.variables[0].name] = self._rest(receiver, state, {})
        return state

    def _rest(self, receiver: _Receiver, state: State, pulls: State) -> Tensor:
        """Return where a population rests with what it receives now.

        By the slope and how it falls with the state: exact where that is a constant, as it is for
        rate neurons; else a chord, which the sweeps repeat. It is found once, and kept in `pulls`.
        """
        name = receiver.neuron.variables[0].name
        received = self._received(receiver, state)
        slope = self._slope(receiver, state, received)
        if name not in pulls:
            beside = self._slope(receiver, {**state, name: state[name] + 1}, received)
            pulls[name] = 1 / (slope - beside)
        return torch.addcmul(state[name], slope, pulls[name])

    def _received(self, receiver: _Receiver, state: State) -> State:
        """Return the currents by port but for those that the population makes itself."""
        received = dict(receiver.held)
        moment = self._moment(state)
        for current in receiver.others:
            _add(received, current.port, current(moment))
        return received

    def _slope(self, receiver: _Receiver, state: State, received: State) -> Tensor:
        """Return the derivative of a population."""
        if receiver.itself:
            received, moment = dict(received), self._moment(state)
            for current in receiver.itself:
                _add(received, current.port, current(moment))
        neuron = receiver.neuron
        slope: Tensor = neuron(self.t, state, received)[neuron.variables[0].name]
        return slope

    def _moment(self, state: State) -> Moment:
        everything = {**self.weights, **state}
        return Moment(self.t, everything, self.system.populations, self.inputs)

    def _check_finite(self, state: State) -> None:
        for name, values in state.items():
            if not bool(torch.isfinite(values).all()):
                index = tuple((~torch.isfinite(values)).nonzero()[0].tolist())
                raise NonFiniteError(
                    time=float(self.t),
                    variable=name,
                    component=index,
                    cause="a loop with a gain above 1, or weights that grew too large",
                )


class _Anderson:
    """Extrapolation of a fixed-point iteration y -> g(y) of each sample from its last sweeps.

    The next y is the mixture of the last g(y) whose residuals g(y) − y, mixed alike, are smallest.
    """

    depth = 3

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._residuals: list[Tensor] = []

    def extrapolate(self, before: State, after: State) -> State:
        """Return where to go on from, given y and g(y)."""
        if not after:
            return after
        shapes = {name: value.shape for name, value in after.items()}
        y, g = (torch.cat([v.flatten(1) for v in s.values()], 1) for s in (before, after))
        self._values.append(g)
        self._residuals.append(g - y)
        del self._values[: -self.depth], self._residuals[: -self.depth]
        if len(self._values) < 2:
            return after
        latest = self._residuals[-1]
        steps = torch.stack([latest - r for r in self._residuals[:-1]], -1)
        gram = steps.mT @ steps
        scale = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        ridge = torch.eye(gram.shape[-1], dtype=g.dtype, device=g.device)
        gram = gram + (1e-6 * scale + torch.finfo(g.dtype).tiny ** 0.5) * ridge
        weights = torch.linalg.solve(gram, steps.mT @ latest.unsqueeze(-1))
        moves = torch.stack([g - v for v in self._values[:-1]], -1)
        mixed = g - (moves @ weights).squeeze(-1)
        parts = mixed.split([math.prod(shape[1:]) for shape in shapes.values()], 1)
        return {n: p.reshape(shapes[n]) for n, p in zip(after, parts, strict=True)}


def _add(currents: State, port: str, value: Tensor) -> None:
    currents[port] = currents[port] + value if port in currents else value
