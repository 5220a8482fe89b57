"""Networks of leaky neurons without loops: how deep they are, and how long they remember."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from ctsigprop.solvers.base import Problem

__all__ = ["ForwardPath", "forward_path"]


@dataclass(frozen=True)
class ForwardPath:
    """The longest way through a network.

    Attributes
    ----------
    depth : int
        Populations along it.
    memory : float
        The sum of their time constants: how far behind its inputs the last one is.
    """

    depth: int
    memory: float


def forward_path(problem: Problem, fast: Collection[str]) -> ForwardPath | None:
    """Return the longest way, where nothing is fast but leaky neurons that hear no loop.

    ds/dt = a·s + r, with r from what is upstream alone: whatever the weights are, the start is
    forgotten layer after layer, and so many sweeps as there are layers find the periodic motion.
    """
    system = problem.system
    names: set[str] = set()
    taus: dict[str, float] = {}
    for neuron in system.neurons:
        own = neuron.variables
        leak = neuron.leaky_form(problem.y0[own[0].name])
        if leak is None:
            return None
        if not (isinstance(leak.decay, float) and leak.decay < 0):
            return None
        names.add(own[0].name)
        taus[neuron.name] = -1 / leak.decay
    if names != set(fast) or any(current.delay for current in system.currents):
        return None
    above: dict[str, set[str]] = {name: set() for name in taus}
    for current in system.currents:
        above[current.post] |= taus.keys() & set(current.hears())
    try:
        order = list(TopologicalSorter(above).static_order())
    except CycleError:
        return None
    found: dict[str, ForwardPath] = {}
    for name in order:
        before = _longest(found[other] for other in above[name])
        found[name] = ForwardPath(before.depth + 1, before.memory + taus[name])
    return _longest(found.values())


def _longest(paths: Iterable[ForwardPath]) -> ForwardPath:
    ways = [ForwardPath(0, 0.0), *paths]
    return ForwardPath(max(way.depth for way in ways), max(way.memory for way in ways))
