"""The neurons of a relaxation in buffers: every product once a step, all else in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import final
from weakref import proxy

import torch
from torch import Tensor

from ctsigprop.affine import Affine, Bend, Leak
from ctsigprop.solvers.products import Ordered
from ctsigprop.solvers.sums import Operations, Sum, times
from ctsigprop.terms import Current, Moment, Neuron, State

__all__ = ["Net", "Receiver", "Unit"]


@dataclass
class Receiver:
    """A population with what enters it: held while it relaxes, from others, and from itself."""

    neuron: Neuron
    held: dict[str, Tensor] = field(default_factory=dict)
    others: list[Current] = field(default_factory=list)
    itself: list[Current] = field(default_factory=list)

    @property
    def variable(self) -> str:
        """The name of its one variable."""
        return self.neuron.variables[0].name


@final
class Net:
    """The populations of a relaxation, each with its state in a buffer of its own.

    They know each other, and the net, by weak references: it is freed as soon as it is let go.

    Parameters
    ----------
    receivers : sequence of Receiver
        The populations in the order of the system.
    state : State
        Where they are; it is copied.
    moment : callable
        ``moment(state) -> Moment``, with all that currents may read.
    ordered : Ordered
        Matrices as products take them.
    """

    def __init__(
        self,
        receivers: Sequence[Receiver],
        state: State,
        moment: Callable[[State], Moment],
        ordered: Ordered,
    ) -> None:
        self._moment, self.ordered = moment, ordered
        like = state[receivers[0].variable]
        sizes = [state[receiver.variable].numel() for receiver in receivers]
        self.s, self.r = like.new_empty(2, sum(sizes)).unbind()
        rows = zip(receivers, torch.split(self.s, sizes), torch.split(self.r, sizes), strict=True)
        self.units = [Unit(proxy(self), one, state[one.variable], s, r) for one, s, r in rows]
        named = {unit.receiver.neuron.name: proxy(unit) for unit in self.units}
        now = moment(state)
        for unit in self.units:
            unit.connect(named, now)

    def view(self) -> State:
        """Return the buffers by variable, as they are now."""
        return {unit.name: unit.s.view(unit.shape) for unit in self.units}

    def state(self) -> State:
        """Return copies of the states by variable."""
        return {name: value.clone() for name, value in self.view().items()}

    def moment(self) -> Moment:
        """Return what currents may read now."""
        return self._moment(self.view())

    def pulls(self) -> State:
        """Return how far a change of its slope moves each neuron, all else as it is."""
        return {unit.name: unit.pull() for unit in self.units}

    def march(self, h: float, steps: int, tell: Callable[[int], None] | None = None) -> None:
        """Take steps of Euler's method, all populations at once; `tell` the number of each."""
        sums = [one for unit in self.units for one in unit.sums if one.coast(h, steps)]
        self.ordered.expected = steps
        operations = [one for unit in self.units for one in unit.hearing()]
        operations += self._moving(h)
        operations += [one for held in sums for one in held.follow()]
        for step in range(steps):
            for operation in operations:
                operation()
            if tell is not None:
                tell(step)
        for unit in self.units:
            unit.version += 1
        for one in sums:
            one.land()
        self.ordered.expected = 0

    def _moving(self, h: float) -> Operations:
        """Return what takes a step of Euler's method, with what was heard."""
        shares = {unit.share for unit in self.units}
        (share,) = shares if len(shares) == 1 else (None,)
        if share is None:
            return [unit.moving(h) for unit in self.units]
        return [partial(self.s.lerp_, self.r, h * share)]


