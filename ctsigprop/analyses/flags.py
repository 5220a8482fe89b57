"""Verdicts as numbers that say what they mean (CF flags)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import int8
    from numpy.typing import NDArray

__all__ = ["flagged", "flags"]


def flags(meanings: Sequence[str], long_name: str = "") -> dict[str, Any]:
    """Return the attributes of a variable whose numbers stand for words, from 0 on.

    >>> flags(("no", "yes"))["flag_meanings"]
    'no yes'
    """
    import numpy as np

    attrs: dict[str, Any] = {
        "flag_values": np.arange(len(meanings), dtype=np.int8),
        "flag_meanings": " ".join(meanings),
    }
    return attrs | ({"long_name": long_name} if long_name else {})


def flagged(
    verdicts: Sequence[str], meanings: Sequence[str]
) -> tuple[NDArray[int8], dict[str, Any]]:
    """Return the numbers of verdicts among their meanings, and the attributes that say so.

    >>> flagged(["yes", "no", "yes"], ("no", "yes"))[0].tolist()
    [1, 0, 1]
    """
    import numpy as np

    return np.array([meanings.index(verdict) for verdict in verdicts], np.int8), flags(meanings)
