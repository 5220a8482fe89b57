"""What a presentation would cost in energy: operations that were counted, at published prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ctsigprop.analyses.readings import activities, matrices
from ctsigprop.learning.learner import Learner

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["PRICES", "Price", "energy"]


@dataclass(frozen=True)
class Price:
    """Energy of one event, from `low` to `high` joule, and who measured it."""

    event: str
    low: float
    high: float
    source: str


PRICES: Mapping[str, Price] = {
    "digital": Price(
        "multiplication and sum of 32-bit numbers, operands from on-chip memory",
        4.6e-12,
        14.6e-12,
        "Horowitz 2014, ISSCC, 45 nm: 3.7 + 0.9 pJ; with two reads of an 8 kB memory at 5 pJ",
    ),
    "digital, weights from DRAM": Price(
        "the same, the weight from off-chip memory",
        650e-12,
        1300e-12,
        "Horowitz 2014, ISSCC: 1.3 to 2.6 nJ for 64 bits from DRAM",
    ),
    "neuromorphic": Price(
        "synaptic operation of a spiking chip",
        23.6e-12,
        26e-12,
        "Davies et al. 2018, IEEE Micro 38:82-99 (Loihi: 23.6 pJ); Merolla et al. 2014, Science "
        "345:668-673 (TrueNorth: 26 pJ)",
    ),
    "brain": Price(
        "transmission at one synapse",
        3.4e-15,
        16.3e-15,
        "Attwell & Laughlin 2001, J. Cereb. Blood Flow Metab. 21:1133-1145: 1.64e5 ATP for a "
        "vesicle, released at one spike of four to every spike; 50 to 60 kJ/mol of ATP",
    ),
}
"""Prices by hardware; an estimate multiplies counts by them and leaves out everything else."""


def energy(
    learner: Learner,
    x: Tensor,
    labels: Tensor,
    *,
    prices: Mapping[str, Price] = PRICES,
) -> Dataset:
    """Estimate the energy of one presentation, for inference and for learning, per sample.

        E = price · number of events

    An event is a multiplication with its sum, half of the operations that are counted while the
    learner runs; where hardware works by events, "neuromorphic" and "brain", that number times the
    fraction of presynaptic activities that are not zero, since silence is free.

    Parameters
    ----------
    learner : Learner
        It learns from one presentation, which is undone.
    x, labels : Tensor
        The batch: ``(batch, channels)`` and ``(batch,)``.
    prices : mapping of str to Price
        Of an event, by hardware; those with "neuromorphic" or "brain" in their names are paid for
        active inputs alone.

    Returns
    -------
    xarray.Dataset
        ``events`` (phase) for each sample, ``active``, the fraction of presynaptic activities that
        are not zero, weighted by their synapses; ``energy`` (phase, hardware, bound) in joule for
        each sample. It is an estimate: what moves data, leaks or keeps time is not in it.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> rule = ct.Backpropagation(ct.Layers.dense([4, 8, 2]))
    >>> found = energy(rule, torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1]))
    >>> found.events.values.tolist()  # 4·8 + 8·2 forward; that, and 8·2 + 8·2 + 4·8 to learn
    [48.0, 112.0]
    """
    import numpy as np
    import xarray as xr

    learner.check_presentation(x, labels)
    kept = {name: value.clone() for name, value in learner.snapshot().items()}
    with FlopCounterMode(display=False) as inference:
        learner.respond(x)
    try:
        with FlopCounterMode(display=False) as learning:
            learner.present(x, labels)
    finally:
        learner.restore(kept)
    events = np.array([c.get_total_flops() / 2 / len(x) for c in (inference, learning)])
    active = _active(learner, x)
    by_events = np.array([active if _by_events(name) else 1.0 for name in prices])
    bounds = np.array([(price.low, price.high) for price in prices.values()])
    return xr.Dataset(
        {
            "events": (
                "phase",
                events,
                {"units": "1", "long_name": "multiplications and sums for a sample"},
            ),
            "active": (
                (),
                active,
                {"units": "1", "long_name": "presynaptic activities that are not zero"},
            ),
            "energy": (
                ("phase", "hardware", "bound"),
                events[:, None, None] * (by_events[:, None] * bounds),
                {"units": "J", "long_name": "estimated energy for a sample"}
                | {f"source_{n}": p.source for n, p in _numbered(prices)},
            ),
        },
        coords={
            "phase": ("phase", ["inference", "learning"]),
            "hardware": ("hardware", list(prices)),
            "bound": ("bound", ["low", "high"]),
        },
    )


def _numbered(prices: Mapping[str, Price]) -> list[tuple[int, Price]]:
    return [*enumerate(prices.values(), 1)]


def _by_events(name: str) -> bool:
    return "neuromorphic" in name or "brain" in name


@torch.no_grad()
def _active(learner: Learner, x: Tensor) -> float:
    """Return the fraction of presynaptic activities that are not zero, by synapses."""
    shown, used, total = activities(learner, x), 0.0, 0.0
    for name, w in matrices(learner).items():
        pre: Any = shown.get(name.split("_")[-1])
        if pre is None or pre.shape[1] != w.shape[1]:
            pre = torch.ones(1)
        used += float((pre != 0).double().mean()) * w.numel()
        total += w.numel()
    return used / total if total else 1.0
