"""The motion of the fast variables while the slow ones rest, and the averages over it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from ctsigprop.errors import SeparationError
from ctsigprop.models.synapses import Synapse
from ctsigprop.signals import Signal
from ctsigprop.solvers.anderson import Anderson
from ctsigprop.solvers.base import Problem, State, slices
from ctsigprop.solvers.explicit.onestep import phi1
from ctsigprop.solvers.slow.cycle import Cycle, Stretch
from ctsigprop.solvers.slow.forward import forward_path
from ctsigprop.solvers.slow.split import Split
from ctsigprop.terms import Moment

__all__ = ["Motion", "Settled"]

SWEEPS = 200
MEMORY = 7  # of the extrapolation
SLOW_SWEEP = 0.3  # a sweep that leaves more of the residual is extrapolated


@dataclass(frozen=True)
class Settled:
    """The motion for slow variables `W`, named `slow`: fast columns at the nodes, and the means.

    `rest` is what drives the fast columns besides their leak, ds/dt − a s; `rate` the mean dW/dt.
    """

    W: Tensor
    slow: State
    fast: Tensor
    rest: Tensor
    rate: Tensor


@dataclass(frozen=True)
class _Group:
    """Nodes with one mean (None: all), their share of the cycle, and the sources there."""

    nodes: slice | Tensor | None
    share: float
    inputs: dict[str, Tensor]


@final
class Motion:
    """Periodic fast variables s(t) for slow variables w at rest: ds/dt = f(t, s, w), s(0) = s(T).

    All nodes of a cycle are evaluated at once. With the leak a of each variable taken out,

        s = (d/dt − a)⁻¹ [f(t, s, w) − a s]

    is iterated to a fixed point: in a network without loops each sweep settles one layer more, so
    that their number is known; with loops the sweeps are extrapolated (Anderson's acceleration).

    Parameters
    ----------
    problem : Problem
        What is solved.
    split : Split
        Which variables are slow.
    cycle : Cycle
        The nodes.
    tol : float
        The largest relative change by a sweep at which the motion counts as periodic.

    References
    ----------
    Anderson 1965, J. ACM 12:547-560; Walker & Ni 2011, SIAM J. Numer. Anal. 49:1715-1735.
    """

    def __init__(self, problem: Problem, split: Split, cycle: Cycle, tol: float) -> None:
        self.problem, self.split, self.tol = problem, split, tol
        self.system, self.batch = problem.system, problem.layout.batch
        self.path = forward_path(problem, split.fast)
        like = problem.y0[split.fast[0]]
        self.device, self.dtype = like.device, like.dtype
        slowest = max((a for a in split.rates.values() if a < 0), default=-1.0)
        self.rates = {name: a if a < 0 else slowest for name, a in split.rates.items()}
        self.columns = slices({name: split.shapes[name] for name in split.fast})
        self.width = sum(part.stop - part.start for part in self.columns.values())
        self.leak = like.new_zeros(self.width)
        for name, part in self.columns.items():
            self.leak[part] = self.rates[name]
        self._arrange()
        self._place(cycle)

    def on(self, cycle: Cycle) -> Motion:
        """Return the same on other nodes."""
        other = copy.copy(self)
        other._place(cycle)
        return other

    def _arrange(self) -> None:
        """Find what moves while the slow variables rest, and what averages over nodes."""
        split, system = self.split, self.system
        own = {c: {v.name for v in c.variables} for c in system.currents}
        self.moving = [c for c, names in own.items() if names & set(split.fast)]
        learning = [c for c, names in own.items() if names & set(split.slow)]
        synapses = [c for c in learning if isinstance(c, Synapse)]
        self.together = len(synapses) == len(learning) and all(
            c.shared or not self.batch for c in synapses
        )
        for c in self.moving:
            if isinstance(c, Synapse) and c.shared and len(c.plasticity):
                raise ValueError(
                    f"{c.name} is shared by a batch, and keeps variables that are fast: name them "
                    "in slow=(...), or use Projective"
                )
        self.learning = [_averaging(c) for c in synapses] if self.together else []
        self.loose = [name for name in split.slow if not any(name in own[c] for c in synapses)]
        self.whole = {
            name: any(name in own[c] for c in synapses)
            and len(split.shapes[name]) == len(self.problem.layout.dims[name])
            for name in split.slow
        }

    def _place(self, cycle: Cycle) -> None:
        """Take the nodes of a cycle."""
        self.cycle = cycle
        self.times = cycle.t.to(self.device)
        self.clock = self.times.reshape(-1, *[1] * len(self.batch)).expand(-1, *self.batch)
        circular = not isinstance(cycle, Stretch)
        greens = {a: cycle.green(a) for a in set(self.rates.values()) if circular}
        self.greens = [(self.columns[n], greens[a]) for n, a in self.rates.items() if circular]
        self.alike = len(greens) == 1
        self.inputs = {source.name: self._values(source.name) for source in self.system.sources}
        levels = [cycle.share.tolist(), *(_level(g, self.times).tolist() for g in self._gates())]
        self.kinds = [tuple(round(x, 14) for x in node) for node in zip(*levels, strict=True)]
        self.groups = self._groups(range(len(self.times)))
        self.known = self.start(self.problem.y0)
        self._settled: Settled | None = None

    def _values(self, name: str) -> Tensor:
        """Return the activity of a source at all nodes, ``(nodes, *batch, size)``."""
        source = next(s for s in self.system.sources if s.name == name)
        signal = self.problem.inputs.get(name, source.signal)
        assert signal is not None
        if not self.batch:
            value = source.values(signal, self.times)
            return value.expand(len(self.times), value.shape[-1]).to(self.dtype)
        values = [source.values(signal, t.expand(self.batch)) for t in self.times]
        return torch.stack([v.expand(*self.batch, v.shape[-1]) for v in values]).to(self.dtype)

    def _gates(self) -> list[Signal]:
        rules = [rule for c in self.learning for rule in c.plasticity]
        return [rule.gate for rule in rules if rule.gate is not None]

    def _groups(self, nodes: Sequence[int]) -> list[_Group]:
        """Return the nodes that weigh the same and have the same gates: one mean for each."""
        found: dict[tuple[float, ...], list[int]] = {}
        for m in nodes:
            found.setdefault(self.kinds[m], []).append(m)
        groups: list[_Group] = []
        for kind, members in found.items():
            weight = len(members) * kind[0]
            if len(members) == len(self.kinds):
                return [_Group(None, weight, self.inputs)]
            first, last = members[0], members[-1]
            row = last - first + 1 == len(members)
            index = slice(first, last + 1) if row else torch.tensor(members, device=self.device)
            inputs = {name: value[index] for name, value in self.inputs.items()}
            groups.append(_Group(index, weight, inputs))
        return groups

    def start(self, state: State) -> Tensor:
        """Return one fast state at every node, ``(nodes, columns)``."""
        return self.split.flat(state).expand(len(self.times), -1)

    def named(self, fast: Tensor) -> State:
        """Return fast columns by name, leading axes kept."""
        return {
            name: fast[..., part].reshape(*fast.shape[:-1], *self.split.shapes[name])
            for name, part in self.columns.items()
        }

    def _slow(self, slow: State, lead: torch.Size) -> State:
        return {
            name: value if self.whole[name] else value.expand(*lead, *value.shape)
            for name, value in slow.items()
        }

    def slopes(
        self,
        fast: Tensor,
        slow: State,
        t: Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the derivatives of fast columns, at all nodes or at a time for many states."""
        self.problem.recorder.statistics.evaluations += 1
        t, inputs = (self.clock, self.inputs) if t is None or inputs is None else (t, inputs)
        lead = fast.shape[:-1]
        state = {**self.named(fast), **self._slow(slow, lead)}
        moment = Moment(t, state, self.system.populations, {}, known=inputs)
        rates = moment.derivative
        rates.update(self.system.slopes(moment))
        for current in self.moving:
            rates.update(current.derivative(moment))
        if len(self.columns) == 1:
            (name,) = self.columns
            if name in rates:
                return rates[name].reshape(*lead, -1)
        flat = torch.zeros_like(fast)
        for name, part in self.columns.items():
            if name in rates:
                flat[..., part] = rates[name].reshape(*lead, -1)
        return flat

    def driven(
        self,
        fast: Tensor,
        slow: State,
        t: Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return what drives fast columns besides their leak, ds/dt − a s; see `slopes`."""
        return torch.addcmul(self.slopes(fast, slow, t, inputs), self.leak, fast, value=-1.0)

    def settled(self, W: Tensor) -> Settled:
        """Return the motion for slow variables as a vector; that asked for last is kept."""
        if self._settled is None or self._settled.W is not W:
            slow = self.split.unpack(W)
            fast, rest = self.settle(slow)
            rate = self.average(slow, fast, rest)
            self._settled = Settled(W, slow, fast, rest, rate)
        return self._settled

    def settle(self, slow: State, drift: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the periodic motion at the nodes and what drives it, ``(nodes, columns)`` each.

        It is found from the last one. Where the slow variables move, and with them the motion by
        `drift` in a time unit, it lags: drift is taken from ds/dt.

        Raises
        ------
        SeparationError
            The sweeps do not come to rest.
        """
        found = (self._through if self.path else self._around)(slow, drift)
        self.known = found[0]
        return found

    def _through(self, slow: State, drift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sweep once for each layer of a network without loops."""
        assert self.path is not None
        s = rest = self.known
        for _ in range(self.path.depth):
            s, rest = self._sweep(s, slow, drift)
        if math.isfinite(float(s.sum())):
            return s, rest
        raise SeparationError(
            time=float(self.problem.t[0]),
            cause=f"the periodic motion of {', '.join(self.split.fast)} is not finite",
        )

    def _around(self, slow: State, drift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sweep until nothing changes."""
        s, memory = self.known, Anderson(MEMORY)
        before = math.inf
        patience = len(self.system.neurons) + 1
        for sweep in range(SWEEPS):
            new, rest = self._sweep(s, slow, drift)
            left = float((new - s).abs().max())
            scale = float(new.abs().max())
            if not math.isfinite(left):
                break
            if left <= self.tol * max(scale, 1e-30) or left == 0:
                return new, rest
            memory.remember(s.reshape(1, -1), new.reshape(1, -1))
            late = sweep > patience and left > SLOW_SWEEP * before
            s = memory.extrapolate().view_as(new) if late else new
            before = left
        raise SeparationError(
            time=float(self.problem.t[0]),
            cause=f"the iteration for the periodic motion of {', '.join(self.split.fast)} does not "
            f"settle in {SWEEPS} sweeps: strong loops, or neurons that oscillate by themselves; "
            "where they do forget their start, use Projective",
        )

    def _sweep(self, s: Tensor, slow: State, drift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the periodic answer to what drives the fast columns, and what that is."""
        rest = self.driven(s, slow)
        return self._answer(rest if drift is None else rest - drift), rest

    def _answer(self, rest: Tensor) -> Tensor:
        if self.alike:
            return self.greens[0][1](rest)
        new = torch.empty_like(rest)
        for part, green in self.greens:
            new[:, part] = green(rest[:, part])
        return new

    def average(
        self, slow: State, fast: Tensor, rest: Tensor, nodes: Sequence[int] | None = None
    ) -> Tensor:
        """Return the mean derivative of the slow variables over the cycle, or over some nodes.

        `fast` and `rest` are the fast columns and what drives them, at all nodes.
        """
        groups = self.groups if nodes is None else self._groups(nodes)
        if not self.together:
            return self._one_by_one(slow, fast, nodes)
        total: dict[str, Tensor] = {}
        weight = sum(group.share for group in groups)
        for group in groups:
            clock, s, r = self.clock, fast, rest
            if group.nodes is not None:
                clock, s, r = (v[group.nodes] for v in (clock, s, r))
            state = {**self.named(s), **self._slow(slow, s.shape[:1])}
            now = Moment(
                *(clock, state, self.system.populations, {}),
                known=group.inputs,
                slopes=partial(self._slopes_of, s, r),
            )
            if self.loose:
                now.derivative = self.system.slopes(now)
            self.problem.recorder.statistics.evaluations += 1
            change: dict[str, Any] = {}
            for current in self.learning:
                change.update(current.derivative(now))
            for name in self.loose:
                change[name] = now.derivative[name]
            for name, value in change.items():
                if name in self.split.parts:
                    rank = len(self.split.shapes[name])
                    mean = value.flatten(0, -rank - 1).mean(0) if value.dim() > rank else value
                    if len(groups) > 1:
                        mean = (group.share / weight) * mean
                    total[name] = total[name] + mean if name in total else mean
        for name in self.split.slow:
            if name not in total:
                total[name] = torch.zeros_like(self.problem.y0[name])
        return self.split.pack(total)

    def _slopes_of(self, fast: Tensor, rest: Tensor) -> State:
        return self.named(torch.addcmul(rest, self.leak, fast))

    def rate(self, t: float, W: Tensor) -> Tensor:
        """Return dW/dt of slow variables as a vector."""
        del t
        return self.settled(W).rate

    def project(self, W: Tensor) -> Tensor:
        """Return weights inside their signs and bounds."""
        return self.split.projected(self.problem, W)

    def _one_by_one(self, slow: State, fast: Tensor, nodes: Sequence[int] | None) -> Tensor:
        nodes = range(len(self.times)) if nodes is None else nodes
        weight = float(self.cycle.share[list(nodes)].sum())
        total: Tensor | float = 0.0
        for m in nodes:
            rates = self.rates_at(self.times[m], slow, self.named(fast[m]))
            total = total + float(self.cycle.share[m]) / weight * rates
        assert isinstance(total, Tensor)
        return total

    def rates_at(self, t: Tensor, slow: State, fast: State) -> Tensor:
        """Return the derivative of the slow variables at one time."""
        self.problem.recorder.statistics.evaluations += 1
        clock = t if self.problem.layout.coupled else t.expand(self.batch)
        state = {**fast, **slow}
        rates = self.problem.field(clock, {name: state[name] for name in self.split.shapes})
        return self.split.pack(
            {k: rates[k] if k in rates else torch.zeros_like(slow[k]) for k in self.split.slow}
        )

    def at(self, t: float, rest: Tensor, drift: Tensor | None = None) -> State:
        """Return the periodic motion at any time of the cycle, from what drives it at the nodes."""
        rest = rest if drift is None else rest - drift
        flat = rest.new_empty(self.width)
        rows: dict[int, Tensor] = {}
        for part, green in self.greens:
            row = rows.setdefault(id(green), green.row(t).to(rest))
            flat[part] = row @ rest[:, part]
        return self.named(flat)

    def march(self, slow: State, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Return fast columns at all nodes of a stretch, and what drives them besides their leak.

        Both are ``(nodes, starts, columns)``. Steps of the exponential midpoint rule from states
        ``(starts, columns)``; in a network without loops all of them at once, layer after layer.
        """
        assert isinstance(self.cycle, Stretch)
        h = self.cycle.step
        if self.path:
            return self._at_once(slow, starts, h)
        half, whole = (step * phi1(step * self.leak) for step in (h / 2, h))
        s, path = starts, []
        drive: list[Tensor] = []
        for k, now in enumerate(self.clock):
            inputs = {name: value[k] for name, value in self.inputs.items()}
            clock = now.expand(len(starts), *self.batch)
            drive = drive or [self.driven(s, slow, clock, inputs)] * 2
            rest = torch.lerp(drive[-2], drive[-1], 1.75)  # half way to the middle
            path.append(torch.addcmul(s, half, torch.addcmul(rest, self.leak, s)))
            drive.append(self.driven(path[-1], slow, clock, inputs))
            s = torch.addcmul(s, whole, torch.addcmul(drive[-1], self.leak, s))
        return torch.stack(path), torch.stack(drive[2:])

    def _at_once(self, slow: State, starts: Tensor, h: float) -> tuple[Tensor, Tensor]:
        """Return what `march` does: in the middle of step k a sum over those before it.

        e^((k+½)ha) s_0 + Σ_(j<k) e^((k-½-j)ha) h φ₁(ha) r_j + (h/2) φ₁(ha/2) r_k.
        """
        assert self.path is not None
        count = len(self.times)
        inputs = {name: value.unsqueeze(1) for name, value in self.inputs.items()}
        clock = self.clock.unsqueeze(1).expand(count, len(starts), *self.batch)
        steps = torch.arange(count, dtype=starts.dtype, device=starts.device)
        late = (steps[:, None] - steps - 0.5).clamp(min=0)
        first = torch.exp(h * (steps[:, None, None] + 0.5) * self.leak) * starts
        kernels = {}
        for a in set(self.rates.values()):
            z = torch.tensor(h * a).to(starts)
            kernels[a] = torch.tril(torch.exp(z * late), -1) * (h * phi1(z))
            kernels[a].diagonal().fill_(0.5 * h * phi1(0.5 * z))
        s = rest = starts.expand(count, *starts.shape)
        for _ in range(self.path.depth):
            rest = self.driven(s, slow, clock, inputs)
            s = first.clone()
            for name, part in self.columns.items():
                kernel = kernels[self.rates[name]]
                s[..., part] += (kernel @ rest[..., part].flatten(1)).view_as(s[..., part])
        return s, rest


def _averaging(synapse: Synapse) -> Synapse:
    """Return a synapse that takes nodes for a batch: it returns the mean over them."""
    same = copy.copy(synapse)
    same.shared = True
    return same


def _level(gate: Signal, t: Tensor) -> Tensor:
    value: Tensor = gate(t)
    return value.to(torch.float64).expand(len(t))
