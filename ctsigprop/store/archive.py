"""Saving and opening a run as one `xarray.DataTree`."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.errors import CorruptStoreError, StoreError
from ctsigprop.store.content import checksums, decode, encode, groups
from ctsigprop.store.files import SUFFIXES, check_writable, replacing, store_path
from ctsigprop.store.seal import check_seal, seal

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

__all__ = ["open", "save"]

_MANIFEST = "ctsigprop_manifest"


def save(tree: DataTree, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Save a run to a Zarr v3 store or a netCDF4 file.

    The new store is written beside its place, read back and compared, and only then takes its
    name: a crash leaves what was there before. Along with the data goes a SHA-256 for each
    group and variable, which `open` checks.

    Attributes may be None, bool, int, float, str, and lists, tuples and dicts of them; what a
    format cannot hold is written as JSON. NumPy scalars come back as numbers, arrays as lists.

    Parameters
    ----------
    tree : xarray.DataTree
        The run. Values may be bool, integers, float32, float64 or strings.
    path : path
        A name that ends in ``.zarr`` or ``.nc``. Missing parent folders are made.
    overwrite : bool
        Whether to replace a result that is there.

    Returns
    -------
    pathlib.Path
        The path.

    Raises
    ------
    TypeError, ValueError
        If a dtype or an attribute cannot be kept, a variable has one dimension twice, or the
        suffix names no format.
    StoreExistsError
        If the path exists and ``overwrite`` is false.
    PermissionError
        If nothing can be written there.
    StoreError
        If the format or the disk fails.

    Examples
    --------
    >>> import tempfile, xarray as xr
    >>> run = xr.DataTree.from_dict({"/simulation": xr.Dataset({"x": ("time", [0.0, 1.0])})})
    >>> path = save(run, tempfile.mkdtemp() + "/run.zarr")
    >>> open(path).identical(run)
    True
    """
    import xarray as xr

    if not isinstance(tree, xr.DataTree):
        advice = "; wrap it: xarray.DataTree(dataset)" if isinstance(tree, xr.Dataset) else ""
        raise TypeError(f"tree must be an xarray.DataTree, got {type(tree).__name__}{advice}")
    path = store_path(path)
    check_writable(path, overwrite=overwrite)
    content = groups(tree)
    content["/"].attrs.pop(_MANIFEST, None)
    sums = checksums(content)
    manifest = {"name": tree.name, "sha256": sums}
    written = xr.DataTree.from_dict({at: _encoded(found) for at, found in content.items()})
    written.attrs |= encode({_MANIFEST: manifest})
    with replacing(path) as new:
        try:
            if path.suffix == ".zarr":
                # "empty" is all NaN, whatever the bits of the NaN
                written.to_zarr(new, zarr_format=3, consolidated=False, write_empty_chunks=True)
            else:
                written.to_netcdf(new, engine="netcdf4", format="NETCDF4")
            content, _, _ = _read(new, path.suffix, load=True)
            altered = _differences(sums, checksums(content))
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            raise StoreError(f"{path} could not be written: {error}") from error
        if altered:
            raise ValueError(f"{path.suffix} does not keep this run as it is: {altered}")
        if path.suffix == ".nc":
            seal(new)
        if not overwrite:
            check_writable(path)
    return path


def open(path: str | os.PathLike[str], *, verify: bool = True) -> DataTree:
    """Open a saved run.

    Parameters
    ----------
    path : path
        A ``.zarr`` or ``.nc`` store.
    verify : bool
        Load everything and compare it with the checksums of `save`. Without it, values are read
        when they are first used, unchecked, and the tree should be closed after use; HDF5 may
        then read a damaged file without end.

    Returns
    -------
    xarray.DataTree
        What was saved: dtypes, NaN, attributes and all.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    CorruptStoreError
        If the store is empty, truncated, incomplete or altered, or was not written by `save`.

    Examples
    --------
    >>> import tempfile, xarray as xr
    >>> run = xr.DataTree.from_dict({"/weights": xr.Dataset({"w": (("post", "pre"), [[0.5]])})})
    >>> open(save(run, tempfile.mkdtemp() + "/run.nc"))["weights/w"].dims
    ('post', 'pre')
    """
    import xarray as xr

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no such store", str(path))
    path = store_path(path)
    try:
        if verify and path.suffix == ".nc":
            check_seal(path)
        content, manifest, handle = _read(path, path.suffix, load=verify)
    except CorruptStoreError as error:
        raise CorruptStoreError(f"{error}; {_recovery(path)}") from None
    except (ImportError, MemoryError, PermissionError):
        raise
    except Exception as error:
        raise CorruptStoreError(
            f"{_broken_file(path)} is truncated or corrupt ({error}); {_recovery(path)}"
        ) from error
    if verify:
        if not manifest:
            raise CorruptStoreError(
                f"{path} has no checksums: it was not written by ctsigprop.save, or was altered "
                f"since; {_recovery(path)}"
            )
        altered = _differences(manifest.get("sha256", {}), checksums(content))
        if altered:
            raise CorruptStoreError(f"{path} is corrupt: {altered}; {_recovery(path)}")
    content = _in_order(content, list(manifest.get("sha256", {})))
    tree = xr.DataTree.from_dict(content, name=manifest.get("name"))
    if not verify:
        tree.set_close(handle.close)
    return tree


