"""Networks of leaky neurons without loops: how deep they are, and how long they remember."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

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
    names: dict[str, str] = {}
    taus: dict[str, float] = {}
    for neuron in system.neurons:
        own = neuron.variables
        leak = neuron.leaky_form(problem.y0[own[0].name])
        if leak is None or not bool(
            (leak.decay < 0).all() & (leak.decay == leak.decay.max()).all()
        ):
            return None
        names[own[0].name] = neuron.name
        taus[neuron.name] = -1 / float(leak.decay.max())
    if set(names) != set(fast) or any(current.delay for current in system.currents):
        return None
    above: dict[str, set[str]] = {name: set() for name in taus}
    for current in system.currents:
        above[current.post] |= taus.keys() & set(current.hears())
    found: dict[str, ForwardPath] = {}
    while len(found) < len(taus):
        ready = [name for name in taus if name not in found and above[name] <= found.keys()]
        if not ready:
            return None
        for name in ready:
            before = [found[other] for other in above[name]]
            found[name] = ForwardPath(
                1 + max((path.depth for path in before), default=0),
                taus[name] + max((path.memory for path in before), default=0.0),
            )
    return ForwardPath(
        max(path.depth for path in found.values()), max(path.memory for path in found.values())
    )
