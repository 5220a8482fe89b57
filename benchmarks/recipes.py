"""What each rule is trained with: the same data, noise and kind of network; rates of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ctsigprop as ct
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
        return f"{self.make.__name__} {self.network} {dict(self.options)} {dict(self.train)}"


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


MNIST = (784, 500, 500, 10)
LOOP = {"eta": (0.25, 0.125, 0.08), "update": "delta"}
TRAIN = {"epochs": 40, "batch": 20, "noise": 0.3}

RECIPES: dict[tuple[str, str], Recipe] = {
    ("mnist", "sigprop-loop"): Recipe(continuous, MNIST, LOOP, TRAIN, 1.90),
    ("mnist", "sigprop-loop-steady"): Recipe(
        continuous, MNIST, {**LOOP, "steady": True}, TRAIN, 1.90
    ),
}
