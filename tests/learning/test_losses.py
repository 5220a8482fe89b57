from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ctsigprop.learning.losses import (
    ArgMax,
    Direct,
    Goodness,
    Hebbian,
    LayerLoss,
    MaxAll,
    TopK,
    similarity,
)
from ctsigprop.learning.rows import learning_rows, unit_contexts
from ctsigprop.learning.sigprop import Sigprop
from ctsigprop.models.layers import Layers

GENERATOR = torch.Generator().manual_seed(0)
draw = partial(torch.randn, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_similarity_is_the_correlation_over_units(shape: tuple[int, ...]) -> None:
    h, t, own = draw(4, *shape), draw(3, *shape), draw(4, 2, *shape)
    want = np.corrcoef(h.flatten(1).numpy(), t.flatten(1).numpy())[:4, 4:]
    np.testing.assert_allclose(similarity(h, t).numpy(), want, rtol=0, atol=1e-7)
    each = torch.stack([similarity(h[i : i + 1], own[i])[0] for i in range(4)])
    torch.testing.assert_close(similarity(h, own), each, rtol=0, atol=1e-12)


def test_a_silent_unit_or_layer_gives_finite_scores_and_gradients() -> None:
    h = torch.zeros(2, 5, requires_grad=True)
    scores = Direct().scores(h, torch.zeros(3, 5))
    Direct()(scores, torch.eye(3)[[0, 1]]).backward()
    assert not scores.any()
    assert h.grad is not None
    assert h.grad.isfinite().all()


def brute(loss: LayerLoss, y: np.ndarray, a: np.ndarray) -> float:
    """The losses of the docstrings in NumPy, sample by sample."""
    total = 0.0
    for row, agree in zip(y, a, strict=True):
        log = row - np.log(np.exp(row).sum())
        if isinstance(loss, Goodness):
            signs = np.where(np.arange(len(row)) == agree.argmax(), 1, -1)
            total += np.log1p(np.exp(-signs * row)).sum()
        elif isinstance(loss, MaxAll):
            total -= log[np.isclose(agree, agree.max())].mean()
        elif isinstance(loss, TopK):
            order = np.argsort(-agree, kind="stable")[: loss.k]
            total -= log[[j for j in order if agree[j] > 1e-6]].mean()
        else:
            total -= log[agree.argmax()]
    return total / len(y)


@pytest.mark.parametrize(
    "loss", [Direct(), Direct(temperature=0.3), ArgMax(), MaxAll(), TopK(k=3), TopK(), Goodness()]
)
def test_each_loss_is_that_of_its_docstring(loss: LayerLoss) -> None:
    y, codes = draw(6, 5), functional.normalize(draw(11, 4), dim=1)
    agreement = codes[:6] @ codes[6:].T
    want = brute(loss, y.numpy(), agreement.numpy())
    assert float(loss(y, agreement)) == pytest.approx(want, abs=1e-12)


def test_max_all_takes_all_of_a_class_and_top_k_no_other_class() -> None:
    labels = torch.tensor([0, 1, 0, 0])
    rows = learning_rows("classes", "batch", unit_contexts(3), labels, torch.Generator())
    y = torch.zeros(4, 4)
    y[:, 1] = 50.0  # so that taking the second sample in costs 50, unless it is one's own
    for loss in (MaxAll(), TopK(), TopK(k=2)):
        assert float(loss(y, rows.agreement)) == pytest.approx(3 * 50 / 4, abs=1e-3)


def test_temperature_divides_and_goodness_is_the_mean_square() -> None:
    h, t, own = draw(4, 9), draw(3, 9), draw(4, 2, 9)
    torch.testing.assert_close(Direct(0.5).scores(h, t), 2 * Direct().scores(h, t))
    torch.testing.assert_close(Direct().scores(h, t), 3 * similarity(h, t))
    want = (own.square().mean(-1) - 0.4) / 0.2
    torch.testing.assert_close(Goodness(0.2, 0.4).scores(h, own), want)
    torch.testing.assert_close(Goodness(0.2, 0.4, "sum").scores(h, own), 9 * want)


def initial_loss(loss: LayerLoss, width: int, seeds: int) -> list[float]:
    """The mean over seeds of the loss at each layer, before anything is learned."""
    x = torch.rand(20, 30, generator=torch.Generator().manual_seed(1))
    labels, found = torch.arange(20) % 10, []

    class Spy(type(loss)):  # type: ignore[misc]
        def __call__(self, scores: torch.Tensor, agreement: torch.Tensor) -> torch.Tensor:
            value: torch.Tensor = super().__call__(scores, agreement)
            found.append(float(value.detach()))
            return value

    for seed in range(seeds):
        network = Layers.dense([30, width, width], output="relu", seed=seed)
        still = partial(torch.optim.SGD, lr=0.0)
        rule = Sigprop(network, still, loss=Spy(), predict="nearest", classes=10, seed=seed)
        rule.present(x, labels)
    return torch.tensor(found).reshape(seeds, 2).mean(0).tolist()


@pytest.mark.parametrize("loss", [Direct(), ArgMax(), MaxAll(), TopK()])
def test_the_loss_at_the_start_does_not_depend_on_the_width(loss: LayerLoss) -> None:
    found = [initial_loss(loss, 16, 40), initial_loss(loss, 256, 40), initial_loss(loss, 4096, 3)]
    for layer in range(2):
        values = [f[layer] for f in found]
        assert max(values) < 1.1 * min(values), values
    chance = math.log(10 if loss.over == "classes" else 20)
    assert found[1][0] == pytest.approx(chance, rel=0.25)


def test_hebbian_gradients_are_the_outer_products() -> None:
    layer = nn.Linear(6, 3)
    error, pre = draw(5, 3), draw(5, 2, 3)
    weight, bias = Hebbian().gradients(layer, error, pre)
    want = -sum(np.outer(error[i], pre[i].flatten()) for i in range(5)) / 5 / 6
    np.testing.assert_allclose(weight.numpy(), want, rtol=0, atol=1e-14)
    np.testing.assert_allclose(bias.numpy(), -error.mean(0) / 6, rtol=0, atol=1e-14)
    assert len(Hebbian().gradients(nn.Linear(6, 3, bias=False), error, pre)) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Direct(temperature=0), "temperature must be > 0; got 0"),
        (lambda: Goodness(threshold=0.0), "threshold must be > 0; got 0.0"),
        (lambda: Goodness(pooled="men"), "unknown goodness 'men'.*did you mean 'mean'"),  # type: ignore[arg-type]
        (lambda: TopK(k=0), "k must be a whole number >= 1; got 0"),
        (lambda: Hebbian("contxt"), "did you mean 'context'"),  # type: ignore[arg-type]
        (lambda: Hebbian().check(2, nn.Conv2d(1, 2, 3)), "layer 2 is Conv2d.*dense layers"),
        (
            lambda: Hebbian().check(1, nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))),
            "layer 1 is .*LayerNorm",
        ),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()
