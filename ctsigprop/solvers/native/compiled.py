"""Generated source made into machine code once, and kept on disk for the next process.

numba compiles; what comes back from disk is linked by LLVM alone, which is loaded ten times as
fast as numba.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ctsigprop.collection import without_collection

__all__ = ["LETTERS", "Kernel", "available", "cache_folder", "compiled"]

FORMAT = b"ctsigprop kernel 1\n"

LETTERS = {torch.float64: "p", torch.float32: "f"}
"""Types of numbers that kernels know, and how their arguments are told."""

_C = {
    "p": ctypes.c_void_p,
    "f": ctypes.c_void_p,
    "q": ctypes.c_void_p,
    "i": ctypes.c_int64,
    "d": ctypes.c_double,
}

_LIBRARIES: dict[str, tuple[str | None, ...]] = {
    "linux": ("libm.so.6", None),
    "win32": ("ucrtbase",),
}


@cache
def available() -> bool:
    """Tell whether kernels can be compiled, without loading anything."""
    return find_spec("numba") is not None


def cache_folder() -> Path:
    """Return where kernels are kept: $CTSIGPROP_CACHE, or the user's folder of caches."""
    given = os.environ.get("CTSIGPROP_CACHE")
    if given:
        return Path(given)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "ctsigprop"


@dataclass(frozen=True)
class Kernel:
    """Machine code, called with one number for each argument.

    Attributes
    ----------
    call : callable
        Takes integers, floats, and addresses (``tensor.data_ptr()``), as `compiled` was told.
    fresh : bool
        Whether it was compiled just now, and not found on disk.
    address : int
        Of the machine code: ``int32 f(int64 *result, void **unused, ...)``.
    """

    call: Callable[..., int]
    fresh: bool
    address: int
    keep: Any  # the engine owns the code

    def __call__(self, *arguments: float) -> int:
        """Run it; return the integer that it returns."""
        out = ctypes.c_int64()
        status = self.call(ctypes.byref(out), ctypes.byref(ctypes.c_void_p()), *arguments)
        if status:
            raise RuntimeError(f"a native kernel ended with status {status}")
        return out.value


@cache
def compiled(
    source: str,
    name: str,
    arguments: str,
    fastmath: tuple[str, ...] = ("contract",),
    effort: int = 3,
) -> Kernel:
    """Return the function `name` of the text of a module as machine code.

    Parameters
    ----------
    source : str
        A module that numba compiles; run only where the code is not on disk. It allocates and
        raises nothing: what it works on is handed in.
    name : str
        Of the function, which returns an integer.
    arguments : str
        A letter for each argument: ``p``, ``f`` and ``q`` are pointers to float64, float32 and
        int64, read and written as ``p[k]``; ``i`` is an int64, ``d`` a float64.
    fastmath : tuple of str
        What the compiler may do to floating-point numbers, in LLVM's words; by default, to join
        products and sums.
    effort : int
        How much LLVM optimises, 1 to 3: less for what takes little of the time.

    Raises
    ------
    ImportError
        If numba is not installed, and the code is not on disk.

    Notes
    -----
    A file is named by the hash of the source, the compiler and the processor, and holds a checksum:
    one that is damaged is compiled anew. Where nothing can be written, nothing is kept.

    Examples
    --------
    >>> double = compiled("def double(k): return 2 * k", "double", "i")
    >>> double(21)
    42
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    path = cache_folder() / f"{name}-{_key(source, name, arguments, fastmath, effort)}.kernel"
    found = _read(path)
    fresh = found is None
    if found is None:
        with without_collection():
            found = _compile(source, name, arguments, fastmath, effort)
        _write(path, found)
    try:
        engine, address = _link(found)
    except RuntimeError:  # numba knows where everything is that its code needs
        engine, address = _link(_compile(source, name, arguments, fastmath, effort))
    signature = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *(_C[letter] for letter in arguments)
    )
    return Kernel(signature(address), fresh, address, engine)


def _key(source: str, name: str, arguments: str, fastmath: tuple[str, ...], effort: int) -> str:
    import llvmlite.binding as llvm

    versions = [version("numba"), version("llvmlite"), platform.python_version()]
    cpu = [llvm.get_default_triple(), llvm.get_host_cpu_name(), _features()]
    parts = [FORMAT.decode(), source, name, arguments, *fastmath, str(effort), *versions, *cpu]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _features() -> str:
    import llvmlite.binding as llvm

    features: str = llvm.get_host_cpu_features().flatten()
    if platform.machine() in ("x86_64", "AMD64"):
        features += ",-prefer-256-bit"  # the widest registers, which LLVM leaves aside on some
    return features


def _machine(effort: int = 3) -> Any:
    import llvmlite.binding as llvm

    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=_features(),
        opt=effort,
        jit=True,
        reloc="default",
        codemodel="jitdefault",
    )


@dataclass(frozen=True)
class _Code:
    """An object file, the symbol of its function, and the symbols that it needs from outside."""

    symbol: str
    needs: list[str]
    code: bytes


def _compile(
    source: str, name: str, arguments: str, fastmath: tuple[str, ...], effort: int
) -> _Code:
    import llvmlite.binding as llvm

    try:
        import numba
    except ImportError:
        raise ImportError("native kernels need numba: pip install ctsigprop[native]") from None

    njit: Any = numba.njit
    types: Any = numba.types
    kinds = {
        "p": types.CPointer(types.float64),
        "f": types.CPointer(types.float32),
        "q": types.CPointer(types.int64),
        "i": types.int64,
        "d": types.float64,
    }
    signature = types.int64(*(kinds[letter] for letter in arguments))
    namespace: dict[str, Any] = {"__name__": "ctsigprop_kernel"}
    exec(compile(source, f"<{name}>", "exec"), namespace)
    with _optimizing(numba, effort):
        function = njit(
            [signature],
            error_model="numpy",
            fastmath=set(fastmath),
            no_cpython_wrapper=True,
            no_cfunc_wrapper=True,
            no_rewrites=True,
            _nrt=False,
        )(namespace[name])
    module = llvm.parse_assembly(function.inspect_llvm(signature.args))
    functions = list(module.functions)
    entry = function.overloads[signature.args].fndesc.mangled_name
    needs = [f.name for f in functions if f.is_declaration and not f.name.startswith("llvm.")]
    return _Code(entry, needs, _machine(effort).emit_object(module))


class _Idle:
    """An engine of numba's that makes no machine code of modules: `_compile` does, of the whole."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._environment = engine, ctypes.c_void_p()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def add_module(self, module: Any) -> None:
        """Leave it."""

    def finalize_object(self) -> None:
        """Do nothing."""

    def get_function_address(self, name: str) -> int:
        """Return none; nothing calls it."""
        del name
        return 0

    def get_global_value_address(self, name: str) -> int:
        """Return where numba may write its environment, which nothing reads."""
        del name
        return ctypes.addressof(self._environment)


