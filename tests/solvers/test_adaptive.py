from __future__ import annotations

import math

import pytest
import torch
from problem import make, run

from ctsigprop.errors import (
    BlowUpError,
    IntegrationError,
    NonFiniteError,
    StepLimitError,
    StiffnessError,
)
from ctsigprop.solvers.explicit.adaptive import BogackiShampine, Dopri5, Tsit5
from ctsigprop.solvers.explicit.control import root_mean_square

F64 = torch.float64
METHODS = [Tsit5, Dopri5, BogackiShampine]


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def brusselator(_t, state):
    a, b = state["y"].unbind(-1)
    return {"y": torch.stack([1 + a * a * b - 4 * a, 3 * a - a * a * b], -1)}


BRUSSELATOR = {"y": tensor(1.5, 3.0)}
BRUSSELATOR_END = tensor(0.49863707126834783, 4.596780349452011)


PENDULUM = {"y": tensor(1.2, -0.3)}


def pendulum(t, state):
    angle, speed = state["y"].unbind(-1)
    return {"y": torch.stack([speed, -torch.sin(angle) + 0.3 * torch.cos(1.1 * t)], -1)}


def rational(t, state):
    a, b = state["y"].unbind(-1)
    t = t[..., None].squeeze(-1) if t.dim() else t
    return {"y": torch.stack([b / t, b * (a + 2 * b - 1) / (t * (a - 1))], -1)}


def rational_at(t):
    return torch.stack([t / (t + 10), 10 * t / (t + 10) ** 2], -1)


@pytest.mark.parametrize("method", METHODS)
def test_tolerance_is_kept(method):
    for rtol in (1e-3, 1e-6) if method is BogackiShampine else (1e-5, 1e-8, 1e-11):
        end, problem, _ = run(method(rtol=rtol, atol=rtol), brusselator, BRUSSELATOR, [0.0, 20.0])
        error = float((end["y"][-1] - BRUSSELATOR_END).abs().max())
        assert error < 200 * rtol
        assert error > 1e-4 * rtol  # a step is not wasted on accuracy that nobody asked for
    assert problem.recorder.statistics.rejections < 0.2 * problem.recorder.statistics.steps


def test_the_work_that_a_method_of_order_five_needs():
    # the count of DOP853's sister DOPRI5 of Hairer on this problem is 1e5 evaluations at 1e-13
    _, problem, _ = run(Tsit5(rtol=1e-10, atol=1e-10), brusselator, BRUSSELATOR, [0.0, 20.0])
    statistics = problem.recorder.statistics
    assert statistics.evaluations == 2 + 6 * (statistics.steps + statistics.rejections)
    assert statistics.steps < 800


