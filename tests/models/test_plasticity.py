"""Every plasticity rule: its equation by hand, its structure, its batch, its fixed points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ctsigprop as ct
from ctsigprop.terms import Local, Plasticity

G = torch.Generator().manual_seed(1)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=G, dtype=torch.float64)


POST, PRE = 3, 4
STATE = {
    "w": draw(POST, PRE),
    "x": draw(PRE),
    "y": draw(POST),
    "dx": draw(PRE),
    "dy": draw(POST),
    "theta": draw(POST),
    "ybar": draw(POST),
    "xbar": draw(PRE),
    "e": draw(POST, PRE),
    "m": torch.tensor([0.7], dtype=torch.float64),
}
SIGNAL = ct.Constant(0.7)

# name -> (rule, its own variables, number of outer products of dw/dt or None, rates by hand)
RULES = {
    "hebb": (ct.hebb(0.3), (), 1, lambda s: {"w": 0.3 * np.outer(s["y"], s["x"])}),
    "anti_hebb": (ct.anti_hebb(0.3), (), 1, lambda s: {"w": -0.3 * np.outer(s["y"], s["x"])}),
    "covariance": (
        ct.covariance(0.3, tau=5.0),
        ("ybar", "xbar"),
        1,
        lambda s: {
            "w": 0.3 * np.outer(s["y"] - s["ybar"], s["x"] - s["xbar"]),
            "ybar": (s["y"] - s["ybar"]) / 5,
            "xbar": (s["x"] - s["xbar"]) / 5,
        },
    ),
    "oja": (
        ct.oja(0.3),
        (),
        1,
        lambda s: {"w": 0.3 * (np.outer(s["y"], s["x"]) - (s["y"] ** 2)[:, None] * s["w"])},
    ),
    "bcm": (
        ct.bcm(0.3, tau_theta=2.0),
        ("theta",),
        1,
        lambda s: {
            "w": 0.3 * np.outer(s["y"] * (s["y"] - s["theta"]), s["x"]),
            "theta": (s["y"] ** 2 - s["theta"]) / 2,
        },
    ),
    "homeostatic_scaling": (
        ct.homeostatic_scaling(0.3, target=2.0),
        (),
        0,
        lambda s: {"w": 0.3 * (2 - s["y"])[:, None] * s["w"]},
    ),
    "subtractive_hebb": (
        ct.subtractive_hebb(0.3, decay=0.2, rest=0.4, mean="e"),
        (),
        None,
        lambda s: {
            "w": 0.3 * s["w"] * (1 - s["w"]) * np.outer(s["y"], s["x"] - s["m"])
            + 0.2 * (0.4 - s["w"])
        },
    ),
    "weight_decay": (ct.weight_decay(0.3), (), 0, lambda s: {"w": -0.3 * s["w"]}),
    "differential_hebb": (
        ct.differential_hebb(0.3),
        (),
        1,
        lambda s: {"w": 0.3 * np.outer(s["dy"], s["x"])},
    ),
    "eligibility": (
        ct.eligibility(0.3, tau_e=5.0, modulator=SIGNAL, theta=0.1),
        ("e",),
        None,
        lambda s: {
            "w": 0.3 * 0.7 * s["e"],
            "e": (-s["e"] + np.outer(s["y"] - 0.1, s["x"])) / 5,
        },
    ),
    "tagged_hebb": (
        ct.tagged_hebb(0.3, tau_c=5.0, signal=SIGNAL),
        ("e",),
        None,
        lambda s: {
            "w": 0.3 * 0.3 * s["e"] / 5,
            "e": 0.7 * np.outer(s["dy"], s["x"]) - 0.3 * s["e"] / 5,
        },
    ),
    "rhythmic_hebb": (
        ct.rhythmic_hebb(0.3, tau_c=5.0, rhythm=SIGNAL),
        ("e",),
        None,
        lambda s: {
            "w": 0.3 * s["e"] / 5,
            "e": 0.7 * np.outer(s["dy"], s["x"]) - s["e"] / 5,
        },
    ),
    "delta_rule": (
        ct.delta_rule(0.3, error="e"),
        (),
        1,
        lambda s: {"w": 0.3 * np.outer(s["m"] * np.ones(POST), s["x"])},
    ),
    "oja_subspace": (
        ct.OjaSubspace(0.3),
        (),
        None,
        lambda s: {
            "w": 0.3 * (np.outer(s["y"], s["x"]) - np.outer(s["y"], s["y"]) @ s["w"]),
        },
    ),
    "sanger": (
        ct.Sanger(0.3),
        (),
        None,
        lambda s: {
            "w": 0.3 * (np.outer(s["y"], s["x"]) - np.tril(np.outer(s["y"], s["y"])) @ s["w"])
        },
    ),
    "soft bounds": (
        ct.TextPlasticity("dw/dt = eta*(1 - w)*w*x*y", eta=0.3),
        (),
        None,
        lambda s: {"w": 0.3 * (1 - s["w"]) * s["w"] * np.outer(s["y"], s["x"])},
    ),
    "two terms and decays": (
        ct.TextPlasticity("dw/dt = x**2*y - b*x*y**3 - (c + d*y**2)*w", b=2.0, c=0.5, d=3.0),
        (),
        2,
        lambda s: {
            "w": np.outer(s["y"], s["x"] ** 2)
            - 2 * np.outer(s["y"] ** 3, s["x"])
            - (0.5 + 3 * s["y"] ** 2)[:, None] * s["w"]
        },
    ),
    "presynaptic only": (
        ct.TextPlasticity("dw/dt = -a*x - b*x**2*w", a=0.3, b=0.2),
        (),
        1,
        lambda s: {"w": -0.3 * np.outer(np.ones(POST), s["x"]) - 0.2 * s["x"] ** 2 * s["w"]},
    ),
}  # fmt: skip


def local(state: dict, rule: Plasticity, own: tuple[str, ...], shared: bool = False) -> Local:
    return Local(
        t=torch.tensor(0.0),
        w=state["w"],
        x=state["x"],
        y=state["y"],
        dx=lambda: state["dx"],
        dy=lambda: state["dy"],
        modulator=None if rule.modulator is None else lambda: state["m"],
        own={name: state[name] for name in own},
        shared=shared,
    )


@pytest.mark.parametrize("name", RULES)
def test_rule_is_its_equation(name: str) -> None:
    rule, own, outer, by_hand = RULES[name]
    change = rule(local(STATE, rule, own))
    truth = by_hand({k: v.numpy() for k, v in STATE.items()})
    assert set(change) == set(truth)
    for key, value in truth.items():
        np.testing.assert_allclose(change[key].numpy(), value, rtol=1e-12, atol=1e-14)
    if outer is None:
        assert getattr(rule, "structure", None) is None
    else:
        assert len(rule.structure.outer) == outer


@pytest.mark.parametrize("name", RULES)
def test_a_batch_of_weights_is_each_sample_alone(name: str) -> None:
    rule, own, _, _ = RULES[name]
    batch = {k: torch.stack([v, 2 * v, -v]) for k, v in STATE.items()}
    change = rule(local(batch, rule, own))
    for i in range(3):
        alone = rule(local({k: v[i] for k, v in batch.items()}, rule, own))
        for key, value in alone.items():
            torch.testing.assert_close(change[key][i], value, rtol=1e-12, atol=1e-14)


LINEAR_IN_THE_BATCH = [name for name in RULES if name not in ("sanger",)]


@pytest.mark.parametrize("name", LINEAR_IN_THE_BATCH)
def test_shared_weights_move_by_the_mean_over_the_batch(name: str) -> None:
    rule, own, _, _ = RULES[name]
    sides = {"w": 2, "e": 2, "theta": 1, "ybar": 1, "xbar": 1}
    batch = {k: STATE[k] if k in sides else torch.stack([STATE[k], -0.3 * STATE[k]]) for k in STATE}
    change = rule(local(batch, rule, own, shared=True))
    each = [
        rule(local({k: v if k in sides else v[i] for k, v in batch.items()}, rule, own))
        for i in range(2)
    ]
    for key, value in change.items():
        assert value.shape == STATE[key].shape
        mean = torch.stack([part[key] for part in each]).mean(0)
        torch.testing.assert_close(value, mean, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_rule_is_differentiable(name: str) -> None:
    rule, own, _, _ = RULES[name]
    names = ["w", "x", "y", "dy", *own]

    def total(*tensors: torch.Tensor) -> torch.Tensor:
        change = rule(local({**STATE, **dict(zip(names, tensors, strict=True))}, rule, own))
        return torch.cat([v.reshape(-1) for v in change.values()])

    inputs = [STATE[k].clone().requires_grad_() for k in names]
    assert torch.autograd.gradcheck(total, inputs)


def test_rules_on_one_synapse_add_up_and_are_recorded_each() -> None:
    rules = [ct.hebb(0.2), ct.weight_decay(0.1), ct.oja(0.05)]
    x = torch.tensor([1.0, -0.5], dtype=torch.float64)
    system = ct.System(
        ct.Source("x", 2, x),
        ct.leaky_integrator("y", 3),
        ct.Synapse("x", "y", draw(3, 2), plasticity=rules),
    )
    state = system.initial_state() | {"s_y": draw(3)}
    total = system(torch.tensor(0.0), state)["W_y_x"]
    from ctsigprop.terms import Moment

    moment = Moment(torch.tensor(0.0), state, system.populations, {})
    parts = [change["w"] for _, change in system.currents[0].contributions(moment)]
    assert len(parts) == 3
    torch.testing.assert_close(sum(parts), total, rtol=0, atol=1e-12)


def test_differential_hebb_sees_the_neurons_derivative() -> None:
    x = torch.tensor([1.0, -0.5], dtype=torch.float64)
    system = ct.System(
        ct.Source("x", 2, x),
        ct.rate("y", 3, rho="tanh", tau=2.0),
        ct.Synapse("x", "y", draw(3, 2), plasticity=ct.differential_hebb(0.1)),
    )
    state = system.initial_state() | {"s_y": draw(3)}
    field = system(torch.tensor(0.0), state)
    expected = 0.1 * torch.outer(field["s_y"], x)
    torch.testing.assert_close(field["W_y_x"], expected)


def test_a_closed_gate_leaves_the_weights_at_rest() -> None:
    x = torch.ones(2, dtype=torch.float64)
    system = ct.System(
        ct.Source("x", 2, x),
        ct.leaky_integrator("y"),
        ct.Synapse("x", "y", 0.5, plasticity=ct.hebb(0.3, gate=ct.Pulse(1.0, 2.0))),
    )
    assert "W_y_x" not in system(torch.tensor(0.5), system.initial_state())
    run = ct.solve(system, t=[0.0, 1.0, 2.0, 3.0])
    w = run["W_y_x"]
    assert torch.equal(w[0], w[1])
    assert not torch.equal(w[1], w[2])
    torch.testing.assert_close(w[2], w[3], rtol=0, atol=1e-14)


def test_the_tag_hands_all_of_itself_to_the_weight() -> None:
    # delta rule in the limit: weight change after the signal = eta * integral of the tag's growth
    x = torch.tensor([1.0], dtype=torch.float64)
    system = ct.System(
        ct.Source("x", 1, x),
        ct.Source("c", 1),
        ct.leaky_integrator("y"),
        ct.Input("c", "y"),
        ct.Synapse(
            "x", "y", 0.0, plasticity=ct.tagged_hebb(0.2, tau_c=0.5, signal=ct.Pulse(1.0, 3.0))
        ),
    )
    c = ct.Held([0.0, 1.0], torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    run = ct.solve(system, t=[0.0, 1.0, 3.0, 20.0], inputs={"c": c}, rtol=1e-10, atol=1e-12)
    rise = float(run["s_y"][2, 0] - run["s_y"][1, 0])
    assert float(run["W_y_x"][2].abs().max()) == 0.0
    assert float(run["W_y_x"][3, 0, 0]) == pytest.approx(0.2 * rise, rel=1e-8)


def test_eligibility_pays_only_synapses_that_were_active() -> None:
    x = ct.Held([0.0, 1.0], torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    rule = ct.eligibility(0.5, tau_e=10.0, modulator="reward")
    system = ct.System(
        ct.Source("x", 2, x),
        ct.Source("reward", 1, ct.Pulse(2.0, 3.0)),
        ct.leaky_integrator("y", bias=1.0),
        ct.Synapse("x", "y", 0.1, plasticity=rule),
    )
    run = ct.solve(system, t=[0.0, 2.0, 3.0])
    change = run["W_y_x"][-1] - run["W_y_x"][0]
    assert torch.equal(run["W_y_x"][1], run["W_y_x"][0])
    assert float(change[0, 0]) > 0.01
    assert float(change[0, 1]) == 0.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ct.TextPlasticity("dv/dt = x*y"), "dw/dt"),
        (lambda: ct.TextPlasticity("dw/dt = eta*x*y"), "eta"),
        (lambda: ct.TextPlasticity("dw/dt = eta*x*y", eta=1.0, tau=1.0), "no parameter 'tau'"),
        (lambda: ct.TextPlasticity("dw/dt = eta*m*x*y", eta=1.0), "'m'"),
        (lambda: ct.TextPlasticity("dw/dt = eta*z*y", eta=1.0), "'z'"),
        (lambda: ct.bcm(0.1, tau_theta=-1.0), "tau_theta must be > 0, got -1"),
        (lambda: ct.hebb(float("inf")), "finite"),
        (
            lambda: ct.TextPlasticity("dw/dt = x*y*q\ndq/dt = x - q : 1 (post)"),
            "'q' belongs to the postsynaptic neuron, and cannot read 'x'",
        ),
        (
            lambda: ct.TextPlasticity("dw/dt = x*y*q\ndq/dt = w*x - q : 1 (pre)"),
            "presynaptic neuron, and cannot read 'w'",
        ),
    ],
)
def test_refusals(make, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()
