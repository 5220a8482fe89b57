"""Products of matrices in float32 on a processor, by oneDNN where torch has it.

Torch multiplies by the processor's BLAS, and what its compiler makes by oneDNN, which puts a matrix
in order once for many products. Where BLAS does not use the widest registers, that takes half the
time. Whoever wants one library alone, switches it off: ``torch.backends.mkldnn.enabled = False``.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

__all__ = ["Product"]

LARGE = 2**20
"""Multiplications from which a product is worth its call."""


@final
class Product:
    """What writes base + s Wᵀ into a buffer, again and again while W rests.

    W is put in order for it when it is used for the second time.

    Parameters
    ----------
    base : Tensor or None
        ``(rows, post)``, or the same for every row; it may be the buffer.
    weight, s, out : Tensor
        W, ``(post, pre)``, s, ``(rows, pre)``, and the buffer, ``(rows, post)``.
    """

    def __init__(self, base: Tensor | None, weight: Tensor, s: Tensor, out: Tensor) -> None:
        self.weight, self.s, self.out = weight, s, out
        whole = base is not None and base.dim() == 2
        self.base = base.expand_as(out).contiguous() if base is not None and whole else None
        self.row = None if base is None or whole else base.expand(out.shape[1]).contiguous()
        self._uses = 0

    @staticmethod
    def accepts(s: Tensor, weight: Tensor) -> bool:
        """Tell if products of s with W are taken in this way."""
        suited = s.dtype == weight.dtype == torch.float32 and s.device.type == "cpu"
        suited = suited and s.shape[0] * weight.numel() >= LARGE
        names = ("_linear_pointwise", "_reorder_linear_weight")
        there = suited and all(hasattr(torch.ops.mkldnn, name) for name in names)
        return there and bool(torch.backends.mkldnn.enabled)

    def __call__(self) -> None:
        """Write it."""
        self._uses += 1
        if self._uses == 2:
            rows = self.s.shape[0]
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)
        linear = torch.ops.mkldnn._linear_pointwise
        if self.base is not None:
            value = linear.binary(self.s, self.base, self.weight, None, "add")
        else:
            value = linear(self.s, self.weight, self.row, "none", [], "")
        self.out.copy_(value)
