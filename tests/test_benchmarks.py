"""The benchmarks' frame: runs are made once, kept, and put into a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="an installed package has no benchmarks beside it"
)


def run(folder: Path, *arguments: str) -> str:
    code = (
        "import sys; from pathlib import Path; from benchmarks import learning, recipes;"
        f"learning.RESULTS = Path({str(folder)!r});"
        "small = {'epochs': 1, 'batch': 100};"
        "import dataclasses as d;"
        "[recipes.RECIPES.update({k: d.replace(r, train=small)}) "
        "for k, r in list(recipes.RECIPES.items())];"
        "sys.exit(learning.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_is_kept_and_stands_in_the_table(tmp_path: Path) -> None:
    row = json.loads(run(tmp_path, "--run", "sigprop", "0"))
    (kept,) = (tmp_path / "by_seed").glob("digits-sigprop-*-0.json")
    assert json.loads(kept.read_text()) == row
    worse = row | {"seed": 1, "test_error_percent": row["test_error_percent"] + 2}
    kept.with_name(kept.name.replace("-0.json", "-1.json")).write_text(json.dumps(worse))
    out = run(tmp_path, "--rules", "sigprop", "--seeds", "0,1", "--json")  # trains nothing
    (found,) = json.loads(out.splitlines()[-1])
    assert found["seeds"] == [0, 1]
    assert found["test_error_percent"] == pytest.approx(row["test_error_percent"] + 1)
    assert found["spread"] == pytest.approx(2**0.5)
    assert {"rule", "data", "network", "seconds", "peak_memory_mb"} <= found.keys()
    assert json.loads((tmp_path / "learning-digits.json").read_text()) == [found]


EVERY = """
import inspect
import torch
from benchmarks.recipes import RECIPES
from ctsigprop.train import train

x, labels = torch.rand(4, 784), torch.arange(4)
for (data, rule), recipe in RECIPES.items():
    inspect.signature(train).bind(None, None, **recipe.train)
    if data == "mnist":
        print(rule, *recipe.build(0).present(x, labels).shape)
"""


def test_every_recipe_on_mnist_builds_what_learns_from_its_images() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 15
    assert all(line.endswith(" 4 10") for line in lines)


def test_unknown_rules_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "learning", "--rules", "sigprp"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "unknown rule 'sigprp' on digits; accepted: " in done.stderr


def test_dynamics_times_what_is_here(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from benchmarks import dynamics;"
        f"dynamics.RESULTS = Path({str(tmp_path)!r});"
        "dynamics.ENTRIES = [e for e in dynamics.ENTRIES if e.contestant == 'ctsigprop'];"
        "sys.exit(dynamics.main(sys.argv[1:]))"
    )
    options = ["--rounds", "1", "--tasks", "fitzhugh_nagumo", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *options], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])
    assert json.loads((tmp_path / "dynamics.json").read_text()) == [row]
    assert (row["task"], row["contestant"]) == ("fitzhugh_nagumo", "ctsigprop")
    assert row["hopf_error"] < 1e-9
    assert row["cpu_seconds"] > 0
    assert (row["spread"], row["ratio"], row["rounds"]) == (0, 1, 1)
    assert {"version", "settings", "first_cpu_seconds", "note"} <= row.keys()


SMALL = """
import dataclasses as d, sys
from pathlib import Path
from benchmarks import works

works.RESULTS = Path(sys.argv[1])
work = works.WORKS["W1-100"]
small = {**work.options, "size": 12, "end": 1.0}
works.WORKS.clear()
peers = ["torchdiffeq", "absent"]
works.WORKS["W1-100"] = d.replace(work, options=small, ours=["floor"], peers=peers)
sys.exit(works.main(sys.argv[2:]))
"""


def test_works_tell_ratios_errors_and_times(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SMALL, str(tmp_path), "W1", "--rounds", "1", "--json"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert [row["work"] for row in rows] == ["W1-100"]
    assert json.loads((tmp_path / "works.json").read_text()) == rows
    assert (tmp_path / "works.png").stat().st_size > 10_000
    (row,) = rows
    ours = row["cpu_ms"].pop("ctsigprop")
    assert row["ratios"].keys() == row["cpu_ms"].keys() == {"floor", "torchdiffeq"}
    for who, ms in row["cpu_ms"].items():
        assert row["ratios"][who] == pytest.approx(ms / ours, rel=0.01, abs=1e-3)
    assert row["errors"].keys() == {"ctsigprop", "torchdiffeq"}
    assert 0 < max(row["errors"].values()) < 1e-3
    assert "no attribute 'absent'" in row["skipped"]["absent"]


def test_unknown_works_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "W7"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "unknown work 'W7'; accepted: W1, W2, W3, W5, W1-1000" in done.stderr


FAILING = """
import dataclasses as d, json
from benchmarks import works

class Failing(works.Contestant):
    def run(self, keep=None):
        answer = super().run(keep)
        return answer | {"failed": "no result"} if self.name == "ctsigprop" else answer

works.Contestant = Failing
work = works.WORKS["W1-100"]
small = {**work.options, "size": 12, "end": 1.0}
work = d.replace(work, options=small, ours=["floor"], peers=[])
print(json.dumps(works.measured("W1-100", work, rounds=1)))
"""


def test_what_failed_has_no_times() -> None:
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["skipped"] == {"ctsigprop": "no result"}
    assert row["cached_s"] is None
    assert row["first_s"].keys() == row["cpu_ms"].keys() == {"floor"}
