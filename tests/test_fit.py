from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.data import visual_cortex_pairing
from ctsigprop.fit import STATUS, fit
from ctsigprop.learning.stdp import weight_change
from ctsigprop.models.triplet import pairing_protocol, triplet_stdp


def constant(value=1.0, **bounds):
    """A system with one parameter that is itself the prediction."""
    return ct.System(ct.TextNeuron("dx/dt = c - x : 1", c=ct.Parameter(value, **bounds)))


def table(values, errors=None):
    variables = {"y": ("row", np.array(values, dtype=float), {"units": "mV"})}
    if errors is not None:
        variables["sem"] = ("row", np.array(errors, dtype=float), {"units": "mV"})
    return xr.Dataset(variables, {"row": ("row", np.arange(len(values)), {"units": "1"})})


def fit_constant(system, data, **options):
    c = system.neurons[0]
    return fit(system, lambda: c.c.expand(data.sizes["row"]), data, "y", ["c"], **options)


def test_the_triplet_rule_fits_visual_cortex_better_than_its_published_set():
    data = visual_cortex_pairing()
    protocol = pairing_protocol(torch.tensor(data.dt.values), torch.tensor(data.frequency.values))
    rule = triplet_stdp(A3p=0.01, A2m=0.01, tau_y=50.0)
    names = ["A3p", "A2m", "tau_y"]
    tree = fit(
        rule, lambda: weight_change(rule, *protocol), data, "dw", names, error="dw_sem", starts=1
    )
    assert ct.validate(tree) == []
    found = tree["fit"].isel(start=0)
    assert float(found["loss"]) < 0.32 < 0.356
    assert int(found["status"]) == STATUS.index("converged")
    assert found["tau_y"].attrs["units"] == "ms"
    change = weight_change(rule, *protocol).detach().numpy()
    np.testing.assert_allclose(tree["predicted"]["dw"], change, rtol=1e-12)
    misfit = (data.dw.values - change) / data.dw_sem.values
    assert float(found["loss"]) == pytest.approx((misfit**2).mean(), rel=1e-9)


def test_a_solution_is_fitted_back_from_what_it_gave():
    def build(tau, rest):
        return ct.System(
            ct.TextNeuron(
                "dx/dt = (rest - x)/tau : 1",
                size=2,
                tau=ct.Parameter(torch.tensor(tau, dtype=torch.float64), "ms", lower=0.0),
                rest=rest,
                time_unit="ms",
            )
        )

    def respond(system):
        return ct.solve(system, {"x": 1.0}, torch.linspace(0, 4, 6), rtol=1e-9, atol=1e-11)["x"]

    truth = build([1.5, 0.7], 0.25)
    values = respond(truth).numpy()
    data = xr.Dataset(
        {"x": (("time", "neuron"), values, {"units": "1"})},
        {"time": ("time", np.linspace(0, 4, 6), {"units": "ms"}), "neuron": ("neuron", [0, 1])},
    )
    model = build([1.0, 1.0], -1.0)
    tree = fit(model, lambda: respond(model), data, "x", ["tau", "rest"], starts=2)
    found = tree["fit"].to_dataset()
    assert float(found.loss[0]) < 1e-10
    np.testing.assert_allclose(found.tau[0], [1.5, 0.7], rtol=1e-4)
    assert float(found.rest[0]) == pytest.approx(0.25, abs=1e-4)
    assert found.tau.attrs["units"] == "ms"
    assert found.tau_initial.shape == (2, 2)


def test_errors_weigh_the_data():
    tree = fit_constant(constant(), table([1.0, 4.0], [0.5, 1.0]), error="sem", starts=1)
    expected = (1.0 / 0.25 + 4.0 / 1.0) / (1 / 0.25 + 1.0)
    assert float(tree["fit"]["c"][0]) == pytest.approx(expected, rel=1e-6)
    assert float(tree["fit"]["loss"][0]) == pytest.approx(
        np.mean([((1 - expected) / 0.5) ** 2, (4 - expected) ** 2]), rel=1e-9
    )
    plain = fit_constant(constant(), table([1.0, 4.0]), starts=1)
    assert float(plain["fit"]["c"][0]) == pytest.approx(2.5, rel=1e-6)


