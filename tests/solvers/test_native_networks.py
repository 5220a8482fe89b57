"""Networks run by the kernel: the numbers, counts and errors of the solver in torch."""

from __future__ import annotations

import builtins
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ctsigprop as ct
from ctsigprop.solvers.explicit import structured
from ctsigprop.solvers.native import adaptive, paths, schedule, solo

pytest.importorskip("numba")

F64 = torch.float64
T = [0.0, 0.7, 3.0, 3.1, 6.0]


@pytest.fixture(autouse=True)
def _only_networks(monkeypatch):
    monkeypatch.setattr(paths, "PATHS", (solo.solo,))
    monkeypatch.setattr(structured, "SMALLEST", 1)


def uniform(*shape, seed=0, scale=1.0):
    return scale * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def network(rule, pre=24, post=20, batch=0, seed=0, **options):
    """One layer on a held input that jumps at 3, beside a lateral synapse that does not learn."""
    batches = [batch] * (batch > 0)
    shown = torch.stack([uniform(*batches, pre, seed=seed + k) for k in (1, 2)])
    w = 0.5 * (uniform(post, pre, seed=seed) - 0.3 * (options.get("sign") is None)) / pre**0.5
    return ct.System(
        ct.Source("x", pre, ct.Held([0.0, 3.0], shown)),
        ct.rate("y", post),
        ct.Synapse("x", "y", w, plasticity=rule, shared=batch > 0, **options),
        ct.Synapse("y", "y", 0.1 * torch.eye(post, dtype=F64), name="lateral"),
    )


def recurrent(rule, size=40, seed=0):
    """Weights from neurons to neurons: what they are multiplied with moves."""
    return ct.System(
        ct.Source("x", 6, uniform(6, seed=seed + 1)),
        ct.rate("y", size),
        ct.Synapse("x", "y", uniform(size, 6, seed=seed + 2, scale=0.4)),
        ct.Synapse("y", "y", uniform(size, size, seed=seed, scale=1 / size), plasticity=rule),
    )


def text(equation, **parameters):
    return ct.TextPlasticity(equation, **parameters)


RULES = {
    "hebb": lambda: ct.hebb(0.02),
    "hebb with decay": lambda: [ct.hebb(0.05), text("dw/dt = -k*w", k=0.1)],
    "decay alone": lambda: text("dw/dt = -k*w", k=0.1),
    "oja": lambda: ct.oja(0.1),
    "column decay": lambda: text("dw/dt = eta*(x*y - x**2*w)", eta=0.1),
    "two products": lambda: text("dw/dt = eta*(x*y - y**2*w) + mu*y*(1 - x)", eta=0.1, mu=0.02),
    "traces": lambda: ct.covariance(0.05, tau=2.0),
    "bcm": lambda: ct.bcm(0.05, tau_theta=5.0),
    "differential": lambda: ct.differential_hebb(0.05),
    "three factors": lambda: text(
        "dw/dt = eta*m*x*y - k*m*w", eta=0.05, k=0.1, modulator=ct.Pulse(2.0, 4.0)
    ),
    "gates": lambda: [
        ct.hebb(0.1, gate=ct.Pulse(1.0, 2.5)),
        text(
            "dw/dt = eta*x*(y - th)\ndth/dt = (y**2 - th)/tau : 1 (post)",
            gate=ct.Pulse(2.0, 5.0),
            eta=0.1,
            tau=2.0,
        ),
    ],
    "time": lambda: text("dw/dt = eta*x*y*sin(t)", eta=0.05),
}
ENTRY_BY_ENTRY = {
    "both decays": lambda: text("dw/dt = eta*x*y - eta*(x**2 + y**2)*w", eta=0.05),
    "soft bounds": lambda: text("dw/dt = eta*(x*y*(1 - w)**2 - y*w**3)", eta=0.1),
    "functions": lambda: text(
        "dw/dt = eta*tanh(x*y - w)*exp(-w**2)/cosh(w) + eta*sinh(w)*log(2 + w**2)*sqrt(1 + w**2)"
        " - eta*(2 + w)**2.5*arctan(w)*exprel(w)*sin(y)*cos(x) + eta*tan(w/4)",
        eta=0.1,
    ),
    "away from their edges": lambda: text(
        "dw/dt = eta*y*abs(x + 1)*sign(w - 9)*int(w < 9 and not w > 9 or w >= 9 and w != 9)"
        " - eta*clip(w, -9, 9)*clip(w, 9, 10)*int(y <= 9)*int(y == 9) - eta*clip(x + w, -9, 9)",
        eta=0.1,
    ),
    "a trace in every synapse": lambda: ct.eligibility(0.1, tau_e=5.0, modulator=ct.Constant(1.0)),
    "traces that decay by either side": lambda: text(
        "dw/dt = eta*m*(e + f)\nde/dt = x*y - y**2*e/tau + t*x : 1\ndf/dt = y - (x**2 + y)*f : 1",
        modulator=ct.Pulse(1.0, 4.0),
        gate=ct.Pulse(0.5, 5.0, 0.6),
        eta=0.1,
        tau=2.0,
    ),
    "a trace that saturates": lambda: text(
        "dw/dt = eta*e\nde/dt = x*y*(1 - e)**2 - e/tau + sin(e*t) : 1", eta=0.1, tau=2.0
    ),
    "tags": lambda: ct.tagged_hebb(0.3, tau_c=1.0, signal=ct.Pulse(1.0, 3.0)),
}
SOLVERS = [
    ct.Tsit5(rtol=1e-6),
    ct.Dopri5(rtol=1e-9, atol=1e-11),
    ct.BogackiShampine(rtol=1e-4),
]


