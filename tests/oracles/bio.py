"""What rules need and read, in the words of the case, each backed by a measurement."""

from __future__ import annotations

from functools import cache

import torch

import ctsigprop as ct
from ctsigprop.analyses.needs import ANSWERS, needs
from ctsigprop.analyses.plausibility import SCOPES, locality
from ctsigprop.learning.backprop import ContinuousBackpropagation
from ctsigprop.learning.catalogue import build
from ctsigprop.models.triplet import spikes

X = torch.rand(4, 12, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 3])
SIZES = [12, 10, 9, 8, 4]


def contrastive_hebbian():
    """Equilibrium propagation whose nudge holds the output at its target."""
    network = ct.Layers.dense(SIZES, rho="tanh", output="tanh")
    return ct.EquilibriumPropagation(network, form="one_sided", beta=9.0, dt=0.1)


MAKE = {
    "BPTT": lambda: ContinuousBackpropagation(ct.Layers.dense(SIZES, rho="tanh"), end=5.0),
    "contrastive": contrastive_hebbian,
}


@cache
def measured(rule):
    learner = MAKE[rule]() if rule in MAKE else build(rule, SIZES, 0)
    learner.present(X, Y)
    return needs(learner, X, Y)


def answer(rule, criterion):
    return ANSWERS[int(measured(rule).needed.sel(criterion=criterion))]


def scope(rule):
    return SCOPES[int(measured(rule).scope.values[:-1].max())]


def reads(rule, argument):
    return (measured(rule).reads.sel(argument=argument).values[:-1] > 0).any()


def plastic(rule):
    synapse = ct.Synapse("x", "y", 0.1, plasticity=rule)
    cell = ct.leaky_integrator("y", 3, tau=1.0)
    system = ct.System(ct.Source("x", 4, 1.0), ct.Source("m", 1, 1.0), cell, synapse,
                       ct.Input("m", "y"))  # fmt: skip
    return locality(system, "W_y_x")


def plastic_scope(rule):
    return SCOPES[int(plastic(rule).scope.max())]


def modulated(rule):
    return bool((plastic(rule).sensitivity.sel(argument="modulator") > 0).any())


HEBB = (ct.hebb(0.1), ct.oja(0.1), ct.bcm(0.1, tau_theta=2.0))


def unmodulated_and_local():
    return all(plastic_scope(rule) == "synapse" and not modulated(rule) for rule in HEBB)


def triplet_weight(pre, y0, t):
    system = ct.triplet_stdp()
    return ct.solve(system, y0, t, impulses=spikes(system, pre, pre + 5.0))["w"][..., 0]


def spikes_elsewhere_do_not_matter():
    """Two synapses; the second has its last pair at one time or another."""
    both = {"w": torch.ones(2, 1)}
    trains = (torch.tensor([[10.0, 30.0, 50.0], [10.0, 30.0, last]]) for last in (50.0, 62.0))
    one, other = (triplet_weight(pre, both, [0.0, 80.0])[-1] for pre in trains)
    return bool(one[0] == other[0]) and bool(one[1] != other[1])


def the_future_does_not_matter():
    trains = (torch.tensor([10.0, 30.0, last]) for last in (50.0, 62.0))
    one, other = (triplet_weight(pre, None, [0.0, 49.0, 80.0]) for pre in trains)
    return bool(one[1] == other[1] != 1) and bool(one[2] != other[2])


THREE_FACTORS = ct.eligibility(0.1, tau_e=5.0, modulator="m")

WORDS = {
    "backprop": {
        "weight transport yes": lambda: answer("backpropagation", "transport") == "yes",
        "non-local error": lambda: scope("backpropagation") == "network",
        "separate backward phase": lambda: (
            answer("backpropagation", "second_computation") == "yes"
            and answer("backpropagation", "reverse_order") == "yes"
        ),
        "not plausible": lambda: (measured("backpropagation").needed == 1).all(),
    },
    "feedback alignment": {
        "no weight transport": lambda: answer("feedback-alignment", "transport") == "no",
        "backward pathway with fixed random weights": lambda: (
            answer("feedback-alignment", "feedback") == "yes"
            and answer("feedback-alignment", "symmetry") == "no"
        ),
        "non-local error signal": lambda: scope("feedback-alignment") == "network",
    },
    "direct feedback alignment": {
        "no transport": lambda: answer("direct-feedback-alignment", "transport") == "no",
        "direct broadcast of output error": lambda: (
            answer("direct-feedback-alignment", "feedback") == "yes"
            and answer("direct-feedback-alignment", "reverse_order") == "no"
        ),
    },
    "equilibrium propagation": {
        "spatially local contrast": lambda: scope("equilibrium-propagation") == "synapse",
        "symmetric weights required": lambda: (
            answer("equilibrium-propagation", "symmetry") == "yes"
        ),
        "two phases (not local in time)": lambda: (
            answer("equilibrium-propagation", "stored_activity") == "yes"
        ),
    },
    "contrastive Hebbian": {
        "as EP with clamped phase": lambda: (
            measured("contrastive").needed.equals(measured("equilibrium-propagation").needed)
            and scope("contrastive") == "synapse"
        ),
    },
    "sigprop": {
        "no feedback pathway": lambda: answer("sigprop", "feedback") == "no",
        "learning signal enters as forward input": lambda: (
            answer("sigprop-ode", "feedback") == "in_front" and measured("sigprop").rows[0] > 1
        ),
        "local update": lambda: scope("sigprop-ode") == scope("sigprop-hebbian") == "synapse",
        "single forward pathway": lambda: (
            answer("sigprop", "second_computation") == "no" and (measured("sigprop").passes == 1)
        ).all(),
    },
    "forward-forward": {
        "no backward pass": lambda: (
            answer("forward-forward", "feedback") == "no"
            and answer("forward-forward", "second_computation") == "no"
        ),
        "local": lambda: scope("forward-forward") == "layer",
        "two forward passes": lambda: (measured("forward-forward").rows >= 2).all(),
    },
    "Hebb/Oja/BCM": {
        "local in space and time": unmodulated_and_local,
        "unsupervised": lambda: not any(map(modulated, HEBB)),
    },
    "Sanger GHA": {
        "non-local (uses other outputs' weights)": lambda: (
            plastic_scope(ct.Sanger(0.1)) == "layer"
            and plastic(ct.Sanger(0.1)).sensitivity.sel(argument="layer_weight")[0] > 0
        ),
    },
    "pair/triplet STDP": {
        "local, online": lambda: spikes_elsewhere_do_not_matter() and the_future_does_not_matter(),
    },
    "reward-modulated 3-factor": {
        "local + global scalar": lambda: (
            plastic_scope(THREE_FACTORS) == "synapse" and modulated(THREE_FACTORS)
        ),
    },
    "BPTT": {
        "non-local in time (stores trajectory)": lambda: answer("BPTT", "stored_activity") == "yes",
    },
}


def verdicts(case):
    """Return for each rule those of its words that were measured to be true."""
    found = []
    for expected in case["expected"]:
        words = WORDS[expected["name"]]
        found.append("; ".join(word for word, holds in words.items() if bool(holds())))
    return found


CASES = {"BIO-VERDICTS": {"": verdicts}}
