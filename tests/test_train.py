from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ctsigprop as ct
from ctsigprop.data import Task, digits
from ctsigprop.errors import CorruptStoreError, NonFiniteError, StoreExistsError
from ctsigprop.train import Training, accuracy, train

SIZES = [64, 12, 10]
BATCHES = 4  # of 25 samples, in an epoch of the small task


@pytest.fixture(scope="module")
def task() -> Task:
    whole = digits()
    few = {"train": slice(0, 100), "test": slice(0, 50)}
    return replace(
        whole, **{part: getattr(whole, part).isel(sample=cut) for part, cut in few.items()}
    )


def learner(**options: Any) -> ct.ContinuousSigprop:
    return ct.ContinuousSigprop(
        ct.sigprop_network(**{"sizes": SIZES, "eta": [0.5, 0.2], **options})
    )


def run(task: Task, who: ct.ContinuousSigprop | None = None, **options: Any) -> Training:
    return train(who or learner(), task, **{"epochs": 4, "batch": 25, "noise": 0.1, **options})


def stopped(who: ct.ContinuousSigprop, call: int) -> ct.ContinuousSigprop:
    """The same learner, with Ctrl-C during its presentation of that number."""
    present, calls = who.present, [0]

    def interrupted(x: Tensor, labels: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return present(x, labels)

    who.present = interrupted  # type: ignore[method-assign]
    return who


def same(a: Training, b: Training) -> bool:
    pairs = [(a.learner.weights, b.learner.weights), (a.initial, b.initial)]
    return (
        a.train_accuracy == b.train_accuracy
        and a.test_accuracy == b.test_accuracy
        and all(u.keys() == v.keys() for u, v in pairs)
        and all(torch.equal(u[name], v[name]) for u, v in pairs for name in u)
    )


@pytest.mark.parametrize("form", ["loop", "label"])
def test_the_hidden_layer_learns_digits(form: Any) -> None:
    runs = {}
    for learning in ("all", "output"):
        network = ct.sigprop_network([64, 24, 10], form=form, eta=[2.0, 1.0], learning=learning)
        runs[learning] = train(ct.ContinuousSigprop(network), digits(), epochs=3, batch=40)
    ours, frozen = runs["all"], runs["output"]
    assert ours.test_accuracy[-1] > max(0.8, frozen.test_accuracy[-1] + 0.05)
    assert frozen.test_accuracy[-1] > 0.6  # the control learns as well
    assert ours.train_accuracy == sorted(ours.train_accuracy)
    assert ours.status == "complete"
    assert ours.seconds > 0
    assert accuracy(ours.learner, ours.task.test) == ours.test_accuracy[-1]


def test_the_same_seed_gives_the_same_bits(task: Task) -> None:
    one, two = run(task, seed=1), run(task, seed=1)
    assert same(one, two)
    assert not same(one, run(task, seed=2))
    assert not same(one, run(task, seed=1, noise=0.0))
    assert not same(one, run(task, seed=1, decay="none"))
    assert not same(one, run(task, learner(seed=1), seed=1))


def seen(task: Task, **options: Any) -> tuple[list[Tensor], list[float]]:
    """What a learner is shown, and the rates that it has then."""
    who, shown, rates = learner(), [], []
    present = who.present

    def watched(x: Tensor, labels: Tensor) -> Tensor:
        shown.append(x)
        rates.append(float(who.synapses[0].plasticity[0].eta))
        return present(x, labels)

    who.present = watched  # type: ignore[method-assign]
    run(task, who, **options)
    assert float(who.synapses[0].plasticity[0].eta) == 0.5  # as it was built
    return shown, rates


def test_every_sample_is_shown_once_an_epoch_with_noise_of_that_size(task: Task) -> None:
    clean, _ = seen(task, noise=0.0, batch=30)
    assert [len(x) for x in clean] == [30, 30, 30, 10] * 4
    x = torch.as_tensor(task.train["input"].values)
    epochs = torch.cat(clean).reshape(4, 100, 64)
    for shown in epochs:
        assert torch.equal(shown.sum(1).sort().values, x.sum(1).sort().values)
    assert not torch.equal(epochs[0], epochs[1])  # in another order
    order = run_order(seed=0)
    assert torch.equal(epochs[0], x[order])
    noisy, _ = seen(task, noise=0.25, batch=100, epochs=1)
    noise = noisy[0] - x[order]
    assert float(noise.std()) == pytest.approx(0.25, rel=0.05)
    assert abs(float(noise.mean())) < 0.01


def test_jitter_shifts_every_image_by_a_few_pixels(task: Task) -> None:
    shown, _ = seen(task, noise=0.0, jitter=2, batch=100, epochs=1)
    x = torch.as_tensor(task.train["input"].values)[run_order(seed=0)].reshape(-1, 8, 8)
    padded = torch.nn.functional.pad(x, (2,) * 4)
    shifts = set()
    for k, image in enumerate(shown[0].reshape(-1, 8, 8)):
        fits = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if torch.equal(padded[k, i : i + 8, j : j + 8], image)
        ]
        assert fits
        shifts.add(fits[0])
    assert len(shifts) == 25
    with pytest.raises(ValueError, match=r"jitter must be a whole number >= 0.*got -1"):
        run(task, jitter=-1)


