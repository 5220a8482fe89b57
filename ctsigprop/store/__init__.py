"""Results and checkpoints on disk: saved whole or not at all, and checked when they are opened."""

from __future__ import annotations

from ctsigprop.store.archive import open, save
from ctsigprop.store.checkpoint import (
    Checkpoint,
    load_checkpoint,
    match_checkpoint,
    save_checkpoint,
)
from ctsigprop.store.files import check_writable
from ctsigprop.store.schema import CONVENTIONS, validate

__all__ = [
    "CONVENTIONS",
    "Checkpoint",
    "check_writable",
    "load_checkpoint",
    "match_checkpoint",
    "open",
    "save",
    "save_checkpoint",
    "validate",
]