def _encoded(dataset: Dataset) -> Dataset:
    """Return the dataset as both formats can hold it."""
    import xarray as xr

    found = {}
    for name, variable in dataset.variables.items():
        values = variable.values
        if variable.dtype.kind == "U":  # Zarr v3 specifies strings of any width only
            values = values.astype(np.dtypes.StringDType())
        attrs = encode(variable.attrs)
        if isinstance(attrs.get("flag_values"), list) and variable.dtype.kind in "iu":
            # CF: of the dtype of the variable
            attrs["flag_values"] = _narrowed(attrs["flag_values"], variable.dtype)
        found[name] = xr.Variable(variable.dims, values, attrs)
        if variable.dtype.kind == "f":
            found[name].encoding = {"_FillValue": None}
    return xr.Dataset(
        {name: found[name] for name in dataset.data_vars},
        {name: found[name] for name in dataset.coords},
        encode(dataset.attrs),
    )


def _narrowed(values: list[float], dtype: np.dtype[Any]) -> Any:
    wide = np.asarray(values)
    narrow = wide.astype(dtype)
    return narrow if np.array_equal(wide, narrow) else values


def _read(
    path: Path, suffix: str, *, load: bool
) -> tuple[dict[str, Dataset], dict[str, Any], DataTree]:
    """Return the decoded groups of a store, its manifest, and the tree that holds it open."""
    import xarray as xr

    options: dict[str, Any] = {"consolidated": False} if suffix == ".zarr" else {}
    handle = xr.open_datatree(
        path,
        engine=SUFFIXES[suffix],
        mask_and_scale=False,
        decode_times=False,
        decode_timedelta=False,
        **options,
    )
    try:
        content = {}
        for relative, node in handle.subtree_with_keys:
            dataset = node.to_dataset(inherit=False).drop_encoding()
            if load:
                dataset = dataset.load()
            text = {
                name: (variable.dims, variable.values.astype(object).astype(str), variable.attrs)
                for name, variable in dataset.variables.items()
                if variable.dtype.kind in "OTU"
            }
            dataset = dataset.assign(text)
            dataset.attrs = decode(dataset.attrs)
            for variable in dataset.variables.values():
                variable.attrs = decode(variable.attrs)
            content["/" if relative == "." else f"/{relative}"] = dataset
        manifest = content["/"].attrs.pop(_MANIFEST, {})
        if not isinstance(manifest, dict):
            raise ValueError(f"the attribute {_MANIFEST} is not a manifest")
    except BaseException:
        handle.close()
        raise
    if load:
        handle.close()
    return content, manifest, handle


def _in_order(content: Mapping[str, Dataset], names: list[str]) -> dict[str, Dataset]:
    """Return groups and variables in the order in which they were saved; Zarr has none."""
    rank = {name: place for place, name in enumerate(names)}
    return {
        path: dataset[
            sorted(dataset.variables, key=lambda name: rank.get(f"{path.rstrip('/')}/{name}", 0))
        ]
        for path, dataset in sorted(content.items(), key=lambda item: rank.get(item[0], 0))
    }


def _differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Say which groups and variables are not what was written."""
    missing = [f"'{name}' is missing" for name in wanted if name not in found]
    changed = [
        f"'{name}' has changed" for name in wanted if found.get(name, wanted[name]) != wanted[name]
    ]
    added = [f"'{name}' was added" for name in found if name not in wanted]
    return ", ".join(missing + changed + added)


def _broken_file(path: Path) -> Path:
    """Return the metadata file of a Zarr store that cannot be read, or else the store."""
    for file in sorted(path.rglob("zarr.json")):
        try:
            json.loads(file.read_bytes())
        except ValueError:
            return file
    return path


def _recovery(path: Path) -> str:
    return (
        "restore it from a copy, or repeat the run from its last checkpoint; "
        f"ctsigprop.open('{path}', verify=False) reads what is left, unchecked"
    )
