from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from problem import make, run

from ctsigprop.errors import BlowUpError, NonFiniteError, StepLimitError
from ctsigprop.solvers.explicit.adaptive import BogackiShampine, Dopri5, Tsit5
from ctsigprop.solvers.explicit.fixed import RK4, Euler, ExponentialEuler, Heun, Midpoint

F64 = torch.float64
CASES = {
    case["id"]: case
    for case in json.loads((Path(__file__).parents[1] / "oracles" / "cases.json").read_text())[
        "cases"
    ]
}
ORDERS = {
    Euler: 1,
    Midpoint: 2,
    Heun: 2,
    RK4: 4,
    BogackiShampine: 3,
    Dopri5: 5,
    Tsit5: 5,
}
PUBLISHED = {Euler: "EULER", Midpoint: "MIDPOINT", RK4: "RK4", Dopri5: "DOPRI5"}


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def pendulum(t, state):
    angle, speed = state["y"].unbind(-1)
    return {"y": torch.stack([speed, -torch.sin(angle) + 0.3 * torch.cos(1.1 * t)], -1)}


PENDULUM = {"y": tensor(1.2, -0.3)}
PENDULUM_END = tensor(-1.1911412897147404, -0.552234083261464)


def expected(case, name):
    return next(e for e in CASES[case]["expected"] if e["name"].startswith(name))


def slope(steps, errors):
    return -math.log(errors[-1] / errors[-2]) / math.log(steps[-1] / steps[-2])


@pytest.mark.parametrize("method", ORDERS)
def test_order_on_the_forced_pendulum(method):
    counts = [80, 160]
    errors = [
        float(
            (
                run(method(dt=3 / n), pendulum, PENDULUM, [0.0, 3.0])[0]["y"][-1] - PENDULUM_END
            ).norm()
        )
        for n in counts
    ]
    assert abs(slope(counts, errors) - ORDERS[method]) < 0.15


@pytest.mark.parametrize("method", ORDERS)
def test_order_on_a_linear_system(method):
    torch.manual_seed(0)
    A = torch.randn(10, 10, dtype=F64) * 0.5
    y0 = torch.randn(10, dtype=F64)
    true = torch.matrix_exp(4 * A) @ y0
    counts = [256, 512]
    errors = [
        float(
            (
                run(method(dt=4 / n), lambda _t, s: {"y": A @ s["y"]}, {"y": y0}, [0, 4])[0]["y"][
                    -1
                ]
                - true
            )
            .abs()
            .sum()
        )
        for n in counts
    ]
    assert abs(slope(counts, errors) - ORDERS[method]) < 0.15


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_numbers(method):
    case = f"ODE-ORDER-{PUBLISHED[method]}"
    errors = []
    for n in (20, 40, 80, 160):
        end = run(method(dt=3 / n), pendulum, PENDULUM, [0.0, 3.0])[0]["y"][-1]
        errors.append(float((end - PENDULUM_END).norm()))
        if n == 40:
            torch.testing.assert_close(
                end, tensor(*expected(case, "numerical")["value"]), rtol=1e-12, atol=0
            )
    torch.testing.assert_close(
        tensor(*errors), tensor(*expected(case, "error 2-norm")["value"]), rtol=0.05, atol=1e-14
    )
    decay, _, _ = run(method(dt=0.5), lambda _t, s: {"y": -s["y"]}, {"y": tensor(1.0)}, [0.0, 0.5])
    assert float(decay["y"][-1]) == pytest.approx(expected(case, "one step")["value"], rel=1e-13)


@pytest.mark.parametrize("method", PUBLISHED)
def test_stability_polynomial(method):
    known = expected(f"ODE-ORDER-{PUBLISHED[method]}", "stability")["value"]
    z = tensor(0.7, -1.3, 0.2, 2.0, -2.0, 3.0, -0.5, 1.0)
    end, _, _ = run(
        method(dt=1.0), lambda _t, s: {"y": z * s["y"]}, {"y": torch.ones(8, dtype=F64)}, [0.0, 1.0]
    )
    powers = z[:, None] ** torch.arange(len(known))
    torch.testing.assert_close(end["y"][-1], powers @ tensor(*known), rtol=1e-12, atol=1e-12)


def forced_decay(t, state):
    return {"y": -2 * state["y"] + torch.sin(state["y"]) + torch.cos(t)}


def decay_rate(_t, _state):
    return {"y": tensor(-2.0)}


