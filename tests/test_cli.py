from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

import ctsigprop as ct
from ctsigprop.cli import app
from ctsigprop.learning.continuous import ContinuousSigprop
from ctsigprop.solvers.native import paths

TINY = ("--hidden", "16,16", "--batch", "100")
FILES = ["checkpoints", "learning.png", "results.zarr", "summary.txt", "weights.png"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert torch.get_num_threads() == 1


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def done(*arguments: str | Path) -> Any:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: str | Path) -> str:
    """One line on stderr, exit code 2, and nothing done."""
    before = sorted(Path().rglob("*"))
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("ctsigprop: ")
    assert sorted(Path().rglob("*")) == before
    return lines[0]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, to be read only."""
    out = tmp_path_factory.mktemp("learned") / "run"
    result = done("learn", "--epochs", "1", *TINY, "--out", out, "--json")
    (out.parent / "stdout").write_text(result.stdout)
    return out


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, to be read only."""
    out = tmp_path_factory.mktemp("twice") / "run"
    done("learn", "--epochs", "2", *TINY, "--out", out)
    return out


@pytest.fixture
def run(learned: Path, folder: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(learned, folder / "run"))


def same_results(a: Path, b: Path) -> bool:
    one, two = (ct.open(p / "results.zarr") for p in (a, b))
    names = ("weights", "learning", "control", "responses")
    return all(one[name].to_dataset().equals(two[name].to_dataset()) for name in names)


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Press Ctrl-C during the presentation of that number."""
    present, calls = ContinuousSigprop.present, [0]

    def interrupted(self: ContinuousSigprop, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return present(self, *arguments)

    monkeypatch.setattr(ContinuousSigprop, "present", interrupted)


def test_learn_writes_what_it_says(learned: Path) -> None:
    lines = (learned.parent / "stdout").read_text().splitlines()
    numbers = json.loads(lines[-1])
    assert set(numbers) >= {"test_accuracy", "frozen_accuracy", "seconds"}
    assert numbers["status"] == "complete"
    assert numbers["seconds"] > 0
    assert lines[-3] == f"wrote {learned}: {', '.join(FILES)}"
    assert lines[-2].endswith(f"ctsigprop show {learned}")
    assert sorted(p.name for p in learned.iterdir()) == FILES
    tree = ct.open(learned / "results.zarr")
    assert ct.validate(tree) == []
    assert tree["learning/test_accuracy"].values[-1] == numbers["test_accuracy"]
    assert tree["control/test_accuracy"].values[-1] == numbers["frozen_accuracy"]
    assert tree["weights/W_h2_h1"].shape == (2, 16, 16)
    summary = (learned / "summary.txt").read_text().splitlines()
    assert summary == lines[: len(summary)]
    assert summary[0] == "sigprop on digits: loop form, tagged rule, 64-16-16-10"
    assert f"test accuracy {numbers['test_accuracy']:.2%}, all layers learning" in summary
    for name in ("learning.png", "weights.png"):
        assert (learned / name).read_bytes()[:4] == b"\x89PNG"


def test_bars_stay_out_of_stdout() -> None:
    result = done("learn", "--epochs", "1", *TINY, "--no-control", "--data", idx_folder())
    assert "%|" in result.stderr
    assert "%|" not in result.stdout
    assert "\r" not in result.stdout
    assert result.stdout.splitlines()[0].startswith("sigprop on mnist")


@pytest.mark.parametrize("form", ["loop", "label"])
@pytest.mark.parametrize("rule", ["tagged", "differential", "delta", "contrastive"])
def test_every_form_and_rule(form: str, rule: str) -> None:
    options = ("--form", form, "--rule", rule, "--data", idx_folder(), "--out", "run")
    result = done("learn", "--epochs", "2", "--hidden", "8", "--json", *options)
    assert result.stdout.startswith(f"sigprop on mnist: {form} form, {rule} rule, 15-8-10")
    tree = ct.open(Path("run") / "results.zarr")
    settings = tree.attrs["settings"]
    assert settings["update"] == (rule if rule in ("delta", "contrastive") else "integrated")
    weights = tree["weights/W_h1_x"]
    assert bool((weights.sel(stage="final") != weights.sel(stage="initial")).any())


def test_each_run_has_a_new_folder_and_rates_may_be_given() -> None:
    options = ("--data", idx_folder(), "--epochs", "1", "--hidden", "8", "--no-control")
    for number, (eta, rates) in enumerate([("0.2", [0.2, 0.2]), ("0.3,0.1", [0.3, 0.1])], 1):
        done("learn", *options, "--eta", eta)
        tree = ct.open(Path("runs") / f"learn-{number}" / "results.zarr")
        found = tree.attrs["settings"]["rates"]
        np.testing.assert_allclose([found["W_h1_x"], found["W_y_h1"]], rates, rtol=1e-6)


def idx_folder() -> Path:
    """MNIST's four files with images of 3 by 5 pixels, in each of which one column is bright."""
    folder = Path("idx")
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for stem, count in (("train", 40), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 5
        images = rng.integers(0, 50, (count, 3, 5), dtype=np.uint8)
        images[np.arange(count), :, labels] = 255
        files = {f"{stem}-images-idx3-ubyte": images, f"{stem}-labels-idx1-ubyte": labels}
        for name, array in files.items():
            shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / name).write_bytes(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes())
    return folder


