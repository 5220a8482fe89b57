"""Delayed signals: how much is learned where the signal comes later than its input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctsigprop.learning.continuous import ContinuousSigprop
from ctsigprop.learning.coupled import CoupledLearner, rate_of

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["delay_law"]


def delay_law(
    rules: Mapping[str, Callable[[int], CoupledLearner]],
    x: Tensor,
    labels: Tensor,
    *,
    duration: float,
    delays: Sequence[float],
    seeds: Sequence[int] = (0, 1, 2),
) -> Dataset:
    """Measure how the strength of learning falls with the delay d of the signal.

        strength(d) = ⟨ΔW(d), ΔW(0)⟩/|ΔW(0)|²

    with ΔW(d) what one presentation does to the weights, what their tags still hold included, when
    the input is on for the duration T and the signal comes d after it. It falls as 1 − d/T where
    weights move at a constant rate as long as input and signal overlap.

    Parameters
    ----------
    rules : mapping of str to callable
        Learners by name, each made from a seed.
    x : Tensor
        Inputs, ``(batch, channels)``.
    labels : Tensor
        Integers, ``(batch,)``.
    duration : float
        T, in the unit of time of the networks.
    delays : sequence of float
        d, from 0 to T, at least two.
    seeds : sequence of int
        Of the learners.

    Returns
    -------
    xarray.Dataset
        ``strength`` (rule, seed, delay); its ``mean`` and ``spread``, the standard deviation over
        seeds, (rule, delay); and the line through the mean, ``slope``·d/T + ``intercept``, with
        ``r_squared`` (rule), and its values ``fit`` (rule, delay). ``share`` (delay) is d/T.

    Raises
    ------
    TypeError, ValueError
        No rule, delays outside 0 … T, a learner of another kind, or one that cannot tell the signal
        from the input's own transient where the two come together: the two-interval forms of
        `ContinuousSigprop`.

    References
    ----------
    Bacvanski, Ziyin & Poggio, arXiv 2510.18808: for inputs that are held, learning declines
    linearly as the delay approaches the duration.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> def rule(seed):
    ...     return ct.ContinuousFeedbackAlignment(ct.feedback_network([4, 8, 2], seed=seed))
    >>> batch = torch.eye(4), torch.tensor([0, 1, 0, 1])
    >>> found = delay_law({"dfa": rule}, *batch, duration=40.0, delays=[0.0, 20.0, 40.0])
    >>> found["mean"].sel(rule="dfa").round(1).values.tolist()
    [1.0, 0.5, 0.0]
    """
    import numpy as np
    import xarray as xr

    if not rules or not len(seeds):
        raise ValueError("the delay law takes at least one rule and one seed")
    if not 0 < duration < math.inf:
        raise ValueError(f"duration must be > 0; got {duration}")
    if len({*delays}) < 2 or not all(0 <= d <= duration for d in delays):
        raise ValueError(f"delays must be two or more from 0 to {duration}; got {list(delays)}")
    strength = np.empty((len(rules), len(seeds), len(delays)))
    for i, (name, make) in enumerate(rules.items()):
        for j, seed in enumerate(seeds):
            learner = make(seed)
            _check(name, learner)
            whole = _change(learner, x, labels, 0.0, duration)
            for k, delay in enumerate(delays):
                part = _change(learner, x, labels, delay, duration)
                strength[i, j, k] = float(part @ whole / (whole @ whole))
    share = np.array(delays) / duration
    mean = strength.mean(1)
    lines = np.array([np.polyfit(share, row, 1) for row in mean])
    fit = lines[:, :1] * share + lines[:, 1:]
    rest = ((mean - fit) ** 2).sum(1) / ((mean - mean.mean(1, keepdims=True)) ** 2).sum(1)
    one = {"units": "1"}
    return xr.Dataset(
        {
            "strength": (
                ("rule", "seed", "delay"),
                strength,
                one | {"long_name": "learning strength, 1 without a delay"},
            ),
            "mean": (("rule", "delay"), mean, one | {"long_name": "mean over seeds"}),
            "spread": (
                ("rule", "delay"),
                strength.std(1),
                one | {"long_name": "standard deviation over seeds"},
            ),
            "fit": (("rule", "delay"), fit, one | {"long_name": "line through the mean"}),
            "slope": ("rule", lines[:, 0], one),
            "intercept": ("rule", lines[:, 1], one),
            "r_squared": ("rule", 1 - rest, one),
        },
        coords={
            "rule": ("rule", list(rules)),
            "seed": ("seed", list(seeds), one),
            "delay": ("delay", list(delays), {"units": learner.network.time_unit}),
            "share": (
                "delay",
                share,
                one | {"long_name": "delay of the signal / duration of the input"},
            ),
        },
        attrs={"duration": duration},
    )


def _check(name: str, learner: CoupledLearner) -> None:
    if not isinstance(learner, CoupledLearner):
        raise TypeError(
            f"rule '{name}' must be a learner of coupled neurons and weights, "
            f"ContinuousSigprop or ContinuousFeedbackAlignment; got {type(learner).__name__}"
        )
    if isinstance(learner, ContinuousSigprop) and not learner.rhythmic:
        raise ValueError(
            f"rule '{name}' learns from whatever moves while its signal is on, the input's own "
            "transient too; build its network with rule='rhythmic'"
        )


def _change(
    learner: CoupledLearner, x: Tensor, labels: Tensor, delay: float, duration: float
) -> Tensor:
    """Return what a presentation does to all weights, in a row."""
    start = learner.onset - delay
    after = learner.integrated(x, labels, start, start + duration)
    parts = []
    for synapse in learner.synapses:
        change = after[synapse.name] - learner.weights[synapse.name]
        tag = f"e_{synapse.name}"
        if tag in after:
            change = change + rate_of(synapse) * (after[tag] - learner.weights[tag])
        parts.append(change.flatten().double())
    return torch.cat(parts)
