"""Relaxation: neurons that move while weights rest and inputs are held, step by step or at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ctsigprop.errors import ConvergenceError, NonFiniteError
from ctsigprop.models.inputs import LearningSignal
from ctsigprop.signals import Constant, Signal, all_finite
from ctsigprop.solvers.anderson import Anderson
from ctsigprop.solvers.inplace import Net, Receiver, Unit
from ctsigprop.solvers.options import check_max_steps, check_positive
from ctsigprop.system import System
from ctsigprop.terms import Current, Moment, Population, Source, State

__all__ = ["Relaxation", "Rest", "Steady"]

WHILE, SLOW = 16, 0.5
"""Sweeps go on alone as long as so many leave no more of a change than this: where units come to
their bounds and leave them, an extrapolation may go round in circles."""

TRIES, DEPTH = 12, 2
"""Then so many are extrapolated, from so many changes, before it begins anew, from more of them."""


@dataclass(frozen=True)
class Steady:
    """Straight to the steady state of the neurons, population after population.

    Each sweep sets every population, in the order of the system, to where it would rest with what
    it then receives (Gauss and Seidel's iteration). A network without loops is there after one
    sweep; one with a weak loop after a few. Where sweeps alone are slow, what is heard in loops is
    extrapolated from those before (Anderson's acceleration), so that loops with strong negative
    gain settle as well.

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
    Steady(tol=1e-06, max_sweeps=1000)
    """

    tol: float = 1e-3
    max_sweeps: int = 1000

    def __post_init__(self) -> None:
        check_positive("tol", self.tol)
        check_max_steps(self.max_sweeps)


@dataclass(frozen=True)
class Rest:
    """A steady state, with what certifies that it is one.

    Attributes
    ----------
    state : State
        The neurons.
    residual : float
        The largest |dy/dt| of any of them, measured at this state.
    change : float
        The largest change by which a sweep would still move one.
    sweeps : int
        How many led here.
    """

    state: State
    residual: float
    change: float
    sweeps: int


class Relaxation:
    """The neurons of a system under inputs that are held and weights that rest.

    It can be used again, for other weights and inputs; parameters of the system are then read anew.
    What it has found is never written again.

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
    native : bool
        Whether a kernel may take the steps.

    Raises
    ------
    ValueError
        A neuron of more than one variable, a synapse with a delay or a filter.
    """

    def __init__(
        self,
        system: System,
        weights: State,
        t: float,
        inputs: Mapping[str, Signal],
        *,
        native: bool = True,
    ) -> None:
        self.system, self.native, self._device = system, native, system.device
        self._receivers = {neuron.name: Receiver(neuron) for neuron in system.neurons}
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
            hears = [system.populations[name] for name in current.hears()]
            if isinstance(current, LearningSignal) and current.error:
                receiver.itself.append(current)
            elif all(isinstance(population, Source) for population in hears):
                self._held.append(current)
            else:
                receiver.others.append(current)
        order = [neuron.name for neuron in system.neurons]
        self._looped = {
            self._receivers[name].variable
            for k, receiver in enumerate(self._receivers.values())
            for current in receiver.others
            for name in current.hears()
            if name in order[k:]
        }
        self._net: Net | None = None
        self.hold(weights, t, inputs)

    def __reduce__(self) -> tuple[Any, ...]:
        given = self.system, self.weights, float(self.t), self.inputs
        return partial(Relaxation, native=self.native), given

    @property
    def hoisted(self) -> tuple[str, ...]:
        """The currents that only depend on what is held."""
        return tuple(current.name for current in self._held)

    def hold(self, weights: State, t: float, inputs: Mapping[str, Signal]) -> None:
        """Go on with other weights and inputs."""
        self.weights, self.inputs = weights, inputs
        self._values: dict[str, Tensor] = {}
        self._moved = set(self._receivers)
        if self._net is not None:
            self._net.ordered.forget()
        self.move(t)

    @torch.no_grad()
    def move(self, t: float) -> None:
        """Go to another time; what never changes is not read anew."""
        self.t = torch.tensor(t, dtype=torch.float64, device=self._device)
        moved = self._moved
        for name, receiver in self._receivers.items():
            own = (*receiver.others, *receiver.itself)
            stays = name not in moved and receiver.neuron.autonomous
            if not (stays and all(self._stays(one) for one in own)):
                moved.add(name)
        moment = self._reading()({})
        for current in self._held:
            if current.name not in self._values or not self._stays(current):
                self._values[current.name] = current.forward(moment)
                moved.add(current.post)
        for name in moved:
            self._receivers[name].held = {}
        for current in self._held:
            if current.post in moved:
                _add(self._receivers[current.post].held, current.port, self._values[current.name])

    def _stays(self, current: Current) -> bool:
        """Whether a current is the same function of the neurons at every time."""
        sources = [self.system.populations[name] for name in current.hears()]
        signals = [self.inputs.get(s.name, s.signal) for s in sources if isinstance(s, Source)]
        held = all(isinstance(signal, Constant) for signal in signals)
        return held and current.autonomous and not current.gates()

    def net(self, state: State) -> Net:
        """Return the neurons in buffers, at a state: for one shape always the same net."""
        reading = self._reading()
        if self._net is not None and self._net.fits(state):
            self._net.read(reading)
            self._net.put(state)
            self._net.connect(self._moved)
        else:
            receivers = list(self._receivers.values())
            self._net = Net(receivers, state, reading, native=self.native)
        self._moved = set()
        return self._net

    @torch.no_grad()
    def march(self, state: State, dt: float, duration: float) -> State:
        """Return the neurons after `duration` by Euler's method, in equal steps of at most `dt`."""
        steps = max(1, math.ceil(duration / dt - 1e-9))
        net = self.net(state)
        net.march(duration / steps, steps)
        self._check_finite(net)
        return net.state()

    @torch.no_grad()
    def settle(self, state: State, method: Steady) -> Rest:
        """Return the steady state that sweeps lead to from here, with its certificate.

        Raises
        ------
        ConvergenceError
            The state does not come to rest.
        """
        net = self.net(state)
        looped = [u for u in net.units if u.name in self._looped or u.leak is None]
        widths = [unit.s.shape[1] for unit in looped]
        memory: Anderson | None = None
        changes: list[float] = []
        depth = 0
        for sweep in range(1, method.max_sweeps + 1):
            before = _row(looped) if memory is not None else None
            for unit in net.units:
                unit.listen()
                unit.rest()
            change, residual, worst = 0.0, 0.0, ""
            for unit in net.units:
                if not unit.listen():  # it rests
                    continue
                far, fast = unit.distance()
                if not far <= change:  # so that NaN is seen
                    change, worst = far, unit.name
                residual = max(residual, fast)
            if change < method.tol:
                self._check_finite(net)
                return Rest(net.state(), residual, change, sweep)
            changes.append(change)
            slow = memory is None and sweep > WHILE and change > SLOW * changes[-1 - WHILE]
            if looped and (slow or (memory is not None and memory.sweeps == TRIES)):
                depth = min(depth + DEPTH, TRIES)
                memory = Anderson(depth)
            if memory is None or before is None:
                continue
            memory.remember(before, _row(looped))
            mixed = torch.split(memory.extrapolate(), widths, 1)
            for unit, values in zip(looped, mixed, strict=True):
                unit.put(values)
        self._check_finite(net)
        raise ConvergenceError(
            time=float(self.t),
            variable=worst,
            cause=f"a sweep still changes it by {change:.3g} after {method.max_sweeps} sweeps: a "
            "loop with a gain near 1 or more; weaken the loop, or lower the learning rates",
        )

    @torch.no_grad()
    def sweep(self, state: State) -> State:
        """Return the state after every population, in turn, has gone where it rests."""
        net = self.net(state)
        for unit in net.units:
            unit.hear()
            unit.rest()
        return net.state()

    @torch.no_grad()
    def pulls(self) -> State:
        """Return how far a change of its slope moves each neuron where it came to rest: 1/decay."""
        assert self._net is not None
        return self._net.pulls()

    def slopes(self, state: State) -> State:
        """Return the derivatives of the neurons, differentiable in all that they read."""
        return self.system.slopes(self._reading()(state))

    def _reading(self) -> Callable[[State], Moment]:
        """Return what all may read now, as a function of the neurons that does not keep this."""
        return partial(_moment, self.weights, self.t, self.system.populations, self.inputs)

    def _check_finite(self, net: Net) -> None:
        if all_finite(net.s):
            return
        for name, values in net.view().items():
            if not all_finite(values):
                index = tuple((~torch.isfinite(values)).nonzero()[0].tolist())
                raise NonFiniteError(
                    time=float(self.t),
                    variable=name,
                    component=index,
                    cause="a loop with a gain above 1, or weights that grew too large",
                )


def _moment(
    weights: State,
    t: Tensor,
    populations: Mapping[str, Population],
    inputs: Mapping[str, Signal],
    state: State,
) -> Moment:
    return Moment(t, {**weights, **state}, populations, inputs)


def _row(units: Sequence[Unit]) -> Tensor:
    """Return copies of the states of some populations, a row for each sample."""
    return torch.cat([unit.s for unit in units], 1)


def _add(currents: State, port: str, value: Tensor) -> None:
    currents[port] = currents[port] + value if port in currents else value
