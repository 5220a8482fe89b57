"""Explicit methods on weights that plasticity moves by outer products: exact, at less cost.

The weights of a step are W = diag(d) W_0 + M Fᵀ (`lowrank`). With F the presynaptic factors of the
stages, the coordinates (d, M) obey dd/dt = decay·d, dM/dt = decay·M + [post factors in their
columns]: an ordinary system, small, which any Runge-Kutta method steps as it steps the neurons. W_0
is written when the columns are full. What comes out is what stepping W itself gives, but for
rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from ctsigprop.lowrank import Factors, LowRank
from ctsigprop.solvers.base import Layout, Problem, Recorder, State
from ctsigprop.solvers.explicit.control import Control, Tolerance
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
        weights.append(_Weights(name, w, by_row, rank, stages, measured))
    return Structured(problem, weights) if weights else None


@final
class _Weights:
    """One matrix of weights: what the step began with, and the columns gathered since."""

    def __init__(
        self, name: str, w: Tensor, by_row: bool, rank: int, stages: int, measured: bool
    ) -> None:
        self.measured = measured
        self.name, self.base, self.by_row, self.rank = name, w.clone(), by_row, rank
        self.moving, self.fixed = w.shape if by_row else w.shape[::-1]
        steps = max(1, (COLUMNS // rank - 1) // (stages - 1))
        self.blocks = 1 + steps * (stages - 1)
        self.columns = self.blocks * rank
        self.F = w.new_zeros(self.fixed, self.columns)
        self.through = w.new_zeros(self.moving, self.columns)  # W_0 F, or its transpose
        self.gram = w.new_zeros(self.columns, self.columns)
        self.square = self._squares() if measured else w.new_zeros(self.moving)
        self.latest: Factors | None = None

    def _squares(self) -> Tensor:
        """Return the squared norm of each row, or column, that d scales."""
        norms: Tensor = torch.linalg.vector_norm(self.base, dim=1 if self.by_row else 0)
        return norms.square_()

    def at(self, d: Tensor, M: Tensor) -> LowRank:
        """Return the weights at some coordinates."""
        return LowRank(self.base, self.by_row, d, M, self.F)

    def dense(self, d: Tensor, M: Tensor) -> Tensor:
        """Return the weights at some coordinates as a matrix."""
        w = self.base * d[:, None] if self.by_row else self.base * d
        return w.addmm_(M, self.F.T) if self.by_row else w.addmm_(self.F, M.T)

    def slopes(self, block: int, factors: Factors | None, lazy: LowRank) -> tuple[Tensor, Tensor]:
        """Enter the factors of a stage in their columns; return dd/dt and dM/dt."""
        assert lazy.d is not None
        self.latest = factors
        part = slice(block * self.rank, (block + 1) * self.rank)
        slope = torch.zeros_like(lazy.M)
        speed = torch.zeros_like(lazy.d)
        if factors is None or not factors.outer:
            self.F[:, part] = 0.0
        else:
            posts, pres = zip(*factors.outer, strict=True)
            still = torch.cat(pres if self.by_row else posts, dim=1)
            self.F[:, part] = still
            slope[:, part] = torch.cat(posts if self.by_row else pres, dim=1)
            if self.measured:
                self.through[:, part] = self._product(still, factors, lazy)
        if self.measured:
            self.gram[:, part] = self.F.T @ self.F[:, part]
            self.gram[part] = self.gram[:, part].T
        if factors is not None and factors.decay is not None:
            speed = factors.decay * lazy.d
            decay = factors.decay if factors.decay.dim() == 0 else factors.decay[:, None]
            slope.addcmul_(decay.expand_as(lazy.M), lazy.M)
        return speed, slope

    def _product(self, still: Tensor, factors: Factors, lazy: LowRank) -> Tensor:
        """Return W_0 times new columns; what the neurons have asked for is known."""
        if not self.by_row:
            return self.base.T @ still
        parts = [
            lazy.through(pre[:, 0] if pre.shape[1] == 1 else pre.T) for _, pre in factors.outer
        ]
        return torch.cat([p[:, None] if p.dim() == 1 else p.T for p in parts], dim=1)

    def norm_square(self, d: Tensor, M: Tensor) -> Tensor:
        """Return |diag(d) W_0 + M Fᵀ|², the sum over all entries."""
        terms = (
            (d.square() * self.square).sum(),
            2 * (d * (M * self.through).sum(1)).sum(),
            ((M @ self.gram) * M).sum(),
        )
        total = terms[0] + terms[1] + terms[2]
        if float(total) < CANCELLED * float(terms[0] + terms[1].abs() + terms[2].abs()):
            return self.dense(d, M).square_().sum()
        return total

    def fold(self, d: Tensor, M: Tensor, block: int) -> None:
        """Write W_0 anew; the columns of one block become the first."""
        if self.by_row:
            self.base.mul_(d[:, None]).addmm_(M, self.F.T)
        else:
            self.base.mul_(d).addmm_(self.F, M.T)
        part = slice(block * self.rank, (block + 1) * self.rank)
        first = self.F[:, part].clone()
        self.F.zero_()
        self.F[:, : self.rank] = first
        if not self.measured:
            return
        self.through.zero_()
        matrix = self.base if self.by_row else self.base.T
        self.through[:, : self.rank] = matrix @ first
        self.gram.zero_()
        self.gram[: self.rank, : self.rank] = first.T @ first
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
        self.block = 0
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
            factors = change.get(w.name)
            d, M = w.slopes(self.block, factors, lazy[w.name])
            result |= {f"{w.name}:d": d, f"{w.name}:M": M}
        return result

    def whole(self, state: State) -> State:
        """Return the state with the weights as matrices."""
        result = {name: state[name] for name in self.rest}
        for w in self.weights:
            result[w.name] = w.dense(state[f"{w.name}:d"], state[f"{w.name}:M"])
        return {name: result[name] for name in self.given.y0}


@final
class StructuredSteps(RungeKutta):
    """A Runge-Kutta method that gives every stage columns of its own."""

    def __init__(self, tableau: Tableau, like: Tensor, lazy: Structured) -> None:
        super().__init__(tableau, like)
        self.lazy = lazy
        self.start = 0  # the block of the derivative that a step begins with

    def __call__(
        self, derivative: Derivative, times: Tensor, t: Tensor, y: Tensor, f: Tensor, h: Tensor
    ) -> Step:
        """Take a step; its stages follow the block of the first one."""
        self.lazy.block = self.start

        def staged(at: Tensor, values: Tensor) -> Tensor:
            self.lazy.block += 1
            return derivative(at, values)

        step = super().__call__(staged, times, t, y, f, h)
        self.lazy.block = self.start
        return step

    def carried(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the state and the derivative that the next step begins with."""
        lazy, stages = self.lazy, len(self.rows) - 1
        self.start += stages
        y, f = step.end, step.stages[-1]
        if all(self.start + stages < w.blocks for w in lazy.weights):
            lazy.block = self.start
            return y, f
        state, slope = lazy.layout.unpack(y.clone()), lazy.layout.unpack(f.clone())
        for w in lazy.weights:
            d, M = state[f"{w.name}:d"], state[f"{w.name}:M"]
            w.fold(d, M, self.start)
            d.fill_(1.0)
            M.zero_()
            speed, change = slope[f"{w.name}:d"], slope[f"{w.name}:M"]
            speed.zero_()
            change.zero_()
            factors = w.latest
            if factors is not None and factors.outer:
                sides = zip(*factors.outer, strict=True)
                posts, pres = sides
                change[:, : w.rank] = torch.cat(posts if w.by_row else pres, dim=1)
            if factors is not None and factors.decay is not None:
                speed += factors.decay
        self.start = lazy.block = 0
        return lazy.layout.pack(state), lazy.layout.pack(slope)


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
        """Choose the first step; its trial has columns of its own."""

        def beside(at: Tensor, values: Tensor) -> Tensor:
            self.lazy.block = 1
            found = derivative(at, values)
            self.lazy.block = 0
            return found

        latest = [w.latest for w in self.lazy.weights]
        super().start(beside, t, y, f, reach)
        for w, factors in zip(self.lazy.weights, latest, strict=True):
            w.latest = factors

    def scale(self, *states: Tensor) -> Tensor:
        """Return atol + rtol·size; all of a matrix has one."""
        scale = super().scale(*states)
        sizes = [self._sizes(y) for y in states]
        for k, (_, d, M) in enumerate(self.of_weights):
            least = self.atol if self.atol.dim() == 0 else self.atol[d][0]
            scale[:, M] = least + self.rtol * max(size[k] for size in sizes)
        self.known = list(zip(states, sizes, strict=True))
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
            own = self._size(w, values[0, d], values[0, M]) / scale[0, M][0]
            largest = torch.maximum(largest, own.double())
        return largest

    def _size(self, w: _Weights, d: Tensor, M: Tensor) -> Tensor:
        """Return the root mean square of a matrix."""
        square = w.norm_square(d, M.reshape(w.moving, w.columns))
        return (square.clamp(min=0.0) / (w.moving * w.fixed)).sqrt()
