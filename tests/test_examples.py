"""Every example runs, is short, and writes a figure and a valid dataset."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ctsigprop as ct

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def test_there_are_examples_of_every_use() -> None:
    assert len(EXAMPLES) >= 10


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path: Path, tmp_path: Path) -> None:
    assert len(path.read_text().splitlines()) < 80
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"{path.stem}.png").stat().st_size > 10_000
    assert ct.validate(ct.open(tmp_path / f"{path.stem}.zarr")) == []