def test_learn_reads_idx_files() -> None:
    options = ("--epochs", "15", "--hidden", "20", "--eta", "1", "--batch", "10", "--out", "run")
    result = done("learn", "--data", idx_folder(), *options, "--no-control", "--json")
    assert json.loads(result.stdout.splitlines()[-1])["test_accuracy"] > 0.9
    assert "40 training and 20 test samples" in result.stdout
    tree = ct.open(Path("run") / "results.zarr")
    assert tuple(tree.attrs["image_shape"]) == (3, 5)
    assert Path("run", "weights.png").exists()
    shutil.rmtree("run")
    images = Path("idx") / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    assert "is truncated" in refused("learn", "--data", "idx", *options)


@pytest.mark.parametrize("at", [1, 20, 50], ids=["first epoch", "second epoch", "control"])
def test_an_interrupted_run_is_kept_and_finished(
    twice: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    # 15 presentations an epoch, 30 for each of the two networks
    options = ("learn", "--epochs", "2", *TINY)
    with monkeypatch.context() as patch:
        stop_at(patch, at)
        result = call(*options, "--out", "stopped", "--json")
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    lines = result.stdout.splitlines()
    assert json.loads(lines[-1])["status"] == "interrupted"
    assert any("--resume --out stopped" in line for line in lines)
    tree = ct.open(Path("stopped") / "results.zarr")
    assert ct.validate(tree) == []
    kept = {1: 0, 20: 1, 50: 2}[at]
    assert tree["learning"].sizes["epoch"] == kept
    assert ("control" in tree.children) == (at == 50)
    assert "is whole and valid" in done("validate", "stopped").stdout
    done("show", "stopped", "--no-draw")
    result = done(*options, "--resume", "--out", "stopped", "--json")
    assert same_results(Path("stopped"), twice)
    assert json.loads(result.stdout.splitlines()[-1])["status"] == "complete"


def test_ctrl_c_in_a_shell(folder: Path) -> None:
    options = ("learn", "--epochs", "1000", *TINY, "--json")
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "ctsigprop.cli", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = folder / "runs" / "learn-1"
    try:
        deadline = time.monotonic() + 120
        while not any(run.glob("checkpoints/*/step_*.npz")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == ""
    numbers = json.loads(out.splitlines()[-1])
    assert numbers["status"] == "interrupted"
    assert numbers["frozen_accuracy"] is None
    assert numbers["out"] == str(Path("runs") / "learn-1")
    tree = ct.open(run / "results.zarr")
    assert ct.validate(tree) == []
    assert tree.attrs["status"] == "interrupted"
    assert tree["learning"].sizes["epoch"] == numbers["epochs"] >= 1


def test_resume_takes_only_the_same_run(run: Path, learned: Path) -> None:
    options = ("learn", *TINY, "--resume", "--out", run)
    before = (run / "results.zarr" / "zarr.json").read_bytes()
    assert "'epochs' was 1, and is 2 now" in failed(*options, "--epochs", "2")
    other = failed("learn", "--hidden", "8", "--batch", "100", "--epochs", "1", *options[-3:])
    assert "has shape (16, 64), expected (8, 64)" in other
    assert "--resume needs --out" in refused("learn", "--resume")
    assert "got nothing" in refused("learn", "--resume", "--out", "nothing")
    assert "exclude each other" in refused(*options, "--overwrite")
    assert (run / "results.zarr" / "zarr.json").read_bytes() == before
    done(*options, "--epochs", "1")  # nothing left to do
    assert same_results(run, learned)


def failed(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


def test_an_existing_run_is_refused_before_any_work(
    run: Path, learned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("learn", "--epochs", "1", *TINY, "--out", run)
    with monkeypatch.context() as patch:
        patch.setattr(ContinuousSigprop, "present", None)  # any presentation would raise
        assert "--overwrite replaces it" in refused(*options)
        shutil.rmtree(run / "results.zarr")  # as after a crash
        assert "--resume goes on from them, --overwrite starts anew" in refused(*options)
    done(*options, "--seed", "1", "--overwrite")
    assert ct.open(run / "results.zarr").attrs["settings"]["seed"] == 1
    done(*options, "--overwrite")
    assert same_results(run, learned)


def test_a_folder_that_cannot_be_written_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ContinuousSigprop, "present", None)
    Path("file").write_text("")
    assert "not writable" in refused("learn", "--out", Path("file") / "run")
    assert "not writable" in refused("simulate", "qif", "--out", Path("file") / "run")


def test_compare_writes_a_table_a_figure_and_its_numbers() -> None:
    few = ("compare", "--rules", "sigprop-loop,backpropagation", "--seeds", "0,1", *TINY)
    result = done(*few, "--epochs", "1", "--out", "both", "--json")
    lines = result.stdout.splitlines()
    numbers = json.loads(lines[-1])["rules"]
    assert sorted(p.name for p in Path("both").iterdir()) == [
        "checkpoints", "comparison.png", "needs.png", "results.zarr", "summary.txt",
    ]  # fmt: skip
    summary = (Path("both") / "summary.txt").read_text()
    assert "transport: yes; weights of other layers, read by the update; evidence h1 " in summary
    assert sum("needs forward pass, feedback" in line for line in lines) == 2
    tree = ct.open(Path("both") / "results.zarr")
    assert ct.validate(tree) == []
    last = tree["comparison/test_accuracy"].isel(epoch=-1)
    for rule, found in numbers.items():
        by_seed = 100 * (1 - last.sel(rule=rule).values)
        assert found["by_seed"] == by_seed.tolist()
        assert found["test_error_percent"] == pytest.approx(by_seed.mean())
        assert any(line.startswith(rule) and f"{by_seed.mean():.2f} %" in line for line in lines)
    errors = [found["test_error_percent"] for found in numbers.values()]
    assert lines[2].split()[0] == min(numbers, key=lambda r: numbers[r]["test_error_percent"])
    assert len(errors) == 2
    with pytest.MonkeyPatch.context() as patch:
        shown = []
        present = ContinuousSigprop.present
        patch.setattr(ContinuousSigprop, "present", lambda *a: shown.append(1) or present(*a))
        done(*few, "--epochs", "1", "--out", "both", "--resume")
        assert len(shown) < 15  # to measure what has learned; an epoch of training has 15
        assert "--overwrite replaces it" in refused(*few, "--epochs", "1", "--out", "both")
    again = ct.open(Path("both") / "results.zarr")["comparison"].to_dataset()
    assert again.equals(tree["comparison"].to_dataset())
    (Path("both") / "comparison.png").unlink()
    done("show", "both")
    assert (Path("both") / "comparison.png").exists()


def test_an_interrupted_comparison_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("compare", "--rules", "sigprop-loop", "--seeds", "0,1", *TINY, "--epochs", "1")
    with monkeypatch.context() as patch:
        stop_at(patch, 20)  # an epoch has 15 presentations
        result = call(*few, "--out", "part")
    assert result.exit_code == 130
    assert "interrupted: the same options with --resume --out part go on" in result.stdout
    part = ct.open(Path("part") / "results.zarr")["comparison/test_accuracy"]
    assert part.isnull().values.ravel().tolist() == [False, True]
    done(*few, "--out", "part", "--resume")
    done(*few, "--out", "whole")
    one, two = (
        ct.open(Path(name) / "results.zarr")["comparison/test_accuracy"]
        for name in ("part", "whole")
    )
    assert one.equals(two)


REFUSED = [
    (("compare", "--rules", "sigprop-lop"), "did you mean 'sigprop-loop'?"),
    (("compare", "--seeds", "0,0"), "seeds must be different numbers"),
    (("compare", "--seeds", "a"), "--seeds takes numbers separated by commas; got 'a'"),
    (("compare", "--resume"), "--resume needs --out and the folder of a run; got None"),
    (
        ("learn", "--form", "lop"),
        "unknown form 'lop' (did you mean 'loop'?); accepted: label, loop",
    ),
    (("learn", "--rule", "taged"), "unknown rule 'taged' (did you mean 'tagged'?)"),
    (("learn", "--data", "digts"), "unknown task 'digts' (did you mean 'digits'?)"),
    (("learn", "--hidden", "a"), "--hidden takes numbers separated by commas; got 'a'"),
    (("learn", "--hidden", "0"), "each >= 1; got [64, 0, 10]"),
    (("learn", "--hidden", ""), "an input, a hidden layer and an output"),
    (("learn", "--eta", "1,2"), "one rate >= 0 for each of 3 layers; got [1.0, 2.0]"),
    (("learn", "--strength", "-1"), "strength must be >= 0; got -1.0"),
    (("simulate", "fitzhug-nagumo"), "did you mean 'fitzhugh-nagumo'?"),
    (("simulate", "none.txt"), "or a file with equations"),
    (("simulate", "qif", "--set", "J=1"), "unknown parameter of qif 'J'"),
    (("simulate", "morris-lecar", "--set", "g_ca=1"), "did you mean 'g_Ca'?"),
    (("simulate", "qif", "--set", "I=one"), "'I=one' must be NAME=NUMBER"),
    (("simulate", "qif", "--set", "I"), "'I' must be NAME=NUMBER"),
    (("simulate", "qif", "--initial", "u=1"), "the state has no variable 'u'"),
    (("simulate", "qif", "--solver", "tsit"), "unknown solver 'tsit' (did you mean 'tsit5'?)"),
    (("simulate", "qif", "--solver", "bdf", "--dt", "1"), "--dt does not go with the solver 'bdf'"),
    (("simulate", "qif", "--dt", "1", "--rtol", "1"), "--dt and --rtol exclude each other"),
    (("simulate", "qif", "--solver", "rk4", "--rtol", "1"), "--rtol does not go with"),
    (("simulate", "qif", "--solver", "rk4", "--dt", "-1"), "dt must be > 0"),
    (("simulate", "qif", "--duration", "0"), "--duration must be > 0 and finite; got 0.0"),
    (("simulate", "qif", "--duration", "inf"), "--duration must be > 0 and finite; got inf"),
    (("portrait", "qif", "--range", "v=1"), "'v=1' must be NAME=LOW:HIGH"),
    (("portrait", "qif", "--range", "v=1:0"), "range of 'v' must be finite with low < high"),
    (("portrait", "qif", "--axes", "u"), "unknown variable 'u'; accepted: v"),
    (("bifurcation", "qif", "--parameter", "J=0:1"), "unknown parameter 'J'; accepted: I"),
    (("bifurcation", "qif", "--parameter", "I"), "'I' must be NAME=LOW:HIGH"),
    (
        ("bifurcation", "fitzhugh-nagumo", "--parameter", "tau=-1:1"),
        "tau must lie in [0, inf]; got the range (-1, 1)",
    ),
    (("show", "nothing"), "nothing"),
    (("validate", "nothing"), "nothing"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda v: " ".join(v)[:40])
def test_what_cannot_be_done_is_refused_in_one_line(
    arguments: tuple[str, ...], message: str
) -> None:
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    "arguments", [("learn", "--epoch", "1"), ("learn", "--epochs", "0"), ("lern",)]
)
def test_options_that_do_not_exist_are_refused(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert result.stdout == ""


COMMANDS = ("learn", "compare", "simulate", "portrait", "bifurcation", "show", "validate")


def test_help_names_every_command() -> None:
    text = done("--help").stdout
    assert all(name in text for name in COMMANDS)
    for name in COMMANDS:
        done(name, "--help")


def test_simulate_a_shipped_model() -> None:
    options = ("--set", "I=0.5", "--set", "a=0.8", "--initial", "v=-1.0", "--duration", "40")
    result = done("simulate", "fitzhugh-nagumo", *options, "--rtol", "1e-8", "--json")
    lines = result.stdout.splitlines()
    numbers = json.loads(lines[-1])
    system = ct.System(ct.fitzhugh_nagumo(I=0.5, a=0.8))
    times = torch.linspace(0, 40, 1001, dtype=torch.float64)
    truth = ct.solve(system, {"v": -1.0}, times, rtol=1e-8)
    assert numbers["final"] == {n: truth[n][-1].tolist() for n in ("v", "w")}
    assert numbers["steps"] == truth.statistics.steps
    out = Path("runs") / "simulate-1"
    assert lines[-3] == f"wrote {out}: results.zarr, summary.txt, time_courses.png"
    assert lines[-2].endswith(f"ctsigprop show {out}")
    tree = ct.open(out / "results.zarr")
    assert ct.validate(tree) == []
    np.testing.assert_array_equal(tree["simulation/v"], truth["v"])
    assert torch.equal(ct.rerun(tree)["v"], truth["v"])


def test_portrait_of_a_shipped_model() -> None:
    result = done("portrait", "fitzhugh-nagumo", "--set", "I=0.5", "--out", "plane", "--json")
    lines = result.stdout.splitlines()
    (point,) = json.loads(lines[-1])["fixed_points"]
    assert lines[0] == "fitzhugh-nagumo: 1 fixed point"
    assert lines[1].startswith("  unstable focus at v = -0.804848, w = -0.13106; eigenvalues 0.14")
    assert point["type"] == "unstable_focus"
    v = point["state"]["v"][0]
    assert v - v**3 / 3 - (v + 0.7) / 0.8 + 0.5 == pytest.approx(0.0, abs=1e-12)
    tree = ct.open(Path("plane") / "results.zarr")
    assert ct.validate(tree) == []
    assert list(tree["vector_field"].dims) == ["v", "w"]
    held = done("portrait", "hodgkin-huxley", "--axes", "v,n", "--at", "h=0.5", "--at", "m=0.1")
    assert "  held: m[0] = 0.1, h[0] = 0.5" in held.stdout.splitlines()


def test_bifurcation_of_a_shipped_model_and_of_a_file() -> None:
    result = done("bifurcation", "fitzhugh-nagumo", "--parameter", "I=0:2", "--out", "b", "--json")
    lines = result.stdout.splitlines()
    points = json.loads(lines[-1])["points"]
    assert [p["kind"] for p in points] == ["cycle_fold", "hopf", "hopf", "cycle_fold"]
    v = math.sqrt(1 - 0.8 / 12.5)  # the trace vanishes
    rest = [s * v - (s * v) ** 3 / 3 - (s * v + 0.7) / 0.8 for s in (-1, 1)]
    np.testing.assert_allclose([points[k]["parameter"] for k in (1, 2)], [-x for x in rest], 1e-12)
    assert [p["criticality"] for p in points] == [None, "subcritical", "subcritical", None]
    assert all(p["residual"] < 1e-9 for p in points)
    assert sum("Hopf, subcritical" in line for line in lines) == 2
    assert sorted(p.name for p in Path("b").iterdir()) == [
        "bifurcations.png", "results.zarr", "summary.txt",
    ]  # fmt: skip
    assert ct.validate(ct.open(Path("b") / "results.zarr")) == []
    Path("cusp.txt").write_text("dx/dt = a + b*x - x**3 : 1\na : 1\nb : 1\n")
    given = ("bifurcation", "cusp.txt", "--set", "a=0", "--set", "b=1", "--range", "x=-3:3")
    both = done(*given, "--parameter", "a=-1:1", "--parameter", "b=-1:2", "--json", "--out", "c")
    (cusp,) = json.loads(both.stdout.splitlines()[-1])["points"]
    assert cusp["kind"] == "cusp"
    np.testing.assert_allclose(cusp["parameter"], [0, 0], atol=1e-9)
    assert (Path("c") / "bifurcation_curves.png").exists()


@pytest.mark.parametrize(
    ("options", "atol"),
    [
        (("--solver", "rk4", "--dt", "0.1"), 1e-6),
        (("--solver", "euler", "--dt", "0.01"), 3e-3),
        (("--solver", "exponential-euler", "--dt", "1.0"), 1e-9),
        (("--solver", "lsoda", "--rtol", "1e-10"), 1e-6),
        (("--solver", "dopri5", "--rtol", "1e-10"), 1e-6),
    ],
    ids=lambda v: v[1] if isinstance(v, tuple) else "",
)
def test_simulate_equations_from_a_file(options: tuple[str, ...], atol: float) -> None:
    Path("leak.txt").write_text("dv/dt = (E - v)/tau : mV\nE : mV\ntau : ms\n")
    given = ("--set", "tau=20", "--set", "E=-70", "--initial", "v=-50", "--points", "11")
    result = done("simulate", "leak.txt", *given, *options, "--json", "--out", "run")
    tree = ct.open(Path("run") / "results.zarr")
    truth = -70 + 20 * np.exp(-np.linspace(0, 100, 11) / 20)
    np.testing.assert_allclose(tree["simulation/v"].values[:, 0], truth, rtol=0, atol=atol)
    assert tree["simulation/v"].attrs["units"] == "mV"
    assert tree["simulation/time"].attrs["units"] == "ms"
    assert "t = 0 to 100 ms: every output time was reached" in result.stdout
    assert "--overwrite replaces it" in refused("simulate", "leak.txt", *given, "--out", "run")
    done("simulate", "leak.txt", *given, "--out", "run", "--overwrite")


def test_simulate_refuses_equations_that_are_none() -> None:
    Path("bad.txt").write_text("dv/dt = (E - v)/tua : mV\nE : mV\ntau : ms\n")
    assert "tua" in refused("simulate", "bad.txt", "--set", "tau=20", "--set", "E=1")
    Path("bad.txt").write_bytes(b"\xff\xfe\x00")
    refused("simulate", "bad.txt")


def test_simulate_says_where_the_numerics_failed() -> None:
    Path("blow.txt").write_text("dx/dt = x*x : 1\n")
    result = call("simulate", "blow.txt", "--initial", "x=1", "--duration", "2")
    assert result.exit_code == 2
    assert "the solution blows up in 'x'" in result.stderr
    assert not Path("runs").exists()
    assert "Traceback" not in result.output


def test_an_interrupted_simulation_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = ct.System.forward, [0]

    def interrupted(self: ct.System, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3000:
            raise KeyboardInterrupt
        return forward(self, *arguments, **options)

    monkeypatch.setattr(ct.System, "forward", interrupted)
    monkeypatch.setattr(paths, "run_native", lambda *_: False)  # which would not call it
    result = call("simulate", "qif", "--solver", "euler", "--out", "run", "--json")
    assert result.exit_code == 130
    assert json.loads(result.stdout.splitlines()[-1])["status"] == "interrupted"
    tree = ct.open(Path("run") / "results.zarr")
    assert ct.validate(tree) == []
    assert 10 < tree["simulation/time"].values[-1] < 40


def test_show_draws_the_same_figures_from_the_data(run: Path, learned: Path) -> None:
    for name in ("learning.png", "weights.png"):
        (run / name).unlink()
    result = done("show", run)
    for name in ("learning.png", "weights.png"):
        assert f"drew {run / name}" in result.stdout
        assert (run / name).read_bytes() == (learned / name).read_bytes()
    assert "/learning/test_accuracy  (epoch=1)  1" in result.stdout
    assert "test accuracy" in result.stdout
    assert f"ctsigprop validate {run}" in result.stdout.splitlines()[-1]
    (run / "learning.png").unlink()
    done("show", run / "results.zarr", "--no-draw")  # the store itself will do
    assert not (run / "learning.png").exists()


def test_show_draws_a_simulation_again() -> None:
    done("simulate", "hindmarsh-rose", "--out", "run", "--points", "101")
    figure = Path("run") / "time_courses.png"
    before = figure.read_bytes()
    figure.unlink()
    done("show", "run")
    assert figure.read_bytes() == before


def test_validate_tells_whole_from_damaged(run: Path) -> None:
    result = done("validate", run)
    assert f"{run / 'results.zarr'} is whole and valid" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("next: ")
    chunk = max(
        (p for p in (run / "results.zarr").rglob("*") if p.is_file() and p.name != "zarr.json"),
        key=lambda p: p.stat().st_size,
    )
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    result = call("validate", run)
    assert result.exit_code == 2
    assert "results.zarr" in result.stderr
    assert "Traceback" not in result.output
    assert call("show", run).exit_code == 2


def test_validate_says_where_a_store_departs_from_the_schema() -> None:
    ct.save(xr.DataTree.from_dict({"/x": xr.Dataset({"a": ("b", [1.0])})}), "odd.zarr")
    result = call("validate", "odd.zarr")
    assert result.exit_code == 1
    assert "/x: dimension 'b' has no coordinate" in result.stdout
    assert "is whole and valid" not in result.stdout


@pytest.mark.parametrize("command", ["learn", "compare"])
@pytest.mark.parametrize("device", ["nosuch", "xla"])
def test_a_device_that_is_not_here_is_refused(command: str, device: str) -> None:
    message = refused(command, "--device", device)
    assert message.startswith(f"ctsigprop: device '{device}' is not available; accepted here: cpu")


def test_learners_go_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    went: list[str] = []

    def to(self: ContinuousSigprop, device: str) -> ContinuousSigprop:
        went.append(device)
        return self

    monkeypatch.setattr(ContinuousSigprop, "to", to)
    done("learn", *TINY, "--epochs", "1", "--device", "cpu")
    assert went == ["cpu", "cpu"]
