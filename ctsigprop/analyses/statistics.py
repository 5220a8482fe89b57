"""Statistics of weights and activities that cortex is known for: signs, balance, sparseness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ctsigprop.analyses.readings import activities, matrices
from ctsigprop.learning.learner import Learner

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["activity_statistics", "weight_statistics"]


def weight_statistics(learner: Learner) -> Dataset:
    """Describe every matrix of weights W_ij from neuron j to neuron i.

    Parameters
    ----------
    learner : Learner
        Whose weights.

    Returns
    -------
    xarray.Dataset
        By ``weight``: ``mean``, ``sd``, ``skewness``, ``kurtosis`` (in excess of a Gaussian's);
        ``zero``, the fraction of weights that are; ``log_mean``, ``log_sd`` of ln|w| and
        ``log_normal_distance``, the Kolmogorov–Smirnov distance of |w| to the log-normal
        distribution that has them; ``dale``, the fraction of presynaptic neurons (of channels, in a
        convolution) whose weights that are not zero have one sign (Dale's law), and
        ``dale_by_chance``, the same for random signs, 2^(1−n) for n weights; ``spectral_norm``, the
        largest singular value. NaN where there is no weight, or where all are the same.

    References
    ----------
    Song, Sjöström, Reigl, Nelson & Chklovskii 2005, PLoS Biology 3:e68, for log-normal strengths
    of synapses in cortex.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> found = weight_statistics(ct.Sigprop(ct.Layers.dense([4, 8, 2])))
    >>> found.weight.values.tolist(), float(found.dale_by_chance[1])
    (['W_h1_x', 'W_y_h1'], 0.5)
    """
    import numpy as np
    import xarray as xr
    from scipy import stats

    rows = []
    for name, matrix in matrices(learner).items():
        w = matrix.double().cpu().numpy()
        outgoing = learner.weights[name].detach().movedim(1, -1).flatten(0, -2).cpu().numpy()
        strengths = np.abs(w[w != 0])
        logs = np.log(strengths) if strengths.size else np.array([np.nan])
        fitted = stats.norm(logs.mean(), logs.std() or 1.0)
        counts = (outgoing != 0).sum(axis=0)
        connected = counts > 0
        one_sign = ((outgoing > 0).any(axis=0) != (outgoing < 0).any(axis=0))[connected]
        chance = 2.0 ** (1 - counts[connected])
        rows.append(
            {
                "mean": w.mean(),
                "sd": w.std(),
                "skewness": float(stats.skew(w, axis=None)) if w.std() else np.nan,
                "kurtosis": float(stats.kurtosis(w, axis=None)) if w.std() else np.nan,
                "zero": (w == 0).mean(),
                "log_mean": logs.mean(),
                "log_sd": logs.std(),
                "log_normal_distance": float(stats.kstest(logs, fitted.cdf).statistic),
                "dale": one_sign.mean() if connected.any() else np.nan,
                "dale_by_chance": chance.mean() if connected.any() else np.nan,
                "spectral_norm": float(np.linalg.norm(w, 2)),
            }
        )
    names = {
        "mean": "mean weight",
        "sd": "standard deviation of weights",
        "skewness": "skewness of weights",
        "kurtosis": "excess kurtosis of weights",
        "zero": "fraction of weights that are zero",
        "log_mean": "mean of the logarithm of strengths",
        "log_sd": "standard deviation of the logarithm of strengths",
        "log_normal_distance": "Kolmogorov-Smirnov distance of strengths to a log-normal",
        "dale": "fraction of presynaptic neurons with weights of one sign",
        "dale_by_chance": "the same for random signs",
        "spectral_norm": "largest singular value",
    }
    found = xr.Dataset(
        {
            name: _variable("weight", [row[name] for row in rows], text)
            for name, text in names.items()
        },
        coords={"weight": ("weight", list(matrices(learner)))},
    )
    return _said(found, "NaN where there is no weight, or where all are the same")


def activity_statistics(learner: Learner, x: Tensor) -> Dataset:
    """Describe how the neurons of every layer respond to inputs.

    Parameters
    ----------
    learner : Learner
        A rule over `Layers`, or a network in continuous time.
    x : Tensor
        Inputs, ``(batch, channels)``, ten or more.

    Returns
    -------
    xarray.Dataset
        By ``layer``: ``mean`` activity; ``silent``, the fraction of neurons that give the same,
        zero or less, for every input; ``population_sparseness`` and ``lifetime_sparseness``,
        S = (1 − ⟨|h|⟩²/⟨h²⟩) / (1 − 1/n) over the n neurons for an input, or the n inputs for a
        neuron, 0 for equal activities and 1 for one alone, averaged over inputs or neurons; and,
        where the layer has a matrix: ``inhibition``, the inhibitory current through it as a part of
        the excitatory one, and ``balance``, their correlation over inputs, averaged over neurons.

    References
    ----------
    Vinje & Gallant 2000, Science 287:1273-1276, for the sparseness, after Rolls & Tovee 1995.

    Examples
    --------
    >>> import torch
    >>> import ctsigprop as ct
    >>> found = activity_statistics(ct.Sigprop(ct.Layers.dense([4, 8, 2])), torch.eye(4))
    >>> float(found.population_sparseness.sel(layer="x"))
    1.0
    """
    import numpy as np
    import xarray as xr

    if len(x) < 2:
        raise ValueError(f"x must hold two inputs or more; got {len(x)}")
    shown, weights = activities(learner, x), matrices(learner)
    rows = []
    for name, h in shown.items():
        h = h.double()
        row = {
            "mean": float(h.mean()),
            "silent": float(((h == h[0]).all(0) & (h[0] <= 0)).double().mean()),
            "population_sparseness": _sparseness(h, 1),
            "lifetime_sparseness": _sparseness(h, 0),
            "inhibition": np.nan,
            "balance": np.nan,
        }
        for weight, w in weights.items():
            _, post, pre = [*weight.split("_"), ""][:3]
            if post == name and pre in shown and w.shape[1] == shown[pre].shape[1]:
                row["inhibition"], row["balance"] = _balance(w.double(), shown[pre].double())
        rows.append(row)
    names = {
        "mean": "mean activity",
        "silent": "fraction of neurons that never respond",
        "population_sparseness": "sparseness of the response to an input",
        "lifetime_sparseness": "sparseness of the responses of a neuron",
        "inhibition": "inhibitory current as a part of the excitatory one",
        "balance": "correlation of excitatory and inhibitory current",
    }
    found = xr.Dataset(
        {
            name: _variable("layer", [row[name] for row in rows], text)
            for name, text in names.items()
        },
        coords={"layer": ("layer", list(shown))},
    )
    return _said(found, "NaN where there is nothing to divide by, or no matrix")


def _sparseness(h: Tensor, axis: int) -> float:
    """Return the mean of S = (1 − ⟨|h|⟩²/⟨h²⟩)/(1 − 1/n) where there is any activity."""
    n, power = h.shape[axis], h.square().mean(axis)
    part = 1 - h.abs().mean(axis).square() / power
    found = (part / (1 - 1 / n))[power > 0] if n > 1 else part[:0]
    return float(found.mean()) if len(found) else float("nan")


def _balance(w: Tensor, pre: Tensor) -> tuple[float, float]:
    """Return inhibition over excitation, and how well they go together over inputs."""
    currents = pre[:, None, :] * w
    excitation, inhibition = currents.clamp(min=0).sum(-1), (-currents).clamp(min=0).sum(-1)
    e, i = excitation - excitation.mean(0), inhibition - inhibition.mean(0)
    scale = (e.square().sum(0) * i.square().sum(0)).sqrt()
    known = scale > 0
    together = ((e * i).sum(0) / scale)[known]
    total = float(excitation.sum())
    return (
        float(inhibition.sum()) / total if total else float("nan"),
        float(together.mean()) if len(together) else float("nan"),
    )


def _said(table: Dataset, why: str) -> Dataset:
    """Say why there are gaps, where there are."""
    for values in table.data_vars.values():
        if bool(values.isnull().any()):
            values.attrs["missing"] = why
    return table


def _variable(dim: str, values: list[float], text: str) -> tuple[str, list[float], dict[str, str]]:
    return dim, [float(value) for value in values], {"units": "1", "long_name": text}
