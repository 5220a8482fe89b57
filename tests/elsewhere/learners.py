"""Learners that were moved: what they learn, checkpoints, measures and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import xarray as xr
from torch import Tensor

import ctsigprop as ct
from ctsigprop.analyses import alignment
from ctsigprop.analyses.cost import cost
from ctsigprop.analyses.energy import energy
from ctsigprop.analyses.needs import needs
from ctsigprop.analyses.robustness import robustness
from ctsigprop.analyses.statistics import activity_statistics, weight_statistics
from ctsigprop.compare import compare
from ctsigprop.data import digits
from ctsigprop.learning.catalogue import RULES, build
from ctsigprop.learning.learner import Learner

SIZES = [64, 20, 20, 10]


def shown(count: int = 10) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, SIZES[0], generator=torch.Generator().manual_seed(0))
    return x, torch.arange(count) % SIZES[-1]


def assert_alike(there: Learner, here: Learner, device: torch.device) -> None:
    for name, values in here.weights.items():
        assert there.weights[name].device.type == device.type
        torch.testing.assert_close(there.weights[name].cpu(), values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns_there_as_here(rule: str, device: torch.device) -> None:
    x, labels = shown()
    here, there = build(rule, SIZES), build(rule, SIZES).to(device)
    for learner, where in ((here, "cpu"), (there, device)):
        learner.present(x.to(where), labels.to(where))
        learner.present(x.flip(0).to(where), labels.flip(0).to(where))
    assert_alike(there, here, device)
    torch.testing.assert_close(
        there.respond(x.to(device)).cpu(), here.respond(x), rtol=1e-3, atol=1e-4
    )


def loop(**options: Any) -> ct.ContinuousSigprop:
    return ct.ContinuousSigprop(ct.sigprop_network(SIZES, eta=0.5, seed=0), **options)


LEARNERS: dict[str, Callable[[], Learner]] = {
    "sigprop": lambda: build("sigprop", SIZES),
    "backpropagation": lambda: build("backpropagation", SIZES),
    "steps": lambda: loop(update="delta", solver=ct.Euler(dt=0.6, native=False)),
    "at rest": lambda: loop(update="contrastive", solver=ct.Steady()),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_that_moves_between_presentations(name: str, device: torch.device) -> None:
    if name != "steps" and device.type != "cuda":
        pytest.skip("moving back replaces parameters of what stands for a GPU, and keeps its own")
    x, labels = shown()
    here, moved = LEARNERS[name](), LEARNERS[name]()
    for learner in (here, moved):
        learner.present(x, labels)
    moved.to(device).present(x.to(device), labels.to(device))
    here.present(x, labels)
    assert_alike(moved, here, device)
    moved.to("cpu").present(x, labels)
    here.present(x, labels)
    assert_alike(moved, here, torch.device("cpu"))


@pytest.mark.parametrize("name", LEARNERS)
def test_training_and_going_on_from_a_checkpoint(
    name: str, device: torch.device, tmp_path: Any
) -> None:
    accuracies = []
    for where in (torch.device("cpu"), device):
        folder = tmp_path / where.type
        options = {"batch": 100, "noise": 0.1, "jitter": 1, "seed": 0, "checkpoints": folder}
        run = ct.train(LEARNERS[name]().to(where), digits(), epochs=1, **options)
        again = ct.train(LEARNERS[name]().to(where), digits(), epochs=1, resume=True, **options)
        for weight, values in run.learner.weights.items():
            torch.testing.assert_close(again.learner.weights[weight], values, rtol=0, atol=0)
        accuracies.append(run.test_accuracy[0])
        run.to_xarray()
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.01)


def test_an_integrated_presentation(device: torch.device) -> None:
    x, labels = shown(4)
    here, there = loop(update="integrated"), loop(update="integrated").to(device)
    here.present(x, labels)
    there.present(x.to(device), labels.to(device))
    assert_alike(there, here, device)


MEASURES: dict[str, Callable[[Learner, Tensor, Tensor], xr.Dataset]] = {
    "needs": needs,
    "alignment": alignment.alignment,
    "cost": lambda learner, x, labels: cost(learner, x, labels, repeats=1).drop_vars("seconds"),
    "energy": energy,
    "weights": lambda learner, *_: weight_statistics(learner),
    "activities": lambda learner, x, _: activity_statistics(learner, x),
    "robustness": lambda learner, x, labels: robustness(learner, x, labels, "noise", [0.0, 0.5]),
}


@pytest.mark.parametrize("rule", ["sigprop", "backpropagation", "steps"])
@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_of_a_learner(name: str, rule: str, device: torch.device) -> None:
    x, labels = shown()
    here = MEASURES[name](LEARNERS[rule](), x, labels)
    there = MEASURES[name](LEARNERS[rule]().to(device), x.to(device), labels.to(device))
    xr.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-5)


def test_a_comparison(device: torch.device) -> None:
    rules = {
        name: lambda seed, name=name: build(name, SIZES, seed).to(device)
        for name in ("sigprop", "pepita")
    }
    table = compare(rules, digits, seeds=[0], epochs=1, batch=100).to_xarray()
    assert not table.attrs["failures"]
    assert table["comparison/test_accuracy"].notnull().all()