@contextlib.contextmanager
def _optimizing(numba: Any, effort: int) -> Iterator[None]:
    """Let numba optimise so much, for our machine, and no more, where it has these parts."""
    codegen, config = numba.core.registry.cpu_target.target_context.codegen(), numba.core.config
    before, parts = config.OPT, {name: getattr(codegen, name, None) for name in ("_tm", "_engine")}
    config.OPT = min(effort, before)
    if all(parts.values()):
        codegen._tm, codegen._engine = _machine(), _Idle(parts["_engine"])  # its wider registers
    try:
        yield
    finally:
        config.OPT = before
        for name, part in parts.items():
            if part is not None:
                setattr(codegen, name, part)


def _link(found: _Code) -> tuple[Any, int]:
    import llvmlite.binding as llvm

    missing = [name for name in found.needs if not _known(name)]
    if missing:  # LLVM would end the process
        raise RuntimeError(f"a native kernel needs {', '.join(missing)}, which is not here")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(found.code))
    engine.finalize_object()
    return engine, engine.get_function_address(found.symbol)


def _known(symbol: str) -> bool:
    """Tell whether LLVM finds a function, of the C library where it is nowhere else."""
    import llvmlite.binding as llvm

    if llvm.address_of_symbol(symbol) is not None:
        return True
    for library in _LIBRARIES.get(sys.platform, (None,)):
        with contextlib.suppress(OSError, AttributeError):
            function = getattr(ctypes.CDLL(library), symbol)
            address = ctypes.cast(function, ctypes.c_void_p).value
            llvm.add_symbol(symbol, address)
            return True
    return False


def _read(path: Path) -> _Code | None:
    try:
        text = path.read_bytes()
    except OSError:
        return None
    start = len(FORMAT) + 64
    head, _, code = text[start:].partition(b"\n")
    checksum = hashlib.sha256(text[start:]).hexdigest().encode()
    if text[:start] != FORMAT + checksum:
        return None
    facts = json.loads(head)
    return _Code(facts["symbol"], facts["needs"], code)


def _write(path: Path, found: _Code) -> None:
    head = json.dumps({"symbol": found.symbol, "needs": found.needs}).encode()
    body = head + b"\n" + found.code
    text = FORMAT + hashlib.sha256(body).hexdigest().encode() + body
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text)
            Path(part).replace(path)  # whole, or not at all
        except OSError:
            Path(part).unlink(missing_ok=True)
            raise
