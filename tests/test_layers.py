"""The floors of ARCHITECTURE.md: imports only go down, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ctsigprop

PACKAGE = Path(ctsigprop.__file__).parent
FLOORS = [
    {"errors", "units", "provenance", "signals", "quantities", "brian2_", "affine", "collection"},
    {"terms", "equations", "data", "lowrank"},
    {"system"},
    {"solvers", "models", "solution", "store"},
    {"checks", "solve", "steady"},
    {"learning", "fit"},
    {"train", "compare", "analyses"},
    {"cli"},
]
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
# names that only type checkers see may point anywhere
HEAVY = {"brian2", "matplotlib", "netCDF4", "numba", "pandas", "pint", "scipy", "sklearn", "sympy"}
HEAVY |= {"torchdiffeq", "xarray", "zarr", "dask"}


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.ImportFrom) and node.module:
            found.extend([node.module, *(f"{node.module}.{a.name}" for a in node.names)])
        elif isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    own = unit(path)
    assert own in FLOOR, f"{own} has no floor in ARCHITECTURE.md"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] in ("models", "solvers", "analyses"):
            pytest.fail(f"{path.name} imports the link {name}")
        if parts[0] == "ctsigprop" and len(parts) > 1 and parts[1] in FLOOR:
            assert FLOOR[parts[1]] <= FLOOR[own], f"{own} imports {parts[1]}, which is above it"


def test_a_fresh_import_loads_nothing_heavy_and_costs_little_beside_torch() -> None:
    code = (
        "import gc, time, sys; a = time.process_time(); import torch; b = time.process_time();"
        "before = set(sys.modules); c = time.process_time(); import ctsigprop;"
        "d = time.process_time(); assert gc.isenabled();"
        f"print(sorted({HEAVY!r} & set(sys.modules)), 1 + (d - c) / (b - a));"
        "print(*(set(sys.modules) - before))"
    )
    ratios = []
    for _ in range(3):  # the machine has other work, too
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        first, new = done.stdout.splitlines()
        loaded, ratio = first.rsplit(" ", 1)
        assert loaded == "[]"
        ratios.append(float(ratio))
        tops = [name.split(".")[0] for name in new.split()]
        assert set(tops) - sys.stdlib_module_names <= {"ctsigprop", "numpy"}
        assert 0 < tops.count("ctsigprop") < 0.6 * len(MODULES)
    assert min(ratios) <= 1.3


@pytest.mark.parametrize("name", ["models", "solvers", "analyses"])
def test_links_at_the_root_lead_into_the_package(name: str) -> None:
    link = PACKAGE.parent / name
    if not link.exists():
        pytest.skip("an installed package has no links beside it")
    assert link.is_symlink()
    assert link.resolve() == (PACKAGE / name).resolve()
