"""How alike two representations are: alignment of kernels, of shapes, of dissimilarities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctsigprop.errors import unknown

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["cka", "procrustes", "rsa", "similarity"]

RDM = ("correlation", "euclidean")
COMPARE = ("spearman", "cosine", "corr", "rho-a", "tau-a")


def similarity(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    measures: Sequence[str] = ("cka", "cka_debiased", "procrustes"),
) -> Dataset:
    """Compare every representation of one network, or of a brain, with every one of another.

    Parameters
    ----------
    a, b : mapping of str to Tensor
        Responses to the same inputs, ``(inputs, units)`` each, by layer or by area: what
        `readings.activities` returns, or recorded data.
    measures : sequence of str
        Of "cka", "cka_debiased", "procrustes" and "rsa", which needs rsatoolbox.

    Returns
    -------
    xarray.Dataset
        The measures, (layer_a, layer_b) each; NaN where a representation tells no two inputs apart.

    Raises
    ------
    ValueError
        A name that is not accepted; fewer than four inputs, numbers of inputs that differ, values
        that are not finite.

    Examples
    --------
    >>> import torch
    >>> one, two = torch.rand(8, 3), torch.rand(8, 5)
    >>> similarity({"one": one}, {"one": one, "two": two}).cka.round(6).sel(layer_b="one").item()
    1.0
    """
    import numpy as np
    import xarray as xr

    for name in measures:
        if name not in MEASURES:
            raise ValueError(unknown("measure", name, MEASURES))
    found = xr.Dataset(
        {
            name: (
                ("layer_a", "layer_b"),
                np.array([[MEASURES[name][0](x, y) for y in b.values()] for x in a.values()]),
                {"units": "1", "long_name": MEASURES[name][1]},
            )
            for name in measures
        },
        coords={"layer_a": ("layer_a", list(a)), "layer_b": ("layer_b", list(b))},
    )
    for values in found.data_vars.values():
        if bool(values.isnull().any()):
            values.attrs["missing"] = "NaN where a representation tells no two inputs apart"
    return found


def cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> float:
    """Return the linear centred kernel alignment, 1 for the same up to rotation and scale.

        CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),   K = x xᵀ,  L = y yᵀ

    Parameters
    ----------
    x, y : Tensor
        ``(inputs, units)``; the units need not be the same number.
    debiased : bool
        With the unbiased estimator of HSIC, which is about 0 for independent representations
        however many units there are.

    References
    ----------
    Kornblith, Norouzi, Lee & Hinton 2019, ICML, eq. 4; Song, Smola, Gretton, Bedo & Borgwardt 2012,
    J. Machine Learning Research 13:1393-1434, for the unbiased HSIC.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(9, 4)
    >>> round(cka(x, 3 * x @ torch.linalg.qr(torch.rand(4, 4))[0]), 5)
    1.0
    """
    k, ell = (_gram(value) for value in _pair(x, y))
    hsic = _unbiased if debiased else _biased
    return float(hsic(k, ell) / (hsic(k, k) * hsic(ell, ell)).sqrt())


def procrustes(x: Tensor, y: Tensor) -> float:
    """Return the angle between two shapes, in [0, π/2]: 0 for the same up to rotation and scale.

        arccos |x̃ᵀ ỹ|_*,   x̃, ỹ centred and of Frobenius norm 1

    where |·|_* is the sum of the singular values; a metric on shapes.

    References
    ----------
    Williams, Kunz, Kornblith & Linderman 2021, Generalized shape metrics on neural
    representations, NeurIPS, section 2.

    Examples
    --------
    >>> import torch
    >>> procrustes(torch.eye(5), 2 * torch.eye(5).roll(1, 1)) < 1e-6
    True
    """
    x, y = (value - value.mean(0) for value in _pair(x, y))
    overlap = torch.linalg.svdvals(x.T @ y).sum() / (x.norm() * y.norm())
    return float(overlap.clamp(max=1.0).arccos())


def rsa(x: Tensor, y: Tensor, *, rdm: str = "correlation", compare: str = "spearman") -> float:
    """Return how alike the dissimilarities between inputs are, by rsatoolbox.

    NaN where a representation tells no two inputs apart; or, for correlations, where its units
    respond to some input all alike, as silent ones do.

    Parameters
    ----------
    x, y : Tensor
        ``(inputs, units)``.
    rdm : {"correlation", "euclidean"}
        Of the dissimilarities.
    compare : {"spearman", "cosine", "corr", "rho-a", "tau-a"}
        Of the two matrices of dissimilarities.

    Raises
    ------
    ImportError
        Without rsatoolbox: ``pip install ctsigprop[rsa]``.

    References
    ----------
    Kriegeskorte, Mur & Bandettini 2008, Frontiers in Systems Neuroscience 2:4.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(6, 4)
    >>> round(rsa(x, 2 * x), 6)
    1.0
    """
    for what, given, accepted in (("rdm", rdm, RDM), ("compare", compare, COMPARE)):
        if given not in accepted:
            raise ValueError(unknown(what, given, accepted))
    try:
        from rsatoolbox.data import Dataset as Responses
        from rsatoolbox.rdm import calc_rdm
        from rsatoolbox.rdm import compare as compared
    except ImportError as error:
        raise ImportError("rsa() needs rsatoolbox: pip install ctsigprop[rsa]") from error
    pair = _pair(x, y)
    if any(_same(value, rdm) for value in pair):
        return float("nan")
    one, two = (calc_rdm(Responses(value.numpy()), method=rdm) for value in pair)
    return float(compared(one, two, method=compare)[0, 0])


def _same(x: Tensor, rdm: str) -> bool:
    """Whether dissimilarities are all zero, or correlations of a flat response are wanted."""
    flat = rdm == "correlation" and bool((x == x[:, :1]).all(1).any())
    return flat or bool((x == x[0]).all())


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y) or len(x) < 4:
        raise ValueError(
            "representations are (inputs, units) of the same four inputs or more; got "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    x, y = x.detach().double().cpu(), y.detach().double().cpu()
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("representations must be finite")
    return x, y


def _gram(x: Tensor) -> Tensor:
    x = x - x.mean(0)
    return x @ x.T


def _biased(k: Tensor, ell: Tensor) -> Tensor:
    return (k * ell).sum()


def _unbiased(k: Tensor, ell: Tensor) -> Tensor:
    """Return n(n − 3) HSIC by the unbiased estimator."""
    n = len(k)
    k, ell = (value - value.diag().diag() for value in (k, ell))
    return (
        (k * ell).sum()
        + k.sum() * ell.sum() / ((n - 1) * (n - 2))
        - 2 * (k.sum(0) * ell.sum(0)).sum() / (n - 2)
    )


MEASURES: Mapping[str, tuple[Callable[[Tensor, Tensor], float], str]] = {
    "cka": (cka, "linear centred kernel alignment"),
    "cka_debiased": (partial(cka, debiased=True), "debiased linear CKA"),
    "procrustes": (procrustes, "Procrustes distance of shapes"),
    "rsa": (rsa, "rank correlation of dissimilarities"),
}
