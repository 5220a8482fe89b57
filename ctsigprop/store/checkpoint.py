"""Checkpoints of a training run: a folder of steps, of which the last two are kept."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsigprop.errors import CorruptStoreError, StoreExistsError
from ctsigprop.store.content import from_json, plain, to_json
from ctsigprop.store.files import check_folder, replacing
from ctsigprop.store.seal import check_seal, seal

__all__ = ["Checkpoint", "load_checkpoint", "match_checkpoint", "save_checkpoint"]

_NAME = re.compile(r"step_(\d+)\.npz")
_DTYPES = ("bool", "uint8", "int64", "float32", "float64")
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes
    ----------
    step : int
        The number of steps done.
    arrays : dict of str to Tensor
        Weights, neuron states, the states of generators.
    state : dict
        Everything else: None, bool, numbers, strings, and lists, tuples and dicts of them.
    """

    step: int
    arrays: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: str | os.PathLike[str],
    step: int,
    arrays: Mapping[str, Tensor | NDArray[Any]],
    state: Mapping[str, Any],
) -> Path:
    """Save one step, whole or not at all, and remove all but the last two.

    Parameters
    ----------
    folder : path
        The folder of this run, made if missing.
    step : int
        The number of steps done.
    arrays : mapping of str to Tensor or numpy.ndarray
        Arrays of dtype bool, uint8, int64, float32 or float64.
    state : mapping
        None, bool, numbers, strings, and lists, tuples and dicts of them.

    Returns
    -------
    pathlib.Path
        The file: a NumPy ``.npz`` that holds no pickled object.

    Raises
    ------
    TypeError, ValueError
        If the step, a dtype or a value of the state cannot be kept.
    StoreExistsError
        If the folder holds a later step of another run, from which `load_checkpoint` would go on.
    PermissionError
        If nothing can be written there.

    Examples
    --------
    >>> import tempfile, torch
    >>> folder = tempfile.mkdtemp()
    >>> save_checkpoint(folder, 100, {"w": torch.eye(2)}, {"epoch": 1}).name
    'step_100.npz'
    >>> load_checkpoint(folder).state
    {'epoch': 1}
    """
    if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
        raise ValueError(f"step must be a whole number, 0 or more, got {step!r}")
    stored = {name: _array(name, value) for name, value in arrays.items()}
    header = {"step": int(step), "arrays": list(stored), "state": plain(dict(state), "state")}
    folder = Path(folder)
    check_folder(folder)
    for later in [number for number in _steps(folder) if number > step]:
        try:
            _read(_file(folder, later))
        except CorruptStoreError:  # left by the crash after which this run goes on
            _file(folder, later).unlink()
        else:
            raise StoreExistsError(
                f"{folder} holds the later checkpoint step_{later}.npz: resume from it, choose "
                "another folder, or remove it"
            )
    with replacing(_file(folder, step)) as new:
        with new.open("wb") as file:
            # by position: as a keyword, an array named 'file' would be taken for the path
            np.savez(file, np.array(to_json(header)), *stored.values())
        seal(new)
    for old in _steps(folder)[:-_KEPT]:
        _file(folder, old).unlink()
    return _file(folder, step)


def load_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Load the last good step of a folder. Nothing in a file is ever executed.

    Warns
    -----
    RuntimeWarning
        If a later step is damaged, and an earlier one is used in its place.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    CorruptStoreError
        If there is none that is good.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = save_checkpoint(folder, 100, {"w": np.eye(2)}, {})
    >>> load_checkpoint(folder).arrays["w"].dtype
    torch.float64
    """
    folder = Path(folder)
    failed: list[str] = []
    for step in reversed(_steps(folder)):
        path = _file(folder, step)
        try:
            checkpoint = _read(path)
        except CorruptStoreError as error:
            failed.append(str(error))
            continue
        if failed:
            warnings.warn(
                f"checkpoint {'; '.join(failed)}; falling back to {path.name}",
                RuntimeWarning,
                stacklevel=2,
            )
        return checkpoint
    if failed:
        raise CorruptStoreError(
            f"no good checkpoint in {folder}: {'; '.join(failed)}; start the run again"
        )
    raise FileNotFoundError(f"no checkpoint in {folder}")


def match_checkpoint(checkpoint: Checkpoint, expected: Mapping[str, Sequence[int]]) -> None:
    """Refuse a checkpoint whose arrays are not those of this system.

    Parameters
    ----------
    checkpoint : Checkpoint
        What was loaded.
    expected : mapping of str to shape
        The shape of every array that the system has.

    Raises
    ------
    ValueError
        Lists every array that is missing, unknown, or of another shape.

    Examples
    --------
    >>> import torch
    >>> match_checkpoint(Checkpoint(1, {"w": torch.zeros(2, 3)}, {}), {"w": (2, 4), "b": (2,)})
    Traceback (most recent call last):
    ...
    ValueError: the checkpoint of step 1 is of another system:
      'w' has shape (2, 3), expected (2, 4)
      'b' is missing, expected with shape (2,)
    """
    found = {name: tuple(array.shape) for name, array in checkpoint.arrays.items()}
    wanted = {name: tuple(shape) for name, shape in expected.items()}
    problems = [
        f"'{name}' has shape {found[name]}, expected {shape}"
        if name in found
        else f"'{name}' is missing, expected with shape {shape}"
        for name, shape in wanted.items()
        if found.get(name) != shape
    ]
    problems += [
        f"'{name}' with shape {shape} is unknown to this system"
        for name, shape in found.items()
        if name not in wanted
    ]
    if problems:
        raise ValueError(
            "\n  ".join(
                [f"the checkpoint of step {checkpoint.step} is of another system:", *problems]
            )
        )


def _file(folder: Path, step: int) -> Path:
    return folder / f"step_{step}.npz"


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    names = [_NAME.fullmatch(path.name) for path in folder.iterdir()]
    return sorted(int(name[1]) for name in names if name)


def _array(name: str, value: Tensor | NDArray[Any]) -> NDArray[Any]:
    array = value.detach().cpu() if isinstance(value, Tensor) else value
    dtype = str(array.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise TypeError(f"array '{name}' has dtype {dtype}; accepted: {', '.join(_DTYPES)}")
    return np.asarray(array)


def _read(path: Path) -> Checkpoint:
    """Read one step, or say in a CorruptStoreError what is wrong with the file."""
    with path.open("rb") as file:
        if file.read(1) == b"\x80":  # the first byte of every binary pickle
            raise CorruptStoreError(f"refusing to load {path.name}: it contains code")
    try:
        check_seal(path)
        with np.load(path, allow_pickle=False) as stored:
            arrays = [np.asarray(stored[name]) for name in stored.files]
        header = from_json(arrays[0].item())
        named = dict(zip(header["arrays"], map(torch.from_numpy, arrays[1:]), strict=True))
        return Checkpoint(step=header["step"], arrays=named, state=header["state"])
    except CorruptStoreError as error:
        raise CorruptStoreError(str(error).replace(str(path), path.name)) from None
    except Exception as error:  # sealed, but by something else
        raise CorruptStoreError(f"refusing to load {path.name}: {error}") from error
