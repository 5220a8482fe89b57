from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.plausibility import ARGUMENTS, SCOPES, locality, report
from ctsigprop.models.rules import tagged_hebb
from ctsigprop.terms import Plasticity

ETA = 0.1
X = torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64)
Y = torch.tensor([0.7, -1.1], dtype=torch.float64)
W = torch.tensor([[0.3, -0.4, 0.9], [-0.6, 0.2, 0.1]], dtype=torch.float64)
LOCAL = {argument for argument, scope in ARGUMENTS.items() if scope == "synapse"}


def feedforward(rules, **options):
    synapse = ct.Synapse("x", "y", W, plasticity=rules, **options)
    return ct.System(
        ct.Source("x", 3, X), ct.Source("m", 1, 0.8), ct.leaky_integrator("y", 2), synapse,
        ct.Input("m", "y"),
    )  # fmt: skip


def recurrent(rule):
    return ct.System(
        ct.Source("x", 4, 1.0), ct.Source("m", 1, 0.8), ct.leaky_integrator("y", 4),
        ct.Synapse("x", "y", 0.3), ct.Synapse("y", "y", 0.1, plasticity=rule, name="W"),
        ct.Input("m", "y"),
    )  # fmt: skip


def read(measured, row=0):
    """The arguments that one equation reads."""
    sensitivity = measured.sensitivity[row]
    return {str(a) for a in sensitivity.argument.values if float(sensitivity.sel(argument=a))}


class RowNorm(Plasticity):
    """dw_ij/dt = x_j − Σ_k w_ik: the other weights of a neuron."""

    def forward(self, local):
        return {"w": local.x - local.w.sum(-1, keepdim=True)}


class Competition(Plasticity):
    """dw_ij/dt = y_i x_j − Σ_k x_k: the other inputs of a neuron."""

    def forward(self, local):
        return {"w": local.y[:, None] * local.x - local.x.sum()}


class HiddenMean(Plasticity):
    """dw_ij/dt = e_i, a trace that is local, and follows the mean of the layer, which is not."""

    def variables(self, weight, post, pre):
        del pre
        return (ct.Variable(f"e_{weight.name}", {post: weight.dims[post]}),)

    def forward(self, local):
        w = local.own["e"][:, None].expand_as(local.w)
        return {"w": w, "e": local.y.mean() - local.own["e"]}


class Transport(ct.Synapse):
    """A synapse that shows its rule another synapse's weights."""

    def local(self, moment, rule):
        local = super().local(moment, rule)
        local.x = local.x + moment.state["W_z_y"].sum()
        return local


