from __future__ import annotations

import pytest
import torch
from torch import nn

import ctsigprop as ct
from ctsigprop.models.layers import ACTIVATIONS, Layers
from ctsigprop.models.rate import NONLINEARITIES

F64 = torch.float64
X = torch.rand(4, 36, dtype=F64, generator=torch.Generator().manual_seed(0))


def dense(rho="tanh"):
    return Layers.dense([36, 9, 7, 3], rho=rho, seed=2).double()


def convolutional():
    torch.manual_seed(0)
    return Layers(
        nn.Sequential(nn.Unflatten(1, (1, 6, 6)), nn.Conv2d(1, 3, 3), nn.Tanh()),
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 5, 2), nn.Sigmoid()),
        nn.Sequential(nn.Flatten(), nn.Linear(5, 3)),
        inputs=36,
    ).double()


NETWORKS = {"dense": dense, "convolutional": convolutional}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "solver", [ct.Tsit5(rtol=1e-9, atol=1e-11), ct.SciPy("DOP853", rtol=1e-9, atol=1e-11)], ids=str
)
def test_the_same_weights_answer_the_same_in_all_three_ways(name, solver):
    network = NETWORKS[name]()
    system = network.system(tau=0.5)
    run = ct.solve(system, t=[0.0, 30.0], inputs={"x": X}, solver=solver, differentiable=False)
    sizes = {neuron.name: neuron.size for neuron in system.neurons}
    from ctsigprop.signals import Constant
    from ctsigprop.solvers.relaxation import Relaxation

    start = {f"s_{n}": torch.zeros(4, size, dtype=F64) for n, size in sizes.items()}
    rest = Relaxation(system, {}, 0.0, {"x": Constant(X)}).settle(start, ct.Steady()).state
    for layer, activity in zip(network.names, network.activities(X), strict=True):
        flat = activity.reshape(4, -1)
        assert torch.allclose(rest[f"s_{layer}"], flat, rtol=0, atol=1e-14)  # steady
        assert torch.allclose(run[f"s_{layer}"][-1], flat, rtol=0, atol=1e-7)  # in time
    assert torch.equal(network(X), network.activities(X)[-1])  # instantaneous


def test_layers_lag_behind_each_other_in_time():
    identity = Layers(nn.Identity(), nn.Identity(), inputs=2)
    run = ct.solve(
        identity.system(tau=2.0), t=[0.0, 1.0], inputs={"x": torch.tensor([[1.0, 3.0]])},
        solver=ct.Tsit5(rtol=1e-9, atol=1e-11),
    )  # fmt: skip
    u = torch.tensor(0.5, dtype=F64)
    first, second = 1 - torch.exp(-u), 1 - (1 + u) * torch.exp(-u)
    for name, gain in (("s_h1", first), ("s_y", second)):
        expected = gain * torch.tensor([1.0, 3.0], dtype=F64)
        torch.testing.assert_close(run[name][-1, 0].double(), expected, rtol=1e-6, atol=0)


def test_activations_are_the_nonlinearities_of_rate_neurons():
    assert ACTIVATIONS.keys() == NONLINEARITIES.keys()
    u = torch.linspace(-3, 3, 13, dtype=F64)
    for name in ACTIVATIONS:
        network = Layers.dense([1, 1], output=name).double()
        with torch.no_grad():
            network.weights["W_y_x"].fill_(1.0)
        neuron = ct.System(ct.Source("u", 1), ct.rate("s", rho=name), ct.Synapse("u", "s", 1.0))
        run = ct.solve(neuron, {"s_s": torch.zeros(13, 1, dtype=F64)}, [0.0, 40.0],
                       inputs={"u": u.unsqueeze(1)})  # fmt: skip
        assert torch.allclose(run["s_s"][-1], network(u.unsqueeze(1)), atol=1e-5), name


def test_weights_have_the_names_and_shapes_of_their_layers():
    assert {n: tuple(w.shape) for n, w in convolutional().weights.items()} == {
        "W_h1_x": (3, 1, 3, 3),
        "b_h1": (3,),
        "W_h2_h1": (5, 3, 2, 2),
        "b_h2": (5,),
        "W_y_h2": (3, 5),
        "b_y": (3,),
    }
    rule = ct.Backpropagation(convolutional())
    for name, weight in rule.weights.items():
        assert len(rule.dims(name)) == weight.dim()
    assert rule.dims("W_h2_h1")[:2] == ("h2_channel", "h1_channel")
    assert ct.Backpropagation(dense()).dims("W_h2_h1") == ("h2", "h1")
    double = Layers(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), inputs=2)
    assert list(double.weights) == ["y_0_weight", "y_0_bias", "y_1_weight", "y_1_bias"]
    assert list(Layers.dense([2, 2], bias=False).weights) == ["W_y_x"]


def test_the_seed_decides_the_weights():
    one, two, three = (Layers.dense([5, 4, 3], seed=s).weights["W_h1_x"] for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    state = torch.get_rng_state()
    wide = Layers.dense([900, 100, 3], seed=0).weights["W_h1_x"].detach()
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are drawn
    assert float(wide.abs().max()) == pytest.approx((6 / 1000) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Layers(inputs=3), ValueError, "at least one layer"),
        (lambda: Layers(3, inputs=3), TypeError, "must be torch modules; got int"),
        (lambda: Layers(nn.Identity(), inputs=0), ValueError, "inputs must be .* >= 1; got 0"),
        (
            lambda: Layers(nn.Linear(3, 4), nn.Linear(5, 2), inputs=3),
            ValueError,
            r"layer 2 does not take what comes before it, \(4,\) a sample",
        ),
        (
            lambda: Layers(nn.Unflatten(1, (1, 2, 2)), inputs=4),
            ValueError,
            r"must give one vector a sample; got \(1, 2, 2\)",
        ),
        (lambda: Layers.dense([3]), ValueError, r"sizes needs .* got \[3\]"),
        (lambda: Layers.dense([3, 0]), ValueError, "sizes needs"),
        (lambda: Layers.dense([3, 2], rho="rlu"), ValueError, "did you mean 'relu'"),
    ],
)
def test_what_is_no_network_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_answers_are_given_in_evaluation_mode():
    torch.manual_seed(0)
    network = Layers(
        nn.Sequential(nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)),
        nn.Linear(8, 3),
        inputs=36,
    ).double()
    for rule in (ct.Backpropagation(network), ct.ContinuousBackpropagation(network)):
        before = network.layers[0][1].running_mean.clone()
        assert torch.allclose(rule.respond(X)[:2], rule.respond(X[:2]), atol=1e-12)
        assert torch.equal(network.layers[0][1].running_mean, before)
        assert network.training