EQUAL = [
    ct.RK4(dt=0.1),
    ct.Heun(dt=0.05),
    ct.Midpoint(dt=0.05),
    ct.Euler(dt=0.05),
    ct.Tsit5(dt=0.2),
    ct.BogackiShampine(dt=0.1),
]


def compare(system, t=T, y0=None, solver=None, tol=1e-8, **options):
    """Run the kernel with factors and without, torch with factors, and the dense path in torch."""
    solver = solver or ct.Tsit5(rtol=1e-6)
    dense = solver.with_options(native=False, low_rank=False)
    slow = ct.solve(system, y0 or {}, t, solver=dense, **options)
    runs = []
    assert not slow.statistics.native
    for native, factors in ((True, True), (True, False), (False, True)):
        own = solver.with_options(native=native, low_rank=factors)
        fast = ct.solve(system, y0 or {}, t, solver=own, **options)
        runs.append(fast)
        assert fast.statistics.native == native
        assert fast.status == slow.status == "complete"
        a, b = fast.statistics, slow.statistics
        # rounding decides where an error is close to 1, and the steps may differ by a few
        assert abs(a.steps - b.steps) <= 2
        same = (a.steps, a.rejections) == (b.steps, b.rejections)
        if same and native:
            assert a.evaluations == b.evaluations
        for name, value in slow.states.items():
            assert fast.states[name].dtype == value.dtype
            scale = float(value.abs().max())
            apart = float((fast.states[name] - value).abs().max())
            assert apart <= (tol if same else 100 * getattr(solver, "rtol", 0.0)) * max(
                scale, 1e-3
            ), name
    assert runs[1].statistics.low_rank == ()
    return runs[0]


@pytest.mark.parametrize("batch", [0, 3], ids=["one", "shared by a batch"])
@pytest.mark.parametrize("name", RULES)
def test_outer_products(name, batch):
    run = compare(network(RULES[name](), batch=batch))
    assert run.statistics.low_rank == ("W_y_x",)
    assert (run["W_y_x"][-1] - run["W_y_x"][0]).abs().max() > 1e-3  # it has learned


