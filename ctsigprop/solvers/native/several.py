"""A few samples, each by itself by the kernel: faster than a batch in torch, and never compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ctsigprop.errors import IntegrationError
from ctsigprop.models.synapses import Synapse
from ctsigprop.solvers.base import Layout, Problem, Statistics
from ctsigprop.solvers.explicit.tableaus import EULER
from ctsigprop.solvers.native.lanes import TROUBLE
from ctsigprop.solvers.native.runs import Output, Run
from ctsigprop.solvers.native.solo import ready, resting

if TYPE_CHECKING:
    from ctsigprop.solvers.explicit.methods import Method

__all__ = ["MOST", "several"]

MOST, MOST_EQUAL = 32, 16
"""Samples above which a batch in torch may be as fast; the second of equal steps."""

FEWEST_STAGES = 3
"""Stages of equal steps, for each sample, below which a batch in torch may be as fast."""

MOST_NUMBERS = 500_000
"""Variables and resting weights, counted for every sample, above which a batch is as fast."""


def several(problem: Problem, solver: Method) -> str:
    """Integrate each sample of a problem by itself; or return why not.

    A sample that meets trouble leaves the whole problem to the solver that says what it is.
    """
    layout = problem.layout
    if layout.coupled or layout.samples < 2:
        return "there is one sample"
    reason = "" if solver.native else _slower(problem, solver)
    if reason:
        return reason
    first = {
        name: value.reshape(layout.samples, *layout.dims[name])[0]
        for name, value in problem.y0.items()
    }
    run = ready(problem, solver, Layout(first, layout.dims, ()))
    return run if isinstance(run, str) else _finish(problem, run)


def _slower(problem: Problem, solver: Method) -> str:
    """Return why a batch in torch may be as fast."""
    samples, system = problem.layout.samples, problem.system
    weights = resting(system)
    learns = any(isinstance(c, Synapse) and c.plasticity for c in system.currents)
    most = MOST if learns or solver.dt is None else MOST_EQUAL
    if samples > most:
        return f"there are more than {most} samples"
    if solver.dt is not None:
        spans = (problem.t[..., -1] - problem.t[..., 0]).abs()
        stages = float(spans.max()) / solver.dt * len(solver.tableau.b)
        if stages < FEWEST_STAGES * samples:
            return "the steps are few"
    if samples * (problem.layout.size + weights) > MOST_NUMBERS:
        return f"all samples have more than {MOST_NUMBERS:,} variables and weights"
    if weights and not learns and solver.tableau is EULER:
        return "a batch relaxes in place"
    return ""


def _finish(problem: Problem, run: Run) -> str:
    """Step one sample after another to its end, and record them; or return why not."""
    output = _Rows(problem)
    try:
        for sample in range(problem.layout.samples):
            if sample:
                run.load(sample)
            output.rows.append([])
            if not run.run(output):
                return TROUBLE
            output.costs.append(run.statistics)
    except IntegrationError:
        return TROUBLE
    except BaseException:
        output.costs.append(run.statistics)
        output.record()
        raise
    output.record()
    return ""


class _Rows(Output):
    """The rows of each sample that has begun, until they are recorded; and what each cost."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        starts = problem.t.reshape(-1, problem.t.shape[-1])[:, 0]
        self.clock = starts.expand(problem.layout.samples).clone()
        self.rows: list[list[torch.Tensor]] = []
        self.costs: list[Statistics] = []

    def row(self, index: int, row: torch.Tensor) -> None:
        """Keep a row of the sample that began last."""
        del index  # they come in order
        self.rows[-1].append(row)

    def reached(self, t: float) -> None:
        """Take note of an accepted step of the sample that began last."""
        self.clock[len(self.rows) - 1] = t
        self.problem.accepted(self.problem.layout.clock(self.clock), {}, None)

    def record(self) -> None:
        """Hand over what was reached, and the largest counts of any sample."""
        recorder, statistics = self.problem.recorder, self.problem.recorder.statistics
        recorder.row(0, self.problem.y0)
        index = [k for rows in self.rows for k in range(1, len(rows) + 1)]
        if index:
            sample = [s for s, rows in enumerate(self.rows) for _ in rows]
            values = torch.cat([row for rows in self.rows for row in rows])
            recorder.scatter(torch.tensor(index), torch.tensor(sample), values)
        for name in ("steps", "rejections", "evaluations"):
            setattr(statistics, name, max(getattr(cost, name) for cost in self.costs))
        statistics.native, statistics.low_rank = True, self.costs[0].low_rank
