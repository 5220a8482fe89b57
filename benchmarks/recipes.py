"""What each rule is trained with: the same data, noise and kind of network; rates of its own."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
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
        return hashlib.sha256(str(self).encode()).hexdigest()[:8]

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
    ("mnist", "backpropagation"): Recipe(
        layered, (784, 500, 500, 10), {"of": ct.Backpropagation}, {**BATCHES, "epochs": 25}
    ),
}
DIGITS = {"epochs": 20, "batch": 20, "noise": 0.1}
RECIPES |= {
    ("digits", name): Recipe(catalogued, (64, 100, 100, 10), {"rule": name}, DIGITS)
    for name in RULES
}