def test_exponential_euler_on_published_numbers():
    case = "ODE-ORDER-EXPEULER"
    ends = [
        float(
            run(
                ExponentialEuler(dt=2 / n),
                forced_decay,
                {"y": tensor(1.0)},
                [0.0, 2.0],
                linear=decay_rate,
            )[0]["y"][-1]
        )
        for n in (20, 40, 80, 160)
    ]
    torch.testing.assert_close(
        tensor(*ends), tensor(*expected(case, "ETD1")["value"]), rtol=1e-12, atol=0
    )
    errors = [abs(end - expected(case, "true")["value"]) for end in ends]
    assert abs(slope([80, 160], errors) - 1) < 0.1
    constant, _, _ = run(
        ExponentialEuler(dt=0.5),
        lambda _t, s: {"y": -2 * s["y"] + 3},
        {"y": tensor(1.0)},
        [0.0, 0.5],
        linear=decay_rate,
    )
    assert float(constant["y"][-1]) == pytest.approx(1.3160602794142788, rel=1e-14)


def test_exponential_euler_without_coefficients():
    def field(_t, s):
        return {"a": -s["a"], "b": s["a"]}

    y0 = {"a": tensor(1.0), "b": tensor(0.0)}
    mixed, _, _ = run(
        ExponentialEuler(dt=0.1), field, y0, [0.0, 1.0], linear=lambda _t, _s: {"a": tensor(-1.0)}
    )
    assert float(mixed["a"][-1]) == pytest.approx(math.exp(-1), rel=1e-14)
    b = 0.1 * sum(math.exp(-0.1 * k) for k in range(10))  # a variable without one takes Euler
    assert float(mixed["b"][-1]) == pytest.approx(b, rel=1e-14)
    for linear in (None, lambda _t, _s: {}):
        with pytest.raises(ValueError, match="use Euler"):
            run(ExponentialEuler(dt=0.1), field, y0, [0.0, 1.0], linear=linear)


def test_phi1_keeps_its_gradient_through_zero():
    from ctsigprop.solvers.explicit.onestep import phi1

    z = tensor(-30.0, -1e-3, -1e-9, 0.0, 1e-4, 0.999e-3, 1.001e-3, 2.0).requires_grad_()
    assert torch.autograd.gradcheck(phi1, z)
    slope = torch.autograd.grad(phi1(z).sum(), z)[0]
    assert float(slope[3]) == 0.5


@pytest.mark.parametrize("method", [*ORDERS, ExponentialEuler])
def test_packed_and_named_steps_agree(method):
    t = [0.0, 0.33, 1.0, 2.0]
    options = {"linear": lambda _t, _s: {"y": tensor(-0.5, 0.0)}, "jumps": [0.5, 1.0]}
    named, _, _ = run(method(dt=0.1), pendulum, PENDULUM, t, **options)
    packed, _, _ = run(method(dt=0.1), pendulum, PENDULUM, t, dense=True, **options)
    torch.testing.assert_close(named, packed, rtol=1e-13, atol=1e-13)
    backward, _, _ = run(method(dt=0.1), pendulum, PENDULUM, t[::-1], **options)
    packed, _, _ = run(method(dt=0.1), pendulum, PENDULUM, t[::-1], dense=True, **options)
    torch.testing.assert_close(backward, packed, rtol=1e-13, atol=1e-13)


def held(t, state):
    level = torch.where(t < 0.5, 1.0, torch.where(t < 1.3, -2.0, 0.5)).to(F64)
    return {"y": -state["y"] + level}


def held_end(y, start, stop):
    for a, b, level in [(0.0, 0.5, 1.0), (0.5, 1.3, -2.0), (1.3, 9.0, 0.5)]:
        span = max(0.0, min(b, stop) - max(a, start))
        y = level + (y - level) * math.exp(-span)
    return y


@pytest.mark.parametrize("dense", [False, True])
def test_steps_end_on_jumps(dense):
    errors = {}
    for jumps in ([0.5, 1.3], []):
        for dt in (0.1, 0.05):
            end, _, _ = run(
                RK4(dt=dt), held, {"y": tensor(0.3)}, [0.0, 2.0], jumps=jumps, dense=dense
            )
            errors[bool(jumps), dt] = abs(float(end["y"][-1]) - held_end(0.3, 0.0, 2.0))
    assert abs(math.log2(errors[True, 0.1] / errors[True, 0.05]) - 4) < 0.15
    assert errors[True, 0.05] < 1e-3 * errors[False, 0.05]


