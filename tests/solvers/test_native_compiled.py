"""Kernels on disk: found by the next process, made anew where they are damaged."""

from __future__ import annotations

import ctypes
import math
import subprocess
import sys

import pytest

from ctsigprop.solvers.native.compiled import available, cache_folder, compiled

numba = pytest.importorskip("numba")

SOURCE = """
import math

def kernel(x, k, scale):
    x[k] = math.tanh(scale) + math.expm1(x[k])
    return k + {number}
"""
CHILD = """
import ctypes, sys
from ctsigprop.solvers.native.compiled import compiled
kernel = compiled({source!r}, "kernel", "pid")
x = (ctypes.c_double * 2)(0.0, 0.0)
assert kernel(ctypes.addressof(x), 1, 100.0) == 1 + {number}
assert list(x) == [0.0, 1.0]
print(kernel.fresh, "numba" in sys.modules)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CTSIGPROP_CACHE", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def build(number):
    """Compile, or load, without the memory of this process."""
    kernel = compiled.__wrapped__(SOURCE.format(number=number), "kernel", "pid")
    x = (ctypes.c_double * 2)(0.0, 0.0)
    assert kernel(ctypes.addressof(x), 1, 100.0) == 1 + number
    assert list(x) == [0.0, 1.0]
    return kernel


def child(number):
    text = CHILD.format(source=SOURCE.format(number=number), number=number)
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)


def test_the_next_process_finds_it_and_loads_no_numba(folder):
    assert available()
    assert cache_folder() == folder
    assert build(3).fresh
    assert not build(3).fresh
    assert child(3).communicate()[0].split() == ["False", "False"]


def test_processes_at_once_do_not_disturb_each_other(folder):
    processes = [child(5) for _ in range(2)]
    for process in processes:
        assert process.communicate()[0].split()[0] in ("True", "False")
        assert process.returncode == 0
    assert [path.suffix for path in folder.iterdir()] == [".kernel"]
    assert not build(5).fresh


def test_a_damaged_file_is_made_anew(folder):
    build(7)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), whole[:-10], whole[:20], b"", b"\0" * 200):
        path.write_bytes(damaged)
        assert build(7).fresh
        assert not build(7).fresh


def test_another_source_is_another_kernel(folder):
    build(8)
    build(9)
    assert len(list(folder.iterdir())) == 2


def test_where_nothing_can_be_written_it_is_compiled_in_memory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CTSIGPROP_CACHE", str(tmp_path / "file" / "kernels"))
    assert build(11).fresh
    assert build(11).fresh


def test_without_numba_the_extra_is_named(folder, monkeypatch):
    assert not folder.exists()
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match=r"pip install ctsigprop\[native\]"):
        build(13)


def test_loops_take_the_widest_registers():
    import llvmlite.binding as llvm
    import numba

    from ctsigprop.solvers.native import compiled as module

    if not llvm.get_host_cpu_features().get("avx512f"):
        pytest.skip("the processor has none of 512 bits")
    codegen = numba.core.registry.cpu_target.target_context.codegen()
    before = codegen._tm
    pointer, whole = numba.types.CPointer(numba.types.float64), numba.types.int64
    with module._optimizing(numba, 3):
        assert codegen._tm is not before

        @numba.njit(whole(pointer, whole), no_cpython_wrapper=True, no_cfunc_wrapper=True)
        def double(x, n):
            for k in range(n):
                x[k] = 2.0 * x[k]
            return 0

    assert codegen._tm is before
    with module._optimizing(numba, 1):
        assert numba.core.config.OPT == 1
    assert numba.core.config.OPT == 3
    assert "<8 x double>" in double.inspect_llvm((pointer, whole))


def test_other_functions_of_numba_are_compiled_as_ever(folder):
    """Before a kernel and after it, with what both need of numba's own."""
    assert not folder.exists()
    source = """
import math
from numba import njit

@njit
def inner(x):
    return math.hypot(x, 1.0) + math.gamma(x)

def kernel(p, n):
    for k in range(n):
        p[k] = inner(p[k])
    return 0
"""

    def own():
        return numba.njit(lambda x: math.hypot(x, 1.0) + math.gamma(x))

    before = own()
    assert before(2.0) == pytest.approx(1 + 5**0.5)
    values = (ctypes.c_double * 3)(1.0, 2.0, 3.0)
    compiled.__wrapped__(source, "kernel", "pi")(ctypes.addressof(values), 3)
    for k in range(3):
        assert own()(k + 1.0) == before(k + 1.0) == pytest.approx(values[k], rel=1e-15)
