"""Images with class labels: the 8x8 digits, MNIST, and any idx file."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctsigprop.errors import unknown

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["Task", "digits", "load", "mnist", "read_idx"]

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Task:
    """Labelled samples to learn from, and others to be tested on.

    Attributes
    ----------
    name : str
        What the task is called.
    train, test : xarray.Dataset
        ``input`` of shape (sample, pixel), float32 in [0, 1], and ``label`` of shape (sample,),
        int64, an index into ``classes``. The coordinate ``sample`` is the index in the source.
    classes : tuple of str
        The names of the classes.
    """

    name: str
    train: Dataset
    test: Dataset
    classes: tuple[str, ...]


def digits(seed: int = 0, test_fraction: float = 0.2) -> Task:
    """Return scikit-learn's 1797 handwritten digits of 8x8 pixels, split at random.

    Parameters
    ----------
    seed : int
        Of the shuffle. Both parts have the classes in the same proportions.
    test_fraction : float
        Of all samples, in (0, 1).

    Raises
    ------
    ValueError
        If the seed is negative, or a part would lack a class.

    References
    ----------
    Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, doi:10.24432/C50P49.

    Examples
    --------
    >>> task = digits()
    >>> dict(task.train.sizes), dict(task.test.sizes)
    ({'sample': 1437, 'pixel': 64}, {'sample': 360, 'pixel': 64})
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a whole number, 0 or more, got {seed!r}")
    pixels, labels = load_digits(return_X_y=True)
    smallest = len(_DIGITS) / len(labels)
    if not smallest <= test_fraction <= 1 - smallest:
        raise ValueError(
            f"test_fraction must lie in [{smallest:.3g}, {1 - smallest:.3g}], so that each part "
            f"can hold every class, got {test_fraction!r}"
        )
    parts = train_test_split(
        np.arange(len(labels)), test_size=test_fraction, stratify=labels, random_state=seed
    )
    attrs = {
        "source": "scikit-learn load_digits: test set of the UCI Optical Recognition of "
        "Handwritten Digits",
        "references": "Alpaydin & Kaynak 1998, doi:10.24432/C50P49",
        "licence": "CC BY 4.0",
        "image_shape": (8, 8),
    }
    train, test = (
        _labelled(pixels[part] / 16, labels[part], part, {"title": f"digits, {name}", **attrs})
        for name, part in zip(("train", "test"), parts, strict=True)
    )
    return Task("digits", train, test, _DIGITS)


def mnist(folder: str | os.PathLike[str]) -> Task:
    """Read MNIST from a folder that holds its four idx files.

    Parameters
    ----------
    folder : path
        With ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``
        and ``t10k-labels-idx1-ubyte``; ``.idx`` for ``-idx``, and a ``.gz`` at the end, are taken
        too.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged, or images and labels do not agree.

    References
    ----------
    LeCun, Bottou, Bengio & Haffner 1998, Proc IEEE 86:2278-2324.
    """
    folder = Path(folder)
    parts = {}
    for name, stem in (("train", "train"), ("test", "t10k")):
        image_file = _find(folder, f"{stem}-images", "idx3-ubyte")
        label_file = _find(folder, f"{stem}-labels", "idx1-ubyte")
        images, labels = read_idx(image_file), read_idx(label_file)
        for file, array, axes in ((image_file, images, 3), (label_file, labels, 1)):
            if array.ndim != axes or array.dtype != np.uint8:
                raise ValueError(
                    f"{file}: expected bytes with {axes} axes, got {array.dtype} of shape "
                    f"{array.shape}"
                )
        if len(images) != len(labels):
            raise ValueError(f"{image_file} has {len(images)} images for {len(labels)} labels")
        if labels.max(initial=0) >= len(_DIGITS):
            raise ValueError(f"{label_file} has label {labels.max()}, expected 0 to 9")
        parts[name] = _labelled(
            images.reshape(len(images), -1) / np.float32(255),
            labels,
            np.arange(len(labels)),
            {
                "title": f"MNIST, {name}",
                "source": "MNIST database of handwritten digits (LeCun, Cortes & Burges)",
                "references": "LeCun, Bottou, Bengio & Haffner 1998, Proc IEEE 86:2278-2324",
                "licence": "CC BY-SA 3.0",
                "image_shape": images.shape[1:],
            },
        )
    return Task("mnist", parts["train"], parts["test"], _DIGITS)


def load(name_or_path: str | os.PathLike[str]) -> Task:
    """Return a task by its name, ``"digits"``, or from a folder with the four files of MNIST.

    Raises
    ------
    ValueError
        If it is neither.

    Examples
    --------
    >>> load("digits").name
    'digits'
    >>> load("digts")
    Traceback (most recent call last):
    ...
    ValueError: unknown task 'digts' (did you mean 'digits'?); accepted: digits, or an MNIST folder
    """
    if name_or_path == "digits":
        return digits()
    if Path(name_or_path).is_dir():
        return mnist(name_or_path)
    raise ValueError(f"{unknown('task', str(name_or_path), ['digits'])}, or an MNIST folder")


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an array from an idx file, gzipped or not.

    The file is two zero bytes, a byte for the type, one for the number of axes, their lengths as
    big-endian 32-bit integers, and the values in C order.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an idx file, or is truncated or too long.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
    >>> read_idx(path).tolist()
    [5, 0, 4]
    """
    path = Path(path)
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is truncated or corrupt: {error}") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_DTYPES or raw[3] == 0:
        raise ValueError(
            f"{path} is not an idx file: it begins with {raw[:4].hex(' ') or 'nothing'}"
        )
    dtype, axes = np.dtype(_IDX_DTYPES[raw[2]]), raw[3]
    start = 4 + 4 * axes
    if len(raw) < start:
        raise ValueError(f"{path} is truncated: it ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", axes, offset=4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise ValueError(
            f"{path} is {'truncated' if len(raw) < expected else 'too long'}: shape {shape} of "
            f"{dtype.name} needs {expected} bytes, got {len(raw)}"
        )
    values = np.frombuffer(raw, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def _find(folder: Path, stem: str, suffix: str) -> Path:
    names = [f"{stem}{dot}{suffix}{gz}" for dot in "-." for gz in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{folder} holds no {names[0]} (also looked for {', '.join(names[1:])})"
    )


def _labelled(
    pixels: NDArray[Any], labels: NDArray[Any], samples: Sequence[int] | NDArray[Any], attrs: Any
) -> Dataset:
    import xarray as xr

    return xr.Dataset(
        {
            "input": (
                ("sample", "pixel"),
                pixels.astype(np.float32, copy=False),
                {"units": "1", "long_name": "brightness of the pixel"},
            ),
            "label": ("sample", labels.astype(np.int64), {"units": "1", "long_name": "class"}),
        },
        coords={
            "sample": ("sample", samples, {"units": "1", "long_name": "index in the source"}),
            "pixel": ("pixel", np.arange(pixels.shape[1]), {"units": "1"}),
        },
        attrs=attrs,
    )
