"""Spike-timing dependent plasticity in an experiment: what a protocol does to a weight."""

from __future__ import annotations

from torch import Tensor

from ctsigprop.models.triplet import spikes
from ctsigprop.solve import solve
from ctsigprop.solvers.explicit.fixed import ExponentialEuler
from ctsigprop.system import System

__all__ = ["weight_change"]


def weight_change(system: System, pre: Tensor, post: Tensor) -> Tensor:
    """Return how much spikes change the weight, w(end) − w(0): differentiable, and exact.

    The traces are linear between spikes, and one step of the exponential Euler method takes each
    interval.

    Parameters
    ----------
    system : System
        From `triplet_stdp`, of one synapse.
    pre, post : Tensor
        Spike times in ms, ``(*batch, k)``: one row for each protocol, all of one length.

    Returns
    -------
    Tensor
        ``(*batch,)``, relative to the initial weight of 1.

    Examples
    --------
    >>> from ctsigprop.models.triplet import pairing_protocol, triplet_stdp
    >>> weight_change(triplet_stdp(), *pairing_protocol(-10.0, 10.0)).item()
    -0.33221317257...
    """
    end = max(float(pre.detach().max()), float(post.detach().max()))
    start = system.initial_state(pre.shape[:-1])
    run = solve(
        system,
        start,
        [0.0, end],
        solver=ExponentialEuler(dt=end),
        impulses=spikes(system, pre, post),
    )
    return (run["w"][-1] - run["w"][0]).squeeze(-1)
