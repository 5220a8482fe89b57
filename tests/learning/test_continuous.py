from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.integrate import solve_ivp
from torch import Tensor

import ctsigprop as ct
from ctsigprop.errors import ConvergenceError
from ctsigprop.solvers import relaxation
from ctsigprop.solvers.base import State
from ctsigprop.train import accuracy

SIZES = [6, 8, 7, 3]
ONSET, END = 8.4, 14.4
FORMS = ("loop", "label")
WEIGHTS = ["W_h1_x", "W_h1_one", "W_h2_h1", "W_h2_one", "W_y_h2", "W_y_one"]


def network(**options: Any) -> ct.System:
    return ct.sigprop_network(SIZES, **{"rho": "tanh", "seed": 3, **options})


def batch(size: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(size, SIZES[0], generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.arange(size) % SIZES[-1]


def one_hot(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels, SIZES[-1]).double()


def presented(
    system: ct.System, solver: Any, times: list[float], start: State | None = None
) -> dict[str, Tensor]:
    """Every variable at every time, for the batch in float64."""
    x, labels = batch()
    zeros = {
        v.name: torch.zeros(len(x), *v.shape, dtype=torch.float64)
        for neuron in system.neurons
        for v in neuron.variables
    }
    inputs = {"x": x, "c": one_hot(labels)}
    return ct.solve(system, {**zeros, **(start or {})}, times, solver=solver, inputs=inputs).states


def fixed(system: ct.System, name: str) -> np.ndarray:
    current = next(c for c in system.currents if c.name == name)
    return current.weight.numpy()


def field(
    system: ct.System, form: str, state: dict[str, np.ndarray], *, beta: float, on: bool
) -> dict[str, np.ndarray]:
    """ds/dt of the docstring, written out in NumPy."""
    x, labels = (a.numpy() for a in batch())
    c = np.eye(SIZES[-1])[labels]
    s, w = {k[2:]: v for k, v in state.items() if k.startswith("s_")}, state
    if form == "loop":
        signal = s["y"] @ fixed(system, "B_h1_y").T
    else:
        signal = on * c @ fixed(system, "S_h1_c").T
    drive = {
        "h1": x @ w["W_h1_x"].T + w["W_h1_one"][:, 0] + signal,
        "h2": s["h1"] @ w["W_h2_h1"].T + w["W_h2_one"][:, 0],
        "y": s["h2"] @ w["W_y_h2"].T + w["W_y_one"][:, 0],
    }
    slopes = {f"s_{name}": -s[name] + np.tanh(u) for name, u in drive.items()}
    slopes["s_y"] = slopes["s_y"] + on * beta * (c - s["y"])
    return slopes


def random_state(system: ct.System) -> State:
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.randn(
            *(() if v.shared else (5,)), *v.shape, generator=generator, dtype=torch.float64
        )
        for name, v in system.variables.items()
    }


def derivative(system: ct.System, state: State, t: float) -> dict[str, np.ndarray]:
    x, labels = batch()
    inputs = {"x": ct.Constant(x), "c": ct.Constant(one_hot(labels))}
    slopes = system(torch.tensor(t, dtype=torch.float64), state, inputs=inputs)
    return {name: value.numpy() for name, value in slopes.items()}


@pytest.mark.parametrize("rule", ["tagged", "differential"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("on", [False, True], ids=["gate shut", "gate open"])
def test_the_field_is_that_of_the_docstring(form: Any, rule: Any, on: bool) -> None:
    beta, eta = 0.7, [0.5, 0.3, 0.2]
    system = network(form=form, rule=rule, beta=beta, eta=eta)
    state = random_state(system)
    found = derivative(system, state, ONSET + 1 if on else ONSET - 1)
    plain = {name: value.numpy() for name, value in state.items()}
    want = field(system, form, plain, beta=beta, on=on)
    for name in ("s_h1", "s_h2", "s_y"):
        np.testing.assert_allclose(found[name], want[name], rtol=0, atol=1e-12)
    x, one = batch()[0].numpy(), np.ones((5, 1))
    pres = {"x": x, "one": one, "h1": plain["s_h1"], "h2": plain["s_h2"]}
    for name in WEIGHTS:
        _, post, pre = name.split("_")
        rate = eta[["h1", "h2", "y"].index(post)] / beta
        hebb = want[f"s_{post}"].T @ pres[pre] / len(x)
        if rule == "differential":
            change = rate * hebb if on else np.zeros_like(hebb)
            np.testing.assert_allclose(found.get(name, 0 * hebb), change, rtol=0, atol=1e-12)
        else:
            tau_c, tag = ONSET / 4, plain[f"e_{name}"]
            captured = 0 * tag if on else tag / tau_c
            np.testing.assert_allclose(found[name], rate * captured, rtol=0, atol=1e-12)
            tagged = hebb if on else -tag / tau_c
            np.testing.assert_allclose(found[f"e_{name}"], tagged, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_until_the_signal_comes_the_run_is_pure_inference(form: Any) -> None:
    system = network(form=form, onset=3.0)
    run = presented(system, ct.Tsit5(rtol=1e-13, atol=1e-14), [0.0, 1.0, 3.0])
    weights = {name: run[name][0].numpy() for name in WEIGHTS}
    sizes = dict(zip(("s_h1", "s_h2", "s_y"), SIZES[1:], strict=True))
    cuts = np.cumsum([5 * n for n in sizes.values()])[:-1]

    def flat(_: float, y: np.ndarray) -> np.ndarray:
        parts = zip(sizes.items(), np.split(y, cuts), strict=True)
        s = {name: part.reshape(5, size) for (name, size), part in parts}
        slopes = field(system, form, {**s, **weights}, beta=1.0, on=False)
        return np.concatenate([slopes[name].ravel() for name in sizes])

    truth = solve_ivp(
        flat, (0, 3.0), np.zeros(5 * sum(SIZES[1:])), "DOP853", [1.0, 3.0], rtol=1e-13,
        atol=1e-15,
    )  # fmt: skip
    found = np.concatenate([run[name][1:].numpy().reshape(2, -1) for name in sizes], axis=1)
    np.testing.assert_allclose(found, truth.y.T, rtol=0, atol=1e-12)
    for name in WEIGHTS:  # and nothing is learned
        assert torch.equal(run[name][0], run[name][-1])
        assert not run[f"e_{name}"].any()


@pytest.mark.parametrize("layer", ["y", "h2"])
def test_no_synapse_is_used_backwards(layer: str) -> None:
    before = {"y": ["h1", "h2"], "h2": ["h1"]}[layer]
    names = [n for n in WEIGHTS if n.split("_")[1] == layer]

    def runs(form: Any) -> tuple[State, State]:
        system = network(form=form)
        other = {n: 1.5 * torch.as_tensor(system.variables[n].initial) + 0.1 for n in names}
        first, second = (
            presented(system, ct.Euler(dt=0.6), [0.0, ONSET, END], start) for start in ({}, other)
        )
        return first, second

    first, second = runs("label")
    assert not torch.equal(first[f"s_{layer}"], second[f"s_{layer}"])
    for name in first:
        kind, _, rest = name.partition("_")
        if rest.removeprefix("W_").split("_")[0] in before:  # its state, weights and tags
            assert torch.equal(first[name], second[name]), name
        elif kind != "W":  # weights themselves rest until the signal is off
            assert not torch.equal(first[name], second[name]), name
    first, second = runs("loop")  # the loop is the one way to the front
    assert not torch.equal(first["s_h1"], second["s_h1"])


@pytest.mark.parametrize("form", FORMS)
def test_tags_hold_the_delta_of_the_first_layer_exactly(form: Any) -> None:
    # the input is held, so that the sum over the steps of ds ⊗ x is (sᵝ − s⁰) ⊗ x
    run = presented(network(form=form, eta=5.0), ct.Euler(dt=0.6), [0.0, ONSET, END])
    x, _ = batch()
    moved = run["s_h1"][2] - run["s_h1"][1]
    assert moved.abs().max() > 1e-3
    torch.testing.assert_close(run["e_W_h1_x"][2], moved.T @ x / len(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(run["e_W_h1_one"][2][:, 0], moved.mean(0), rtol=0, atol=1e-14)
    assert torch.equal(run["W_h1_x"][2], run["W_h1_x"][0])  # it rests until the signal is off


def test_what_the_tag_loses_the_weight_takes_up() -> None:
    eta, beta = 0.4, 0.5
    system = network(eta=eta, beta=beta)
    one = presented(system, ct.Euler(dt=0.6), [0.0, END])
    carried = {n: one[n][-1] for n in one if not n.startswith("s_")}
    two = presented(system, ct.Euler(dt=0.6), [0.0, ONSET], carried)
    for name in WEIGHTS:
        tag = two[f"e_{name}"]
        whole = two[name] + eta / beta * tag
        torch.testing.assert_close(whole[1], whole[0], rtol=0, atol=1e-14)
        assert tag[1].norm() < 0.01 * tag[0].norm()  # (1 − 0.6/2.1)¹⁴ = 0.9 %


def slope(parameter: list[float], error: list[float]) -> float:
    return float(np.polyfit(np.log(parameter), np.log(error), 1)[0])


@pytest.mark.parametrize("name", ["W_h2_h1", "W_y_h2"])
def test_tagged_rule_becomes_the_delta_form_as_the_nudge_becomes_small(name: str) -> None:
    _, post, pre = name.split("_")
    betas, errors = [0.1, 0.05, 0.025], []
    settled = 60.0  # what has not settled before the signal moves on during it
    for beta in betas:
        system = network(beta=beta, onset=settled)
        run = presented(system, ct.Euler(dt=0.6), [0.0, settled, settled + 6])
        free, held = ({k: v[i] for k, v in run.items()} for i in (1, 2))
        delta = (held[f"s_{post}"] - free[f"s_{post}"]).T @ free[f"s_{pre}"] / 5
        errors.append(float((held[f"e_{name}"] - delta).norm() / delta.norm()))
    assert errors[-1] < 2e-2
    assert 0.9 < slope(betas, errors) < 1.1, errors


@pytest.mark.parametrize("name", WEIGHTS)
def test_differential_rule_becomes_the_tagged_one_as_its_rate_becomes_small(name: str) -> None:
    tag = presented(network(), ct.Euler(dt=0.6), [0.0, ONSET, END])[f"e_{name}"][-1]
    etas, errors = [4e-3, 2e-3, 1e-3], []
    for eta in etas:
        system = network(rule="differential", eta=eta)
        run = presented(system, ct.Euler(dt=0.6), [0.0, ONSET, END])[name]
        errors.append(float(((run[-1] - run[0]) / eta - tag).norm() / tag.norm()))
    assert errors[-1] < 1e-2
    assert 0.9 < slope(etas, errors) < 1.1, errors


@pytest.mark.parametrize("update", ["integrated", "delta", "contrastive"])
def test_present_is_one_run_of_the_network(update: Any) -> None:
    x, labels = batch(dtype=torch.float32)
    eta, beta = [0.5, 0.3, 0.2], 0.7
    system = network(eta=eta, beta=beta)
    run = presented(system, ct.Euler(dt=0.6), [0.0, ONSET, END])
    free, held = ({k: v[i] for k, v in run.items()} for i in (1, 2))
    learner = ct.ContinuousSigprop(network(eta=eta, beta=beta), update=update)
    outputs = learner.present(x, labels)
    torch.testing.assert_close(outputs.double(), free["s_y"], rtol=0, atol=1e-6)
    for name in WEIGHTS:
        _, post, pre = name.split("_")
        want = held[name]
        if update != "integrated":
            pres = [
                {"x": x.double(), "one": torch.ones(5, 1).double()}.get(pre, s.get(f"s_{pre}"))
                for s in (free, held)
            ]
            posts = [s[f"s_{post}"] for s in (free, held)]
            if update == "delta":
                change = (posts[1] - posts[0]).T @ pres[0]
            else:
                change = posts[1].T @ pres[1] - posts[0].T @ pres[0]
            want = run[name][0] + eta[["h1", "h2", "y"].index(post)] / beta * change / 5
            assert not torch.equal(learner.weights[name], run[name][0].float())
            assert not learner.weights[f"e_{name}"].any()
        else:
            tag = learner.weights[f"e_{name}"].double()
            torch.testing.assert_close(tag, held[f"e_{name}"], rtol=0, atol=1e-6)
        torch.testing.assert_close(learner.weights[name].double(), want, rtol=0, atol=1e-6)


UPDATES: list[dict[str, Any]] = [
    {"rule": "tagged"},
    {"rule": "differential", "eta": 0.05},
    {"update": "delta"},
    {"update": "contrastive"},
]


def build(update: str = "integrated", **options: Any) -> ct.ContinuousSigprop:
    return ct.ContinuousSigprop(network(**options), update=update)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", UPDATES, ids=str)
def test_learning_needs_no_gradient_and_keeps_no_graph(form: str, options: dict[str, Any]) -> None:
    x, labels = batch(dtype=torch.float32)
    plain, quiet = build(form=form, **options), build(form=form, **options)
    start = {name: w.clone() for name, w in plain.weights.items()}
    for _ in range(2):
        outputs = plain.present(x.clone().requires_grad_(), labels)
    with torch.no_grad():
        for _ in range(2):
            quiet.present(x, labels)
    assert not outputs.requires_grad
    for name, w in plain.weights.items():
        assert not w.requires_grad
        assert w.grad_fn is None
        assert torch.equal(w, quiet.weights[name])
    assert all(not torch.equal(start[name], quiet.weights[name]) for name in WEIGHTS)
    assert not any(p.requires_grad for p in plain.network.parameters())


@pytest.mark.parametrize("options", UPDATES, ids=str)
def test_an_update_is_the_mean_over_the_batch(options: dict[str, Any]) -> None:
    x, labels = batch(4, dtype=torch.float32)
    once, twice = build(**options), build(**options)
    once.present(x, labels)
    twice.present(x.repeat(2, 1), labels.repeat(2))
    for name in once.weights:
        torch.testing.assert_close(once.weights[name], twice.weights[name], rtol=0, atol=1e-6)
    if options.get("rule") != "differential":  # whose weights move while samples share them
        start = build(**options).weights
        singles = [build(**options) for _ in range(4)]
        for i, single in enumerate(singles):
            single.present(x[i : i + 1], labels[i : i + 1])
        for name, w in once.weights.items():
            mean = torch.stack([single.weights[name] for single in singles]).mean(0)
            torch.testing.assert_close(w - start[name], mean - start[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("update", ["integrated", "delta"])
@pytest.mark.parametrize("form", FORMS)
def test_the_frozen_control_leaves_hidden_weights_alone(form: Any, update: Any) -> None:
    x, labels = batch(dtype=torch.float32)
    learner = build(form=form, learning="output", update=update)
    assert {s.name for s in learner.synapses} == {"W_y_h2", "W_y_one"}
    before = {n: p.clone() for n, p in learner.network.named_parameters()}
    output = learner.weights["W_y_h2"].clone()
    for _ in range(3):
        learner.present(x, labels)
    for name, parameter in learner.network.named_parameters():
        assert torch.equal(parameter, before[name])
    assert not torch.equal(learner.weights["W_y_h2"], output)
    hidden = network(form=form).initial_state()
    for name in WEIGHTS[:4]:  # those that the learning network starts from
        np.testing.assert_array_equal(fixed(learner.network, name), hidden[name].float())


def test_the_label_goes_to_hidden_units_only_where_they_learn() -> None:
    def names(learning: Any) -> set[str]:
        return {c.name for c in network(form="label", learning=learning).currents}

    assert "S_h1_c" in names("all")
    assert names("all") - names("output") == {"S_h1_c"}
    still = ct.ContinuousSigprop(network(learning="none"))
    still.present(*batch(dtype=torch.float32))
    assert still.weights == {}


def test_rates_scale_from_those_that_were_built() -> None:
    x, labels = batch(dtype=torch.float32)

    def change(*factors: float) -> State:
        learner = build(update="delta")
        start = {name: w.clone() for name, w in learner.weights.items()}
        for factor in factors:
            learner.scale_rates(factor)
        learner.present(x, labels)
        return {name: learner.weights[name] - start[name] for name in WEIGHTS}

    whole, half, back, none = change(), change(0.25, 0.5), change(0.1, 1.0), change(0.0)
    for name in WEIGHTS:
        torch.testing.assert_close(half[name], whole[name] / 2, rtol=0, atol=1e-6)
        assert torch.equal(back[name], whole[name])
        assert not none[name].any()


def test_responding_learns_nothing() -> None:
    x, labels = batch(dtype=torch.float32)
    learner = build()
    before = dict(learner.weights)
    outputs = learner.respond(x)
    assert all(learner.weights[name] is before[name] for name in before)
    assert torch.equal(outputs, learner.activities(x)["s_y"])
    free = learner.present(x.double(), labels)  # the context is not seen yet
    torch.testing.assert_close(free, outputs, rtol=0, atol=1e-6)  # other products, rounded anew
    assert torch.equal(learner.respond(x), outputs)  # the tags are set, and left out
    learner.scale_rates(0.5)
    assert torch.equal(learner.respond(x), outputs)
    learner.present(x, labels)  # takes them up
    assert not torch.equal(learner.respond(x), outputs)


def test_an_interruption_inside_a_presentation_leaves_the_weights() -> None:
    x, labels = batch(dtype=torch.float32)
    learner = build()
    learner.solver = learner.solver.with_options(native=False)  # whose kernels call no forward
    before = dict(learner.weights)
    forward, calls = learner.network.forward, []

    def interrupted(*args: Any, **kwargs: Any) -> State:
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    learner.network.forward = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        learner.present(x, labels)
    assert all(learner.weights[name] is before[name] for name in before)
    learner.present(x, labels)
    assert not torch.equal(learner.weights["e_W_y_h2"], before["e_W_y_h2"])


def test_settings_tell_learners_apart() -> None:
    same, again = build().settings, build().settings
    assert same == again
    assert same["onset"] == ONSET
    assert same["rates"]["W_y_h2"] == 1.0
    others = [{"seed": 4}, {"strength": 0.2}, {"beta": 0.5}, {"rho": "relu"}, {"form": "label"}]
    prints = {build(**options).settings["network"] for options in others}
    assert len(prints | {same["network"]}) == len(others) + 1
    moved = build()
    moved.present(*batch(dtype=torch.float32))
    moved.scale_rates(0.5)
    assert moved.settings == same


def test_a_learner_goes_on_from_given_weights() -> None:
    x, labels = batch(dtype=torch.float32)
    first = build()
    first.present(x, labels)
    second = ct.ContinuousSigprop(network(), weights=dict(first.weights))
    first.present(x, labels)
    second.present(x, labels)
    assert all(torch.equal(first.weights[n], second.weights[n]) for n in first.weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": [6, 3]}, r"an input, a hidden layer and an output, each >= 1; got \[6, 3\]"),
        ({"sizes": [6, 0, 3]}, r"got \[6, 0, 3\]"),
        ({"sizes": [6, 8.0, 3]}, r"got \[6, 8.0, 3\]"),
        ({"form": "lop"}, r"unknown form 'lop' \(did you mean 'loop'\?\); accepted: label, loop"),
        ({"rule": "taged"}, r"unknown rule 'taged' \(did you mean 'tagged'\?\)"),
        ({"learning": "outptu"}, r"unknown learning 'outptu' \(did you mean 'output'\?\)"),
        ({"rho": "than"}, r"did you mean 'tanh'"),
        ({"beta": 0.0}, r"beta must be > 0; got 0.0"),
        ({"beta": float("nan")}, r"beta must be > 0; got nan"),
        ({"onset": -1.0}, r"onset must be > 0; got -1.0"),
        ({"tau": 0.0}, r"tau must be > 0"),
        ({"strength": -0.1}, r"strength must be >= 0; got -0.1"),
        ({"eta": [0.1, 0.2]}, r"one rate >= 0 for each of 3 layers; got \[0.1, 0.2\]"),
        ({"eta": [0.1, -0.2, 0.1]}, r"one rate >= 0"),
        ({"eta": float("nan")}, r"one rate >= 0"),
    ],
)
def test_sigprop_network_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ct.sigprop_network(**{"sizes": SIZES, **options})


def plain_system() -> ct.System:
    return ct.System(ct.fitzhugh_nagumo())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "net"}, TypeError, "network must be a System; got str"),
        ({"network": plain_system()}, ValueError, "must be one of sigprop_network"),
        ({"update": "detla"}, ValueError, r"unknown update 'detla' \(did you mean 'delta'\?\)"),
        ({"end": 8.4}, ValueError, "end must be later than the onset, 8.4; got 8.4"),
        ({"end": float("nan")}, ValueError, "end must be later than the onset"),
        ({"solver": "euler"}, TypeError, "solver must be a solver; got str"),
        ({"weights": {"W_h1_y": torch.zeros(1)}}, ValueError, "did you mean 'W_h1_"),
    ],
    ids=str,
)
def test_sigprop_refuses(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ct.ContinuousSigprop(**{"network": network(), **options})


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (torch.rand(2, 6), torch.tensor([0, 3]), "from 0 to 2; got torch.int64 from 0 to 3"),
        (torch.rand(2, 6), torch.tensor([-1, 0]), "from 0 to 2"),
        (torch.rand(2, 6), torch.tensor([0.0, 1.0]), "whole numbers"),
        (torch.rand(2, 6), torch.tensor([0]), r"got \(2, 6\) and \(1,\)"),
        (torch.rand(6), torch.tensor(0), r"x of shape \(batch, channels\)"),
        (torch.rand(0, 6), torch.zeros(0).long(), "batch >= 1"),
        (torch.rand(2, 5), torch.tensor([0, 1]), "'x' must have 6 channels; got 5"),
        (torch.full((2, 6), torch.nan), torch.tensor([0, 1]), "finite"),
    ],
)
def test_present_refuses(x: Tensor, labels: Tensor, message: str) -> None:
    learner = build()
    before = dict(learner.weights)
    with pytest.raises(ValueError, match=message):
        learner.present(x, labels)
    assert learner.weights == before


def test_silent_outputs_are_never_right() -> None:
    learner = ct.ContinuousSigprop(ct.sigprop_network(SIZES))
    x, _ = batch(6, torch.float32)
    labels = np.zeros(6, dtype=np.int64)
    part = xr.Dataset({"input": (("sample", "pixel"), x.numpy()), "label": ("sample", labels)})
    learner.weights["W_y_h2"] = torch.zeros_like(learner.weights["W_y_h2"])
    learner.weights["W_y_one"] = torch.tensor([[0.5], [0.1], [0.1]])
    assert accuracy(learner, part) == 1.0
    learner.weights["W_y_one"] = torch.tensor([[-1.0], [-1.0], [-1.0]])
    assert not learner.respond(x).any()
    assert accuracy(learner, part) == 0.0  # and argmax of a silent row would be class 0
    learner.weights["W_y_one"] = torch.tensor([[0.5], [0.5], [0.1]])  # nor is a tie
    assert accuracy(learner, part) == 0.0


def test_the_gain_of_the_loop_is_that_of_its_jacobian():
    learner = ct.ContinuousSigprop(network(rho="tanh", strength=0.5))
    x = torch.rand(4, SIZES[0], generator=torch.Generator().manual_seed(0))
    found = learner.loop_gain(x)
    w = {name: value.double() for name, value in learner.weights.items()}
    fixed = next(c for c in learner.network.currents if c.name == "B_h1_y").weight.double()
    free = {name: value.double() for name, value in learner.activities(x).items()}
    for k in range(4):
        # the exact Jacobian of the whole relaxation: its rightmost eigenvalue is gain − 1
        sizes = [free[n].shape[1] for n in free if n[:2] == "s_"]
        whole = -torch.eye(sum(sizes), dtype=torch.float64)
        begin = [0, *np.cumsum(sizes)]
        chain = [n for n in free if n[:2] == "s_"]
        for post in range(3):
            pre = post - 1 if post else 2
            weight = fixed if not post else w[f"W_{chain[post][2:]}_{chain[pre][2:]}"]
            slope = torch.diag(1 - free[chain[post]][k] ** 2)
            whole[begin[post] : begin[post + 1], begin[pre] : begin[pre + 1]] = slope @ weight
        exact = 1 + torch.linalg.eigvals(whole).real.max()
        assert float(found[k]) == pytest.approx(float(exact), abs=2e-2)
    label = ct.ContinuousSigprop(network(form="label"))
    assert float(label.loop_gain(x).max()) == 0


@pytest.mark.parametrize("update", ["integrated", "delta"])
def test_a_loop_that_amplifies_is_refused(update):
    learner = ct.ContinuousSigprop(network(rho="identity", strength=30.0), update=update)
    with pytest.raises(ConvergenceError, match=r"amplifies by \d.* a layer, and has to stay below"):
        learner.present(torch.rand(4, SIZES[0]), torch.tensor([0, 1, 0, 1]))


def test_steady_learning_is_that_of_a_long_integration():
    x, labels = torch.rand(4, SIZES[0]), torch.tensor([0, 1, 0, 1])
    ends = []
    for solver, end in ((ct.Steady(tol=1e-6), 14.4), (ct.Euler(dt=0.3), 60.0)):
        learner = ct.ContinuousSigprop(
            network(onset=30.0 if end == 60 else 8.4), end=end, solver=solver, update="delta"
        )
        learner.present(x, labels)
        ends.append(learner.weights)
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="update 'integrated' moves the weights along the way"):
        ct.ContinuousSigprop(network(), solver=ct.Steady())


@pytest.mark.parametrize("solver", [ct.Euler(dt=0.3), ct.Steady(tol=1e-5)], ids=["steps", "rest"])
def test_what_was_learned_may_be_differentiated(solver: Any) -> None:
    """Nothing that a presentation makes, or leaves in the network, is out of autograd's reach."""
    network = ct.sigprop_network([4, 8, 8, 2], seed=0)
    learner = ct.ContinuousSigprop(network, update="delta", solver=solver)
    x, labels = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2
    outputs = learner.present(x, labels)
    gain = torch.ones((), requires_grad=True)
    (
        (gain * outputs).square().sum() + (gain * learner.weights["W_h2_h1"]).square().sum()
    ).backward()
    assert gain.grad is not None
    assert float(gain.grad) > 0
    assert not any(v.is_inference() for v in (outputs, *learner.weights.values()))


SOLVERS = [ct.Euler(dt=0.3), ct.Euler(dt=0.3, native=False), ct.Steady(tol=1e-5)]


def shown(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, SIZES[0], generator=generator), torch.arange(size) % SIZES[-1]


@pytest.mark.parametrize("solver", SOLVERS, ids=["native", "steps", "rest"])
def test_every_presentation_reads_the_network_anew(solver: Any) -> None:
    """What is kept from one presentation to the next is no number of the network's."""
    learner = ct.ContinuousSigprop(network(rho="hard"), update="delta", solver=solver)
    learner.present(*shown(6, 0))
    before = copy.deepcopy(learner)
    with torch.no_grad():
        for current in learner.network.currents:
            if current.name == "B_h1_y":
                current.weight.data.mul_(-0.5)  # type: ignore[union-attr]
        for neuron in learner.network.neurons:
            neuron.tau.data.mul_(0.8)  # type: ignore[operator, union-attr]
    learner.scale_rates(3.0)
    fresh = ct.ContinuousSigprop(
        copy.deepcopy(learner.network), update="delta", solver=solver, weights=learner.snapshot()
    )
    same = copy.deepcopy(learner)
    for size in (6, 4):
        samples = shown(size, size)
        wanted = fresh.present(*samples)
        for one in (learner, same):
            torch.testing.assert_close(one.present(*samples), wanted)
            for name, weight in fresh.weights.items():
                torch.testing.assert_close(one.weights[name], weight)
        before.present(*samples)
    moved = (before.weights["W_h1_x"] - fresh.weights["W_h1_x"]).abs().max()
    assert float(moved) > 1e-4


@pytest.mark.parametrize("solver", SOLVERS, ids=["native", "steps", "rest"])
def test_after_an_interruption_a_presentation_begins_anew(
    solver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> bool:
        raise KeyboardInterrupt

    learner, other = (
        ct.ContinuousSigprop(network(rho="hard"), update="delta", solver=solver) for _ in range(2)
    )
    for one in (learner, other):
        one.present(*shown(6, 0))
    kept = learner.snapshot()
    with monkeypatch.context() as patch:
        patch.setattr(relaxation, "all_finite", interrupt)  # asked when the neurons have moved
        with pytest.raises(KeyboardInterrupt):
            learner.present(*shown(6, 1))
    assert all(learner.weights[name] is weight for name, weight in kept.items())
    for one in (learner, other):
        one.present(*shown(6, 2))
    for name, weight in other.weights.items():
        assert torch.equal(learner.weights[name], weight)


def test_rates_and_time_constants_may_be_learned_elsewhere() -> None:
    """A parameter that requires a gradient is read as any other; what is learned needs none."""
    learner = ct.ContinuousSigprop(network(rho="hard"), update="delta", solver=ct.Euler(dt=0.3))
    other = copy.deepcopy(learner)
    learner.network.learn("tau", "eta")
    for one in (learner, other):
        one.present(*shown(6, 0))
    for name, weight in other.weights.items():
        torch.testing.assert_close(learner.weights[name], weight)
        assert not learner.weights[name].requires_grad
