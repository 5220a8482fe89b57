"""What each rule is trained with: the same data, noise and kind of network; rates of its own."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.learning.catalogue import RULES, build
from ctsigprop.learning.learner import Learner

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """A learner and how it is trained; `published` is the test error of its paper, in percent."""

    make: Callable[..., Learner]
    sizes: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    published: float | None = None

    def build(self, seed: int) -> Learner:
        return self.make(self.sizes, seed, **self.options)

    @property
    def network(self) -> str:
        return "-".join(map(str, self.sizes))

    @property
    def fingerprint(self) -> str:
        text = str(self)
        if self.make is catalogued:  # whose rates are not among the options
            settings = self.build(0).settings
            text += str({name: value for name, value in settings.items() if name != "network"})
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def __str__(self) -> str:
        options = {k: getattr(v, "__name__", v) for k, v in self.options.items()}
        return f"{self.make.__name__} {self.network} {options} {dict(self.train)}"


def continuous(sizes: tuple[int, ...], seed: int, **options: Any) -> Learner:
    """Return continuous sigprop; its two-point forms go straight to the steady states."""
    update, steady = options.pop("update", "delta"), options.pop("steady", False)
    network = ct.sigprop_network(sizes, seed=seed, **options)
    solver = ct.Steady() if steady else ct.Euler(dt=0.6)
    return ct.ContinuousSigprop(network, update=update, solver=solver)


def backpropagation(sizes: tuple[int, ...], seed: int, **options: Any) -> Learner:
    """Return backpropagation on the same kind of units."""
    rho, output = options.pop("rho", "hard"), options.pop("output", "hard")
    network = ct.Layers.dense(sizes, rho=rho, output=output, seed=seed)
    return ct.Backpropagation(network, **options)


def layered(sizes: tuple[int, ...], seed: int, **options: Any) -> Learner:
    """Return a rule over dense layers; `of` is its class, `rate` that of Adam."""
    rule, rate, rho = options.pop("of"), options.pop("rate", 1e-3), options.pop("rho", "relu")
    network = ct.Layers.dense(sizes, rho=rho, seed=seed)
    if "seed" in inspect.signature(rule).parameters:
        options["seed"] = seed
    return rule(network, partial(torch.optim.Adam, lr=rate), **options)


def sigprop_cnn(sizes: tuple[int, ...], seed: int, **options: Any) -> Learner:
    """Return discrete sigprop on two convolutions and two dense layers of these sizes."""
    first, second, dense, classes = sizes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ct.Layers(
            nn.Sequential(
                nn.Unflatten(1, (1, 28, 28)),
                nn.Conv2d(1, first, 5, padding=2),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ),
            nn.Sequential(nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Flatten(), nn.Linear(49 * second, dense), nn.ReLU()),
            nn.Sequential(nn.RMSNorm(dense, elementwise_affine=False), nn.Linear(dense, classes)),
            inputs=784,
        )
    return ct.Sigprop(network, partial(torch.optim.Adam, lr=2e-3), seed=seed, **options)


def local_losses(sizes: tuple[int, ...], seed: int, **options: Any) -> Learner:
    """Return local losses on layers with normalisation, leaky units and dropout, as published."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        *hidden, last = pairwise(sizes)
        layers = [
            nn.Sequential(nn.Linear(n, m), nn.BatchNorm1d(m), nn.LeakyReLU(0.01), nn.Dropout(0.1))
            for n, m in hidden
        ]
        network = ct.Layers(*layers, nn.Linear(*last), inputs=sizes[0])
    adam = partial(torch.optim.Adam, lr=5e-4)
    return ct.LocalLosses(network, adam, seed=seed, **options)


def forward_forward(sizes: tuple[int, ...], seed: int, **options: Any) -> Learner:
    """Return Forward-Forward with the label beside the image and a readout of the upper layers."""
    channels, *hidden, classes = sizes
    network = ct.Layers.dense([channels + classes, *hidden], output="relu", seed=seed)
    adam = partial(torch.optim.Adam, lr=1e-3)
    given = {"place": "append", "strength": 2.0, "predict": "readout", **options}
    return ct.ForwardForward(network, adam, classes=classes, seed=seed, **given)


def pepita(sizes: tuple[int, ...], seed: int, **options: Any) -> Learner:
    """Return PEPITA by gradient descent with momentum and dropout, as published."""
    network = ct.Layers.dense(sizes, bias=False, seed=seed)
    step = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return ct.Pepita(network, step, dropout=0.1, seed=seed, **options)


