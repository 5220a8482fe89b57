"""Brian2, lent for a while: imported when it is used, and the user's session left as it was."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import numpy as np

from ctsigprop.errors import unknown

__all__ = ["brian2_session", "check_codegen"]

_TARGETS = ("numpy", "cython")


@contextlib.contextmanager
def brian2_session(codegen: str = "numpy") -> Iterator[Any]:
    """Lend the module brian2, and leave preferences and handlers as they were.

    Parameters
    ----------
    codegen : str
        The target of its code generation.

    Raises
    ------
    ImportError
        Where it cannot be imported, or is set up to write stand-alone programs.
    """
    check_codegen(codegen)
    brian2 = _import_brian2()
    device = type(brian2.get_device()).__name__
    if device != "RuntimeDevice":
        raise ImportError(
            f"brian2 backend unavailable: brian2 runs on a {device}; "
            "call brian2.set_device('runtime')"
        )
    before = brian2.prefs.codegen.target
    brian2.prefs.codegen.target = codegen
    invalid = logging.getLogger("brian2.groups.group.invalid_values")
    invalid.addFilter(_nothing)  # what is not finite is refused by a typed error
    try:
        with np.errstate(all="ignore"), _deprecations_ignored():
            yield brian2
    finally:
        brian2.prefs.codegen.target = before
        invalid.removeFilter(_nothing)


def _nothing(_record: logging.LogRecord) -> bool:
    return False


def check_codegen(codegen: str) -> None:
    """Refuse a target of code generation that Brian2 does not have."""
    if codegen not in _TARGETS:
        raise ValueError(unknown("codegen", codegen, _TARGETS))


def _import_brian2() -> ModuleType:
    if "brian2" in sys.modules:
        return sys.modules["brian2"]
    # its import takes over Ctrl-C and uncaught exceptions
    handler, hook = signal.getsignal(signal.SIGINT), sys.excepthook
    try:
        with _deprecations_ignored():
            import brian2
    except Exception as error:
        raise ImportError(f"brian2 backend unavailable: {_reason(error)}") from error
    finally:
        sys.excepthook = hook
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
    return brian2  # type: ignore[no-any-return]


def _reason(error: Exception) -> str:
    try:
        found = version("brian2")
    except PackageNotFoundError:
        return "brian2 is not installed"
    if threading.current_thread() is not threading.main_thread():
        return f"brian2 {found} has to be imported in the main thread first"
    numpy = ".".join(np.__version__.split(".")[:2])
    return f"brian2 {found} is incompatible with numpy {numpy} ({error})"


@contextlib.contextmanager
def _deprecations_ignored() -> Iterator[None]:
    """Silence what Brian2 uses of pyparsing, which is no concern of the caller."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="(brian2|pyparsing)")
        yield