def run_order(seed: int) -> Tensor:
    return torch.randperm(100, generator=torch.Generator().manual_seed(seed))


def test_rates_decay_along_half_a_cosine(task: Task) -> None:
    _, rates = seen(task)
    want = [0.25 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    np.testing.assert_allclose(rates, np.repeat(want, BATCHES), rtol=1e-6)
    _, rates = seen(task, decay="none")
    assert rates == [0.5] * 4 * BATCHES


@pytest.mark.parametrize("call", [1, 3, 2 * BATCHES + 2, 4 * BATCHES])
def test_an_interrupted_run_keeps_whole_batches(task: Task, call: int) -> None:
    stop = run(task, stopped(learner(), call))
    assert stop.status == "interrupted"
    assert len(stop.train_accuracy) == len(stop.test_accuracy) == (call - 1) // BATCHES
    # the weights are those of an undisturbed run after as many batches
    witness, after = learner(), []
    present = witness.present

    def kept(x: Tensor, labels: Tensor) -> Tensor:
        after.append(dict(witness.weights))
        return present(x, labels)

    witness.present = kept  # type: ignore[method-assign]
    run(task, witness)
    assert all(torch.equal(stop.learner.weights[n], w) for n, w in after[call - 1].items())
    tree = stop.to_xarray()
    assert tree.attrs["status"] == "interrupted"
    assert ct.validate(tree) == []


def test_an_interruption_while_testing_keeps_whole_epochs(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    who, calls = learner(), [0]
    respond = who.respond

    def interrupted(x: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return respond(x)

    monkeypatch.setattr(who, "respond", interrupted)
    stop = run(task, who)
    assert stop.status == "interrupted"
    assert len(stop.train_accuracy) == len(stop.test_accuracy) == 1
    assert ct.validate(stop.to_xarray()) == []


@pytest.mark.parametrize("form", ["loop", "label"])
@pytest.mark.parametrize("call", [BATCHES + 1, 3 * BATCHES + 3])
def test_a_resumed_run_is_the_uninterrupted_one(
    task: Task, tmp_path: Path, call: int, form: Any
) -> None:
    whole = run(task, learner(form=form), checkpoints=tmp_path / "whole")
    folder = tmp_path / "kept"
    stop = run(task, stopped(learner(form=form), call), checkpoints=folder)
    assert stop.status == "interrupted"
    fresh = run(task, learner(form=form), checkpoints=folder, resume=True)
    assert fresh.status == "complete"
    assert same(fresh, whole)
    assert fresh.seconds > stop.seconds * 0.5  # the time before the interruption counts
    again = run(task, learner(form=form), checkpoints=folder, resume=True)  # nothing left to do
    assert same(again, whole)


def test_the_interrupted_learner_itself_may_go_on(task: Task, tmp_path: Path) -> None:
    who = stopped(learner(), BATCHES + 3)
    run(task, who, checkpoints=tmp_path)
    assert same(run(task, who, checkpoints=tmp_path, resume=True), run(task))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(task: Task, tmp_path: Path) -> None:
    whole = run(task, checkpoints=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_3.npz", "step_4.npz"]
    newest = tmp_path / "step_4.npz"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"step_4\.npz.*falling back to step_3\.npz"):
        again = run(task, checkpoints=tmp_path, resume=True)
    assert same(again, whole)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CorruptStoreError, match="no good checkpoint"):
        run(task, checkpoints=tmp_path, resume=True)


def test_checkpoints_of_another_run_are_refused_with_all_that_differs(
    task: Task, tmp_path: Path
) -> None:
    run(task, checkpoints=tmp_path, epochs=1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def message(who: ct.ContinuousSigprop, shown: Task = task, **options: Any) -> str:
        start = dict(who.weights)
        with pytest.raises(ValueError, match="of another") as caught:
            run(shown, who, checkpoints=tmp_path, resume=True, **{"epochs": 1, **options})
        assert all(who.weights[n] is w for n, w in start.items())
        return str(caught.value)

    said = message(learner(), batch=20, noise=0.2, seed=1, decay="none", epochs=2)
    for name, was, now in (
        ("epochs", "1", "2"),
        ("batch", "25", "20"),
        ("decay", "cosine", "none"),
        ("noise", "0.1", "0.2"),
        ("seed", "0", "1"),
    ):
        assert f"'{name}' was {was}, and is {now} now" in said
    assert said.count(" was ") == 5
    assert "'rates' was" in message(learner(eta=[0.5, 0.1]))
    assert message(learner(seed=1)).count(" was ") == 1
    assert "'network' was" in message(learner(strength=0.2))
    assert "'update' was integrated" in message(
        ct.ContinuousSigprop(ct.sigprop_network(SIZES, eta=[0.5, 0.2]), update="delta")
    )
    assert "'end' was 14.4" in message(
        ct.ContinuousSigprop(ct.sigprop_network(SIZES, eta=[0.5, 0.2]), end=12.0)
    )
    other = replace(task, train=task.train.isel(sample=slice(None, None, -1)))
    assert "'data' was" in message(learner(), other)
    said = message(learner(sizes=[64, 8, 8, 10], eta=0.5))
    for part in ("'weights.W_h1_x' has shape (12, 64), expected (8, 64)", "'weights.W_h2_h1' is"):
        assert part in said
    assert "'weights.W_y_h1' with shape (10, 12) is unknown" in said
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_new_run_does_not_mix_with_old_checkpoints(task: Task, tmp_path: Path) -> None:
    run(task, checkpoints=tmp_path, epochs=2)
    who = stopped(learner(), 1)
    with pytest.raises(StoreExistsError, match="holds checkpoints: resume=True goes on from them"):
        run(task, who, checkpoints=tmp_path, epochs=2)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        run(task, checkpoints=tmp_path / "empty", resume=True)


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_the_tree_is_valid_and_survives_the_disk(task: Task, tmp_path: Path, suffix: str) -> None:
    ours = run(task)
    control = run(task, learner(learning="output"))
    tree = ours.to_xarray("digits", control=control)
    assert ct.validate(tree) == []
    back = ct.open(ct.save(tree, tmp_path / f"run{suffix}"))
    assert ct.validate(back) == []
    assert back.attrs["title"] == "digits"
    assert back.attrs["settings"]["batch"] == 25
    assert back.attrs["settings"]["rates"] == ours.learner.settings["rates"]
    assert tuple(back.attrs["image_shape"]) == (8, 8)
    assert back["learning"].attrs["status"] == "complete"
    assert back["learning/test_accuracy"].values.tolist() == ours.test_accuracy
    assert back["learning/train_accuracy"].values.tolist() == ours.train_accuracy
    assert back["control/test_accuracy"].values.tolist() == control.test_accuracy
    assert back["learning/epoch"].values.tolist() == [1, 2, 3, 4]
    weights = back["weights/W_y_h1"]
    assert weights.dims == ("stage", "y", "h1")
    assert weights.dtype == np.float32
    initial = torch.as_tensor(weights.sel(stage="initial").values)
    assert torch.equal(initial, learner().weights["W_y_h1"])
    final = torch.as_tensor(weights.sel(stage="final").values)
    assert torch.equal(final, ours.learner.weights["W_y_h1"])
    responses = back["responses"]
    assert responses["output"].dims == ("sample", "class")
    right = (responses["predicted"] == responses["label"]).mean()
    assert float(right) == ours.test_accuracy[-1]
    assert responses["sample"].values.tolist() == task.test["sample"].values.tolist()


def test_silent_outputs_count_as_wrong_everywhere(task: Task) -> None:
    who = learner(eta=0.0)
    who.weights["W_y_one"] = torch.full((10, 1), -5.0)
    dead = run(task, who, epochs=1)
    assert dead.train_accuracy == dead.test_accuracy == [0.0]
    predicted = dead.to_xarray()["responses/predicted"]
    assert (predicted == -1).all()


def test_the_bar_goes_to_stderr_and_only_where_it_is_asked_for(
    task: Task, capsys: pytest.CaptureFixture[str]
) -> None:
    run(task, epochs=1)
    assert capsys.readouterr() == ("", "")
    run(task, epochs=1, progress=True, label="digits")
    out, err = capsys.readouterr()
    assert out == ""
    assert "digits" in err


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"epochs": 0}, "epochs must be a whole number >= 1; got 0"),
    ({"epochs": 1.5}, "epochs must be a whole number >= 1; got 1.5"),
    ({"batch": -1}, "batch must be a whole number >= 1; got -1"),
    ({"noise": -0.1}, "noise must be >= 0; got -0.1"),
    ({"noise": math.nan}, "noise must be >= 0; got nan"),
    ({"decay": "cosin"}, r"unknown decay 'cosin' \(did you mean 'cosine'\?\)"),
    ({"resume": True}, "resume=True needs the folder of the checkpoints"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_train_refuses(task: Task, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(task, stopped(learner(), 1), **options)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([63, 12, 10], "the network has 63 inputs; 'digits' has 64"),
        ([64, 12, 9], "the network has 9 classes; 'digits' has 10"),
    ],
)
def test_train_refuses_a_task_that_does_not_fit(task: Task, sizes: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(task, stopped(learner(sizes=sizes), 1))


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    task: Task, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    who: Callable[..., Any] = stopped(learner(), 1)
    with pytest.raises(PermissionError, match="not writable"):
        run(task, who, checkpoints=tmp_path / "file" / "kept")


def test_learning_that_diverges_is_an_error(task: Task) -> None:
    step = partial(torch.optim.SGD, lr=1e20)
    with pytest.raises(NonFiniteError, match=r"in 'y' at index .* learning has diverged"):
        run(task, ct.Backpropagation(ct.Layers.dense(SIZES), step, loss="squared_error"))
