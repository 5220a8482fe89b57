"""Relaxation in buffers against the system as it stands, on networks drawn at random."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ctsigprop as ct
from ctsigprop.errors import IntegrationError
from ctsigprop.signals import Constant
from ctsigprop.solvers.explicit.held import HeldSteps
from ctsigprop.solvers.native import paths, relaxing
from ctsigprop.solvers.products import Ordered
from ctsigprop.solvers.relaxation import Relaxation, Steady
from ctsigprop.solvers.sums import Sum

F64 = torch.float64
RHO = ["identity", "relu", "hard", "tanh", "logistic", "softplus", "0.3*tanh(2*u) + 0.1"]


@pytest.fixture(autouse=True)
def _not_native(monkeypatch):
    monkeypatch.setattr(paths, "PATHS", ())


def draw(data, batch, dtype=F64):
    """Return a random network of leaky neurons, its inputs, and a state."""
    seed = data.draw(st.integers(0, 10_000), label="seed")
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=generator, dtype=F64)

    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4), label="sizes")
    terms = [ct.Source("x", 3), ct.Source("one", 1, 1.0)]
    for k, n in enumerate(sizes):
        kind = data.draw(st.sampled_from([*RHO, "leak", "hopfield", "text", "slope"]), label="kind")
        tau = numbers(n).abs() + 0.5 if data.draw(st.booleans()) else 1.3
        if kind == "leak":
            cell = ct.leaky_integrator(f"p{k}", n, tau=tau, bias=0.2)
        elif kind == "hopfield":
            cell = ct.hopfield(f"p{k}", n, tau=tau, beta=2.0)
        elif kind == "text":  # one port twice, two bends
            text = "ds/dt = (-2*s + a*(I + J) + tanh(I) - clip(I, 0, 1))/tau : 1\nI : 1\nJ : 1"
            cell = ct.TextNeuron(text, f"p{k}", n, a=0.3, tau=tau)
        elif kind == "slope":  # no leak
            text = "ds/dt = (-s - s**3 + I + J)/tau : 1\nI : 1\nJ : 1"
            cell = ct.TextNeuron(text, f"p{k}", n, tau=tau)
        else:
            cell = ct.rate(f"p{k}", n, rho=kind, tau=tau, bias=0.1)
        terms.append(cell)
        ports = list(cell.ports)
        for post_port in ports:
            if data.draw(st.booleans(), label="input"):
                name = f"W_{k}_x_{post_port}"
                terms.append(ct.Synapse("x", f"p{k}", numbers(n, 3), name=name, port=post_port))
        for j, m in enumerate(sizes):
            if data.draw(st.booleans(), label="synapse"):
                weight = numbers(n, m, scale=0.5 / math.sqrt(m))
                if batch and data.draw(st.booleans(), label="own weights"):
                    weight = numbers(*batch, n, m, scale=0.5 / math.sqrt(m))
                port = data.draw(st.sampled_from(ports), label="port")
                terms.append(ct.Synapse(f"p{j}", f"p{k}", weight, name=f"W_{k}_{j}", port=port))
        if data.draw(st.booleans(), label="nudge"):
            terms.append(ct.Source(f"c{k}", n))
            gate = data.draw(st.sampled_from([0.0, 0.7, ct.Pulse(1.0)]), label="gate")
            weight = numbers(n, n, scale=0.2) if data.draw(st.booleans()) else None
            terms.append(
                ct.LearningSignal(
                    f"c{k}", f"p{k}", weight, gate=gate, error=True, port=ports[-1], name=f"L{k}"
                )
            )
    read = {n for t in terms if hasattr(t, "reads") for n in t.reads()}
    terms = [t for t in terms if not isinstance(t, ct.Source) or t.name in read]
    system = ct.System(*terms).to(dtype)
    inputs = {s.name: numbers(*batch, s.size).to(dtype) for s in system.sources if s.signal is None}
    state = {n: numbers(*batch, *v.shape).to(dtype) for n, v in system.variables.items()}
    return system, inputs, state


def stepped(system, inputs, state, h, steps, t=0.0):
    at = torch.tensor(t, dtype=F64)
    signals = {name: Constant(value) for name, value in inputs.items()}
    with torch.no_grad():
        for _ in range(steps):
            slopes = system(at, state, inputs=signals)
            state = {n: v + h * slopes[n] if n in slopes else v for n, v in state.items()}
    return state


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3)], ids=str)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_march_is_eulers_method_on_the_system(batch, data):
    system, inputs, state = draw(data, batch)
    t = data.draw(st.sampled_from([0.0, 2.0]), label="t")
    signals = {name: Constant(value) for name, value in inputs.items()}
    native = data.draw(st.booleans(), label="native")
    relaxation = Relaxation(system, {}, t, signals, native=native)
    steps = data.draw(st.integers(1, 12), label="steps")
    want = stepped(system, inputs, state, 0.05, steps, t)
    if not all(bool(torch.isfinite(v).all()) for v in want.values()):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relaxing, "NEAR", data.draw(st.sampled_from([5, 2**16]), label="near"))
        got = relaxation.march(state, 0.05, 0.05 * steps)
    for name in state:
        torch.testing.assert_close(got[name], want[name], rtol=1e-11, atol=1e-11)
        assert got[name].shape == state[name].shape


def layers(native, batch=7, t=0.0):
    """Return a relaxation of layers with a loop, all alike but for the nudge at the output."""
    network = ct.sigprop_network([9, 8, 6, 4], onset=1.0, seed=3)
    generator = torch.Generator().manual_seed(0)
    state = network.initial_state(batch=(batch,))
    held = {name: torch.rand(batch, n, generator=generator, dtype=F64) for name, n in SHOWN}
    inputs = {name: Constant(value) for name, value in held.items()}
    weights = {n: v for n, v in state.items() if n[0] != "s"}
    start = {n: torch.rand(v.shape, generator=generator, dtype=F64) for n, v in state.items()}
    neurons = {n: v for n, v in start.items() if n[0] == "s"}
    return Relaxation(network, weights, t, inputs, native=native), neurons


SHOWN = (("x", 9), ("c", 4))


def test_what_is_held_may_be_a_number_or_one_for_each_unit():
    held = Sum(torch.zeros(3, 2, dtype=F64), Ordered())
    for value in (torch.tensor(2.0, dtype=F64), torch.zeros((), dtype=F64), torch.arange(2.0)):
        held.add(value)
    _, total = held.into(torch.empty(3, 2, dtype=F64))
    assert total.tolist() == [[2.0, 3.0]] * 3


@pytest.mark.parametrize("t", [0.0, 2.0], ids=["free", "nudged"])
@pytest.mark.parametrize("near", [1, 40, 2**16], ids=["one by one", "blocks", "together"])
def test_the_kernel_takes_the_steps_of_torch(monkeypatch, t, near):
    """All samples at once, or in blocks; with a nudge of their own."""
    pytest.importorskip("numba")
    monkeypatch.setattr(relaxing, "NEAR", near)
    calls = []
    steps = relaxing.Moves.steps
    monkeypatch.setattr(relaxing.Moves, "steps", lambda *a: calls.append(steps(*a)) or calls[-1])
    found = []
    for native in (True, False):
        relaxation, state = layers(native, t=t)
        free = relaxation.march(state, 0.1, 3.0)
        relaxation.move(2.0)
        found.append([free, relaxation.march(free, 0.1, 1.0)])
    assert [one is not None for one in calls] == [True, True]  # and torch for the others
    for one, other in zip(*found, strict=True):
        for name, value in other.items():
            assert (value - state[name]).abs().max() > 0.01
            torch.testing.assert_close(one[name], value, rtol=0.0, atol=1e-14)


def test_a_net_is_used_again_at_other_times_and_what_it_gave_stays():
    relaxation, state = layers(native=False)
    free = relaxation.march(state, 0.1, 3.0)
    kept = {name: value.clone() for name, value in free.items()}
    relaxation.move(2.0)
    held = relaxation.march(free, 0.1, 1.0)
    fresh, _ = layers(native=False, t=2.0)
    for name, value in fresh.march(free, 0.1, 1.0).items():
        assert torch.equal(free[name], kept[name])
        torch.testing.assert_close(held[name], value, rtol=0.0, atol=1e-14)
    assert (held["s_y"] - free["s_y"]).abs().max() > 0.01


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_solve_takes_the_same_steps_either_way(data):
    batch = data.draw(st.sampled_from([(), (3,)]), label="batch")
    dtype = data.draw(st.sampled_from([F64, torch.float32]), label="dtype")
    system, inputs, state = draw(data, batch, dtype)
    times = data.draw(st.sampled_from([[0.0, 2.0], [0.0, 0.3, 0.31, 2.0], [2.0, 0.5]]))
    found = []
    for path in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not path:
                patch.setattr(HeldSteps, "of", classmethod(lambda *_, **_k: None))
            try:
                run = ct.solve(system, state, times, solver=ct.Euler(dt=0.1), inputs=inputs)
            except IntegrationError as error:
                found.append(error)
                continue
            found.append(run)
    one, other = found
    if isinstance(one, IntegrationError):
        assert type(one) is type(other)
        assert (one.time, one.variable, one.component) == (
            other.time, other.variable, other.component,
        )  # fmt: skip
        return
    close = {"rtol": 1e-10, "atol": 1e-10} if dtype == F64 else {"rtol": 1e-3, "atol": 1e-4}
    for name in state:
        torch.testing.assert_close(one[name], other[name], **close)
    for name in ("evaluations", "steps", "rejections"):
        assert getattr(one.statistics, name) == getattr(other.statistics, name)


def layered(form="loop", rule="differential", **options):
    return ct.sigprop_network([6, 8, 7, 3], form=form, rule=rule, onset=1.0, **options)


def test_what_is_held_is_computed_once_and_said(monkeypatch):
    x = torch.rand(5, 6, dtype=F64)
    inputs = {"x": x, "c": torch.zeros(5, 3, dtype=F64)}
    calls = []
    forward = ct.Synapse.forward
    monkeypatch.setattr(ct.Synapse, "forward", lambda s, m: calls.append(s.name) or forward(s, m))
    run = ct.solve(layered(), t=[0.0, 1.0], solver=ct.Euler(dt=0.1), inputs=inputs)
    assert calls.count("W_h1_x") == 2  # the probe, and once for ten steps
    assert calls.count("W_h2_h1") == 1  # the probe; the steps take its products in buffers
    assert set(run.statistics.hoisted) >= {"W_h1_x", "W_h1_one"}
    assert "W_h2_h1" not in run.statistics.hoisted
    assert run.to_xarray().attrs["statistics"]["hoisted"] == run.statistics.hoisted


@pytest.mark.parametrize(
    ("system", "inputs", "solver"),
    [
        (layered(rule="tagged"), {}, ct.Euler(dt=0.1)),  # tags decay all the time
        (layered(), {"x": ct.Sampled([0.0, 1.0], torch.rand(2, 6))}, ct.Euler(dt=0.1)),
        (layered(), {}, ct.Heun(dt=0.1)),
        (
            ct.System(ct.fitzhugh_nagumo(), ct.Source("u", 1, 1.0), ct.Input("u", "")),
            {},
            ct.Euler(dt=0.1),
        ),
    ],
    ids=["tags", "sampled", "heun", "two variables"],
)  # fmt: skip
def test_where_something_else_moves_nothing_is_held(system, inputs, solver):
    held = {s.name: torch.rand(s.size) for s in system.sources if s.signal is None}
    run = ct.solve(system, t=[0.0, 0.9], solver=solver, inputs={**held, **inputs})
    assert run.statistics.hoisted == ()


def test_a_rule_whose_gate_opens_slowly_is_not_at_rest():
    gate = ct.Sampled([0.0, 1.0], torch.tensor([0.0, 1.0], dtype=F64))  # zero where it begins
    synapse = ct.Synapse("x", "h", torch.ones(2, 3), plasticity=ct.hebb(0.1, gate=gate))
    system = ct.System(ct.Source("x", 3, torch.ones(3)), ct.rate("h", 2), synapse)
    run = ct.solve(system, t=[0.0, 1.0], solver=ct.Euler(dt=0.1))
    assert run.statistics.hoisted == ()
    assert bool((run["W_h_x"][-1] > run["W_h_x"][0]).all())


def test_only_the_stretch_in_which_weights_rest_is_marched(monkeypatch):
    asked = []
    net = HeldSteps.net
    monkeypatch.setattr(
        HeldSteps, "net", lambda s, *a: asked.append(net(s, *a) is not None) or net(s, *a)
    )
    x = torch.rand(5, 6, dtype=F64)
    c = torch.eye(3, dtype=F64)[[0, 1, 2, 0, 1]]
    system = ct.sigprop_network([6, 8, 7, 3], rule="differential", onset=1.0, eta=0.1)
    y0 = system.initial_state((5,))
    options = {"t": [0.0, 0.5, 2.0], "solver": ct.Euler(dt=0.1), "inputs": {"x": x, "c": c}}
    one = ct.solve(system, y0, **options)
    assert asked == [True, True, False]  # the signal, and with it the rule, begin at 1
    monkeypatch.setattr(HeldSteps, "of", classmethod(lambda *_, **_k: None))
    other = ct.solve(system, y0, **options)
    assert not torch.equal(one["W_h1_x"][-1], one["W_h1_x"][0])
    for name in y0:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-13)


def test_held_inputs_that_jump_are_read_anew():
    values = torch.rand(3, 4, 6, dtype=F64)
    x = ct.Held([0.0, 0.35, 0.8], values)
    inputs = {"x": x, "c": torch.zeros(4, 3, dtype=F64)}
    system = layered("label", eta=0.0)
    run = ct.solve(system, t=[0.0, 0.9], solver=ct.Euler(dt=0.1), inputs=inputs)
    state = system.initial_state((4,))
    for k, (span, steps) in enumerate(((0.35, 4), (0.45, 5), (0.1, 1))):
        held = {"x": values[k], "c": inputs["c"]}
        state = stepped(system, held, state, span / steps, steps)
    assert run.statistics.hoisted
    for name in ("s_h1", "s_h2", "s_y"):
        torch.testing.assert_close(run[name][-1], state[name], rtol=0, atol=1e-13)


@pytest.mark.parametrize("interrupted", [False, True])
def test_progress_and_interruption_are_those_of_any_run(interrupted):
    seen = []

    def progress(fraction):
        seen.append(fraction)
        if interrupted and len(seen) == 7:
            raise KeyboardInterrupt

    inputs = {"x": torch.rand(2, 6, dtype=F64), "c": torch.zeros(2, 3, dtype=F64)}
    run = ct.solve(
        layered(), t=[0.0, 0.5, 1.0], solver=ct.Euler(dt=0.1), inputs=inputs, progress=progress
    )
    assert run.statistics.hoisted
    if interrupted:
        assert run.status == "interrupted"
        assert run["s_y"].shape[0] == 2
    else:
        torch.testing.assert_close(torch.tensor(seen), torch.arange(1, 11) / 10.0)


def test_a_run_that_diverges_says_where():
    system = ct.sigprop_network([6, 8, 7, 3], rho="identity", strength=90.0, rule="differential",
                                onset=1e6)  # fmt: skip
    inputs = {"x": torch.rand(2, 6, dtype=F64), "c": torch.zeros(2, 3, dtype=F64)}
    found = []
    for path in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not path:
                patch.setattr(HeldSteps, "of", classmethod(lambda *_, **_k: None))
            with pytest.raises(IntegrationError) as error:
                ct.solve(system, t=[0.0, 5000.0], solver=ct.Euler(dt=0.5), inputs=inputs)
            found.append(error.value)
    assert type(found[0]) is type(found[1])
    assert found[0].variable == found[1].variable
    assert found[0].time == pytest.approx(found[1].time, abs=2.0)
    assert found[0].partial["s_y"].shape[0] == found[1].partial["s_y"].shape[0]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_a_relaxation_used_is_free_when_it_is_let_go(data):
    system, inputs, state = draw(data, (3,))
    signals = {name: Constant(value) for name, value in inputs.items()}
    relaxation = Relaxation(system, {}, 0.0, signals)
    relaxation.march(state, 0.02, 0.2)  # imports and compiles what it needs
    gc.collect()
    gc.disable()
    try:
        relaxation.march(state, 0.02, 0.1)
        relaxation.move(1.0)
        relaxation.march(state, 0.02, 0.2)
        del relaxation
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_chords_find_the_rest_of_what_is_no_leak():
    text = "ds/dt = (-s - s**3 + I)/tau : 1\nI : 1"
    cells = [ct.TextNeuron(text, name, 4, tau=2.0) for name in ("a", "b")]
    W = 0.3 * torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    system = ct.System(
        ct.Source("x", 4), *cells, ct.Input("x", "a"), ct.Synapse("a", "b", W),
        ct.Synapse("b", "a", -W),
    )  # fmt: skip
    x = torch.rand(3, 4, dtype=F64)
    rest = Relaxation(system, {}, 0.0, {"x": Constant(x)})
    found = rest.settle({n: torch.zeros(3, 4, dtype=F64) for n in ("s_a", "s_b")}, Steady(1e-11))
    s, b = found.state["s_a"], found.state["s_b"]
    torch.testing.assert_close(s + s**3, x - b @ W.T, rtol=0, atol=1e-9)
    torch.testing.assert_close(b + b**3, s @ W.T, rtol=0, atol=1e-9)
