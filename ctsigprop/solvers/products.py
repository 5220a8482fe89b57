"""Products of matrices in float32 on a processor, with the matrix in the order that suits them.

Torch multiplies by the processor's BLAS, and what its compiler makes by oneDNN, which puts a matrix
in order once for many products. Intel's BLAS takes the widest registers of Intel's processors
alone; on others oneDNN needs half the time. On Intel's a product of few rows is faster with the
matrix transposed in memory. Whoever wants torch's own products alone, switches oneDNN off:
``torch.backends.mkldnn.enabled = False``.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

__all__ = ["Ordered", "Product", "by_onednn"]

LARGE = 2**20
"""Multiplications from which a product is worth its call."""

ENOUGH = 400
"""Rows, of all products with a matrix together, from which oneDNN's order is worth its while."""

FEW, TURNS = 256, 20
"""Torch's own products of so few rows, and so many of them, are worth a transposed matrix."""


@cache
def by_onednn() -> bool:
    """Tell whether oneDNN multiplies faster than torch's BLAS here."""
    names = ("_linear_pointwise", "_reorder_linear_weight")
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    intels: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return not (intels and "GenuineIntel" in _processor())


def _processor() -> str:
    """Return what the system says of its processor; the maker is part of it."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()


@dataclass
class _Matrix:
    """A matrix that is kept, so that no other takes its id, and how products take it."""

    weight: Tensor
    taken: Tensor
    uses: int = 0
    in_order: bool = False


@final
class Ordered:
    """Matrices put in order for products, once for all; they must not change.

    Attributes
    ----------
    expected : int
        How many more products with each are known to come.
    """

    def __init__(self) -> None:
        self.expected = 0
        self._known: dict[tuple[int, float, int], _Matrix] = {}
        self._turned: dict[int, tuple[Tensor, Tensor]] = {}  # with the matrix, which keeps its id

    def forget(self) -> None:
        """Let all matrices go: they may change."""
        self.expected = 0
        self._known.clear()
        self._turned.clear()

    def matrix(self, weight: Tensor, alpha: float, rows: int) -> Tensor:
        """Return alpha W for oneDNN's products with so many rows."""
        key = (id(weight), alpha, rows)
        one = self._known.get(key)
        if one is None:
            one = self._known[key] = _Matrix(weight, weight if alpha == 1 else weight * alpha)
        one.uses += 1
        if not one.in_order and (one.uses + self.expected) * rows >= ENOUGH:
            one.taken = torch.ops.mkldnn._reorder_linear_weight(one.taken, rows)
            one.in_order = True
        return one.taken

    def transposed(self, weight: Tensor, rows: int) -> Tensor:
        """Return Wᵀ for torch's own products with so many rows."""
        found = self._turned.get(id(weight))
        if found is None:
            worth = rows <= FEW and self.expected >= TURNS
            known = weight.dtype in (torch.float32, torch.float64)
            pays = worth and known and weight.device.type == "cpu"
            if not pays or weight.T.is_contiguous():
                return weight.T
            # numpy turns a matrix in two thirds of torch's time
            turned = torch.from_numpy(np.ascontiguousarray(weight.detach().numpy().T))
            found = self._turned[id(weight)] = weight, turned
        return found[1]


@final
class Product:
    """What writes, by oneDNN, base + alpha s Wᵀ into a buffer, again and again while W rests.

    Parameters
    ----------
    base : Tensor or None
        ``(rows, post)``, or the same for every row; it may be the buffer.
    weight, alpha : Tensor, float
        W, ``(post, pre)``, and what it is multiplied by.
    s, out : Tensor
        ``(rows, pre)``, and the buffer, ``(rows, post)``.
    ordered : Ordered
        Where the matrix is kept for all its products.
    """

    def __init__(
        self,
        base: Tensor | None,
        weight: Tensor,
        alpha: float,
        s: Tensor,
        out: Tensor,
        ordered: Ordered,
    ) -> None:
        self.weight, self.alpha, self.s, self.out = weight, alpha, s, out
        self.ordered = ordered
        whole = base is not None and base.dim() == 2
        self.base = base.expand_as(out).contiguous() if base is not None and whole else None
        self.row = None if base is None or whole else base.expand(out.shape[1]).contiguous()

    @staticmethod
    def accepts(s: Tensor, weight: Tensor) -> bool:
        """Tell if products of s with W are taken in this way."""
        if s.shape[0] * weight.numel() < LARGE or not by_onednn():
            return False
        suited = s.dtype == weight.dtype == torch.float32 and s.device.type == "cpu"
        return suited and bool(torch.backends.mkldnn.enabled)

    def __call__(self) -> None:
        """Write it."""
        matrix = self.ordered.matrix(self.weight, self.alpha, self.s.shape[0])
        linear = torch.ops.mkldnn._linear_pointwise
        if self.base is not None:
            value = linear.binary(self.s, self.base, matrix, None, "add")
        else:
            value = linear(self.s, matrix, self.row, "none", [], "")
        self.out.copy_(value)
