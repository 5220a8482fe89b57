"""Ensembles in vector lanes: the numbers, counts and errors of the solver in torch."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import ctsigprop as ct
from ctsigprop.solvers.native import lanes, paths
from ctsigprop.solvers.native.scalars import LARGEST

pytest.importorskip("numba")

F64 = torch.float64


@pytest.fixture(autouse=True)
def _only_ensembles(monkeypatch):
    monkeypatch.setattr(paths, "PATHS", (lanes.ensemble,))


def starts(system, samples, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + spread * (torch.rand(value.shape, generator=generator, dtype=F64) - 0.5)
        for name, value in system.initial_state((samples,)).items()
    }


def compare(system, y0, t, solver=None, tol=1e-9, slack=0, **options):
    """Solve natively and in torch; the numbers and the counts must be the same.

    But for a few counts, where rounding decides about steps.
    """
    solver = solver or ct.Tsit5(rtol=1e-6, atol=1e-8)
    fast = ct.solve(system, y0, t, solver=solver.with_options(native=True), **options)
    slow = ct.solve(system, y0, t, solver=solver.with_options(native=False), **options)
    assert fast.statistics.native
    assert not slow.statistics.native
    assert fast.status == slow.status == "complete"
    for name, value in slow.states.items():
        torch.testing.assert_close(fast.states[name], value, rtol=tol, atol=tol)
    assert abs(fast.statistics.steps - slow.statistics.steps) <= slack
    assert abs(fast.statistics.rejections - slow.statistics.rejections) <= slack
    return fast, slow


@pytest.mark.parametrize("method", [ct.Tsit5, ct.Dopri5, ct.BogackiShampine])
@pytest.mark.parametrize("backward", [False, True])
def test_equal_to_torch_with_rows(method, backward):
    system = ct.System(ct.fitzhugh_nagumo(I=0.5))
    t = torch.linspace(0.0, -3.0 if backward else 30.0, 23, dtype=F64)
    fast, slow = compare(system, starts(system, 101), t, method(rtol=1e-5, atol=1e-7))
    assert fast.statistics.evaluations == slow.statistics.evaluations


def test_first_step_and_tolerances_by_variable():
    system = ct.System(ct.fitzhugh_nagumo(I=0.5))
    solver = ct.Tsit5(rtol=1e-4, atol={"v": 1e-3, "w": 1e-7}, first_step=0.3)
    compare(system, starts(system, 20), [0.0, 10.0], solver)


def test_times_of_their_own():
    system = ct.System(ct.Source("u", 1, ct.Pulse(1.0, 3.0)), ct.fitzhugh_nagumo("n"),
                       ct.Input("u", "n"))  # fmt: skip
    t = torch.linspace(0.0, 4.0, 6, dtype=F64) * torch.linspace(0.4, 2.0, 33, dtype=F64)[:, None]
    compare(system, starts(system, 33), t)


def test_a_sweep_over_an_input_current():
    current = ct.Held(
        [0.0, 2.0], torch.stack([torch.linspace(0, 1, 40), torch.zeros(40)])[..., None]
    )
    system = ct.System(ct.Source("u", 1), ct.fitzhugh_nagumo("n"), ct.Input("u", "n", gain=2.0))
    fast, _ = compare(system, {}, [0.0, 1.0, 2.0, 5.0], inputs={"u": current})
    assert float(fast["v_n"][-1].std()) > 1e-3


def test_many_batch_axes_and_no_sample_sees_another():
    system = ct.System(ct.TextNeuron("dx/dt = -k*(x - sin(t)) : 1\ndk/dt = 0 : 1"))
    y0 = {"x": torch.ones(5, 20, 1, dtype=F64), "k": torch.ones(5, 20, 1, dtype=F64)}
    y0["k"][0, 0] = 3000.0  # one stiff neighbour
    fast, _ = compare(system, y0, [0.0, 0.5, 2.0])
    alone = ct.solve(system, {"x": 1.0, "k": 1.0}, [0.0, 0.5, 2.0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(fast["x"][:, 4, 19], alone["x"], rtol=1e-12, atol=1e-12)


def test_sigmoids():
    system = ct.System(ct.wilson_cowan())
    compare(system, starts(system, 70, spread=0.4), [0.0, 5.0, 30.0])


FUNCTIONS = ("exp", "tanh", "sin", "cos", "sinh", "cosh", "arctan", "exprel", "2 + abs")


@st.composite
def texts(draw):
    """Draw a text of one to three equations that stay bounded, without kinks on the way."""
    names = ["x", "y", "z"][: draw(st.integers(1, 3))]
    lines = []
    for name in names:
        other, third = (draw(st.sampled_from(names)) for _ in "ab")
        f, g = (draw(st.sampled_from(FUNCTIONS)) for _ in "ab")
        extra = draw(
            st.sampled_from(
                [
                    "0",
                    "sqrt(1 + y_**2)",
                    "log(2 + z_**2)",
                    "tan(0.3*tanh(y_))",
                    "1/(1 + exp(y_ - z_))",
                    "clip(J, -0.2, k)",
                    "int(J > 0 and not k < J)",
                    "sign(J)*y_",
                    "(1 + y_**2)**k",
                    "y_**3/(1 + y_**4)",
                    "cos(2*t)",
                ]
            )
        )
        extra = extra.replace("y_", other).replace("z_", third)
        lines.append(
            f"d{name}/dt = (-{name} + tanh({f}(clip({other}, -9, 9))) + k*{g}(tanh({third}))"
            f" + 0.2*tanh({extra}) + J)/tau : 1"
        )
    return "\n".join([*lines, "J : 1"])


@settings(max_examples=4, deadline=None, phases=[Phase.generate])  # each compiles a kernel
@given(
    texts(),
    st.sampled_from([ct.Tsit5, ct.Dopri5, ct.BogackiShampine]),
    st.booleans(),
    st.integers(1, 2),
    st.integers(1, 70),
)
def test_random_texts(text, method, own_times, size, samples):
    cell = ct.TextNeuron(text, "n", size, tau=torch.linspace(0.5, 1.0, size, dtype=F64), k=0.7)
    signal = ct.Held([0.0, 0.8, 1.7], torch.tensor([[0.3], [-0.4], [0.1]], dtype=F64))
    system = ct.System(ct.Source("u", 1, signal), cell, ct.Input("u", "n", gain=0.9))
    t = torch.tensor([0.0, 0.5, 0.8, 1.3, 2.5], dtype=F64)
    if own_times:
        t = t * torch.linspace(0.5, 1.0, samples, dtype=F64)[:, None]
    tight = method(rtol=1e-8, atol=1e-10)  # rounding moves the steps a little where there is a kink
    fast = ct.solve(system, starts(system, samples), t, solver=tight, native=True)
    slow = ct.solve(system, starts(system, samples), t, solver=tight, native=False)
    for name, value in slow.states.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-6, atol=1e-6)


def text_rule():
    return ct.TextPlasticity("dw/dt = eta*x*y", eta=0.2, gate=ct.Pulse(0.5, 1.5))


SYNAPSES = {
    "rules and filters": [
        {"plasticity": [ct.oja(0.1), text_rule()], "filter": (2, 0.5)},
        {"plasticity": ct.differential_hebb(0.05)},
    ],
    "limits": [
        {"plasticity": ct.hebb(0.5), "bounds": (-0.4, 0.4)},
        {
            "plasticity": ct.TextPlasticity("dw/dt = m*x*y - 0.3", modulator="h"),
            "sign": 1,
            "mask": torch.tensor([[True, False], [True, True]]),
        },
    ],
    "own variables": [{"plasticity": ct.bcm(0.05, tau_theta=2.0)}, {"mask": torch.eye(2) > 0}],
}


@pytest.mark.parametrize("kind", SYNAPSES)
def test_synapses(kind):
    forth, back = SYNAPSES[kind]
    weight = torch.tensor([[0.3, 0.0], [0.1, 0.35]], dtype=F64)
    shown = ct.Held([0.0, 1.0], torch.tensor([[0.8, 0.1], [0.3, 0.9]], dtype=F64))
    computed = kind == "own variables"
    system = ct.System(
        ct.Source("x", 2, shown),
        ct.Source("c", 2, torch.tensor([0.2, 0.4])),
        ct.hopfield("h", 2, beta=1.3) if computed else ct.rate("h", 2, rho="logistic"),
        ct.leaky_integrator("y", 2, tau=0.7),
        ct.Synapse("x", "h", torch.eye(2, dtype=F64)),
        ct.Synapse("h", "y", weight, **forth),
        ct.Synapse("y", "h", 0.2 * torch.eye(2, dtype=F64), name="back", **back),
        ct.LearningSignal("c", "y", gate=ct.Pulse(0.7), error=True),
        ct.LearningSignal("c", "h", weight, name="context"),
    )
    start = system.initial_state((9,))
    start["s_y"] = torch.linspace(-1, 1, 18, dtype=F64).reshape(9, 2)
    bent = kind == "limits"  # where a limit bends the flow, rounding moves the steps
    tol, slack = (1e-6, 3) if bent else (1e-9, 0)
    compare(system, start, [0.0, 0.9, 2.0], tol=tol, slack=slack)


def test_rhythms():
    wave = ct.Rhythm(torch.tensor([0.5, -0.2], dtype=F64), 0.15, phase=0.4, offset=0.3)
    pulse = ct.System(
        ct.Source("u", 2, wave),
        ct.Source("theta", 1, ct.Rhythm(1.0, 0.3)),
        ct.fitzhugh_nagumo("n", size=2),
        ct.Input("u", "n"),
        ct.Synapse("theta", "n", torch.tensor([[0.2], [0.1]], dtype=F64)),
    )
    compare(pulse, starts(pulse, 70), [0.0, 3.0, 20.0], tol=1e-7)


REFUSED = {
    "the signal of source 'u' changes between its jumps": lambda: ct.System(
        ct.Source("u", 1, ct.Sampled([0.0, 1.0], torch.ones(2, 1, dtype=F64))),
        ct.fitzhugh_nagumo("n"), ct.Input("u", "n"),
    ),
    "population 'n' has no text": lambda: ct.System(ct.VectorField(lambda _t, y: -y, name="n")),
    f"more than the {LARGEST}": lambda: ct.System(ct.fitzhugh_nagumo(size=LARGEST)),
    "learns by a OjaSubspace": lambda: ct.System(
        ct.leaky_integrator("a"), ct.leaky_integrator("b"),
        ct.Synapse("a", "b", 0.5, plasticity=ct.OjaSubspace(0.1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_native_says_why_or_is_left_to_torch(reason):
    system = REFUSED[reason]()
    y0 = starts(system, lanes.FEWEST)
    with pytest.raises(ValueError, match=reason):
        ct.solve(system, y0, [0.0, 0.1], native=True)
    assert not ct.solve(system, y0, [0.0, 0.1]).statistics.native


def test_refused_where_more_is_wanted():
    system = ct.System(ct.fitzhugh_nagumo())
    y0 = starts(system, 3)
    stop = ct.Event(lambda _t, y: y["v"][..., 0] - 5.0)
    for reason, options in {
        "events": {"events": stop},
        "dense output": {"dense": True},
        "the steps are fixed": {"dt": 0.1},
    }.items():
        with pytest.raises(ValueError, match=reason):
            ct.solve(system, y0, [0.0, 1.0], native=True, **options)
    with pytest.raises(ValueError, match="gradients"):
        ct.solve(system, {**y0, "v": y0["v"].requires_grad_()}, [0.0, 1.0], native=True)
    single = {name: value.detach().float() for name, value in y0.items()}
    with pytest.raises(ValueError, match="float64"):
        ct.solve(system.to(torch.float32), single, [0.0, 1.0], native=True)


def test_chosen_by_itself_from_some_samples_on():
    system = ct.System(ct.fitzhugh_nagumo())
    for samples, native in ((lanes.FEWEST, True), (lanes.FEWEST - 1, False)):
        run = ct.solve(system, starts(system, samples), [0.0, 1.0])
        assert run.statistics.native is native
        assert run.to_xarray().attrs is not None
    assert not ct.solve(system, starts(system, lanes.FEWEST), [0.0, 1.0], native=False
                        ).statistics.native  # fmt: skip


def test_without_numba_torch_does_it(monkeypatch):
    monkeypatch.setattr(paths, "available", lambda: False)
    system = ct.System(ct.fitzhugh_nagumo())
    y0 = starts(system, lanes.FEWEST)
    assert not ct.solve(system, y0, [0.0, 1.0]).statistics.native
    with pytest.raises(ValueError, match=r"pip install ctsigprop\[native\]"):
        ct.solve(system, y0, [0.0, 1.0], native=True)


TROUBLES = {
    "blow-up": ({"a": 1.0}, 0.01, 3.0, {}),
    "not finite": ({"b": 1.0}, 0.1, 0.999999, {}),
    "step limit": ({"c": 1.0}, 1.0, 3.0, {"max_steps": 20}),
    "stiff": ({"d": 1e7}, 1.0, 0.5, {"max_steps": 1000}),
    "singular": ({"e": -1.0}, 3.0, 0.5, {}),
}


@pytest.mark.parametrize("kind", TROUBLES)
def test_troubles_are_the_same_errors(kind):
    values, usual, worst, options = TROUBLES[kind]
    text = """
        dx/dt = a*x**2 + b*(1 + sqrt(1 - b*x)) + c*cos(200*c*t) + d*(cos(t) - x) + e/x : 1
    """
    system = ct.System(ct.TextNeuron(text, **{**dict.fromkeys("abcde", 0.0), **values}))
    y0 = torch.full((2, 50, 1), usual, dtype=F64)
    y0[1, 7] = worst
    if kind in ("blow-up", "singular"):
        ct.solve(system, {"x": y0[:1]}, [0.0, 0.9], native=True)  # the others are well
    errors = []
    for native in (True, False):
        with pytest.raises(ct.IntegrationError) as caught:
            ct.solve(system, {"x": y0}, [0.0, 0.2, 0.9], native=native, **options)
        errors.append(caught.value)
    fast, slow = errors
    assert type(fast) is type(slow)
    assert (fast.variable, fast.component, fast.time) == (slow.variable, slow.component, slow.time)
    assert not fast.partial.statistics.native
    assert fast.partial.states["x"].shape[0] >= slow.partial.states["x"].shape[0]


def test_an_interruption_keeps_what_ended(monkeypatch):
    system = ct.System(ct.fitzhugh_nagumo(I=0.5))
    clock = itertools.count(0.0, 1.0)  # every call seems long, so that few turns are taken
    monkeypatch.setattr(lanes.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(lanes, "FIRST_TURNS", 50)
    seen = []

    def progress(share):
        seen.append(share)
        if share > 0.3:
            raise KeyboardInterrupt

    run = ct.solve(system, starts(system, 500), [0.0, 10.0, 20.0], native=True, progress=progress)
    assert run.status == "interrupted"
    assert run.statistics.native
    assert seen == sorted(seen)
    assert 0.3 < seen[-1] < 0.9
    whole = ct.solve(system, starts(system, 500), [0.0, 10.0, 20.0], native=True)
    ended = run.lengths == 3
    assert 100 < int(ended.sum()) < 450
    torch.testing.assert_close(run["v"][:, ended], whole["v"][:, ended], rtol=0, atol=0)
    assert bool(run["v"][2, ~ended].isnan().all())


def test_impulses_and_one_output_time():
    system = ct.System(ct.fitzhugh_nagumo(I=0.5))
    kick = ct.Impulse([1.0, 2.0], lambda _t, y: {"v": y["v"] + 0.5})
    compare(system, starts(system, 12), [0.0, 1.5, 3.0], impulses=kick)
    assert ct.solve(system, starts(system, 12), [0.0], native=True)["v"].shape == (1, 12, 1)


def test_values_of_parameters_need_no_new_kernel(monkeypatch):
    made = []
    compiled = lanes.compiled
    monkeypatch.setattr(
        lanes, "compiled", lambda *a, **k: made.append(compiled(*a, **k)) or made[-1]
    )
    for a in (0.7, 0.6):
        system = ct.System(ct.fitzhugh_nagumo(a=a, I=0.4))
        compare(system, starts(system, 5), [0.0, 3.0])
    assert made[:3] == made[3:]