@pytest.mark.parametrize("dense", [False, True])
def test_backward_over_jumps(dense):
    forward, _, _ = run(
        RK4(dt=0.01), held, {"y": tensor(0.3)}, [0.0, 0.5, 1.0, 2.0], jumps=[0.5, 1.3]
    )
    back, _, _ = run(
        RK4(dt=0.01),
        held,
        {"y": forward["y"][-1]},
        [2.0, 1.0, 0.5, 0.0],
        jumps=[0.5, 1.3],
        dense=dense,
    )
    torch.testing.assert_close(back["y"], forward["y"].flip(0), rtol=0, atol=1e-9)


def test_the_field_is_never_seen_beyond_a_jump():
    seen = []

    def field(t, state):
        seen.append(float(t))
        return {"y": 0 * state["y"]}

    run(RK4(dt=0.3), field, {"y": tensor(0.0)}, [0.0, 1.0], jumps=[0.5])
    assert 0.5 in seen  # the step after the jump starts there
    assert max(t for t in seen[: seen.index(0.5)]) < 0.5
    assert max(seen) < 1.0


def test_outputs_are_landed_on():
    t = torch.linspace(0, 3, 8, dtype=F64)
    every, problem, _ = run(RK4(dt=0.2), pendulum, PENDULUM, t)
    one, _, _ = run(RK4(dt=3 / 7 / 3), pendulum, PENDULUM, [0.0, 3.0])
    torch.testing.assert_close(every["y"][-1], one["y"][-1], rtol=1e-13, atol=0)
    assert problem.recorder.statistics.steps == 21
    _, problem, _ = run(RK4(dt=0.3), pendulum, PENDULUM, [0.0, 2.1])
    assert problem.recorder.statistics.steps == 7  # though 2.1 / 0.3 > 7 in rounding
    _, problem, _ = run(RK4(dt=0.2), pendulum, PENDULUM, t)
    assert problem.recorder.statistics.evaluations == 84


def test_steps_are_told_as_they_come():
    told = []
    t = torch.linspace(0, 3, 8, dtype=F64)
    problem = make(pendulum, PENDULUM, t, accepted=lambda t, _y, _f: told.append(float(t)))
    RK4(dt=0.1).integrate(problem)
    assert set(t[1:].tolist()) <= set(told)
    assert told == sorted(told)


def test_a_variable_at_rest_is_not_copied():
    seen = []
    y0 = {"v": tensor(1.0), "w": torch.ones(3, 3, dtype=F64)}
    problem = make(
        lambda _t, s: {"v": -s["v"] * s["w"].sum()},
        y0,
        [0.0, 1.0],
        accepted=lambda t, s, _f: seen.append((t, s)),
    )
    RK4(dt=0.1).integrate(problem)
    assert len(seen) == 10
    assert seen[-1][0] == 1.0
    assert all(state["w"] is problem.y0["w"] for _, state in seen)
    assert all(t.shape == () and t.dtype == F64 for t, _ in seen)
    torch.testing.assert_close(
        torch.stack([t for t, _ in seen]), torch.linspace(0.1, 1, 10, dtype=F64)
    )
    assert torch.equal(y0["v"], tensor(1.0))


