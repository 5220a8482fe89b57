"""The neurons of a relaxation in buffers: every product once a step, all else in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import final
from weakref import proxy

import torch
from torch import Tensor

from ctsigprop.affine import Affine, Bend, Leak, Target
from ctsigprop.solvers.native.relaxing import Moves
from ctsigprop.solvers.products import Ordered
from ctsigprop.solvers.sums import Operations, Sum, is_one, times
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


@dataclass(frozen=True)
class _Entering:
    """What takes in what enters a population: first u, then r = φ(u), then the rest of r."""

    first: Operations
    r: Tensor
    u: Tensor | None = None
    bend: Bend | None = None
    rest: Operations = field(default_factory=list)

    def bends_like(self, bend: Bend) -> bool:
        """Tell whether r is bent in its buffer, and in the same way."""
        return self.bend is not None and self.u is self.r and self.bend.like(bend)

    def in_turn(self) -> Operations:
        """Return all of it."""
        if self.bend is None or self.u is None:
            return [*self.first, *self.rest]
        return [*self.first, self.bend.into(self.u, self.r), *self.rest]


@final
class Net:
    """The populations of a relaxation, side by side in buffers that last as long as the net.

    They know each other, and the net, by weak references: it is freed as soon as it is let go.

    Parameters
    ----------
    receivers : sequence of Receiver
        The populations in the order of the system.
    state : State
        Whose shapes and type the buffers have, and where they are; it is copied.
    moment : callable
        ``moment(state) -> Moment``, with all that currents may read.
    native : bool
        Whether a kernel may take the steps.

    Attributes
    ----------
    ordered : Ordered
        Matrices as products take them.
    """

    def __init__(
        self,
        receivers: Sequence[Receiver],
        state: State,
        moment: Callable[[State], Moment],
        *,
        native: bool = True,
    ) -> None:
        self._moment, self.ordered = moment, Ordered()
        starts = [state[receiver.variable] for receiver in receivers]
        self._sizes = [start.numel() for start in starts]
        with torch.inference_mode(False):  # they may outlive it
            self.s, self.r = (starts[0].new_empty(sum(self._sizes)) for _ in "sr")
        self._moves = None
        if native and Moves.accepts(self.s):
            self._moves = Moves(self.s, self.r, self._sizes)
        parts = zip(receivers, starts, self._split(self.s), self._split(self.r), strict=True)
        self.units = [Unit(proxy(self), one, start.shape, s, r) for one, start, s, r in parts]
        self._named = {unit.receiver.neuron.name: proxy(unit) for unit in self.units}
        self._view = {unit.name: unit.s.view(unit.shape) for unit in self.units}
        self.put(state)
        self.connect(self._named)

    def connect(self, names: Collection[str]) -> None:
        """Gather anew what enters some populations."""
        now = self.moment()
        for name in names:
            self._named[name].connect(self._named, now)

    def read(self, moment: Callable[[State], Moment]) -> None:
        """Read other things, or at another time."""
        self._moment = moment

    def fits(self, state: State) -> bool:
        """Tell whether a state is of the shapes and the type of the buffers, and where they are."""
        s = self.s
        return all(
            state[unit.name].shape == unit.shape
            and state[unit.name].dtype == s.dtype
            and state[unit.name].device == s.device
            for unit in self.units
        )

    def put(self, state: State) -> None:
        """Go to another state."""
        torch.cat([state[unit.name].reshape(-1) for unit in self.units], out=self.s)
        for unit in self.units:
            unit.begin()

    def view(self) -> State:
        """Return the buffers by variable, as they are now."""
        return dict(self._view)

    def state(self) -> State:
        """Return copies of the states by variable."""
        parts = zip(self.units, self._split(self.s.clone()), strict=True)
        return {unit.name: values.view(unit.shape) for unit, values in parts}

    def _split(self, whole: Tensor) -> tuple[Tensor, ...]:
        return torch.split(whole, self._sizes)

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
        parts = None if self._moves is None else self._moves.steps(self.units, h, steps)
        if parts is None:
            parts = [[*self._hearing(), *self._moving(h)]]
        if sums or tell is not None:  # all wait for each other
            parts = [[one for part in parts for one in part]]
        parts[0] += [one for held in sums for one in held.follow()]
        for operations in parts:
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

    def _hearing(self) -> Operations:
        """Return what takes in what enters everywhere; where all bend alike, they do so at once."""
        parts = [unit.entering() for unit in self.units]
        bend = parts[0].bend
        if bend is None or not all(part.bends_like(bend) for part in parts):
            return [one for part in parts for one in part.in_turn()]
        first = [one for part in parts for one in part.first]
        return [*first, bend.into(self.r, self.r), *(one for part in parts for one in part.rest)]

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

    decay: Tensor | float  # of those that leak
    leak: Leak | None

    def __init__(
        self, net: Net, receiver: Receiver, shape: torch.Size, s: Tensor, r: Tensor
    ) -> None:
        self.net, self.receiver, self.name, self.shape = net, receiver, receiver.variable, shape
        rows = torch.Size(shape[:-1]).numel()
        self.s = s.view(rows, shape[-1])
        self.r = self.buffer = r.view(rows, shape[-1])
        self.direct = receiver.neuron.activity({self.name: s}) is s
        self.version = self.connected = 0
        self._pull: Tensor | None = None

    @property
    def sums(self) -> tuple[Sum, Sum]:
        """What enters through the bend, and straight."""
        return self.bent, self.straight

    @property
    def coasts(self) -> bool:
        """Whether it hears nothing new, and all its units go there alike."""
        still = self.bend is None and self.straight.still
        return self.leak is not None and still and self.direct and isinstance(self.decay, float)

    @property
    def share(self) -> float | None:
        """The leak, where it is one number and r is in its buffer."""
        alike = self.leak is not None and self.r is self.buffer
        return self.decay if alike and isinstance(self.decay, float) else None

    def _forget(self) -> None:
        """Hear nothing."""
        self.height: Tensor | float = 1.0
        self.bend: Bend | None = None
        self.bent, self.straight = (Sum(self.buffer, self.net.ordered) for _ in "bs")
        self.pres: list[Unit] = []
        self.r = self.buffer
        self._heard: list[int] | None = None
        self._hearing: Operations | None = None
        self._pull = None

    def connect(self, named: Mapping[str, Unit], now: Moment) -> None:
        """Gather what enters, anew; what is held is added up once."""
        self._forget()
        self.connected += 1
        receiver = self.receiver
        self.pres = [named[n] for c in receiver.others for n in c.hears() if n in named]
        self.leak = leak = receiver.neuron.leaky_form(self.r)
        target = None if leak is None else leak.target
        if leak is None or target is None:
            self.leak = None
            return
        itself = [(current, current.affine(now)) for current in receiver.itself]
        itself = [(c, affine) for c, affine in itself if affine is None or not affine.silent]
        folded = self._folded(leak, itself)
        ways = self._ways(leak, folded or target)
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
                if not (folded and current in receiver.itself):
                    way.enter(named[affine.pre], self._batched(affine.weight), gain)
        if itself and not folded:
            self.pres.append(named[receiver.neuron.name])
        if self.bend is not None and self.bent.still:  # held, it is so once and for all
            known = torch.empty_like(self.s)
            self.bend.into(self.bent.into(self.r)[1], known)()
            self.straight.add(times(known, self.height))
            self.bend = None
        if self.coasts:
            self.r = self.straight.into(self.buffer)[1]

    def _folded(self, leak: Leak, itself: Sequence[tuple[Current, Affine | None]]) -> Target | None:
        """Return where it goes with what it makes of its own activity as one more leak."""
        decay = leak.decay
        for current, affine in itself:
            port = current.port
            known = affine is not None and self.direct and port in leak.gains
            if not known or (leak.bend is not None and leak.bend.port == port):
                return None
            assert affine is not None
            if not isinstance(affine.weight, float):
                return None
            decay = decay + leak.gains[port] * affine.weight
        return leak.target_of(decay) if itself else None

    def _ways(self, leak: Leak, target: Target) -> dict[str, list[tuple[Sum, Tensor | float]]]:
        """Return where each port leads, with its gain."""
        self.decay, self.height, self.bend = target.rate, target.height, leak.bend
        self.straight.base, self.bent.base = self._held(target.rest), self._held(target.shift)
        ways: dict[str, list[tuple[Sum, Tensor | float]]] = {}
        for port, gain in target.gains.items():
            ways.setdefault(port, []).append((self.straight, gain))
        if leak.bend is not None:
            ways.setdefault(leak.bend.port, []).append((self.bent, 1.0))
        return ways

    def activity(self) -> Tensor:
        """Return what synapses see, ``(samples, units)``."""
        if self.direct:
            return self.s
        state = {self.name: self.s.view(self.shape)}
        return self.receiver.neuron.activity(state).reshape(self.s.shape)

    def entering(self) -> _Entering:
        """Return what takes in what enters now."""
        if self.leak is None:
            return _Entering([partial(Unit._take_slope, proxy(self))], self.r)
        if self.bend is None:
            operations, self.r = self.straight.into(self.buffer)
            return _Entering(operations, self.r)
        self.r = self.buffer
        first, u = self.bent.into(self.r)
        rest: Operations = []
        if not is_one(self.height):
            rest.append(partial(self.r.mul_, self.height))
        if not self.straight.empty:
            parts, v = self.straight.into(torch.empty_like(self.s))
            rest += [*parts, partial(self.r.add_, v)]
        return _Entering(first, self.r, u, self.bend, rest)

    def hear(self) -> None:
        """Take in what enters now."""
        if self._hearing is None:
            self._hearing = self.entering().in_turn()
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
        return partial(self.s.lerp_, self.r, h * self.decay)

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
            return torch.as_tensor(1 / self.decay).to(self.s).expand(self.shape)
        return (torch.ones_like(self.s) if self._pull is None else self._pull).view(self.shape)

    def begin(self) -> None:
        """Take note that its state is another one, from which to start."""
        self.version += 1
        self._pull = None

    def put(self, values: Tensor) -> None:
        """Go on at another state."""
        self.version += 1
        self.s.copy_(values.reshape(self.s.shape))

    def distance(self) -> tuple[float, float]:
        """Return how far it is from where it rests with what was heard, and how fast it moves."""
        if not self.s.numel():
            return 0.0, 0.0
        if self.leak is not None:
            away = torch.sub(self.r, self.s).abs_()
            far = float(away.max())
            if isinstance(self.decay, float):
                return far, far * abs(self.decay)
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

    def _current(self, current: Current, gain: Tensor | float) -> Tensor:
        return times(self._rows(current(self.net.moment())), gain)

    def _rows(self, value: Tensor) -> Tensor:
        """Return values of any leading shape as rows, ``(samples, units)`` or ``(units,)``."""
        value = value.to(self.s)
        return value if value.dim() < 2 else value.expand(self.shape).reshape(self.s.shape)

    def _held(self, value: Tensor | float) -> Tensor | None:
        """Return what is held, if it is anything."""
        if isinstance(value, float):
            return self.s.new_tensor(value) if value else None
        return value

    def _batched(self, weight: Tensor | float) -> Tensor | float:
        """Return weights as one matrix, or one for each sample."""
        if isinstance(weight, float) or weight.dim() <= 2:
            return weight
        return weight.expand(*self.shape[:-1], *weight.shape[-2:]).reshape(-1, *weight.shape[-2:])