@pytest.mark.parametrize("bounds", [{"lower": 0.0}, {"upper": 3.0}, {"lower": 0.0, "upper": 3.0}])
def test_bounds_hold_where_the_data_lie_beyond_them(bounds):
    beyond = 5.0 if "upper" in bounds else -5.0
    tree = fit_constant(constant(**bounds), table([beyond]), starts=3)
    every = np.concatenate([tree["fit"]["c"].values, tree["fit"]["c_initial"].values])
    assert (every >= bounds.get("lower", -np.inf)).all()
    assert (every <= bounds.get("upper", np.inf)).all()
    edge = bounds.get("upper", 0.0)
    assert float(tree["fit"]["c"][0]) == pytest.approx(edge, abs=0.05)


def test_starts_are_scattered_repeatable_and_ordered_best_first():
    def double_well(seed):
        system = constant(0.3)
        c = system.neurons[0]
        data = table([0.0])
        return fit(
            system,
            lambda: ((c.c**2 - 1) ** 2 + 0.3 * c.c).reshape(1) + 1,
            data,
            "y",
            ["c"],
            starts=6,
            spread=5.0,
            seed=seed,
        )["fit"].to_dataset()

    found, again, other = double_well(0), double_well(0), double_well(1)
    xr.testing.assert_identical(found, again)
    assert not np.array_equal(found.c_initial, other.c_initial)
    assert (np.diff(found.loss) >= 0).all()
    assert found.loss[-1] - found.loss[0] > 0.1  # two minima were found, the better one first
    assert float(found.c[0]) == pytest.approx(-1.0, abs=0.1)
    assert 0.3 in found.c_initial


def test_running_out_of_iterations_is_said():
    tree = fit_constant(constant(2.0, lower=0.0), table([50.0]), starts=1, max_iterations=1)
    assert int(tree["fit"]["status"][0]) == STATUS.index("limit")


def test_parameters_of_one_name_are_told_apart_by_their_terms():
    system = ct.System(ct.leaky_integrator("a", tau=1.0), ct.leaky_integrator("b", tau=2.0))
    a, b = system.neurons
    tree = fit(
        system, lambda: torch.stack([a.tau, b.tau]), table([3.0, 4.0]), "y", ["tau"], starts=1
    )
    assert float(tree["fit"]["tau_a"][0]) == pytest.approx(3.0)
    assert float(tree["fit"]["tau_b"][0]) == pytest.approx(4.0)
    only = fit(system, lambda: a.tau.reshape(1), table([5.0]), "y", ["a.tau"], starts=1)
    assert float(only["fit"]["tau_a"][0]) == pytest.approx(5.0)
    assert b.tau.item() == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": ["d"]}, "unknown parameter 'd'"),
        ({"value": "z"}, "unknown variable of the data 'z'"),
        ({"error": "se"}, "did you mean 'sem'"),
        ({"observed": table([1.0, np.nan])}, "'y' of the data must be finite"),
        ({"observed": table([1.0, 2.0], [1.0, 0.0]), "error": "sem"}, "must be > 0"),
        ({"predict": lambda: torch.ones(3, requires_grad=True)}, r"shape of 'y', \(2,\)"),
        ({"predict": lambda: torch.ones(2)}, "does not depend on any"),
        ({"predict": lambda: torch.ones(2, requires_grad=True)}, "does not depend on 'c'"),
        ({"system": constant(0.0, lower=0.0)}, "strictly inside"),
        ({"starts": 0}, "starts >= 1"),
        ({"spread": -1.0}, "spread >= 0"),
    ],
)
def test_refusals(change, message):
    system = constant()
    given = {
        "system": system,
        "predict": lambda: system.neurons[0].c.expand(2),
        "observed": table([1.0, 2.0], [1.0, 1.0]),
        "value": "y",
        "parameters": ["c"],
    }
    with pytest.raises(ValueError, match=message):
        fit(**given | change)


def test_a_loss_that_is_not_finite_names_the_parameters():
    system = constant(-2.0)
    with pytest.raises(ArithmeticError, match=r"'c': -2\.0"):
        fit(system, lambda: system.neurons[0].c.log().reshape(1), table([1.0]), "y", ["c"])
