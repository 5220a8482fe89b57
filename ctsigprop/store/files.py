"""Paths of results: what may be written where, and writing that ends whole or leaves nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctsigprop.errors import StoreError, StoreExistsError, unknown

__all__ = ["SUFFIXES", "check_folder", "check_writable", "replacing", "store_path"]

#: The formats of a result by suffix, with the name of the xarray engine of each.
SUFFIXES = {".zarr": "zarr", ".nc": "netcdf4"}


def store_path(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as a `Path`, once its suffix names a format.

    >>> store_path("run.zarr").suffix
    '.zarr'
    >>> store_path("run.h5")
    Traceback (most recent call last):
    ...
    ValueError: path 'run.h5': unknown suffix '.h5'; accepted: .nc, .zarr
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"path '{path}': {unknown('suffix', path.suffix, SUFFIXES)}")
    return path


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder in which nothing can be created, by creating something in it.

    A folder that does not exist yet is judged by its nearest ancestor that does.
    Permission bits are not read: they bind no superuser, and say nothing of a read-only disk.

    Raises
    ------
    PermissionError
        If nothing can be created there.
    """
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        Path(tempfile.mkdtemp(prefix=".ctsigprop-", dir=folder)).rmdir()
    except OSError as error:
        raise PermissionError(
            f"output directory not writable: {folder} ({error.strerror or error})"
        ) from error


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Refuse a path to which `save` could not write, before a simulation is run for it.

    Parameters
    ----------
    path : path
        Where the result is to go: ``.zarr`` or ``.nc``.
    overwrite : bool
        Whether a result that is there may be replaced.

    Raises
    ------
    ValueError
        If the suffix names no format.
    StoreExistsError
        If something is there and ``overwrite`` is false.
    StoreError
        If what is there is not a result of this format, and so will not be replaced.
    PermissionError
        If nothing can be created there.

    Examples
    --------
    >>> import tempfile
    >>> check_writable(tempfile.mkdtemp() + "/run.zarr")
    """
    path = store_path(path)
    if path.exists():
        if not overwrite:
            raise StoreExistsError(
                f"{path}: store exists; pass overwrite=True to replace it, or choose another name"
            )
        whole = (path / "zarr.json").is_file() if path.suffix == ".zarr" else path.is_file()
        if not whole:
            raise StoreError(
                f"{path} is not a {path.suffix} store and will not be overwritten; "
                "choose another name, or remove it by hand"
            )
    check_folder(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary sibling of ``path`` to write to, which takes its name in the end.

    A reader sees what was there before or all of the new, also after a crash: the sibling is
    flushed to the disk and then renamed. Only a folder that replaces a folder is away for the
    moment between two renames, because no system renames over a full folder.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = f".{path.name}.{uuid.uuid4().hex[:8]}"
    new, old = path.with_name(f"{stem}.partial"), path.with_name(f"{stem}.old")
    try:
        yield new
        for file in new.rglob("*") if new.is_dir() else [new]:
            if file.is_file():
                with file.open("r+b") as written:
                    os.fsync(written.fileno())
        if path.is_dir():
            path.rename(old)
        try:
            new.replace(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        if new.is_dir():
            shutil.rmtree(new, ignore_errors=True)
        else:
            new.unlink(missing_ok=True)
        raise
