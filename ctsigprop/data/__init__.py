"""Recorded and benchmark data, read into labelled datasets."""

from __future__ import annotations

from ctsigprop.data.images import Task, digits, load, mnist, read_idx
from ctsigprop.data.tables import read_table, visual_cortex_pairing

__all__ = [
    "Task",
    "digits",
    "load",
    "mnist",
    "read_idx",
    "read_table",
    "visual_cortex_pairing",
]