@pytest.mark.parametrize("method", [*ORDERS, ExponentialEuler])
def test_times_of_their_own_equal_single_runs(method):
    t = tensor(0.0, 0.3, 1.0, 0.5, 0.7, 3.0, 2.0, 1.1, 0.0).reshape(3, 3)
    y0 = torch.stack([PENDULUM["y"], -PENDULUM["y"], 2 * PENDULUM["y"]])

    def field(t, s):
        return pendulum(t, s)

    linear = lambda _t, _s: {"y": tensor(-0.5, 0.0)}  # noqa: E731
    together, _, _ = run(method(dt=0.1), field, {"y": y0}, t, batch=(3,), linear=linear)
    for i in range(3):
        alone, _, _ = run(method(dt=0.1), field, {"y": y0[i]}, t[i], linear=linear)
        torch.testing.assert_close(together["y"][:, i], alone["y"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [*ORDERS, ExponentialEuler])
@pytest.mark.parametrize("dense", [False, True])
def test_gradients(method, dense):
    rate = tensor(0.7).requires_grad_()
    y0 = tensor(0.4, -1.0).requires_grad_()

    def end(rate, y0):
        def field(t, s):
            return {"y": -rate * s["y"] ** 3 + torch.cos(t) * s["y"]}

        return run(
            method(dt=0.25),
            field,
            {"y": y0},
            [0.0, 0.5, 1.0],
            linear=lambda _t, _s: {"y": -rate},
            dense=dense,
        )[0]["y"]

    assert torch.autograd.gradcheck(end, (rate, y0))


@pytest.mark.parametrize("method", [RK4, Tsit5, ExponentialEuler])
def test_gradients_in_the_times(method):
    def rows(t):
        return run(
            method(dt=0.3), pendulum, PENDULUM, t, linear=lambda _t, _s: {"y": tensor(-0.5, 0.0)}
        )[0]["y"]

    assert torch.autograd.gradcheck(rows, tensor(0.1, 0.45, 1.2).requires_grad_())
    y = tensor(1.0).requires_grad_()
    t = tensor(0.0, 2.0).requires_grad_()
    end, _, _ = run(RK4(dt=0.01), lambda _t, s: {"y": -1.5 * s["y"]}, {"y": y}, t)
    end["y"][-1].square().sum().backward()
    assert float(t.grad[1]) == pytest.approx(-3 * math.exp(-6), rel=1e-6)
    assert float(t.grad[0]) == pytest.approx(3 * math.exp(-6), rel=1e-6)


def test_dense_output():
    t = torch.linspace(0, 3, 50, dtype=F64)
    true, _, _ = run(Tsit5(dt=0.01), pendulum, PENDULUM, t)
    _, _, between = run(RK4(dt=0.05), pendulum, PENDULUM, [0.0, 1.0, 3.0], dense=True)
    torch.testing.assert_close(between(t)["y"], true["y"], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="outside the span"):
        between(tensor(3.1))


def test_nan_is_named():
    def field(t, s):
        return {"v": -s["v"], "w": s["w"] * torch.where(t < 0.5, 1.0, torch.nan)}

    y0 = {"v": torch.ones(2, 2, dtype=F64), "w": torch.ones(2, 3, dtype=F64)}
    for dense in (False, True):
        problem = make(field, y0, [0.0, 0.2, 0.4, 1.0], batch=(2,), dense=dense)
        with pytest.raises(NonFiniteError) as caught:
            Heun(dt=0.001).integrate(problem)
        assert caught.value.time == pytest.approx(0.5, abs=2e-3)
        assert caught.value.variable == "w"
        assert caught.value.component == (0, 0)
        assert problem.recorder.lengths.tolist() == [3, 3]
        assert problem.recorder.states()["v"].shape == (3, 2, 2)


@pytest.mark.parametrize("dense", [False, True])
def test_blow_up_is_named(dense):
    with pytest.raises(BlowUpError) as caught:
        run(
            RK4(dt=0.01),
            lambda _t, s: {"y": s["y"] ** 2},
            {"y": tensor(0.1, 1.0)},
            [0.0, 2.0],
            dense=dense,
        )
    assert caught.value.component == (1,)
    assert caught.value.time == pytest.approx(1.0, abs=0.05)


def test_step_limit():
    for dense in (False, True):
        problem = make(pendulum, PENDULUM, [0.0, 3.0], dense=dense)
        with pytest.raises(StepLimitError, match="300 steps"):
            RK4(dt=0.01, max_steps=100).integrate(problem)
        assert problem.recorder.lengths.tolist() == [1]


@pytest.mark.parametrize(
    "options",
    [
        {"dt": 0.0},
        {"dt": -1.0},
        {"dt": math.nan},
        {"dt": "a"},
        {"dt": 0.1, "max_steps": 0},
        {"dt": 0.1, "max_steps": 1.5},
    ],
)
def test_bad_options_are_refused(options):
    name = "max_steps" if "max_steps" in options else "dt"
    for method in (Euler, ExponentialEuler, Tsit5):
        with pytest.raises(ValueError, match=name):
            method(**options)


@pytest.mark.parametrize("method", [*ORDERS, ExponentialEuler])
@pytest.mark.parametrize("dense", [False, True])
def test_float32_stays(method, dense):
    y0 = {"y": PENDULUM["y"].float()}
    end, _, _ = run(
        method(dt=0.01),
        pendulum,
        y0,
        [0.0, 3.0],
        linear=lambda _t, _s: {"y": tensor(0.0, 0.0).float()},
        dense=dense,
    )
    assert end["y"].dtype == torch.float32
    torch.testing.assert_close(end["y"][-1].double(), PENDULUM_END, rtol=0, atol=0.02)


def test_a_single_time_returns_the_start():
    for dense in (False, True):
        rows, _, _ = run(RK4(dt=0.1), pendulum, PENDULUM, [0.5], dense=dense)
        torch.testing.assert_close(rows["y"], PENDULUM["y"][None])