@final
class Unit:
    """One population in buffers, ``(samples, units)``.

    Of leaky neurons, ds/dt = decay·(r − s), r = height·φ(u) + v is where they go with what enters
    now: u through the bend, v straight. Of others r is the slope, evaluated as it stands.
    """

    def __init__(self, net: Net, receiver: Receiver, state: Tensor, s: Tensor, r: Tensor) -> None:
        self.net, self.receiver, self.name = net, receiver, receiver.variable
        self.shape = state.shape
        rows = torch.Size(self.shape[:-1]).numel()
        self.s = s.view(rows, self.shape[-1]).copy_(state.reshape(rows, self.shape[-1]))
        self.r = r.view_as(self.s)
        self.direct = receiver.neuron.activity({self.name: state}) is state
        leak = receiver.neuron.leaky_form(self.s)
        self.leak = leak if leak is not None and bool(leak.decay.all()) else None
        self.decay: Tensor = self.s.new_ones(())
        self.height: Tensor | None = None  # None is one
        self.bend: Bend | None = None
        self.bent, self.straight = Sum(self.s, net.ordered), Sum(self.s, net.ordered)
        self.pres: list[Unit] = []
        self.version = 0
        self._buffer = self.r
        self._hearing: Operations | None = None
        self._heard: list[int] | None = None
        self._pull: Tensor | None = None

    @property
    def sums(self) -> tuple[Sum, Sum]:
        """What enters through the bend, and straight."""
        return self.bent, self.straight

    @property
    def coasts(self) -> bool:
        """Whether it hears nothing new, and all its units go there alike."""
        still = self.bend is None and self.straight.still
        return self.leak is not None and still and self.direct and self.decay.dim() == 0

    @property
    def share(self) -> float | None:
        """The leak, where it is one number and r is in its buffer."""
        alike = self.leak is not None and self.decay.dim() == 0 and self.r is self._buffer
        return float(self.decay) if alike else None

    def connect(self, named: dict[str, Unit], now: Moment) -> None:
        """Gather what enters; what is held is added up once."""
        receiver, leak = self.receiver, self.leak
        self.pres = [named[n] for c in receiver.others for n in c.hears() if n in named]
        if leak is None:
            return
        itself = [(current, current.affine(now)) for current in receiver.itself]
        decay = leak.decay
        if all(self._leaks(leak, current, affine) for current, affine in itself):
            for current, affine in itself:
                if affine is not None:
                    decay = decay + leak.gains[current.port] * affine.weight
        folds = decay is not leak.decay and bool(decay.all())
        self.decay = -decay if folds else -leak.decay
        ways = self._ways(leak)
        for port, value in receiver.held.items():
            for way, gain in ways.get(port, ()):
                way.add(times(self._rows(value), gain))
        others = [(current, current.affine(now)) for current in receiver.others]
        for current, affine in (*others, *itself):
            for way, gain in ways.get(current.port, ()):
                if affine is None or affine.pre not in named:
                    way.others.append(partial(Unit._current, proxy(self), current, gain))
                    continue
                if affine.offset is not None:
                    way.add(times(self._rows(affine.offset), gain))
                if not (folds and current in receiver.itself):
                    way.enter(named[affine.pre], self._batched(affine.weight), gain)
        if itself and not folds:
            self.pres.append(named[receiver.neuron.name])
        if self.bend is not None and self.bent.still:  # held, it is so once and for all
            known = torch.empty_like(self.s)
            self.bend.into(self.bent.into(self.r)[1], known)()
            self.straight.add(times(known, self.height))
            self.bend = None
        if self.coasts:
            self.r = self.straight.into(self._buffer)[1]

    def _leaks(self, leak: Leak, current: Current, affine: Affine | None) -> bool:
        """Whether what a population makes of its own activity is one more leak."""
        bends = leak.bend is not None and leak.bend.port == current.port
        plain = affine is not None and affine.weight.dim() == 0 and current.port in leak.gains
        return self.direct and plain and not bends

    def _ways(self, leak: Leak) -> dict[str, list[tuple[Sum, Tensor | None]]]:
        """Return where each port leads, with its gain."""
        self.straight.add(leak.rest / self.decay)
        ways: dict[str, list[tuple[Sum, Tensor | None]]] = {}
        for port, gain in leak.gains.items():
            ways.setdefault(port, []).append((self.straight, gain / self.decay))
        if leak.bend is not None:
            self.bend = leak.bend
            self.bent.add(leak.bend.shift)
            height = leak.bend.height / self.decay
            self.height = None if bool((height == 1).all()) else height
            ways.setdefault(leak.bend.port, []).append((self.bent, None))
        return ways

    def activity(self) -> Tensor:
        """Return what synapses see, ``(samples, units)``."""
        if self.direct:
            return self.s
        state = {self.name: self.s.view(self.shape)}
        return self.receiver.neuron.activity(state).reshape(self.s.shape)

    def hearing(self) -> Operations:
        """Return what takes in what enters now."""
        if self.leak is None:
            return [partial(Unit._take_slope, proxy(self))]
        if self.bend is None:
            operations, self.r = self.straight.into(self._buffer)
            return operations
        self.r = self._buffer
        operations, u = self.bent.into(self.r)
        operations.append(self.bend.into(u, self.r))
        if self.height is not None:
            operations.append(partial(self.r.mul_, self.height))
        if not self.straight.empty:
            before, v = self.straight.into(torch.empty_like(self.s))
            operations += [*before, partial(self.r.add_, v)]
        return operations

    def hear(self) -> None:
        """Take in what enters now."""
        if self._hearing is None:
            self._hearing = self.hearing()
        for operation in self._hearing:
            operation()

    def listen(self) -> bool:
        """Take in what enters, if any of it has moved since the last time; tell if it has."""
        versions = [pre.version for pre in self.pres]
        if versions == self._heard:
            return False
        self.hear()
        self._heard = versions if self.leak is not None else None
        return True

    def moving(self, h: float) -> Callable[[], object]:
        """Return what takes a step of Euler's method with what was heard."""
        if self.leak is None:
            return partial(self.s.add_, self.r, alpha=h)
        share = h * self.decay
        return partial(self.s.lerp_, self.r, float(share) if share.dim() == 0 else share)

    def rest(self) -> None:
        """Go where it rests with what was heard.

        Without a leak along a chord, by how the slope falls with the state; it is found once.
        """
        self.version += 1
        if self.leak is not None:
            self.s.copy_(self.r)
            return
        if self._pull is None:
            self._pull = 1 / (self.r - self._slope(self.s + 1))
        self.s.addcmul_(self.r, self._pull)

    def pull(self) -> Tensor:
        """Return how far a change of its slope moves each unit."""
        if self.leak is not None:
            return (1 / self.decay).expand(self.shape)
        return (torch.ones_like(self.s) if self._pull is None else self._pull).view(self.shape)

    def put(self, values: Tensor) -> None:
        """Go to another state."""
        self.version += 1
        self.s.copy_(values.reshape(self.s.shape))

    def distance(self) -> tuple[float, float]:
        """Return how far it is from where it rests with what was heard, and how fast it moves."""
        if not self.s.numel():
            return 0.0, 0.0
        if self.leak is not None:
            away = torch.sub(self.r, self.s).abs_()
            far = float(away.max())
            if self.decay.dim() == 0:
                return far, far * abs(float(self.decay))
            return far, float(away.mul_(self.decay.abs()).max())
        far = float((self.r if self._pull is None else self.r * self._pull).abs().max())
        return far, float(self.r.abs().max())

    def _slope(self, s: Tensor) -> Tensor:
        """Return the derivative of what is no leak, with its state as told."""
        receiver, state = self.receiver, self.net.view()
        state[self.name] = s.view(self.shape)
        moment = self.net._moment(state)
        received = dict(receiver.held)
        for current in (*receiver.others, *receiver.itself):
            value, port = current.forward(moment), current.port
            received[port] = received[port] + value if port in received else value
        slope: Tensor = receiver.neuron.forward(moment.t, state, received)[self.name]
        return slope.reshape(self.s.shape)

    def _take_slope(self) -> None:
        self.r.copy_(self._slope(self.s))

    def _current(self, current: Current, gain: Tensor | None) -> Tensor:
        return times(self._rows(current(self.net.moment())), gain)

    def _rows(self, value: Tensor) -> Tensor:
        """Return values of any leading shape as rows, ``(samples, units)`` or ``(units,)``."""
        value = value.to(self.s)
        return value if value.dim() < 2 else value.expand(self.shape).reshape(self.s.shape)

    def _batched(self, weight: Tensor) -> Tensor:
        """Return weights as one matrix, or one for each sample."""
        if weight.dim() <= 2:
            return weight
        return weight.expand(*self.shape[:-1], *weight.shape[-2:]).reshape(-1, *weight.shape[-2:])