@pytest.mark.parametrize("batch", [0, 3], ids=["one", "shared by a batch"])
@pytest.mark.parametrize("solver", [SOLVERS[0], EQUAL[0]], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", ["oja", "column decay", "two products", "bcm", "soft bounds"])
def test_rhythms(name, solver, batch):
    batches = [batch] * (batch > 0)
    amplitude, offset = (uniform(*batches, 24, seed=seed) for seed in (1, 2))
    own = ct.Rhythm(amplitude, 0.3, phase=0.4, offset=offset)
    rule = (RULES | ENTRY_BY_ENTRY)[name]()
    system = ct.System(
        ct.Source("x", 24, own),
        ct.Source("u", 1, ct.Rhythm(0.3, 0.7)),
        ct.rate("y", 20),
        ct.Synapse("x", "y", uniform(20, 24, scale=0.1), plasticity=rule, shared=batch > 0),
        ct.Synapse("x", "y", uniform(20, 24, seed=3, scale=0.1), name="fixed"),
        ct.Input("u", "y", gain=0.5),
    )
    compare(system, [0.0, 0.7, 3.0, 6.0], solver=solver)
    if solver is SOLVERS[0]:  # a rhythm that is given has other numbers, and the same instructions
        other = ct.Rhythm(offset, 0.2, offset=amplitude)
        compare(system, [1.0, 4.0], solver=solver, inputs={"x": other})


@pytest.mark.parametrize("batch", [0, 3], ids=["one", "shared by a batch"])
@pytest.mark.parametrize("name", ENTRY_BY_ENTRY)
def test_entry_by_entry(name, batch):
    assert compare(network(ENTRY_BY_ENTRY[name](), batch=batch)).statistics.low_rank == ()


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", ["oja", "column decay", "two products", "differential"])
def test_weights_between_neurons(name, solver):
    """Columns of factors for every stage, and W_0 written when they are full."""
    run = compare(recurrent(RULES[name]()), [0.0, 1.0, 2.5, 20.0], solver=solver)
    assert run.statistics.low_rank == ("W_y_y",)


@pytest.mark.parametrize("batch", [0, 3], ids=["one", "shared by a batch"])
@pytest.mark.parametrize("solver", EQUAL, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", ["oja", "column decay", "two products", "time", "soft bounds"])
def test_equal_steps(name, solver, batch):
    rule = (RULES | ENTRY_BY_ENTRY)[name]()
    run = compare(network(rule, batch=batch), solver=solver, tol=1e-11)
    assert (run.statistics.low_rank == ()) == (name == "soft bounds")
    if not batch:
        compare(recurrent(rule), [0.0, 2.5, 9.0], solver=solver, tol=1e-11)
        compare(network(rule), [1.0, 0.3, 0.0], solver=solver, tol=1e-11)


def test_equal_steps_that_go_wrong_end_as_in_torch():
    system = layer(ct.leaky_integrator("y", 6), text("dw/dt = x*y**3"))
    errors = []
    for native in (True, False):
        with pytest.raises(ct.IntegrationError) as caught:
            ct.solve(system, {}, [0.0, 1.0, 500.0], solver=ct.RK4(dt=0.01, native=native))
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    counts = [(e.partial.statistics.steps, e.partial.statistics.evaluations) for e in errors]
    assert counts[0] == counts[1]
    assert not errors[0].partial.statistics.native
    with pytest.raises(ct.IntegrationError, match="10000 steps of dt, and max_steps=50"):
        ct.solve(system, {}, [0.0, 100.0], solver=ct.RK4(dt=0.01, max_steps=50))


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_backwards_in_time(solver):
    compare(network(ct.oja(0.1)), [4.0, 3.5, 2.0], solver=solver)


def test_many_rows_in_few_steps():
    compare(recurrent(ct.oja(0.1)), torch.linspace(0.0, 8.0, 101, dtype=F64))


def test_a_run_in_which_the_weights_are_written_now_and_then(monkeypatch):
    monkeypatch.setattr(adaptive, "REFOLD", 4)
    compare(network(ct.oja(0.1)), [0.0, 2.9, 40.0])


def test_a_norm_that_cancels_is_summed_entry_by_entry(monkeypatch):
    """Where d·W_0 and the columns cancel, their squares say nothing about what is left."""
    monkeypatch.setattr(adaptive, "CANCELLED", 1e6)
    compare(network(ct.oja(0.1)))
    compare(recurrent(RULES["column decay"]()))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    batch=st.sampled_from([0, 0, 2, 5]),
    eta=st.floats(-0.2, 0.2),
    decay=st.floats(0.0, 0.5),
    side=st.sampled_from(["y**2", "x**2", "1", "(x**2 + y)"]),
    lateral=st.booleans(),
    end=st.floats(0.5, 6.0),
)
def test_random_systems(seed, shape, batch, eta, decay, side, lateral, end):
    rule = text(f"dw/dt = eta*x*y - decay*{side}*w", eta=eta, decay=decay)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PATHS", (solo.solo,))
        patch.setattr(structured, "SMALLEST", 1)
        compare(network(rule, *shape, batch=batch, seed=seed), [0.0, end / 2, end], tol=1e-6)
        if lateral:
            compare(recurrent(rule, shape[0], seed=seed), [0.0, end], tol=1e-6)


CONSTRAINED = {
    "bounds": lambda: network(ct.hebb(0.1), bounds=(-0.2, 0.1)),
    "signs": lambda: network(ct.anti_hebb(0.02), sign=1),
    "a mask": lambda: network(ct.oja(0.1), mask=uniform(20, 24) > 0.5),
    "all": lambda: network(
        [ct.oja(0.1), ct.anti_hebb(0.05)],
        mask=uniform(20, 24) > 0.5,
        sign=torch.ones(24, dtype=torch.long),
        bounds=(-1.0, 0.15),
    ),
}


@pytest.mark.parametrize("name", CONSTRAINED)
def test_constrained_weights(name):
    # an edge of the bounds is met to rounding, and the steps around it are short
    run = compare(CONSTRAINED[name](), solver=ct.Tsit5(rtol=1e-4, atol=1e-6), tol=1e-4)
    assert run.statistics.low_rank == ()


def test_layers_learning_signals_inputs_and_filters():
    system = ct.System(
        ct.Source("x", 24, ct.Held([0.0, 1.3], uniform(2, 24))),
        ct.Source("c", 5, uniform(5, seed=4)),
        ct.Source("u", 1, 0.3),
        ct.rate("h", 20),
        ct.leaky_integrator("y", 16, tau=0.5),
        ct.Synapse("x", "h", uniform(20, 24, scale=0.2), plasticity=ct.oja(0.1)),
        ct.Synapse("h", "y", uniform(16, 20, scale=0.2), plasticity=ct.hebb(0.02), filter=(3, 0.4)),
        ct.Synapse("y", "h", uniform(20, 16, scale=-0.1)),
        ct.Input("u", "y", gain=uniform(16)),
        ct.LearningSignal("c", "h", uniform(20, 5), gate=ct.Pulse(1.0, 2.0)),
        ct.LearningSignal("x", "x2", error=True, name="nudge"),
        ct.rate("x2", 24),
        ct.Synapse("h", "x2", uniform(24, 20), plasticity=ct.delta_rule(0.05, error="e")),
        ct.Source("e", 24, uniform(24, seed=5)),
    )
    run = compare(system)
    assert run.statistics.low_rank == ("W_h_x", "W_y_h", "W_x2_h")


def test_a_decay_that_a_population_modulates():
    rule = text("dw/dt = eta*x*y - k*m*w", eta=0.1, k=0.2, modulator="e")
    for channels in (1, 20):
        system = ct.System(
            ct.Source("x", 24, uniform(24)),
            ct.rate("y", 20),
            ct.Source("e", channels, uniform(channels, seed=3)),
            ct.Synapse("x", "y", uniform(20, 24), plasticity=rule),
        )
        assert compare(system).statistics.low_rank == ()


def test_neurons_with_units_and_an_output_of_their_own():
    cell = """
        dv/dt = (E - v + R*I)/tau : mV
        da/dt = (f - a)/(2*tau) : 1
        f = 1/(1 + exp(-(v + 50*mV)/(4*mV))) : 1
        I : nA
        R : Mohm
        E : mV
    """
    system = ct.System(
        ct.Source("x", 10, uniform(10)),
        ct.TextNeuron(
            cell,
            "y",
            12,
            output="f - a",
            tau=ct.Parameter(20.0, "ms"),
            R=10.0,
            E=torch.linspace(-70, -60, 12, dtype=F64),
            initial={"v": -65.0},
        ),
        ct.Synapse("x", "y", uniform(12, 10), plasticity=ct.hebb(0.001)),
        ct.Synapse("y", "y", uniform(12, 12), plasticity=ct.differential_hebb(0.001), name="L"),
    )
    compare(system, [0.0, 10.0, 60.0])


def test_single_precision():
    system = network(ct.oja(0.1)).to(torch.float32)
    compare(system, solver=ct.Tsit5(rtol=1e-3, atol=1e-5), tol=1e-3)


def test_what_has_decayed_is_zero_and_the_processor_is_left_as_it_was():
    """A trace is halved by each of 140 steps; the least normal number is 2**-126."""
    rule = text("dw/dt = eta*x*y\nde/dt = -e/tau : 1", initial=1.0, eta=0.01, tau=0.1)
    system, least = network(rule).float(), sys.float_info.min
    for flushed in (False, True):
        torch.set_flush_denormal(flushed)
        try:
            run = ct.solve(system, t=[0.0, 6.0, 7.0], solver=ct.Euler(dt=0.05, native=True))
            assert (least * 0.5 == 0.0) == flushed
        finally:
            torch.set_flush_denormal(False)
        trace = run["e_W_y_x"]
        assert trace[1].numpy() == pytest.approx(2.0**-120, rel=1e-3)
        assert (trace[2] == 0.0).all()


def test_tolerances_by_variable_first_step_and_inputs_given_to_solve():
    system = network(ct.oja(0.1))
    names = list(system.variables)
    atol = {name: 10.0 ** -(6 + k) for k, name in enumerate(names)}
    compare(system, solver=ct.Tsit5(rtol=1e-5, atol=atol, first_step=0.02))
    compare(system, inputs={"x": uniform(24, seed=9)})


def test_new_values_need_no_new_instructions():
    system = network(ct.oja(0.1))
    before = compare(system)
    known = solo._SCHEDULES[system]
    count = len(known)
    with torch.no_grad():
        system.currents[0].plasticity[0].eta.mul_(2.0)
    after = compare(system, y0={"W_y_x": uniform(20, 24, seed=8, scale=0.1)})
    assert len(known) == count
    assert not torch.equal(before["W_y_x"][-1], after["W_y_x"][-1])


def test_a_system_is_forgotten_with_its_instructions():
    count = len(solo._SCHEDULES)
    ct.solve(network(ct.oja(0.1)), {}, [0.0, 0.1])
    import gc

    gc.collect()
    assert len(solo._SCHEDULES) <= count


def test_chosen_by_itself_for_one_sample():
    assert ct.solve(network(ct.oja(0.1)), {}, [0.0, 0.1]).statistics.native
    cell = ct.System(ct.fitzhugh_nagumo(I=0.5))
    assert ct.solve(cell, {}, [0.0, 0.1]).statistics.native
    two = {"v": torch.zeros(2, 1, dtype=F64)}
    assert not ct.solve(cell, two, [0.0, 0.1]).statistics.native
    assert not ct.solve(network(ct.oja(0.1)), {}, [0.0, 0.1], native=False).statistics.native


def moving(signal):
    return ct.System(
        ct.Source("x", 4, signal),
        ct.rate("y", 3),
        ct.Synapse("x", "y", uniform(3, 4), plasticity=ct.oja(0.1)),
    )


UNFIT = {
    "a trace": (lambda: moving(ct.Sampled([0.0, 1.0], uniform(2, 4))), {}, "moves between"),
    "a rhythm that begins": (lambda: moving(ct.Rhythm(1.0, 0.3, onset=0.1)), {}, "moves between"),
    "a rhythm in float32": (
        lambda: moving(ct.Rhythm(1.0, 0.3)).to(torch.float32),
        {"rtol": 1e-4},
        "a rhythm needs a clock of float64",
    ),
    "another rule": (lambda: network(ct.Sanger(0.01)), {}, "no TextPlasticity"),
    "weights of each sample": (
        lambda: moving(ct.Constant(uniform(2, 4))),
        {},
        "more than one sample",
    ),
    "dense output": (lambda: network(ct.oja(0.1)), {"dense": True}, "dense output"),
    "an event": (
        lambda: network(ct.oja(0.1)),
        {"events": ct.Event(lambda _t, y: y["W_y_x"].amax() - 9.0, name="top")},
        "events",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_has_no_native_form_is_left_to_torch(name):
    make, options, reason = UNFIT[name]
    assert not ct.solve(make(), {}, [0.0, 0.2], **options).statistics.native
    with pytest.raises(ValueError, match=rf"native=True is not possible here.*{reason}"):
        ct.solve(make(), {}, [0.0, 0.2], native=True, **options)


def test_gradients_are_left_to_torch():
    start = torch.zeros(20, dtype=F64, requires_grad=True)
    run = ct.solve(network(ct.oja(0.1)), {"s_y": start}, [0.0, 0.2])
    assert not run.statistics.native
    run["W_y_x"][-1].sum().backward()
    assert start.grad.abs().max() > 0


def test_a_run_with_gradients_is_rerun_without_the_kernel():
    system = network(ct.oja(0.1)).learn("eta")
    run = ct.solve(system, {}, [0.0, 0.5])
    assert torch.equal(ct.rerun(run.to_xarray())["W_y_x"], run["W_y_x"])
    own = ct.solve(network(ct.oja(0.1)), {}, [0.0, 0.5])
    assert own.statistics.native
    assert torch.equal(ct.rerun(own.to_xarray())["W_y_x"], own["W_y_x"])


def layer(neuron, rule, signal=None):
    return ct.System(
        ct.Source("x", 8, torch.ones(8, dtype=F64) if signal is None else signal),
        neuron,
        ct.Synapse("x", "y", torch.full((6, 8), 0.01, dtype=F64), plasticity=rule),
    )


def root(inside):
    return ct.TextNeuron(f"dv/dt = -v + I + sqrt({inside}) : 1\nI : 1", "y", 6)


TROUBLE = {
    "runs away": (lambda: layer(ct.leaky_integrator("y", 6), ct.hebb(5.0)), {}),
    "a pole": (
        lambda: layer(ct.leaky_integrator("y", 6), text("dw/dt = x*y**3")),
        {},
    ),
    "stiff": (
        lambda: layer(ct.leaky_integrator("y", 6, tau=1e-7), ct.oja(0.1)),
        {"max_steps": 5000},
    ),
    "too many steps": (
        lambda: layer(ct.leaky_integrator("y", 6), ct.oja(0.1)),
        {"max_steps": 20},
    ),
    "one step": (lambda: layer(ct.leaky_integrator("y", 6), ct.oja(0.1)), {"max_steps": 1}),
    "not finite from a time on": (lambda: layer(root("0.5 - t"), ct.oja(0.1)), {}),
    "not finite after a jump": (
        lambda: layer(
            ct.TextNeuron("dv/dt = -v + sqrt(I) : 1\nI : 1", "y", 6),
            ct.hebb(0.001),
            ct.Held([0.0, 1.0], torch.stack([torch.ones(8), -torch.ones(8)]).double()),
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_is_said_as_torch_says_it(name):
    make, options = TROUBLE[name]
    errors = []
    for native in (True, False):
        with pytest.raises(ct.IntegrationError) as caught:
            ct.solve(make(), {}, [0.0, 1e-6, 500.0], native=native, **options)
        errors.append(caught.value)
    fast, slow = errors
    assert type(fast) is type(slow)
    assert fast.variable == slow.variable
    assert fast.time == pytest.approx(slow.time, rel=1e-3)
    assert fast.cause.split(" at ")[0] == slow.cause.split(" at ")[0]
    assert len(fast.partial.t) == len(slow.partial.t)
    a, b = fast.partial.statistics, slow.partial.statistics
    share = 3 if name == "not finite from a time on" else 5  # its last steps are few roundings long
    assert abs(a.steps - b.steps) <= max(3, b.steps // share)
    for variable, value in slow.partial.states.items():
        torch.testing.assert_close(fast.partial[variable], value, rtol=1e-6, atol=1e-9)


def test_trouble_that_passes_is_left_behind():
    """A NaN that a shorter step avoids: the torch path goes on from there, to the end."""
    cell = ct.TextNeuron("dv/dt = I*sqrt(1 - v) - 40*v**9 : 1\nI : 1", "y", 6)
    system = layer(cell, ct.hebb(0.001))
    solver = ct.Tsit5(rtol=1e-2, atol=1e-2, first_step=30.0)
    runs = [ct.solve(system, {}, [0.0, 50.0], solver=solver, native=n) for n in (True, False)]
    assert runs[1].statistics.rejections > 0
    for variable, value in runs[1].states.items():
        torch.testing.assert_close(runs[0][variable], value, rtol=1e-2, atol=1e-2)


def test_an_interrupted_run_keeps_its_rows():
    def progress(fraction):
        if fraction > 0.2:
            raise KeyboardInterrupt

    times = torch.linspace(0.0, 20.0, 81, dtype=F64)
    run = ct.solve(recurrent(ct.oja(0.1)), {}, times, solver=ct.Tsit5(rtol=1e-9), progress=progress)
    assert run.statistics.native
    assert run.status == "interrupted"
    assert 10 < len(run.t) < 81
    assert all(bool(torch.isfinite(value).all()) for value in run.states.values())
    whole = ct.solve(recurrent(ct.oja(0.1)), {}, times, solver=ct.Tsit5(rtol=1e-9))
    assert torch.equal(whole["W_y_y"][: len(run.t)], run["W_y_y"])


def test_without_numba_torch_steps(monkeypatch):
    monkeypatch.setattr(paths, "available", lambda: False)
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.split(".")[0] in ("numba", "llvmlite"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert not ct.solve(network(ct.oja(0.1)), {}, [0.0, 0.2]).statistics.native
    with pytest.raises(ValueError, match="numba is not installed"):
        ct.solve(network(ct.oja(0.1)), {}, [0.0, 0.2], native=True)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_no_instruction_leaves_the_memory(solver):
    """Every place that is written or read lies inside."""
    from ctsigprop.solvers.base import Layout
    from ctsigprop.solvers.native import machine as ops
    from ctsigprop.solvers.native.networks import Network

    for system in (network(ct.oja(0.1)), recurrent(RULES["two products"]())):
        state = system.initial_state()
        layout = Layout(state, {k: v.shape for k, v in system.variables.items()}, ())
        made = schedule.Schedule(Network(system, layout, True, {}), solver.tableau.closed(), True)
        rows = made.code.reshape(-1, ops.WIDTH)
        for op, d, a, b, n, count, d1, a1, b1, _ in rows.tolist():
            if op in (ops.LOOP, ops.AGAIN, ops.LIFT, ops.LOWER, ops.NORM):
                continue
            across = (count - 1) if op in (ops.MUL, ops.ADD_MUL, ops.ADD_SCALED, ops.DOT) else 0
            for place, step, length in (
                (d, d1, 1 if op == ops.DOT else n),
                (a, a1, 1 if op == ops.ADD_SCALED else n),
                (b, b1, n),
            ):
                assert place >= 0
                assert place + across * step + length <= made.memory
