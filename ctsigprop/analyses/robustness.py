"""How much of what was learned survives noise, lesions, coarse weights, devices that differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctsigprop.analyses.readings import matrices
from ctsigprop.errors import ConvergenceError, NonFiniteError, unknown
from ctsigprop.learning.learner import Learner

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["PERTURBATIONS", "robustness"]

PERTURBATIONS: Mapping[str, tuple[str, Sequence[float]]] = {
    "noise": ("standard deviation of noise on the inputs", (0.0, 0.1, 0.2, 0.4, 0.8)),
    "lesion": ("fraction of synapses cut", (0.0, 0.1, 0.2, 0.4, 0.8)),
    "lesion_units": ("fraction of presynaptic units silenced", (0.0, 0.1, 0.2, 0.4, 0.8)),
    "bits": ("bits of a weight", (8.0, 6.0, 4.0, 3.0, 2.0)),
    "mismatch": ("relative standard deviation of weights", (0.0, 0.1, 0.2, 0.4, 0.8)),
}
"""What is done, and the strengths at which it is done by default."""


@torch.no_grad()
def robustness(
    learner: Learner,
    x: Tensor,
    labels: Tensor,
    perturbation: str,
    levels: Sequence[float] | None = None,
    *,
    draws: int = 5,
    seed: int = 0,
) -> Dataset:
    """Measure the accuracy of a learner that has learned, under a perturbation that grows.

    ============  ================================================================================
    noise         x + level · ξ, ξ standard normal
    lesion        each weight is cut, w = 0, with the probability `level`
    lesion_units  all weights of a presynaptic unit are cut, with the probability `level`
    bits          w is rounded to one of 2^level − 1 values, even on both sides of 0, up to max|w|
    mismatch      w · exp(level · ξ − level²/2), of the same mean: devices differ by a factor
    ============  ================================================================================

    Parameters
    ----------
    learner : Learner
        Its weights are put back, bit for bit, whatever happens.
    x, labels : Tensor
        Samples to be told apart: ``(batch, channels)`` and ``(batch,)``.
    perturbation : str
        A key of `PERTURBATIONS`.
    levels : sequence of float, optional
        Strengths; those of `PERTURBATIONS` by default.
    draws : int
        How often each is drawn.
    seed : int
        Of the draws.

    Returns
    -------
    xarray.Dataset
        ``accuracy`` (level, draw), and ``settled``: False where the perturbed network came to no
        rest. It then answers nothing, and its accuracy is 0.

    Raises
    ------
    ValueError
        A name or a level that is not accepted.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> rule = ct.Sigprop(ct.Layers.dense([4, 8, 2]))
    >>> x, labels = torch.rand(20, 4), torch.arange(20) % 2
    >>> found = robustness(rule, x, labels, "noise", [0.0, 0.5], draws=3)
    >>> dict(found.accuracy.sizes), float(found.accuracy[0].std("draw"))
    ({'level': 2, 'draw': 3}, 0.0)
    """
    import numpy as np
    import xarray as xr

    if perturbation not in PERTURBATIONS:
        raise ValueError(unknown("perturbation", perturbation, PERTURBATIONS))
    text, usual = PERTURBATIONS[perturbation]
    levels = list(usual if levels is None else levels)
    _check(perturbation, levels, draws)
    learner.check_presentation(x, labels)
    generator, found = torch.Generator().manual_seed(seed), np.zeros((len(levels), draws))
    settled = np.ones(found.shape, dtype=bool)
    weights = {name: learner.weights[name] for name in matrices(learner)}
    kept = {name: w.clone() for name, w in weights.items()}
    try:
        for row, level in enumerate(levels):
            for draw in range(draws):
                shown = x
                if perturbation == "noise":
                    shown = x + level * _normal(x, generator)
                else:
                    for name, w in weights.items():
                        w.copy_(_changed(kept[name], perturbation, level, generator))
                try:
                    right = learner.respond(shown).argmax(1) == labels
                except (ConvergenceError, NonFiniteError):  # its loop amplifies
                    settled[row, draw] = False
                    continue
                found[row, draw] = float(right.double().mean())
    finally:
        for name, w in weights.items():
            w.copy_(kept[name])
    return xr.Dataset(
        {
            "accuracy": (
                ("level", "draw"),
                found,
                {"units": "1", "long_name": "accuracy", "perturbation": perturbation},
            ),
            "settled": (("level", "draw"), settled, {"long_name": "the network came to rest"}),
        },
        coords={
            "level": ("level", levels, {"units": "1", "long_name": text}),
            "draw": ("draw", np.arange(draws), {"units": "1"}),
        },
    )


def _check(perturbation: str, levels: Sequence[float], draws: int) -> None:
    accepted: Callable[[float], bool] = lambda level: 0 <= level < float("inf")  # noqa: E731
    words = "0 or more"
    if perturbation.startswith("lesion"):
        accepted, words = lambda level: 0 <= level <= 1, "fractions, from 0 to 1"
    elif perturbation == "bits":
        accepted, words = lambda level: level >= 2 and float(level).is_integer(), "whole, 2 or more"
    for level in levels:
        if not accepted(level):
            raise ValueError(f"levels of '{perturbation}' must be {words}; got {level}")
    if not levels or draws < 1:
        raise ValueError(
            f"robustness needs a level and a draw at least; got {len(levels)}, {draws}"
        )


def _changed(w: Tensor, perturbation: str, level: float, generator: torch.Generator) -> Tensor:
    if perturbation == "bits":
        steps = 2 ** (int(level) - 1) - 1
        scale = w.abs().max() / steps
        return (w / scale).round() * scale if scale > 0 else w
    if perturbation == "mismatch":
        return w * (level * _normal(w, generator) - level**2 / 2).exp()
    if perturbation == "lesion_units":
        alive = torch.rand(w.shape[1], generator=generator) >= level
        return w * alive.to(w).reshape(1, -1, *[1] * (w.dim() - 2))
    return w * (torch.rand(w.shape, generator=generator) >= level).to(w)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)
