"""The README's programs run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_every_program_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(programs) >= 6
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for program in programs:
        exec(compile(program, "README.md", "exec"), space)
    assert (tmp_path / "membrane.zarr").exists()
    assert (tmp_path / "portrait.png").exists()
    out = capsys.readouterr().out
    ends = [float(line.split()[1]) for line in out.splitlines() if line.split()[0] in SOLVERS]
    assert len(ends) == len(SOLVERS)
    assert max(ends) - min(ends) < 1e-3
    assert space["training"].test_accuracy[-1] > 0.7


SOLVERS = ("Tsit5", "TorchDiffEq", "SciPy", "Brian2")