@pytest.mark.parametrize("method", METHODS)
def test_rows_between_steps_and_backward(method):
    t = torch.linspace(5, 9, 37, dtype=F64)
    options = {"rtol": 1e-7, "atol": 1e-9}
    rows, _, _ = run(method(**options), rational, {"y": rational_at(t[0])}, t)
    torch.testing.assert_close(rows["y"], rational_at(t), rtol=1e-6, atol=0)
    t = torch.linspace(5, 1, 37, dtype=F64)
    rows, _, _ = run(method(**options), rational, {"y": rational_at(t[0])}, t)
    torch.testing.assert_close(rows["y"], rational_at(t), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_forward_then_backward_returns(method):
    tight = method(rtol=1e-7, atol=1e-9)
    there, _, _ = run(tight, brusselator, BRUSSELATOR, [0.0, 3.0])
    back, _, _ = run(tight, brusselator, {"y": there["y"][-1]}, [3.0, 0.0])
    torch.testing.assert_close(back["y"][-1], BRUSSELATOR["y"], rtol=1e-4, atol=0)


def stiffened(rate):
    return lambda t, s: {"y": -rate * (s["y"] - torch.cos(t).unsqueeze(-1))}


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_does_not_feel_its_neighbours(method):
    y0 = tensor(0.0, 0.5, 1.0).reshape(3, 1)
    t = torch.linspace(0, 2, 9, dtype=F64)
    solver = method(rtol=1e-4, atol=1e-6)
    alone, one, _ = run(solver, stiffened(tensor(1.0)[:, None]), {"y": y0[:1]}, t, batch=(1,))
    rates = tensor(1.0, 800.0, 30.0)[:, None]
    beside, all_, _ = run(solver, stiffened(rates), {"y": y0}, t, batch=(3,))
    torch.testing.assert_close(beside["y"][:, :1], alone["y"], rtol=0, atol=1e-12)
    assert all_.recorder.statistics.steps > 20 * one.recorder.statistics.steps


def test_gradients_do_not_feel_a_neighbour_that_meets_nan():
    def loss(rate, y0, batch):
        # a root that only overshooting steps of the second sample fall out of
        def field(_t, s):
            return {"y": -rate * torch.sqrt(s["y"] + 1e-3)}

        rows, problem, _ = run(
            Tsit5(rtol=1e-3, atol=1e-4, first_step=0.02),
            field,
            {"y": y0},
            [0.0, 0.06],
            batch=(batch,),
        )
        return rows["y"][-1, 0], problem.recorder.statistics.rejections

    rate = tensor(1.0, 30.0).requires_grad_()
    y0 = tensor(1.0, 1.0).requires_grad_()
    end, rejections = loss(rate, y0, 2)
    assert rejections > 0
    end.backward()
    alone = tensor(1.0).requires_grad_()
    loss(alone, y0.detach()[:1], 1)[0].backward()
    assert torch.isfinite(rate.grad).all()
    assert torch.isfinite(y0.grad).all()
    torch.testing.assert_close(rate.grad[0], alone.grad[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", [1, -1])
def test_one_sample_takes_the_steps_of_a_batch_of_its_like(method, way):
    """With steps that are rejected, jumps, and rows inside steps and on jumps."""

    def field(t, state):
        t = t.reshape(-1)[0]
        pushed = torch.where((t >= 2.0) & (t < 2.5), 30.0, 0.0) + 200 * (10 * t).sin() ** 40
        return {"y": pushed - 3 * torch.sin(state["y"])}

    times = [0.0, 0.01, 1.0, 2.0, 2.25, 4.0][::way]
    y0, found = tensor(0.4, -1.0), []
    for batch in ((), (2,)):
        start = {"y": y0.expand(*batch, 2).clone().requires_grad_()}
        t = tensor(*times).requires_grad_()
        end, problem, _ = run(method(), field, start, t, batch=batch, jumps=(2.0, 2.5))
        values = end["y"].reshape(6, -1, 2)
        slopes = torch.autograd.grad(values[:, 0].sin().sum(), [start["y"], t])
        statistics = problem.recorder.statistics
        counts = statistics.steps, statistics.rejections, statistics.evaluations
        found.append((values[:, 0].detach(), slopes[0].reshape(-1, 2)[0], slopes[1], counts))
    one, two = found
    assert one[3] == two[3]
    assert one[3][1] > 3
    for a, b in zip(one[:3], two[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_times_of_their_own_equal_single_runs(method):
    t = tensor(5.0, 5.5, 9.0, 1.0, 1.1, 3.0, 7.0, 2.0, 1.0).reshape(3, 3)
    y0 = rational_at(t[:, 0])
    together, problem, _ = run(method(), rational, {"y": y0}, t, batch=(3,))
    assert problem.recorder.lengths.tolist() == [3, 3, 3]
    for i in range(3):
        alone, _, _ = run(method(), rational, {"y": y0[i]}, t[i])
        torch.testing.assert_close(together["y"][:, i], alone["y"], rtol=0, atol=1e-12)


def held(t, state):
    level = torch.where(t < 0.5, 1.0, torch.where(t < 1.3, -20.0, 5.0)).to(F64)
    return {"y": -state["y"] + level}


def held_at(t):
    y, at = 0.3, 0.0
    for stop, level in [(0.5, 1.0), (1.3, -20.0), (math.inf, 5.0)]:
        span = min(t, stop) - at
        y = level + (y - level) * math.exp(-span)
        at += span
        if at == t:
            return y
    raise ValueError(t)


@pytest.mark.parametrize("method", METHODS)
def test_steps_end_on_jumps(method):
    t = tensor(0.0, 0.4, 0.5, 0.6, 1.3, 2.0)
    true = tensor(*[held_at(float(at)) for at in t])
    with_jumps, told, _ = run(method(), held, {"y": tensor(0.3)}, t, jumps=[0.5, 1.3])
    without, guessed, _ = run(method(), held, {"y": tensor(0.3)}, t)
    good = (with_jumps["y"][:, 0] - true).abs().max()
    assert good < 1e-5
    assert good < (without["y"][:, 0] - true).abs().max()
    assert told.recorder.statistics.evaluations < guessed.recorder.statistics.evaluations
    back, _, _ = run(
        method(rtol=1e-9, atol=1e-12), held, {"y": true[-1:]}, t.flip(0), jumps=[0.5, 1.3]
    )
    torch.testing.assert_close(back["y"][:, 0], true.flip(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("backward", [False, True])
def test_the_field_is_never_seen_beyond_a_jump(backward):
    seen = []

    def field(t, state):
        seen.append(float(t))
        return {"y": -state["y"] * (1 if t < 0.5 else 50)}

    t = [1.0, 0.0] if backward else [0.0, 1.0]
    run(Tsit5(), field, {"y": tensor(1.0)}, t, jumps=[0.5])
    if backward:
        below = next(i for i, at in enumerate(seen) if at < 0.5)
        assert min(seen[:below]) == 0.5
        assert max(seen[below:]) < 0.5
    else:
        assert max(seen[: seen.index(0.5)]) < 0.5
        assert min(seen[seen.index(0.5) :]) == 0.5


def test_jumps_with_times_of_their_own():
    t = tensor(0.0, 1.0, 2.0, 0.6, 0.7, 1.2, 2.0, 1.0, 0.0).reshape(3, 3)
    y0 = tensor(0.3, held_at(0.6), held_at(2.0))
    solver = Tsit5(rtol=1e-9, atol=1e-12)
    rows, _, _ = run(solver, held, {"y": y0}, t, batch=(3,), jumps=[0.5, 1.3])
    true = tensor(*[held_at(float(at)) for at in t.flatten()]).reshape(3, 3).T
    torch.testing.assert_close(rows["y"], true, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", [Tsit5, Dopri5])
def test_gradients_are_those_of_the_steps(method):
    rate = tensor(0.7).requires_grad_()
    y0 = tensor(0.4, -1.0).requires_grad_()
    solver = method(rtol=1e-10, atol=1e-12)

    def rows(rate, y0):
        def field(t, s):
            return {"y": -rate * s["y"] ** 3 + torch.cos(t) * s["y"]}

        return run(solver, field, {"y": y0}, [0.0, 0.3, 0.5, 1.0])[0]["y"]

    # the steps change with the parameters, their sizes count as constants
    assert torch.autograd.gradcheck(rows, (rate, y0), eps=1e-5, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("end", "steps"), [(1.049, 1), (1.051, 2)])
def test_a_stop_a_little_beyond_the_step_is_landed_on(end, steps):
    still = make(lambda _t, s: {"y": 0 * s["y"]}, {"y": tensor(2.0)}, [0.0, end])
    Tsit5(first_step=1.0).integrate(still)
    assert still.recorder.statistics.steps == steps


@pytest.mark.parametrize("method", METHODS)
def test_gradients_in_the_times(method):
    a, y0 = 1.5, tensor(2.0)
    t = tensor(0.2, 0.5, 1.0).requires_grad_()
    # tight enough for a last step of any length: the two differ by as much as it errs
    solver = method(rtol=1e-8, atol=1e-11)
    rows, _, _ = run(solver, lambda _t, s: {"y": -a * s["y"]}, {"y": y0}, t)
    (slope,) = torch.autograd.grad(rows["y"][-1, 0] ** 2 / 2, t, retain_graph=True)
    _, middle, end = rows["y"].detach()[:, 0].tolist()
    # dL/dT = L'(y)·f(y), by the discrete step as by the equation
    assert float(slope[-1]) == pytest.approx(-a * end**2, rel=1e-6)
    assert float(slope[0]) == pytest.approx(a * end**2, rel=1e-6)
    assert float(slope[1]) == 0.0
    (slope,) = torch.autograd.grad(rows["y"][1, 0], t)
    assert float(slope[1]) == pytest.approx(-a * middle, rel=1e-5)
    assert float(slope[0]) == pytest.approx(a * middle, rel=1e-5)


def test_gradients_in_the_times_around_a_jump():
    def forced(t):
        field = lambda t, s: {"y": torch.sin(3 * t) * s["y"]}  # noqa: E731
        solver = Tsit5(rtol=1e-11, atol=1e-13)
        return run(solver, field, {"y": tensor(2.0)}, t, jumps=[0.7])[0]["y"]

    assert torch.autograd.gradcheck(
        forced, tensor(0.2, 0.5, 0.7001, 1.0).requires_grad_(), eps=1e-5, atol=1e-6, rtol=1e-6
    )


def test_the_row_on_a_jump_is_differentiable_in_its_time():
    t = tensor(0.0, 0.5, 1.0).requires_grad_()
    rows, _, _ = run(Tsit5(), held, {"y": tensor(0.3)}, t, jumps=[0.5, 1.3])
    (slope,) = torch.autograd.grad(rows["y"][1, 0], t)
    assert float(slope[1]) == pytest.approx(1.0 - held_at(0.5), rel=1e-6)


@pytest.mark.parametrize(("method", "order"), [(Tsit5, 4), (Dopri5, 4), (BogackiShampine, 3)])
def test_order_of_dense_output(method, order):
    # the error of one step's interpolant is of the order plus one in the step
    theta = torch.linspace(0, 1, 21, dtype=F64)
    errors = []
    _, _, true = run(Tsit5(rtol=1e-13, atol=1e-14), pendulum, PENDULUM, [0.0, 0.1], dense=True)
    for h in (0.05, 0.025):
        _, _, between = run(method(dt=h), pendulum, PENDULUM, [0.0, h], dense=True)
        t = theta * h
        errors.append(float((between(t)["y"] - true(t)["y"]).abs().max()))
    assert abs(math.log2(errors[0] / errors[1]) - (order + 1)) < 0.15


@pytest.mark.parametrize("backward", [False, True])
def test_dense_output_of_a_batch(backward):
    span = [6.0, 1.0] if backward else [1.0, 6.0]
    y0 = rational_at(tensor(span[0], span[0])) * tensor(1.0, 1.0)[:, None]
    _, _, between = run(
        Tsit5(rtol=1e-9, atol=1e-12), rational, {"y": y0}, span, batch=(2,), dense=True
    )
    t = torch.linspace(1, 6, 41, dtype=F64)
    values = between(t)["y"]
    assert values.shape == (41, 2, 2)
    torch.testing.assert_close(values[:, 1], rational_at(t), rtol=1e-7, atol=0)
    own = torch.stack([t[:5], t[-5:]])
    torch.testing.assert_close(
        between(own)["y"], rational_at(own).transpose(0, 1), rtol=1e-7, atol=0
    )
    with pytest.raises(ValueError, match=r"t=6.5 is outside the span"):
        between(tensor(2.0, 6.5))
    at = tensor(2.5).requires_grad_()
    (slope,) = torch.autograd.grad(between(at)["y"][0, 0, 0], at)
    assert float(slope) == pytest.approx(10 / 12.5**2, rel=1e-5)


def test_float32_stays():
    y0 = {"y": BRUSSELATOR["y"].float()}
    rows, problem, between = run(Tsit5(), brusselator, y0, [0.0, 1.0, 20.0], dense=True, batch=())
    assert rows["y"].dtype == torch.float32
    assert between(tensor(0.5))["y"].dtype == torch.float32
    assert problem.recorder.statistics.steps < 400
    torch.testing.assert_close(rows["y"][-1].double(), BRUSSELATOR_END, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"rtol must be at least 4\.8e-07"):
        run(Tsit5(rtol=1e-9), brusselator, y0, [0.0, 1.0])


def test_the_norm_is_the_largest_over_the_variables():
    # 10 000 weights at rest must not hide the error of one neuron
    def field(t, s):
        return {"v": torch.cos(5 * t) * s["v"], "w": 0 * s["w"]}

    v = tensor(1.0)
    _, alone, _ = run(
        Tsit5(rtol=1e-6), lambda t, s: {"v": torch.cos(5 * t) * s["v"]}, {"v": v}, [0.0, 9.0]
    )
    _, beside, _ = run(
        Tsit5(rtol=1e-6), field, {"v": v, "w": torch.ones(100, 100, dtype=F64)}, [0.0, 9.0]
    )
    assert beside.recorder.statistics.steps == alone.recorder.statistics.steps


def test_atol_by_variable():
    def field(t, s):
        return {"a": torch.cos(t) + 0 * s["a"], "b": 1e-3 * torch.cos(t) + 0 * s["b"]}

    y0 = {"a": tensor(0.0), "b": tensor(0.0)}
    counts = []
    for atol in ({"a": 1e-3, "b": 1e-6}, {"a": 1e-3, "b": 1e-12}):
        _, problem, _ = run(Tsit5(rtol=0.0, atol=atol), field, y0, [0.0, 6.0])
        counts.append(problem.recorder.statistics.steps)
    assert counts[1] > 2 * counts[0]
    with pytest.raises(ValueError, match=r"unknown variable in atol 'aa'.*accepted: a, b"):
        run(Tsit5(atol={"aa": 1.0, "b": 1.0}), field, y0, [0.0, 1.0])
    with pytest.raises(ValueError, match="missing: b"):
        run(Tsit5(atol={"a": 1.0}), field, y0, [0.0, 1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"atol": -1}, r"atol must be >= 0, got -1"),
        ({"atol": {"v": -1.0}}, r"atol\['v'\] must be >= 0, got -1.0"),
        ({"rtol": -1e-3}, r"rtol must be >= 0, got -0.001"),
        ({"rtol": math.nan}, r"rtol must be >= 0, got nan"),
        ({"rtol": 0.0, "atol": 0.0}, r"rtol must be at least 8.9e-16, got 0"),
        ({"rtol": 1e-17}, r"rtol must be at least 8.9e-16, got 1e-17"),
        ({"first_step": 0.0}, r"first_step must be > 0, got 0.0"),
        ({"max_steps": 0}, r"max_steps must be a whole number >= 1, got 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Tsit5(**options)


@pytest.mark.parametrize("method", METHODS)
def test_blow_up(method):
    problem = make(lambda _t, s: {"y": s["y"] ** 2}, {"y": tensor(0.1, 1.0)}, [0.0, 0.5, 0.9, 2.0])
    with pytest.raises(BlowUpError) as caught:
        method().integrate(problem)
    assert 0.999 < caught.value.time < 1.0
    assert (caught.value.variable, caught.value.component) == ("y", (1,))
    assert problem.recorder.lengths.tolist() == [3]
    assert problem.recorder.states()["y"].shape == (3, 2)


@pytest.mark.parametrize("method", METHODS)
def test_nan_in_the_middle(method):
    def field(t, s):
        late = torch.where(t > 0.5, torch.nan, 1.0).to(F64)
        return {"v": -s["v"], "w": late * s["w"]}

    y0 = {"v": torch.ones(2, dtype=F64), "w": torch.ones(2, 3, dtype=F64)}
    problem = make(
        lambda t, s: field(t[..., None], s) | {"v": -s["v"]}, y0, [0.0, 0.2, 1.0], batch=(2,)
    )
    with pytest.raises(NonFiniteError) as caught:
        method().integrate(problem)
    assert 0.49 < caught.value.time <= 0.5
    assert (caught.value.variable, caught.value.component) == ("w", (0, 0))
    assert problem.recorder.lengths.tolist() == [2, 2]


def test_growth_before_a_nan_is_no_blow_up():
    def field(t, s):
        return {"y": 0 * s["y"] + torch.where(t > 0.5, torch.nan, 1.0)}

    with pytest.raises(NonFiniteError):
        run(Tsit5(), field, {"y": tensor(0.0)}, [0.0, 1.0])


def test_nan_at_the_start():
    with pytest.raises(NonFiniteError, match="the derivative is nan"):
        run(Tsit5(), lambda _t, s: {"y": s["y"] * torch.nan}, {"y": tensor(1.0)}, [0.0, 1.0])


def test_an_overshoot_is_not_a_failure():
    # the first step is far too long, and falls out of the domain of the root
    rows, problem, _ = run(
        Tsit5(first_step=2.0),
        lambda _t, s: {"y": -torch.sqrt(s["y"])},
        {"y": tensor(1.0)},
        [0.0, 1.9],
    )
    assert float(rows["y"][-1]) == pytest.approx((1 - 0.95) ** 2, rel=1e-3)
    assert problem.recorder.statistics.rejections > 0


def test_many_overshoots_are_no_failure():
    # every long step meets a NaN, and every retreat from it succeeds
    at = [0.0]

    def field(t, s):
        return {"y": s["y"] * 0 + torch.where(t - at[0] > 0.1, torch.nan, 1.0)}

    problem = make(
        field, {"y": tensor(0.0)}, [0.0, 5.0], accepted=lambda t, _y, _f: at.__setitem__(0, t)
    )
    Tsit5().integrate(problem)
    assert problem.recorder.statistics.rejections > 20
    assert float(problem.recorder.states()["y"][-1]) == pytest.approx(5.0)


def test_a_short_step_onto_a_jump_is_forgotten():
    _, far, _ = run(Tsit5(), brusselator, BRUSSELATOR, [0.0, 2.0], jumps=[1.0])
    _, near, _ = run(Tsit5(), brusselator, BRUSSELATOR, [0.0, 2.0], jumps=[1.0, 1.0 + 1e-9])
    assert near.recorder.statistics.steps == far.recorder.statistics.steps + 1


@pytest.mark.parametrize("method", METHODS)
def test_stiffness_is_told_early(method):
    problem = make(lambda _t, s: {"y": -1e9 * s["y"]}, {"y": tensor(1.0)}, [0.0, 1.0])
    with pytest.raises(StiffnessError, match=r"SciPy\('Radau'\)"):
        method().integrate(problem)
    assert problem.recorder.statistics.steps < 400


def test_a_singularity_is_told():
    with pytest.raises(StiffnessError, match="singular") as caught:
        run(Tsit5(), lambda _t, s: {"y": -0.5 / s["y"]}, {"y": tensor(1.0)}, [0.0, 2.0])
    assert caught.value.time == pytest.approx(1.0, abs=1e-5)


def test_step_limit():
    problem = make(brusselator, BRUSSELATOR, [0.0, 0.1, 20.0])
    with pytest.raises(StepLimitError, match="10 steps did not reach t=20") as caught:
        Tsit5(max_steps=10).integrate(problem)
    assert isinstance(caught.value, IntegrationError)
    assert caught.value.time > 0
    assert problem.recorder.lengths.tolist() == [2]
    assert problem.recorder.statistics.steps + problem.recorder.statistics.rejections == 10


def test_a_shared_variable_couples_the_batch():
    def field(_t, s):
        return {"v": -s["v"] * s["w"], "w": s["v"].mean() - s["w"]}

    y0 = {"v": tensor(1.0, 2.0, 3.0), "w": torch.tensor(0.5, dtype=F64)}
    rows, problem, _ = run(
        Tsit5(rtol=1e-9), field, y0, [0.0, 1.0], dims={"v": (), "w": ()}, batch=(3,)
    )
    assert rows["v"].shape == (2, 3)
    assert rows["w"].shape == (2,)
    assert problem.recorder.lengths.tolist() == [2]
    ratio = rows["v"][-1] / y0["v"]
    torch.testing.assert_close(ratio, ratio[:1].expand(3))


def test_nothing_to_do():
    rows, _, between = run(Tsit5(), brusselator, BRUSSELATOR, [0.5], dense=True)
    torch.testing.assert_close(rows["y"], BRUSSELATOR["y"][None])
    torch.testing.assert_close(between(tensor(0.5))["y"], BRUSSELATOR["y"][None])
    empty, _, _ = run(
        Tsit5(), lambda _t, s: {"y": -s["y"]}, {"y": torch.zeros(0, dtype=F64)}, [0.0, 1.0]
    )
    assert empty["y"].shape == (2, 0)
    none, _, _ = run(
        Tsit5(), brusselator, {"y": torch.zeros(0, 2, dtype=F64)}, [0.0, 1.0], batch=(0,)
    )
    assert none["y"].shape == (2, 0, 2)


def test_progress_is_told():
    times = []
    problem = make(
        brusselator, BRUSSELATOR, [0.0, 1.0], accepted=lambda t, _y, f: times.append((t, f))
    )
    Tsit5().integrate(problem)
    assert len(times) == problem.recorder.statistics.steps
    assert float(times[-1][0]) == 1.0
    torch.testing.assert_close(
        times[-1][1], brusselator(None, {"y": problem.recorder.states()["y"][-1]})
    )


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_sizes_of_matrices_whose_squares_overflow(dtype):
    values = torch.tensor([[3.0, 4.0], [1e-30, 0.0], [0.0, 0.0]], dtype=dtype)
    large = values * torch.finfo(dtype).max ** 0.9
    wanted = large.abs().amax(1, keepdim=True) * torch.tensor([[25 / 32], [0.5], [0.0]]).sqrt()
    torch.testing.assert_close(root_mean_square(large), wanted.to(dtype), rtol=1e-6, atol=0)
    exact = torch.tensor([[12.5**0.5], [1e-30 / 2**0.5], [0.0]], dtype=dtype)
    kept = slice(None) if dtype == F64 else slice(0, 3, 2)  # 1e-60 is no number of float32
    torch.testing.assert_close(root_mean_square(values)[kept], exact[kept])
    assert root_mean_square(values[:, :0]).shape == (3, 1)  # of none
