"""Explicit methods on weights that plasticity moves by outer products: exact, at less cost.

The weights of a step are W = diag(d) W_0 + M Fᵀ (`lowrank`). With F the presynaptic factors of the
stages, the coordinates (d, M) obey dd/dt = decay·d, dM/dt = decay·M + [post factors in their
columns]: an ordinary system, small, which any Runge-Kutta method steps as it steps the neurons.
Stages with the same presynaptic factor, as under a held input, share their column, and W_0 is
written when the columns are full. What comes out is what stepping W itself gives, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from ctsigprop.lowrank import Alike, Factors, LowRank, Products
from ctsigprop.solvers.base import Layout, Problem, Recorder, State
from ctsigprop.solvers.explicit.control import Control, Tolerance, root_mean_square
from ctsigprop.solvers.explicit.onestep import Derivative, RungeKutta, Step
from ctsigprop.solvers.explicit.tableaus import Tableau

__all__ = ["Structured", "StructuredControl", "StructuredSteps", "structured"]

SMALLEST = 30_000
"""Weights fewer than this are stepped as they are: there the bookkeeping costs more."""

COLUMNS = 14
"""How many columns are gathered before W_0 is written, at least those of one step."""

CANCELLED = 1e-10
"""A norm below this share of its terms is summed entry by entry."""


def structured(problem: Problem, tableau: Tableau, *, measured: bool) -> Structured | None:
    """Return the problem in coordinates of its weights, if it is one for which that pays.

    `measured` says whether norms of the weights will be asked for.
    """
    layout, system = problem.layout, problem.system
    if torch.is_grad_enabled() or problem.events or problem.dense:
        return None
    if layout.samples != 1 or problem.t.dim() > 1 or system.delay:
        return None
    if not all(neuron.secluded for neuron in system.neurons):
        return None
    batch = math.prod(layout.batch)
    weights: list[_Weights] = []
    for current in system.currents:
        learned = [v for v in current.variables if v.name == current.name]
        if not learned:
            continue
        name, products = current.name, current.products
        w = problem.y0.get(name)
        if products is None or w is None or w.dim() != 2 or w.numel() < SMALLEST:
            return None
        rank = products[0] * (batch if layout.batch else 1)
        stages = tableau.closed().stages
        if 2 * rank * stages > min(w.shape):  # no longer low
            return None
        by_row = products[1] != "column"
        weights.append(_Weights(name, w, by_row, rank, stages - 1, measured))
    return Structured(problem, weights) if weights else None


@final
class _Weights:
    """One matrix of weights: what W_0 is now, and the columns gathered since it was written."""

    def __init__(
        self, name: str, w: Tensor, by_row: bool, rank: int, fresh: int, measured: bool
    ) -> None:
        self.measured = measured
        self.name, self.base, self.by_row, self.rank = name, w.clone(), by_row, rank
        self.moving, self.fixed = w.shape if by_row else w.shape[::-1]
        # a step begins with one block, and a jump of the field may need one more
        self.fresh = fresh
        self.blocks = 2 + fresh * max(1, (COLUMNS // max(1, rank) - 2) // fresh)
        self.columns = self.blocks * rank
        self.F = w.new_zeros(self.fixed, self.columns)
        self.product = w.new_zeros(self.moving, self.columns)  # W_0 F, or its transpose
        self.gram = w.new_zeros(self.columns, self.columns)
        self.square = self._squares() if measured else w.new_zeros(self.moving)
        self.through = Products(self.base)
        self.placed: list[Alike] = []  # what stands in each block
        self.kept = 0  # how many of them the state and its derivative need
        self.latest: Factors | None = None

    def _squares(self) -> Tensor:
        """Return the squared norm of each row, or column, that d scales."""
        norms: Tensor = torch.linalg.vector_norm(self.base, dim=1 if self.by_row else 0)
        return norms.square_()

    @property
    def used(self) -> int:
        """How many columns are in use."""
        return len(self.placed) * self.rank

    @property
    def full(self) -> bool:
        """Whether the columns left might not do for another step."""
        return self.kept + self.fresh + 1 > self.blocks

    def at(self, d: Tensor, M: Tensor) -> LowRank:
        """Return the weights at some coordinates."""
        return LowRank(self.through, self.by_row, d, M[:, : self.used], self.F[:, : self.used])

    def dense(self, d: Tensor, M: Tensor) -> Tensor:
        """Return the weights at some coordinates as a matrix."""
        w = self.base * d[:, None] if self.by_row else self.base * d
        return self._plus(w, M)

    def _plus(self, w: Tensor, M: Tensor) -> Tensor:
        M, F = M[:, : self.used], self.F[:, : self.used]
        return w.addmm_(M, F.T) if self.by_row else w.addmm_(F, M.T)

    def slopes(self, factors: Factors | None, d: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
        """Enter the factors of a stage in their columns; return dd/dt and dM/dt."""
        self.latest = factors
        speed, slope = torch.zeros_like(d), torch.zeros_like(M)
        if factors is None:
            return speed, slope
        if factors.decay is not None:
            speed = factors.decay * d
            decay = factors.decay if factors.decay.dim() == 0 else factors.decay[:, None]
            used = slice(self.used)
            torch.mul(decay, M[:, used], out=slope[:, used])
        if factors.outer:
            posts, pres = zip(*factors.outer, strict=True)
            moving, still = (posts, pres) if self.by_row else (pres, posts)
            slope[:, self._place(still)] += moving[0] if len(moving) == 1 else torch.cat(moving, 1)
        return speed, slope

    def _place(self, parts: Sequence[Tensor]) -> slice:
        """Return the columns of these factors, where they stand or are put now."""
        still = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
        last = len(self.placed) - 1
        for k, placed in enumerate(self.placed):
            if placed.same(still, k == last):
                return slice(k * self.rank, (k + 1) * self.rank)
        part = slice(self.used, self.used + self.rank)
        self.placed.append(Alike(still))
        self.F[:, part] = still
        if self.measured:
            self.product[:, part] = self._product(parts)
            filled = slice(self.used)
            products = self.F[:, filled].T @ still
            self.gram[filled, part] = products
            self.gram[part, filled] = products.T
        return part

    def _product(self, parts: Sequence[Tensor]) -> Tensor:
        """Return W_0 times columns."""
        if not self.by_row:
            return self.base.T @ torch.cat(list(parts), dim=1)
        products = [self.through(x[:, 0] if x.shape[1] == 1 else x.T) for x in parts]
        return torch.cat([p[:, None] if p.dim() == 1 else p.T for p in products], dim=1)

    def size(self, d: Tensor, M: Tensor) -> Tensor:
        """Return the root mean square of diag(d) W_0 + M Fᵀ."""
        used = slice(self.used)
        M = M[:, used]
        terms = (
            (d.square() * self.square).sum(),
            2 * (d * (M * self.product[:, used]).sum(1)).sum(),
            ((M @ self.gram[used, used]) * M).sum(),
        )
        total = terms[0] + terms[1] + terms[2]
        least = CANCELLED * float(terms[0] + terms[1].abs() + terms[2].abs())
        if not least <= float(total) < math.inf:
            return root_mean_square(self.dense(d, M).reshape(1, -1)).reshape(())
        return (total.clamp(min=0.0) / (self.moving * self.fixed)).sqrt()

    def keep(self) -> None:
        """Note that the state needs all columns in use."""
        self.kept = len(self.placed)

    def release(self) -> None:
        """Give up the columns of stages that came to nothing."""
        del self.placed[self.kept :]

    def fold(self, d: Tensor, M: Tensor) -> None:
        """Write W_0 anew; no column is in use then."""
        self.base.mul_(d[:, None] if self.by_row else d)
        self._plus(self.base, M)
        self.placed, self.kept, self.through = [], 0, Products(self.base)
        if self.measured:
            self.square = self._squares()


class _Coordinates(Layout):
    """The layout of the coordinates; places are named by the variables that they stand for."""

    def locate(self, sample: int, position: int) -> tuple[str, tuple[int, ...]]:
        """Return the variable and the index; of weights, the row or column."""
        name, index = super().locate(sample, position)
        variable, _, _ = name.partition(":")
        return variable, index[:1] if variable != name else index


class _Unfolding(Recorder):
    """Takes rows of coordinates, and hands rows of the whole state to the recorder of the run."""

    def __init__(self, whole: Recorder, problem: Structured) -> None:
        super().__init__(problem.layout, whole.rows)
        self.whole, self.problem, self.statistics = whole, problem, whole.statistics

    def row(self, index: int, state: Mapping[str, Tensor]) -> None:
        """Record output number `index`."""
        self.whole.row(index, self.problem.whole(dict(state)))

    def scatter(self, index: Tensor, sample: Tensor, values: Tensor) -> None:
        """Record outputs ``index[k]``: coordinates of shape ``(k, size)``."""
        rows = [
            self.whole.layout.pack(self.problem.whole(self.layout.unpack(value[None])))
            for value in values
        ]
        if rows:
            self.whole.scatter(index, sample, torch.cat(rows))


@final
class Structured:
    """A problem in the coordinates of its weights.

    Parameters
    ----------
    given : Problem
        With the weights as matrices.
    weights : list of _Weights
        Those that have coordinates.
    """

    def __init__(self, given: Problem, weights: list[_Weights]) -> None:
        self.given, self.weights = given, weights
        self.trying = False  # whether what is evaluated belongs to a step that may not stand
        names = {w.name for w in weights}
        given.recorder.statistics.low_rank = tuple(w.name for w in weights)
        first = next(iter(given.y0.values()))
        self.rest = [name for name in given.y0 if name not in names]
        state: State = {name: given.y0[name] for name in self.rest}
        dims = {name: given.layout.dims[name] for name in self.rest}
        for w in weights:
            state[f"{w.name}:d"] = first.new_ones(w.moving)
            state[f"{w.name}:M"] = first.new_zeros(w.moving, w.columns)
            dims |= {f"{w.name}:d": (w.moving,), f"{w.name}:M": (w.moving, w.columns)}
        self.layout = _Coordinates(state, dims, given.layout.batch)
        self.problem = replace(
            given,
            field=self.field,
            linear=None,
            y0=state,
            layout=self.layout,
            recorder=_Unfolding(given.recorder, self),
            accepted=lambda t, _y, _f: given.accepted(t, {}, None),  # its clock is all that is read
        )

    def field(self, t: Tensor, state: State) -> State:
        """Return the derivatives of the neurons and of the coordinates."""
        lazy = {w.name: w.at(state[f"{w.name}:d"], state[f"{w.name}:M"]) for w in self.weights}
        mixed: dict[str, Any] = {name: state[name] for name in self.rest}
        mixed |= lazy
        change: dict[str, Any] = self.given.field(t, mixed)
        result: State = {name: change[name] for name in self.rest if name in change}
        for w in self.weights:
            d, M = w.slopes(change.get(w.name), state[f"{w.name}:d"], state[f"{w.name}:M"])
            result |= {f"{w.name}:d": d, f"{w.name}:M": M}
            if not self.trying:
                w.keep()
        return result

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Evaluate in columns that are given up unless they are kept."""
        for w in self.weights:
            w.release()
        self.trying = True
        try:
            yield
        finally:
            self.trying = False

    def whole(self, state: State) -> State:
        """Return the state with the weights as matrices."""
        result = {name: state[name] for name in self.rest}
        for w in self.weights:
            result[w.name] = w.dense(state[f"{w.name}:d"], state[f"{w.name}:M"])
        return {name: result[name] for name in self.given.y0}


