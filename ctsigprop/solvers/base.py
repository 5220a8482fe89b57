"""What a solver is given, what it hands back, and what every solver shares."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as attribute
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ctsigprop.errors import NonFiniteError, unknown
from ctsigprop.solvers.events import Event, EventRecord
from ctsigprop.terms import State

if TYPE_CHECKING:
    from ctsigprop.signals import Signal
    from ctsigprop.system import System

__all__ = [
    "Field",
    "Layout",
    "Problem",
    "Recorder",
    "Solver",
    "State",
    "Statistics",
    "slices",
    "unheard",
]

Field = Callable[[Tensor, State], State]


def slices(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, slice]:
    """Return where each tensor lies in a row of the numbers of all, in their order.

    >>> slices({"s": (3,), "W": (3, 2)})
    {'s': slice(0, 3, None), 'W': slice(3, 9, None)}
    """
    ends = itertools.accumulate((math.prod(shape) for shape in shapes.values()), initial=0)
    return {name: slice(*part) for name, part in zip(shapes, itertools.pairwise(ends), strict=True)}


class Layout:
    """The two forms of a state: named tensors, and one row of numbers for each sample.

    A sample is what may take steps of its own: one element of the batch, or, where a variable is
    shared by the whole batch (weights that learn from all presentations at once), the whole batch.

    Parameters
    ----------
    state : mapping of str to Tensor
        Each of shape ``(*batch, *dims)``, or ``dims`` alone for a shared variable.
    dims : mapping of str to tuple of int
        The sizes of each variable's own dims.
    batch : tuple of int
        The leading axes.
    together : bool
        Whether the whole batch is one sample, though nothing is shared.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        dims: Mapping[str, tuple[int, ...]],
        batch: tuple[int, ...],
        together: bool = False,
    ) -> None:
        self.batch = tuple(batch)
        self.names = tuple(state)
        self.dims = {name: tuple(dims[name]) for name in state}
        self.shapes = {name: tuple(state[name].shape) for name in state}
        self.coupled = bool(self.batch) and (
            together or any(len(self.shapes[name]) == len(self.dims[name]) for name in state)
        )
        self.samples = 1 if self.coupled else torch.Size(self.batch).numel()
        own = self.shapes if self.coupled else self.dims
        self.slices = slices({name: own[name] for name in self.names})
        self.size = sum(part.stop - part.start for part in self.slices.values())

    def pack(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the state as one tensor of shape ``(samples, size)``."""
        if len(self.names) == 1:
            return state[self.names[0]].reshape(self.samples, self.size)
        rows = [
            state[name].reshape(self.samples, part.stop - part.start)
            for name, part in self.slices.items()
        ]
        return torch.cat(rows, dim=1)

    def unpack(self, flat: Tensor) -> State:
        """Return views of a ``(samples, size)`` tensor by name; leading axes are kept."""
        lead = flat.shape[:-2]
        if len(self.names) == 1:
            name = self.names[0]
            return {name: flat.reshape((*lead, *self.shapes[name]))}
        return {
            name: flat[..., part].reshape((*lead, *self.shapes[name]))
            for name, part in self.slices.items()
        }

    def changed(self, state: State, new: Mapping[str, Tensor], by: str) -> State:
        """Return the state with new values of some variables; refuse names and shapes that misfit.

        `by` says for the message where they come from.
        """
        values = dict(state)
        for name, value in new.items():
            if name not in state:
                raise ValueError(f"{by}: {unknown('variable', name, self.names)}")
            try:
                values[name] = value.expand_as(state[name]).to(state[name].dtype)
            except RuntimeError:
                raise ValueError(
                    f"{by}: '{name}' must have shape {tuple(state[name].shape)}; "
                    f"got {tuple(value.shape)}"
                ) from None
        return values

    def clock(self, t: Tensor) -> Tensor:
        """Return times given for each sample, ``(samples,)``, in the shape a field takes."""
        return t.reshape(()) if self.coupled else t.reshape(self.batch)

    def locate(self, sample: int, position: int) -> tuple[str, tuple[int, ...]]:
        """Return the variable, and the index into it, of one number of the packed state."""
        for name, part in self.slices.items():
            if part.start <= position < part.stop:
                offset = (
                    position
                    - part.start
                    + (0 if self.coupled else sample) * (part.stop - part.start)
                )
                index: list[int] = []
                for size in reversed(self.shapes[name]):
                    offset, rest = divmod(offset, size)
                    index.append(rest)
                return name, tuple(reversed(index))
        raise IndexError(f"position {position} is outside a state of {self.size} numbers")


@dataclass
class Statistics:
    """What a run cost.

    Attributes
    ----------
    evaluations, steps, rejections : int
        Calls of the right-hand side, accepted and rejected steps (the largest count of any
        sample where samples step on their own).
    seconds : float
        Wall time.
    low_rank : tuple of str
        The weights that were stepped by their factors; all others were stepped as they are.
    taped, repeated : int
        Where gradients are wanted within a limit of memory: steps whose graph is kept, and steps
        (and evaluations at jumps) that are repeated for their gradient.
    native : bool
        Whether a kernel compiled from the text of the equations took the steps.
    slow : tuple of str
        The variables that were averaged over the motion of the others.
    estimates : dict of str to float
        Estimated relative errors of these, by cause, and in total; see `Averaging`.
    hoisted : tuple of str
        The currents that were computed once for a whole stretch, because what they carry was held.
    """

    evaluations: int = 0
    steps: int = 0
    rejections: int = 0
    seconds: float = 0.0
    low_rank: tuple[str, ...] = ()
    taped: int = 0
    repeated: int = 0
    native: bool = False
    slow: tuple[str, ...] = ()
    estimates: dict[str, float] = attribute(default_factory=dict)
    hoisted: tuple[str, ...] = ()

    def add(self, other: Statistics) -> None:
        """Add the cost of another stretch of the same run."""
        self.evaluations += other.evaluations
        self.steps += other.steps
        self.rejections += other.rejections
        self.taped += other.taped
        self.repeated += other.repeated
        self.native = other.native
        self.low_rank, self.slow = other.low_rank, other.slow
        self.estimates = dict(other.estimates)
        self.hoisted = other.hoisted


class Recorder:
    """Rows of output as a solver reaches them, so that nothing is lost when a run stops early."""

    def __init__(self, layout: Layout, rows: int) -> None:
        self.layout = layout
        self.rows = rows
        self.done = torch.zeros(layout.samples, dtype=torch.long)
        self.events: list[EventRecord] = []
        self.statistics = Statistics()
        self._whole: dict[int, Tensor] = {}
        self._pieces: list[tuple[Tensor, Tensor, Tensor]] = []

    def row(self, index: int, state: Mapping[str, Tensor]) -> None:
        """Record output number `index` of every sample."""
        self._whole[index] = self.layout.pack(state)
        self.done[:] = index + 1

    def packed(self, index: int, row: Tensor) -> None:
        """Record output number `index` of every sample: rows of numbers, ``(samples, size)``."""
        self._whole[index] = row
        self.done[:] = index + 1

    def scatter(self, index: Tensor, sample: Tensor, values: Tensor) -> None:
        """Record outputs ``index[k]`` of samples ``sample[k]``: values of shape ``(k, size)``."""
        self._pieces.append((index, sample, values))
        self.done[sample.cpu()] = torch.maximum(self.done[sample.cpu()], index.cpu() + 1)

    @property
    def lengths(self) -> Tensor:
        """How many leading rows each sample has."""
        return self.done.clone()

    def states(self) -> State:
        """Return every variable, ``(rows reached, *batch, *dims)``; rows not reached are NaN."""
        reached = int(self.done.max()) if self.done.numel() else self.rows
        if not self._pieces:
            flat = torch.stack([self._whole[i] for i in range(reached)])
            return self.layout.unpack(flat)
        first = self._pieces[0][2]
        flat = first.new_full((self.rows, self.layout.samples, self.layout.size), torch.nan)
        for i, values in self._whole.items():
            flat[i] = values
        index = torch.cat([piece[0] for piece in self._pieces])
        sample = torch.cat([piece[1] for piece in self._pieces])
        flat = flat.index_put((index, sample), torch.cat([piece[2] for piece in self._pieces]))
        return self.layout.unpack(flat[:reached])


def unheard(t: Tensor, state: State, derivative: State | None) -> None:
    """Take no note of an accepted step."""
    del t, state, derivative


@dataclass(frozen=True)
class Problem:
    """A checked initial value problem, as `solve` hands it to a solver.

    Attributes
    ----------
    field : callable
        ``field(t, state) -> derivative``. A variable may be missing from the derivative: it is at
        rest. `t` is float64, of shape ``()`` or ``batch``.
    linear : callable or None
        ``linear(t, state) -> {name: a}`` with dy/dt = a·y + rest, for exponential methods.
    y0 : State
        The state at ``t[..., 0]``.
    layout : Layout
        How the state packs into rows.
    t : Tensor
        float64 output times, ``(n,)`` or ``(*batch, n)``, strictly monotonic, the first one the
        start.
    jumps : Tensor
        Sorted float64 times, ``(j,)``, strictly inside the span, where the field may jump: a step
        ends there, and the next starts with the value on the other side.
    system : System
        For back ends that need the equations.
    inputs : mapping of str to Signal
        Signals of its sources by name, where they are not their own.
    events : tuple of Event
        What to watch for.
    recorder : Recorder
        Takes rows, events and statistics as they come.
    accepted : callable
        ``accepted(t, state, derivative)`` after each accepted step (derivative may be None):
        progress and history.
    dense : bool
        Whether an interpolant of the whole run is wanted.
    """

    field: Field
    y0: State
    layout: Layout
    t: Tensor
    jumps: Tensor
    system: System
    recorder: Recorder
    inputs: Mapping[str, Signal] = attribute(default_factory=dict)
    linear: Field | None = None
    events: tuple[Event, ...] = ()
    accepted: Callable[[Tensor, State, State | None], None] = unheard
    dense: bool = False

    def derivative(self, t: Tensor, flat: Tensor) -> Tensor:
        """Evaluate the field on packed rows, ``(samples, size)``; `t` is ``(samples,)`` or ()."""
        self.recorder.statistics.evaluations += 1
        clock = self.layout.clock(t) if t.dim() else t
        values = self.field(clock, self.layout.unpack(flat))
        if len(values) == len(self.layout.names):
            return self.layout.pack(values)
        state = self.layout.unpack(flat)
        return self.layout.pack(
            {
                name: values[name] if name in values else torch.zeros_like(state[name])
                for name in self.layout.names
            }
        )

    def segments(self) -> Iterator[Segment]:
        """Yield the stretches between jumps, each with a field that never sees past its end."""
        if self.t.dim() > 1:
            raise ValueError(
                "times of their own for each sample need a solver that steps over jumps itself: "
                "Tsit5, Dopri5 or BogackiShampine"
            )
        start, stop = self.t[0].detach(), self.t[-1].detach()
        forward = bool(stop >= start)
        inside = self.jumps if forward else self.jumps.flip(0)
        edges = [start, *inside.unbind(), stop]
        for a, b in itertools.pairwise(edges):
            after = (self.t > a) & (self.t <= b) if forward else (self.t < a) & (self.t >= b)
            rows = torch.nonzero(after).flatten()
            ends_on_row = bool(rows.numel()) and bool(self.t[rows[-1]] == b)
            first = self.t[:1] if a is start else a.reshape(1)
            times = torch.cat([first, self.t[rows]] + ([] if ends_on_row else [b.reshape(1)]))
            low, high = (a, b) if forward else (b, a)
            yield Segment(
                t=times,
                rows=rows.tolist(),
                field=_clamped(self.field, low, high),
                linear=None if self.linear is None else _clamped(self.linear, low, high),
            )

    def require_finite(self, t: Tensor, flat: Tensor, what: str) -> None:
        """Raise `NonFiniteError` naming the first number of a packed tensor that is not finite."""
        bad = ~torch.isfinite(flat.detach())
        if bool(bad.any()):
            sample, position = (int(i) for i in torch.nonzero(bad)[0])
            variable, component = self.layout.locate(sample, position)
            time = t.detach().reshape(-1)
            raise NonFiniteError(
                time=float(time[sample if time.numel() > 1 else 0]),
                variable=variable,
                component=component,
                cause=f"{what} is {float(flat.detach()[sample, position])}; "
                "look for a division by zero, an exponential or a root out of its range",
            )


@dataclass(frozen=True)
class Segment:
    """A stretch of time without jumps: ``t[0]`` its start, ``t[-1]`` its end.

    ``rows[k]`` is the output that ``t[1 + k]`` belongs to; the end is in `t` even where it is no
    output.
    """

    t: Tensor
    rows: list[int]
    field: Field
    linear: Field | None


def _clamped(function: Field, low: Tensor, high: Tensor) -> Field:
    last = torch.nextafter(high, low)  # at a jump the field has the value that follows it

    def inside(t: Tensor, state: State) -> State:
        # the value is clamped, the gradient is not: the end of the span may be differentiated
        return function(t + (t.clamp(min=low, max=last) - t).detach(), state)

    return inside


@dataclass(frozen=True)
class Solver(abc.ABC):
    """One way to integrate; its options are its fields.

    Class attributes say what it can do, and `solve` refuses what it cannot: `gradients` (autograd
    runs through it), `events`, `delays` (fixed steps with a history), `ragged` (times of their own
    for each sample), `interpolates` (dense output).
    """

    gradients: ClassVar[bool] = True
    events: ClassVar[bool] = False
    delays: ClassVar[bool] = False
    ragged: ClassVar[bool] = False
    interpolates: ClassVar[bool] = False

    @abc.abstractmethod
    def integrate(self, problem: Problem) -> Callable[[Tensor], State] | None:
        """Fill ``problem.recorder``; return the interpolant where one was asked for."""

    def with_options(self, **options: Any) -> Solver:
        """Return the same method with other options."""
        return replace(self, **options)