RULES = {
    "hebb": (lambda: ct.hebb(ETA), [{"pre", "post"}]),
    "oja": (lambda: ct.oja(ETA), [{"pre", "post", "weight"}]),
    "bcm": (
        lambda: ct.bcm(ETA, tau_theta=2.0),
        [{"pre", "post", "trace"}, {"post", "trace"}],
    ),
    "covariance": (
        lambda: ct.covariance(ETA, tau=2.0),
        [{"pre", "post", "trace"}, {"post", "trace"}, {"pre", "trace"}],
    ),
    "differential": (
        lambda: ct.differential_hebb(ETA, gate=ct.Pulse(1.0)),
        [{"pre", "post_rate"}],
    ),
    "three factors": (
        lambda: ct.eligibility(ETA, tau_e=2.0, modulator="m"),
        [{"modulator", "trace"}, {"pre", "post", "trace"}],
    ),
    "tagged": (
        lambda: tagged_hebb(ETA, tau_c=2.0, signal=ct.Pulse(1.0)),
        [{"modulator", "trace"}, {"pre", "post_rate", "modulator", "trace"}],
    ),
    "scaling": (lambda: ct.homeostatic_scaling(ETA, target=1.0), [{"post", "weight"}]),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", RULES)
def test_a_local_rule_reads_what_its_equations_say_and_exactly_nothing_else(name, seed):
    make, expected = RULES[name]
    for system, weight in ((feedforward(make()), "W_y_x"), (recurrent(make()), "W")):
        measured = locality(system, weight, seed=seed)
        assert [read(measured, row) for row in range(measured.sizes["rule"])] == expected
        assert (measured.scope == SCOPES.index("synapse")).all()


@pytest.mark.parametrize(
    ("make", "beyond", "scope"),
    [
        (lambda: ct.OjaSubspace(ETA), {"other_post", "layer_weight"}, "layer"),
        (lambda: ct.Sanger(ETA), {"other_post", "layer_weight"}, "layer"),
        (RowNorm, {"other_weight"}, "neuron"),
        (Competition, {"other_pre"}, "neuron"),
    ],
)
def test_a_rule_that_looks_further_is_found_out(make, beyond, scope):
    measured = locality(feedforward(make()), "W_y_x")
    assert read(measured) - LOCAL == beyond
    assert SCOPES[int(measured.scope[0])] == scope


def test_a_trace_that_looks_further_is_found_out_behind_a_local_weight():
    measured = locality(feedforward(HiddenMean()), "W_y_x")
    assert measured.rule.values.tolist() == ["HiddenMean", "HiddenMean: e"]
    assert [SCOPES[k] for k in measured.scope.values] == ["synapse", "layer"]
    assert read(measured, 1) == {"post", "trace", "other_post"}


def test_weights_of_another_synapse_are_found_out():
    system = ct.System(
        ct.Source("x", 3, X), ct.leaky_integrator("y", 2), ct.leaky_integrator("z", 2),
        Transport("x", "y", W, plasticity=ct.hebb(ETA)),
        ct.Synapse("y", "z", 0.1, plasticity=ct.hebb(ETA)),
    )  # fmt: skip
    assert read(locality(system, "W_y_x")) == {"pre", "post", "elsewhere"}
    assert SCOPES[int(locality(system, "W_y_x").scope[0])] == "network"
    assert read(locality(system, "W_z_y")) == {"pre", "post"}


def test_the_numbers_are_the_derivatives_at_the_given_state():
    rules = [ct.hebb(ETA), ct.oja(ETA), ct.OjaSubspace(ETA)]
    measured = locality(feedforward(rules), "W_y_x", {"s_y": Y, "W_y_x": W}).sensitivity
    rates = torch.abs(X - 2 * Y[:, None] * W).max()
    expected = [
        {"pre": Y.abs().max(), "post": X.abs().max()},
        {"pre": Y.abs().max(), "post": rates, "weight": Y.square().max()},
        {
            "pre": Y.abs().max(),
            "post": torch.abs(X - Y @ W - Y[:, None] * W).max(),
            "weight": Y.square().max(),
            "other_post": torch.abs(Y[:, None] * W.flip(0)).max(),
            "layer_weight": (Y[0] * Y[1]).abs(),
        },
    ]
    for row, values in zip(measured, expected, strict=True):
        wanted = [ETA * float(values.get(a, 0.0)) for a in ARGUMENTS]
        np.testing.assert_allclose(row, wanted, rtol=1e-12)


def test_rates_are_those_of_the_system_at_the_given_state():
    system = feedforward(ct.differential_hebb(ETA))
    inputs = {"x": 2 * X}
    measured = locality(system, "W_y_x", {"s_y": Y, "W_y_x": W}, inputs=inputs).sensitivity[0]
    rate = -Y + W @ (2 * X) + 0.8
    assert float(measured.sel(argument="pre")) == pytest.approx(ETA * float(rate.abs().max()))
    assert float(measured.sel(argument="post_rate")) == pytest.approx(ETA * 2 * 2.0)


def test_a_filtered_input_is_still_the_presynaptic_one():
    assert read(locality(feedforward(ct.oja(ETA), filter=(2, 1.0)), "W_y_x")) == {
        "pre", "post", "weight",
    }  # fmt: skip


def test_only_gated_rules_are_said_to_be_gated():
    rules = [ct.hebb(ETA), ct.hebb(ETA, gate=ct.Pulse(1.0))]
    measured = locality(feedforward(rules), "W_y_x")
    assert measured.gated.values.tolist() == [0, 1]
    assert measured.gated.attrs["flag_meanings"] == "no yes"


def test_the_units_are_those_of_a_rate():
    cell = ct.TextNeuron("dv/dt = (I - v)/tau : 1\nI : 1\ntau : ms", "y", 2, tau=5.0)
    synapse = ct.Synapse("x", "y", 0.1, plasticity=ct.hebb(ETA))
    system = ct.System(ct.Source("x", 3, X), cell, synapse)
    assert locality(system, "W_y_x").sensitivity.attrs["units"] == "1/ms"


def test_large_layers_are_sampled_and_the_network_is_left_as_it_was():
    network = ct.sigprop_network([64, 32, 10])
    before = {name: p.clone() for name, p in network.state_dict().items()}
    measured = locality(network, "W_h1_x")
    assert measured.sensitivity.attrs["synapses"] == 256
    assert (measured.scope == 0).all()
    assert all(torch.equal(before[name], p) for name, p in network.state_dict().items())


def test_a_report_is_valid_and_survives_the_store(tmp_path):
    tables = [locality(feedforward(rule), "W_y_x") for rule in (ct.hebb(ETA), ct.Sanger(ETA))]
    tree = report(xr.concat(tables, "rule"), title="two rules")
    assert ct.validate(tree) == []
    ct.save(tree, tmp_path / "report.zarr")
    again = ct.open(tmp_path / "report.zarr")
    assert ct.validate(again) == []
    xr.testing.assert_identical(
        again["plausibility"].to_dataset(), tree["plausibility"].to_dataset()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": "W_y_z"}, "did you mean 'W_y_x'"),
        ({"state": {"s": Y}}, "did you mean 's_y'"),
        ({"state": {"s_y": Y.expand(5, 2)}}, "one sample"),
        ({"state": {"s_y": Y}, "inputs": {"z": 1.0}}, "unknown source 'z'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        locality(**{"system": feedforward(ct.hebb(ETA)), "weight": "W_y_x"} | arguments)


def test_a_jacobian_that_is_not_finite_is_refused():
    rule = ct.TextPlasticity("dw/dt = eta*sqrt(y)*x", eta=ETA)
    with pytest.raises(ValueError, match="not finite here"):
        locality(feedforward(rule), "W_y_x")
