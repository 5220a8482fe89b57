"""Tables of numbers in text, read line by line."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Collection, Iterator, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctsigprop.errors import unknown

if TYPE_CHECKING:
    from xarray import Dataset

__all__ = ["read_table", "visual_cortex_pairing"]

_MISSING = {"", "na", "nan"}


def read_table(
    path: str | os.PathLike[str],
    columns: Mapping[str, str | None],
    *,
    missing: Collection[str] = (),
) -> Dataset:
    r"""Read columns of a CSV file whose first line names them.

    Lines that start with ``#`` and empty lines are left out. A row that is too short or too long,
    text among numbers, and a gap that was not announced are errors, never NaN.

    Parameters
    ----------
    path : path
        A CSV file in UTF-8.
    columns : mapping of str to str or None
        The columns to read, with the unit of each; None for a column of text.
    missing : collection of str
        The columns of numbers that may have gaps, written as nothing, ``NA`` or ``NaN``.

    Returns
    -------
    xarray.Dataset
        One variable a column, of shape (row,): float64 with ``units``, or text.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        Names the file, the line and the column.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "data.csv"
    >>> _ = path.write_text("f,w\n1,0.5\n2,0.7,9\n")
    >>> read_table(path, {"f": "Hz", "w": "1"})
    Traceback (most recent call last):
    ...
    ValueError: data.csv line 3: expected 2 columns, got 3
    """
    import xarray as xr

    path = Path(path)
    for name in missing:
        if columns.get(name) is None:
            numeric = [column for column, unit in columns.items() if unit is not None]
            raise ValueError(f"missing: {unknown('column of numbers', name, numeric)}")
    try:
        rows = list(_rows(path))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path.name} is not a CSV file in UTF-8: {error}") from error
    if not rows:
        raise ValueError(f"{path.name} is empty: its first line must name the columns")
    (first, header), *body = rows
    for name in columns:
        if name not in header:
            raise ValueError(f"{path.name} line {first}: {unknown('column', name, header)}")
        if header.count(name) > 1:
            raise ValueError(f"{path.name} line {first}: column '{name}' is there twice")
    if not body:
        raise ValueError(f"{path.name} has no rows below its header")
    for line, row in body:
        if len(row) != len(header):
            raise ValueError(
                f"{path.name} line {line}: expected {len(header)} columns, got {len(row)}"
            )
    variables: dict[str, Any] = {}
    for name, unit in columns.items():
        cells = [(line, row[header.index(name)]) for line, row in body]
        if unit is None:
            variables[name] = ("row", np.array([cell for _, cell in cells]))
            continue
        numbers = [
            _number(cell, f"{path.name} line {line}, column '{name}'", name in missing)
            for line, cell in cells
        ]
        attrs = {"units": unit}
        if np.isnan(numbers).any():
            attrs["missing"] = "not given in the table"
        variables[name] = ("row", np.array(numbers), attrs)
    index = ("row", np.arange(len(body)), {"units": "1", "long_name": "row of the table"})
    return xr.Dataset(variables, coords={"row": index}, attrs={"source": path.name})


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Give each row that is neither empty nor a comment, with its line number."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = ("\n" if line.startswith("#") else line for line in file)
        reader = csv.reader(lines, strict=True)
        for row in reader:
            if row:
                yield reader.line_num, [cell.strip() for cell in row]


def _number(cell: str, where: str, may_be_missing: bool) -> float:
    if cell.lower() in _MISSING:
        if may_be_missing:
            return math.nan
        raise ValueError(
            f"{where}: '{cell}' is no value; name the column in `missing` if it may have gaps"
        )
    try:
        number = float(cell)
    except ValueError:
        raise ValueError(f"{where}: expected a number, got '{cell}'") from None
    if not math.isfinite(number) or "_" in cell:
        raise ValueError(f"{where}: expected a finite number, got '{cell}'")
    return number


def visual_cortex_pairing() -> Dataset:
    """Return the weight changes after sixty spike pairings in visual cortex, at five frequencies.

    Returns
    -------
    xarray.Dataset
        Over ten rows: ``frequency`` of the pairings (Hz), ``dt`` = t_post - t_pre (ms), the
        relative change ``dw`` of the weight and its standard error ``dw_sem`` (1).

    References
    ----------
    Sjostrom, Turrigiano & Nelson 2001, Neuron 32:1149-1164; the values as used by Pfister &
    Gerstner 2006, J Neurosci 26:9673-9682.

    Examples
    --------
    >>> data = visual_cortex_pairing()
    >>> data.dw.sel(row=data.dt > 0).values.tolist()
    [-0.04, 0.14, 0.29, 0.53, 0.56]
    """
    names = {
        "frequency": ("Hz", "frequency of the pairings"),
        "dt": ("ms", "time of the postsynaptic spike after the presynaptic one"),
        "dw": ("1", "relative change of the weight"),
        "dw_sem": ("1", "standard error of the mean of dw"),
    }
    with as_file(files("ctsigprop.data") / "visual_cortex_pairing.csv") as path:
        table = read_table(path, {name: unit for name, (unit, _) in names.items()})
    for name, (_, meaning) in names.items():
        table[name].attrs["long_name"] = meaning
    table.dw.attrs["ancillary_variables"] = "dw_sem"
    table.attrs = {
        "title": "Weight change after 60 spike pairings, layer 5 of rat visual cortex",
        "source": "Sjostrom, Turrigiano & Nelson 2001, Neuron 32:1149-1164",
        "references": "as used by Pfister & Gerstner 2006, J Neurosci 26:9673-9682",
    }
    return table
