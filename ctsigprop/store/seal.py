"""A SHA-256 at the end of a file, checked before the file is read.

HDF5 follows whatever addresses it finds: one flipped bit can make it read without end. So a
damaged file must be known before its library sees it. HDF5 and Zip readers ignore what comes
after their own end, and read a sealed file as any other.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ctsigprop.errors import CorruptStoreError

__all__ = ["check_seal", "seal"]

_MARK = b"\nctsigprop-sha256:"
_LENGTH = len(_MARK) + 64
_BLOCK = 1 << 20


def seal(path: Path) -> None:
    """Append the SHA-256 of the file to it."""
    footer = _footer(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(footer)


def check_seal(path: Path) -> None:
    """Refuse a file that is not what was sealed.

    Raises
    ------
    CorruptStoreError
        If the file is empty, truncated or altered, or was never sealed.
    """
    size = path.stat().st_size
    if size == 0:
        raise CorruptStoreError(f"{path} is empty (interrupted write?)")
    with path.open("rb") as file:
        file.seek(max(size - _LENGTH, 0))
        found = file.read()
    if not found.startswith(_MARK):
        raise CorruptStoreError(f"{path} is truncated or corrupt (it does not end in its checksum)")
    if found != _footer(path, size - _LENGTH):
        raise CorruptStoreError(f"{path} is corrupt (its checksum does not agree)")


def _footer(path: Path, size: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(_BLOCK, size))):
            digest.update(block)
            size -= len(block)
    return _MARK + digest.hexdigest().encode()