@final
class StructuredSteps(RungeKutta):
    """A Runge-Kutta method whose stages have columns of their own."""

    def __init__(self, tableau: Tableau, like: Tensor, lazy: Structured) -> None:
        super().__init__(tableau, like)
        self.lazy = lazy

    def __call__(
        self, derivative: Derivative, times: Tensor, t: Tensor, y: Tensor, f: Tensor, h: Tensor
    ) -> Step:
        """Take a step."""
        with self.lazy.trial():
            return super().__call__(derivative, times, t, y, f, h)

    def carried(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the state and the derivative that the next step begins with."""
        for w in self.lazy.weights:
            w.keep()
        y, f = step.end, step.stages[-1]
        full = [w for w in self.lazy.weights if w.full]
        if not full:
            return y, f
        layout = self.lazy.layout
        state, slope = layout.unpack(y.clone()), layout.unpack(f.clone())
        for w in full:
            d, M = state[f"{w.name}:d"], state[f"{w.name}:M"]
            w.fold(d, M)
            d.fill_(1.0)
            M.zero_()
            slope[f"{w.name}:d"], slope[f"{w.name}:M"] = w.slopes(w.latest, d, M)
            w.keep()
        return layout.pack(state), layout.pack(slope)


@final
class StructuredControl(Control):
    """Control of the error whose norms of weights come from their coordinates."""

    def __init__(
        self,
        method: RungeKutta,
        lazy: Structured,
        y: Tensor,
        rtol: float,
        atol: Tolerance,
        first_step: float | None,
    ) -> None:
        self.lazy = lazy
        own = atol
        if isinstance(atol, Mapping):
            own = {**atol}
            for w in lazy.weights:
                own |= {f"{w.name}:d": atol[w.name], f"{w.name}:M": atol[w.name]}
                del own[w.name]
        super().__init__(method, lazy.layout, y, rtol, own, first_step)
        slices = lazy.layout.slices
        self.of_weights = [(w, slices[f"{w.name}:d"], slices[f"{w.name}:M"]) for w in lazy.weights]
        self.known: list[tuple[Tensor, list[float]]] = []
        hidden = {f"{w.name}:{part}" for w in lazy.weights for part in "dM"}
        self.parts = [
            part for name, part in slices.items() if name not in hidden and part.stop > part.start
        ]
        self.matrices = [part for part in self.matrices if part in self.parts]

    def start(self, derivative: Derivative, t: Tensor, y: Tensor, f: Tensor, reach: Tensor) -> None:
        """Choose the first step."""
        with self.lazy.trial():
            super().start(derivative, t, y, f, reach)

    def scale(self, *states: Tensor) -> Tensor:
        """Return atol + rtol·size; all of a matrix has one."""
        scale = super().scale(*states)
        sizes = [self._sizes(y) for y in states]
        for k, (_, d, M) in enumerate(self.of_weights):
            least = self.atol if self.atol.dim() == 0 else self.atol[d][0]
            scale[:, d] = scale[:, M] = least + self.rtol * max(size[k] for size in sizes)
        self.known = [
            (y, size)
            for y, size in zip(states, sizes, strict=True)
            if all(map(math.isfinite, size))
        ]
        return scale

    def _sizes(self, y: Tensor) -> list[float]:
        """Return the size of every matrix; the end of a step is the start of the next one."""
        for state, sizes in self.known:
            if state is y:
                return sizes
        return [float(self._size(w, y[0, d], y[0, M])) for w, d, M in self.of_weights]

    def norm(self, values: Tensor, scale: Tensor) -> Tensor:
        """Return the largest norm of any variable."""
        largest = super().norm(values, scale)
        for w, d, M in self.of_weights:
            own = self._size(w, values[0, d], values[0, M]) / scale[0, d][0]
            largest = torch.maximum(largest, own.double())
        return largest

    def _size(self, w: _Weights, d: Tensor, M: Tensor) -> Tensor:
        """Return the root mean square of a matrix."""
        return w.size(d, M.reshape(w.moving, w.columns))
