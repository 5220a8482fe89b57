"""Gradients through a run, and learning by relaxation."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from dynamics import eigenvalues
from ode import F64, end

import ctsigprop as ct
from ctsigprop.analyses.stability import fixed_points
from ctsigprop.learning.feedback_alignment import FeedbackAlignment

TIGHT = ct.Tsit5(rtol=1e-11, atol=1e-13)


def measure_gradients(solver, case):
    p = case["parameters"]
    system = ct.System(ct.TextNeuron("dy/dt = -a*y : 1", a=p["a"])).learn("a")
    y0, T = (torch.tensor(p[name], dtype=F64, requires_grad=True) for name in ("y0", "T"))
    run = ct.solve(system, {"y": y0.reshape(1)}, [0.0, T], solver=solver)
    loss = run["y"][-1].square().sum() / 2
    a = next(parameter for parameter in system.parameters() if parameter.requires_grad)
    return [g.item() for g in torch.autograd.grad(loss, (a, y0, T))]


def energy_network(p, weights, nudge=0.0):
    """Return neurons that relax down the energy of `LT-EP-QUADRATIC`, the last one nudged."""
    target = torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    cell = ct.TextNeuron(
        "ds/dt = -D*s + I + b - nudge*last*(s - y) : 1\nI : 1",
        "s",
        3,
        D=torch.tensor(p["D"], dtype=F64),
        b=torch.tensor(p["b"], dtype=F64),
        y=p["y"],
        nudge=nudge,
        last=target,
    )
    return ct.System(cell, ct.Synapse("s", "s", weights, name="W"))


def rest(system):
    box = {f"s_s[{k}]": (-2.0, 2.0) for k in range(3)}
    found = fixed_points(system, box)
    assert found.sizes["fp"] == 1
    return found.s_s.values[0]


def measure_equilibrium(case):
    p = case["parameters"]
    weights = torch.tensor(p["W"], dtype=F64)
    pairs = [(0, 1), (0, 2), (1, 2)]
    free = rest(energy_network(p, weights))

    def estimate(beta):
        held = rest(energy_network(p, weights, beta))
        return np.array([free[i] * free[j] - held[i] * held[j] for i, j in pairs]) / beta

    def centred(beta):
        return (estimate(beta) + estimate(-beta)) / 2

    # the exact gradient: through the relaxation, until nothing moves
    network = energy_network(p, weights).learn("W.weight", "b")
    cost = (ct.solve(network, {}, [0.0, 30.0], solver=TIGHT)["s_s"][-1, 2] - p["y"]).square() / 2
    by_weight, by_bias = torch.autograd.grad(
        cost, (network.currents[0].weight, network.neurons[0].b)
    )
    exact = np.array([(by_weight[i, j] + by_weight[j, i]).item() for i, j in pairs])
    orders = [
        np.log2(np.abs(f(0.02) - exact).max() / np.abs(f(0.01) - exact).max())
        for f in (estimate, centred)
    ]
    return [
        free,
        rest(energy_network(p, weights, 0.1)),
        exact,
        estimate(0.1),
        estimate(0.01),
        centred(0.1),
        orders,
        by_bias,
    ]


def measure_relaxation(quadratic, case):
    p = quadratic["parameters"]
    system = energy_network(p, torch.tensor(p["W"], dtype=F64))
    slowest = -eigenvalues(system, {})[-1].real
    return [end(system, case["initial_state"], case["span"], TIGHT), slowest]


def aligned(seed):
    """Return the angle of B e with W1ᵀ e before and after learning, and how the error fell."""
    draw = torch.Generator().manual_seed(seed)
    network = ct.Layers.dense([30, 20, 10], rho="identity", bias=False).double()
    for weight in network.parameters():
        torch.nn.init.uniform_(weight, -0.01, 0.01, generator=draw)
    rule = FeedbackAlignment(
        network,
        partial(torch.optim.SGD, lr=0.003),
        loss="squared_error",
        gain=0.5 / math.sqrt(6 / (20 + 10)),  # B uniform in ±0.5
        seed=seed,
    )
    target = 2 * torch.rand(30, 10, generator=draw, dtype=F64) - 1
    probe = torch.randn(500, 30, generator=draw, dtype=F64)

    def look():
        error = probe @ target - rule.respond(probe)
        sent, exact = error @ rule.B_y_h1, error @ rule.weights["W_y_h1"]
        angle = torch.cosine_similarity(sent, exact).acos().rad2deg().mean()
        return angle.item(), error.square().sum().item()

    before = look()
    for _ in range(3000):
        x = torch.randn(8, 30, generator=draw, dtype=F64)
        rule.learn(x, x @ target)
    after = look()
    return before[0], after[0], after[1] / before[1]


def measure_feedback_alignment(_case):
    first, last, ratio = np.transpose([aligned(seed) for seed in range(10)])
    assert (last < 90).all()
    return [first.mean(), last.mean(), ratio.max()]


def cases(file):
    """Return the measurements; one case is told as another one of the file."""
    precise = {"rtol": 1e-10, "atol": 1e-12}
    return {
        "LT-ADJOINT-LINEAR": {
            "Tsit5": partial(measure_gradients, ct.Tsit5(**precise)),
            "RK4": partial(measure_gradients, ct.RK4(dt=0.01)),
            "direct": partial(measure_gradients, ct.TorchDiffEq(**precise)),
            "adjoint": partial(measure_gradients, ct.TorchDiffEq(**precise, adjoint=True)),
        },
        "LT-FEEDBACK-ALIGNMENT": {"": measure_feedback_alignment},
        "LT-EP-QUADRATIC": {"": measure_equilibrium},
        "LT-EP-FREE-RELAX": {"": partial(measure_relaxation, file["LT-EP-QUADRATIC"])},
    }
