"""One sample by the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch

from ctsigprop.models.synapses import Synapse
from ctsigprop.solvers.base import Layout, Problem
from ctsigprop.solvers.explicit.control import LEAST_RTOL
from ctsigprop.solvers.explicit.tableaus import Tableau
from ctsigprop.solvers.native.adaptive import Adaptive
from ctsigprop.solvers.native.compiled import LETTERS
from ctsigprop.solvers.native.equal import Equal
from ctsigprop.solvers.native.networks import Network
from ctsigprop.solvers.native.runs import Output, Run
from ctsigprop.solvers.native.schedule import Schedule
from ctsigprop.solvers.native.tape import UnfitError

if TYPE_CHECKING:
    from ctsigprop.solvers.explicit.methods import AdaptiveMethod, Method
    from ctsigprop.system import System

__all__ = ["ready", "resting", "solo"]

LARGEST = 4_000_000
"""Numbers in a state above which the torch path is no slower."""

MOST_FIXED = 1_000_000
"""Weights that rest above which torch's products are no slower, on a few threads."""

_SCHEDULES: WeakKeyDictionary[System, dict[Any, Schedule | str]] = WeakKeyDictionary()


def solo(problem: Problem, solver: Method) -> str:
    """Integrate a system of one sample; or return why not.

    Its neurons and plasticity are written as text; its gates are held between their
    jumps, and its sources, too, or they are rhythms. A batch that shares the weights that learn is
    one sample.
    """
    if problem.layout.samples != 1 or problem.t.dim() > 1:
        return "there is more than one sample"
    if solver.native is None and resting(problem.system) > MOST_FIXED:
        return f"more than {MOST_FIXED:,} weights rest"
    run = ready(problem, solver, problem.layout)
    if isinstance(run, str):
        return run
    recorder = problem.recorder
    recorder.row(0, problem.y0)
    try:
        ended = run.run(Output(problem))
    except BaseException:
        recorder.statistics.add(run.statistics)
        raise
    if not ended:
        return run.give_up()
    recorder.statistics.add(run.statistics)
    return ""


def resting(system: System) -> int:
    """Return how many weights do not learn."""
    still = [c for c in system.currents if isinstance(c, Synapse) and not c.plasticity]
    return sum(synapse.weight.numel() for synapse in still)


def ready(problem: Problem, solver: Method, one: Layout) -> Run | str:
    """Return what steps a problem's samples, ready for the first; or why there is nothing.

    Parameters
    ----------
    problem : Problem
        Of any number of samples.
    solver : Method
        Whose steps are taken.
    one : Layout
        That of one sample.
    """
    dtype = next(iter(problem.y0.values())).dtype
    if one.size > LARGEST:
        return f"the state has more than {LARGEST:,} numbers"
    if dtype not in LETTERS:
        return f"the state is of {dtype}"
    adapts = solver.dt is None
    if adapts and not _fits(cast("AdaptiveMethod", solver), one, dtype):
        return "the tolerances do not fit the state"
    tableau = solver.tableau.closed() if adapts else solver.tableau
    found = _scheduled(problem, one, tableau, solver.low_rank, adapts)
    if isinstance(found, str):
        return found
    try:
        run = (
            Adaptive(problem, found, cast("AdaptiveMethod", solver))
            if adapts
            else Equal(problem, found, solver)
        )
        run.load(0)
    except UnfitError as reason:
        return str(reason)
    return run


def _fits(solver: AdaptiveMethod, one: Layout, dtype: torch.dtype) -> bool:
    """Tell whether the tolerances are for this state; the path in torch says what is wrong."""
    names = set(one.names)
    too_small = 0 < solver.rtol < LEAST_RTOL * torch.finfo(dtype).eps
    return not (too_small or (isinstance(solver.atol, Mapping) and set(solver.atol) != names))


def _scheduled(
    problem: Problem, one: Layout, tableau: Tableau, low_rank: bool, measured: bool
) -> Schedule | str:
    """Return the instructions of a system, made once, or why there are none."""
    system, given = problem.system, problem.inputs
    signals = [given.get(source.name, source.signal) for source in system.sources]
    rules = [
        (id(rule.gate), id(rule.modulator), synapse.bounds, synapse.sign is None)
        for synapse in system.currents
        if isinstance(synapse, Synapse)
        for rule in synapse.plasticity
    ]
    key = (
        tuple(one.shapes.items()),
        one.batch,
        tableau.c,
        tableau.b,
        low_rank,
        measured,
        tuple(map(type, signals)),
        tuple(rules),
    )
    known = _SCHEDULES.setdefault(system, {})
    if key not in known:
        try:
            network = Network(system, one, low_rank, given)
            known[key] = Schedule(network, tableau, measured)
        except UnfitError as reason:
            known[key] = str(reason)
    found = known[key]
    dtype = next(iter(problem.y0.values())).dtype
    if isinstance(found, Schedule) and found.network.rhythms and dtype != torch.float64:
        return f"a rhythm needs a clock of float64, and the state is of {dtype}"
    return found