def equilibrium(sizes: tuple[int, ...], seed: int, **options: Any) -> Learner:
    """Return equilibrium propagation on units clipped to 0 … 1."""
    network = ct.Layers.dense(sizes, rho="hard", output="hard", seed=seed)
    steps = [partial(torch.optim.SGD, lr=rate) for rate in options.pop("rates")]
    return ct.EquilibriumPropagation(
        network, steps, beta=0.5, free=20, nudged=4, seed=seed, **options
    )


def catalogued(sizes: tuple[int, ...], seed: int, **options: Any) -> Learner:
    """Return a rule as `ctsigprop compare` trains it."""
    return build(options["rule"], sizes, seed)


MNIST = (784, 500, 500, 10)
LOOP = {"eta": (0.25, 0.125, 0.08), "update": "delta"}
BATCHES = {"batch": 100, "noise": 0.3}
TRAIN = {"epochs": 40, "batch": 20, "noise": 0.3}

RECIPES: dict[tuple[str, str], Recipe] = {
    ("mnist", "sigprop-loop"): Recipe(continuous, MNIST, LOOP, TRAIN, 1.90),
    ("mnist", "sigprop-loop-steady"): Recipe(
        continuous, MNIST, {**LOOP, "steady": True}, TRAIN, 1.90
    ),
    ("mnist", "sigprop-loop-longer"): Recipe(
        continuous,
        MNIST,
        {"eta": (0.1, 0.05, 0.035), "steady": True},
        {"epochs": 60, "batch": 20, "noise": 0.3},
        1.90,
    ),
    ("mnist", "sigprop-loop-3"): Recipe(
        continuous,
        (784, 500, 500, 500, 10),
        {"eta": (0.2, 0.15, 0.1, 0.07), "update": "delta"},
        TRAIN,
        1.90,
    ),
    ("mnist", "sigprop-label"): Recipe(
        continuous,
        MNIST,
        {"form": "label", "strength": 0.1, "eta": 0.2, "steady": True},
        {"epochs": 20, "batch": 20, "noise": 0.1},
    ),
    ("mnist", "sigprop"): Recipe(
        layered, (784, 800, 800, 800, 10), {"of": ct.Sigprop}, {**BATCHES, "epochs": 25}
    ),
    ("mnist", "sigprop-cnn"): Recipe(
        sigprop_cnn, (16, 32, 200, 10), {}, {"epochs": 6, "batch": 100}
    ),
    ("mnist", "feedback-alignment"): Recipe(
        layered, (784, 1000, 10), {"of": ct.FeedbackAlignment}, {"epochs": 15, "batch": 100}, 2.1
    ),
    ("mnist", "direct-feedback-alignment"): Recipe(
        layered,
        (784, 256, 256, 256, 10),
        {"of": ct.DirectFeedbackAlignment, "rho": "tanh"},
        {"epochs": 15, "batch": 100},
        2.69,
    ),
    ("mnist", "local-pred"): Recipe(
        local_losses,
        (784, 1024, 1024, 1024, 10),
        {"loss": "pred"},
        {"epochs": 8, "batch": 128, "jitter": 2},
        0.68,
    ),
    ("mnist", "forward-forward"): Recipe(
        forward_forward, (784, 1000, 1000, 10), {}, {"epochs": 15, "batch": 100}, 1.36
    ),
    ("mnist", "pepita"): Recipe(pepita, (784, 1024, 10), {}, {"epochs": 30, "batch": 64}, 1.99),
    ("mnist", "equilibrium-propagation"): Recipe(
        equilibrium, (784, 500, 10), {"rates": (0.2, 0.1)}, {"epochs": 10, "batch": 20}, 2.4
    ),
    ("mnist", "predictive-coding"): Recipe(
        layered,
        (784, 512, 512, 10),
        {
            "of": ct.PredictiveCoding,
            "rho": "tanh",
            "rate": 5e-4,
            "loss": "cross_entropy",
            "dt": 0.06,
            "steps": 18,
        },
        {"epochs": 8, "batch": 64},
        1.97,
    ),
    ("mnist", "deep-feedback-control"): Recipe(
        layered,
        (784, 256, 256, 256, 10),
        {"of": ct.DeepFeedbackControl, "rho": "tanh", "steps": 20},
        {"epochs": 12, "batch": 64},
        2.25,
    ),
    ("mnist", "backpropagation"): Recipe(
        layered, (784, 500, 500, 10), {"of": ct.Backpropagation}, {**BATCHES, "epochs": 25}
    ),
}
DIGITS = {"epochs": 20, "batch": 20, "noise": 0.1}
RECIPES |= {
    ("digits", name): Recipe(catalogued, (64, 100, 100, 10), {"rule": name}, DIGITS)
    for name in RULES
}
