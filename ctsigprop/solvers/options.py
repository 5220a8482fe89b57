"""What solvers refuse of their own options."""

from __future__ import annotations

import math

__all__ = ["TAPE", "check_max_steps", "check_positive", "check_tape"]

TAPE = 1024.0
"""MiB of the graph that is kept for gradients."""


def check_positive(name: str, value: float) -> None:
    """Refuse an option that is not a positive number."""
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be > 0, got {value!r}")


def check_tape(value: float) -> None:
    """Refuse a limit of memory that is no number of at least 0."""
    if not (isinstance(value, int | float) and value >= 0):
        raise ValueError(f"tape must be >= 0 MiB, got {value!r}")


def check_max_steps(value: int) -> None:
    """Refuse a limit that is not a whole number above zero."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"max_steps must be a whole number >= 1, got {value!r}")
