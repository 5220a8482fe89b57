"""All that runs on another device, each part in a process of its own.

On a machine with a GPU the tests of `tests/elsewhere` run there. Elsewhere a device stands for it,
that mixes with no other; torch has to know of it before anything is differentiated.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("elsewhere")


@pytest.mark.parametrize("part", ["runs", "learners", "analyses"])
def test_on_another_device(part: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(FOLDER / f"{part}.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:]
