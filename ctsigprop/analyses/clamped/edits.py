"""Edits of activities and weights by noise, of a part of them at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ctsigprop.analyses.clamped.base import Edit, noisy

__all__ = ["layer", "neuron", "others", "rows", "unit"]


def unit(which: int, axes: int) -> Edit:
    """Return an edit of one unit of an activity."""

    def edit(value: Tensor) -> Tensor:
        return _edited(value, _mask(value, axes, which), axes)

    return edit


def others(unit: int, axes: int) -> Edit:
    """Return an edit of all units of an activity but one."""

    def edit(value: Tensor) -> Tensor:
        return _edited(value, ~_mask(value, axes, unit), axes)

    return edit


def neuron(post: int, pre: int) -> Edit:
    """Return an edit of the neuron's weights but that of one synapse."""

    def edit(weight: Tensor) -> Tensor:
        changed = weight.clone()
        changed[post] = noisy(weight)[post]
        changed[post, pre] = weight[post, pre]
        return changed

    return edit


def layer(post: int) -> Edit:
    """Return an edit of the weights of all other neurons of the layer."""

    def edit(weight: Tensor) -> Tensor:
        changed = noisy(weight)
        changed[post] = weight[post]
        return changed

    return edit


def rows(which: tuple[int, ...]) -> Edit:
    """Return an edit of some rows of a batch."""

    def edit(value: Tensor) -> Tensor:
        changed, inside = value.clone(), [row for row in which if row < len(value)]
        changed[inside] = noisy(value)[inside]
        return changed

    return edit


def _edited(value: Tensor, where: Tensor, axes: int) -> Tensor:
    """Return an activity with noise on some units: channels, or what a dense layer takes."""
    shape = value.shape
    if value.dim() > 2 and axes > 2:
        mask = where.reshape(1, -1, *[1] * (value.dim() - 2))
        return torch.where(mask, noisy(value), value)
    flat = value.flatten(1) if value.dim() > 1 else value
    return torch.where(where, noisy(value).reshape(flat.shape), flat).reshape(shape)


def _mask(value: Tensor, axes: int, unit: int) -> Tensor:
    count = value.shape[1] if value.dim() > 2 and axes > 2 else value[:1].numel()
    if value.dim() == 1:
        count = value.numel()
    return torch.arange(count, device=value.device) == unit
