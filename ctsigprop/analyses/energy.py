"""What a presentation would cost in energy: what runs is counted, at published prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ctsigprop.analyses.counting import Counting
from ctsigprop.analyses.readings import activities, matrices
from ctsigprop.errors import unknown
from ctsigprop.learning.learner import Learner

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["PRICES", "Price", "energy"]


@dataclass(frozen=True)
class Price:
    """Energy of one event, from `low` to `high` joule, and who measured it.

    Parameters
    ----------
    event : {"operation", "word", "active"}
        A multiplication with its sum; 32 bits read or written; a multiplication with its sum whose
        presynaptic activity is not zero.
    low, high : float
        Joule.
    source : str
        Where it was published.
    """

    event: Literal["operation", "word", "active"]
    low: float
    high: float
    source: str

    def __post_init__(self) -> None:
        if self.event not in EVENTS:
            raise ValueError(unknown("event", self.event, EVENTS))
        if not 0 <= self.low <= self.high < float("inf"):
            raise ValueError(f"a price is 0 <= low <= high joule; got {self.low}, {self.high}")


EVENTS = ("operation", "word", "active")
FLOAT = Price("operation", 4.6e-12, 4.6e-12, "Horowitz 2014, ISSCC, 45 nm: 3.7 + 0.9 pJ")

PRICES: Mapping[str, Sequence[Price]] = {
    "digital, on-chip memory": (
        FLOAT,
        Price("word", 5e-12, 50e-12, "Horowitz 2014: 10 pJ (8 kB) to 100 pJ (1 MB) for 64 bits"),
    ),
    "digital, DRAM": (
        FLOAT,
        Price("word", 650e-12, 1300e-12, "Horowitz 2014: 1.3 to 2.6 nJ for 64 bits"),
    ),
    "neuromorphic": (
        Price(
            "active",
            23.6e-12,
            26e-12,
            "a synaptic event: Davies et al. 2018, IEEE Micro 38:82-99 (Loihi, 23.6 pJ); Merolla "
            "et al. 2014, Science 345:668-673 (TrueNorth, 26 pJ)",
        ),
    ),
    "brain": (
        Price(
            "active",
            3.4e-15,
            16.3e-15,
            "transmission at a synapse: Attwell & Laughlin 2001, J. Cereb. Blood Flow Metab. "
            "21:1133-1145: 1.64e5 ATP for a vesicle, released at one spike of four to every spike; "
            "50 to 60 kJ/mol of ATP",
        ),
    ),
}
"""Prices by hardware; an estimate multiplies counts by them and leaves out everything else."""


def energy(
    learner: Learner,
    x: Tensor,
    labels: Tensor,
    *,
    prices: Mapping[str, Sequence[Price]] = PRICES,
) -> Dataset:
    """Estimate the energy of one presentation, for inference and for learning, per sample.

        E = sum of price · number of events

    Events are counted while the learner runs: multiplications with their sums, in matrix products
    and convolutions; 32-bit words that every operation of torch reads and writes, which a batch
    shares; and, where hardware works by events, the multiplications times the fraction of
    presynaptic activities that are not zero, since silence is free. For learning, that fraction is
    taken to be the same.

    Parameters
    ----------
    learner : Learner
        It learns from one presentation, which is undone.
    x, labels : Tensor
        The batch: ``(batch, channels)`` and ``(batch,)``.
    prices : mapping of str to sequence of Price
        What the events cost, by hardware.

    Returns
    -------
    xarray.Dataset
        ``operations`` and ``words`` (phase) for each sample; ``active``, the fraction of
        presynaptic activities that are not zero, weighted by their synapses; ``energy`` (phase,
        hardware, bound) in joule for each sample. It is an estimate: leaks, clocks and what sends
        spikes are not in it.

    References
    ----------
    Horowitz 2014, Computing's energy problem, IEEE ISSCC, 10-14; those of each price are in the
    attributes of ``energy``.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> rule = ct.Backpropagation(ct.Layers.dense([4, 8, 2]))
    >>> found = energy(rule, torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1]))
    >>> found.operations.values.tolist()  # 4·8 + 8·2 forward; that, and 8·2 + 8·2 + 4·8 to learn
    [48.0, 112.0]
    """
    import numpy as np
    import xarray as xr

    learner.check_presentation(x, labels)
    kept = {name: value.clone() for name, value in learner.snapshot().items()}
    with Counting() as inference:
        learner.respond(x)
    try:
        with Counting() as learning:
            learner.present(x, labels)
    finally:
        learner.restore(kept)
    phases = (inference, learning)
    operations = np.array([counted.operations / 2 for counted in phases]) / len(x)
    words = np.array([counted.moved / 4 for counted in phases]) / len(x)
    active = _active(learner, x)
    number = {"operation": operations, "word": words, "active": active * operations}
    joule = [
        [sum(number[p.event] * getattr(p, bound) for p in of) for bound in ("low", "high")]
        for of in prices.values()
    ]
    sources = {
        f"source_{n}": "; ".join(p.source for p in of) for n, of in enumerate(prices.values(), 1)
    }
    return xr.Dataset(
        {
            "operations": (
                "phase",
                operations,
                {"units": "1", "long_name": "multiplications and sums for a sample"},
            ),
            "words": (
                "phase",
                words,
                {"units": "1", "long_name": "32-bit words read and written for a sample"},
            ),
            "active": (
                (),
                active,
                {"units": "1", "long_name": "presynaptic activities that are not zero"},
            ),
            "energy": (
                ("phase", "hardware", "bound"),
                np.array(joule).transpose(2, 0, 1),
                {"units": "J", "long_name": "estimated energy for a sample"} | sources,
            ),
        },
        coords={
            "phase": ("phase", ["inference", "learning"]),
            "hardware": ("hardware", list(prices)),
            "bound": ("bound", ["low", "high"]),
        },
    )


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
