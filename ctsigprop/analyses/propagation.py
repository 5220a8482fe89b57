"""How samples and their contexts move together, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctsigprop.learning.losses import similarity
from ctsigprop.learning.sigprop import Sigprop

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["propagation"]


@torch.no_grad()
def propagation(learner: Sigprop, x: Tensor, labels: Tensor) -> Dataset:
    """Measure how near each layer brings a sample to the context of its own class, and of others.

    Parameters
    ----------
    learner : Sigprop
        With contexts that are the same for every sample.
    x : Tensor
        Inputs, ``(batch, channels)``.
    labels : Tensor
        Integers, ``(batch,)``.

    Returns
    -------
    xarray.Dataset
        ``own`` and ``other`` (layer): the mean correlation, over the units of a layer, of h_k with
        the t_k of its class, and with those of other classes; ``sample_place`` (layer, sample,
        axis) and ``context_place`` (layer, class, axis): h_k and t_k at unit length in the plane of
        the first two principal components of the samples of that layer; ``spread`` (layer): the
        part of their variance that lies in that plane.

    Examples
    --------
    >>> import ctsigprop as ct
    >>> learner = ct.Sigprop(ct.Layers.dense([4, 8, 8, 2]))
    >>> measured = propagation(learner, torch.rand(6, 4), torch.tensor([0, 1] * 3))
    >>> dict(measured.sample_place.sizes)
    {'layer': 2, 'sample': 6, 'axis': 2}
    """
    import numpy as np
    import xarray as xr

    own, other, planes, contexts, spreads = [], [], [], [], []
    mine = torch.nn.functional.one_hot(labels.long(), learner.classes).bool()
    for h, t in learner.states(x):
        near = similarity(h, t)
        own.append(float(near[mine].mean()))
        other.append(float(near[~mine].mean()))
        h, t = (torch.nn.functional.normalize(v.flatten(1).double(), dim=1) for v in (h, t))
        middle = h.mean(0)
        _, scale, axes = torch.linalg.svd(h - middle, full_matrices=False)
        planes.append(((h - middle) @ axes[:2].T).cpu().numpy())
        contexts.append(((t - middle) @ axes[:2].T).cpu().numpy())
        spreads.append(float(scale[:2].square().sum() / scale.square().sum()))
    units = {"units": "1"}
    return xr.Dataset(
        {
            "own": ("layer", own, units | {"long_name": "correlation with the own context"}),
            "other": ("layer", other, units | {"long_name": "correlation with other contexts"}),
            "sample_place": (("layer", "sample", "axis"), np.stack(planes), units),
            "context_place": (("layer", "class", "axis"), np.stack(contexts), units),
            "spread": ("layer", spreads, units | {"long_name": "variance in the plane"}),
            "label": ("sample", labels.cpu().numpy(), units),
        },
        coords={
            "layer": ("layer", list(learner.network.names[: len(own)])),
            "sample": ("sample", np.arange(len(x)), units),
            "class": ("class", np.arange(learner.classes), units),
            "axis": ("axis", ["first", "second"]),
        },
    )
