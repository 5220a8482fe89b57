import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from ctsigprop.errors import (
    BlowUpError,
    IntegrationError,
    NonFiniteError,
    StepLimitError,
    StiffnessError,
)
from ctsigprop.solvers.base import Layout, Problem, Recorder
from ctsigprop.solvers.events import Event
from ctsigprop.solvers.scipy_ import SciPy
from ctsigprop.solvers.scipy_.row import Row

CASES = json.loads((Path(__file__).parents[1] / "oracles" / "cases.json").read_text())["cases"]
ORACLE = {case["id"]: case for case in CASES}

EXPLICIT = ("RK45", "RK23", "DOP853")
IMPLICIT = ("Radau", "BDF", "LSODA")
METHODS = EXPLICIT + IMPLICIT


def vector(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def problem(field, y0, t, batch=(), jumps=(), dims=None, **rest):
    dims = dims or {name: tuple(y.shape[len(batch) :]) for name, y in y0.items()}
    layout = Layout(y0, dims, batch)
    t = torch.as_tensor(t, dtype=torch.float64)
    return Problem(
        field=field,
        y0=y0,
        layout=layout,
        t=t,
        jumps=torch.as_tensor(jumps, dtype=torch.float64),
        system=None,
        recorder=Recorder(layout, t.shape[-1]),
        **rest,
    )


def run(solver, *args, **kwargs):
    task = problem(*args, **kwargs)
    solver.integrate(task)
    return task.recorder.states()


def scalar(rate):
    return lambda t, state: {"y": rate(t, state["y"])}


def robertson(_t, y):
    a = -0.04 * y[0] + 1e4 * y[1] * y[2]
    b = 3e7 * y[1] ** 2
    return torch.stack([a, -a - b, b])


def van_der_pol(mu):
    return lambda _t, y: torch.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def rational(t, y):
    return torch.stack([y[1] / t, y[1] * (y[0] + 2 * y[1] - 1) / (t * (y[0] - 1))])


def rational_exact(t):
    return torch.stack([t / (t + 10), 10 * t / (t + 10) ** 2], dim=-1)


def linear(_t, y):
    return torch.stack([-y[0] - 5 * y[1], y[0] + y[1]])


def linear_exact(t):
    return torch.stack([-5 * torch.sin(2 * t), 2 * torch.cos(2 * t) + torch.sin(2 * t)], dim=-1)


def parabolic(_t, y):
    pad = torch.nn.functional.pad
    return pad(y[:-1], (1, 0)) - 2 * y + pad(y[1:], (0, 1))


# accuracy


@pytest.mark.parametrize(("method", "rtol"), [("Radau", 1e-5), ("BDF", 1e-7), ("LSODA", 1e-7)])
def test_robertson_to_1e11(method, rtol):
    want, invariant = ORACLE["ODE-ROBER-1E11"]["expected"]
    solver = SciPy(method, rtol=rtol, atol=1e-18)
    y = run(solver, scalar(robertson), {"y": vector(1.0, 0.0, 0.0)}, [0.0, 1e11])["y"][-1]
    torch.testing.assert_close(y, vector(*want["value"]), rtol=want["rtol"], atol=want["atol"])
    assert y.sum().item() == pytest.approx(1.0, abs=invariant["atol"])


@pytest.mark.parametrize(("method", "rtol"), [("Radau", 1e-6), ("BDF", 1e-8), ("LSODA", 1e-9)])
def test_stiff_van_der_pol(method, rtol):
    want = ORACLE["ODE-VDPOL-MU1000"]["expected"][0]
    solver = SciPy(method, rtol=rtol, atol=rtol * 1e-2)
    y = run(solver, scalar(van_der_pol(1000)), {"y": vector(2.0, 0.0)}, [0.0, 2000.0])["y"][-1]
    torch.testing.assert_close(y, vector(*want["value"]), rtol=want["rtol"], atol=want["atol"])


DETEST = {
    "ODE-DETEST-A1": lambda _t, y: -y,
    "ODE-DETEST-A5": lambda t, y: (y - t) / (y + t),
    "ODE-DETEST-B3": lambda _t, y: torch.stack([-y[0], y[0] - y[1] ** 2, y[1] ** 2]),
    "ODE-DETEST-C4": parabolic,
    "ODE-DETEST-D4": lambda _t, y: torch.cat([y[2:], -y[:2] / y[:2].norm() ** 3]),
    "ODE-DETEST-E4": lambda _t, y: torch.stack([y[1], 0.032 - 0.4 * y[1] ** 2]),
}


@pytest.mark.parametrize("case", DETEST)
@pytest.mark.parametrize("method", ["DOP853", "Radau"])
def test_published_values_are_reached_at_their_tolerance(method, case):
    want = ORACLE[case]["expected"][0]
    tolerance = 1e-10 if method == "DOP853" else 1e-8
    solver = SciPy(method, rtol=tolerance, atol=tolerance / 100)
    y0 = vector(*ORACLE[case]["initial_state"])
    y = run(solver, scalar(DETEST[case]), {"y": y0}, ORACLE[case]["span"])["y"][-1]
    torch.testing.assert_close(y, vector(*want["value"]), rtol=want["rtol"], atol=want["atol"])


@pytest.mark.parametrize("method", METHODS)
def test_rational_forward_and_backward_at_steps_and_between(method):
    # the published bound: 5 tolerances at rtol = 1e-3, atol = 1e-6
    for end in (9.0, 1.0):
        seen = []
        task = problem(
            scalar(rational),
            {"y": vector(1 / 3, 2 / 9)},
            torch.linspace(5, end, 37),
            dense=True,
            accepted=lambda t, state, _f, seen=seen: seen.append((float(t), state["y"].clone())),
        )
        dense = SciPy(method, rtol=1e-3, atol=1e-6).integrate(task)
        inner = torch.linspace(5, end, 200, dtype=torch.float64)
        steps = vector(*(t for t, _ in seen))
        for t, y in (
            (task.t, task.recorder.states()["y"]),
            (steps, torch.stack([y for _, y in seen])),
            (inner, dense(inner)["y"]),
        ):
            exact = rational_exact(t)
            error = (y - exact) / (1e-6 + 1e-3 * exact.abs())
            assert error.square().mean(dim=-1).sqrt().max() < 5
        assert task.recorder.statistics.steps == len(seen)


@pytest.mark.parametrize("method", ["RK45", "DOP853", "Radau", "LSODA"])
def test_linear(method):
    t = torch.linspace(0, 2, 9, dtype=torch.float64)
    y = run(SciPy(method, rtol=1e-11, atol=1e-12), scalar(linear), {"y": vector(0.0, 2.0)}, t)["y"]
    torch.testing.assert_close(y, linear_exact(t), rtol=1e-8, atol=1e-8)
    want = ORACLE["ODE-SCIPY-LINEAR"]["expected"][0]
    torch.testing.assert_close(y[-1], vector(*want["value"]), rtol=want["rtol"], atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_tolerance_by_variable(method):
    field = lambda t, s: {"y": s["y"] * torch.cos(t), "z": 1e-6 * torch.cos(3 * t) + 0 * s["z"]}  # noqa: E731
    y0 = {"y": vector(1.0), "z": vector(0.0)}
    exact = 1e-6 * math.sin(3 * 4.0) / 3
    errors = {}
    for atol in (1e-3, 1e-12):
        solver = SciPy(method, rtol=1e-3, atol={"y": 1e-3, "z": atol})
        errors[atol] = abs(run(solver, field, y0, [0.0, 4.0])["z"][-1].item() - exact)
    assert errors[1e-12] < 1e-8
    assert errors[1e-12] < errors[1e-3]


# Jacobians


def network(t, state):
    v, w = state["v"], state["w"]
    return {"v": -v + (w @ torch.tanh(v).unsqueeze(-1)).squeeze(-1) + torch.cos(t), "w": -(w**3)}


def test_the_exact_jacobian_is_that_of_finite_differences():
    y0 = {"v": torch.randn(2, 3).double(), "w": torch.randn(2, 3, 3).double()}
    task = problem(lambda t, s: network(t[..., None], s), y0, [0.0, 1.0], batch=(2,))
    row = Row(task, 1)
    y = row.start.numpy()
    exact = row.jacobian(0.3, y)
    assert exact.shape == (12, 12)
    for j in range(12):
        up, down = y.copy(), y.copy()
        up[j] += 1e-6
        down[j] -= 1e-6
        column = (row.rate(0.3, up) - row.rate(0.3, down)) / 2e-6
        assert exact[:, j] == pytest.approx(column, abs=1e-8)


@pytest.mark.parametrize("method", IMPLICIT)
def test_the_exact_jacobian_saves_evaluations(method):
    counts, results = {}, {}
    n = 20
    coupling = torch.diag(-torch.logspace(0, 5, n, dtype=torch.float64))
    coupling[0, 1:] = 1.0
    for jacobian in ("exact", "differences"):
        task = problem(
            scalar(lambda t, y: torch.tanh(coupling @ y) + torch.cos(t)),
            {"y": torch.ones(n, dtype=torch.float64)},
            [0.0, 5.0],
        )
        SciPy(method, jacobian=jacobian).integrate(task)
        counts[jacobian] = task.recorder.statistics.evaluations
        results[jacobian] = task.recorder.states()["y"][-1]
    assert counts["exact"] < 0.9 * counts["differences"]
    torch.testing.assert_close(results["exact"], results["differences"], rtol=1e-4, atol=1e-5)


def test_a_jacobian_that_is_not_finite_does_not_stop_the_run():
    y = run(
        SciPy("Radau"),
        scalar(lambda t, y: torch.sqrt(abs(y)) * 0 - 5 * y + t),
        {"y": vector(0.0)},
        [0, 2.0],
    )["y"][-1]
    assert y.item() == pytest.approx((5 * 2 - 1 + math.exp(-10)) / 25, rel=1e-5)


# failures

FAILURES = {
    "blow-up": (lambda _t, y: torch.stack([y[0] ** 2, -y[1]]), BlowUpError, (0,), (0.999, 1.0)),
    "NaN midway": (
        lambda t, y: torch.stack([-y[0], torch.where(t > 0.5, torch.nan, -y[1])]),
        NonFiniteError,
        (1,),
        (0.499, 0.5 + 1e-12),
    ),
    "NaN at the start": (
        lambda _t, y: torch.stack([-y[0], y[1] * torch.nan]),
        NonFiniteError,
        (1,),
        (-1e-9, 1e-9),
    ),
    "singular": (
        lambda _t, y: torch.stack([-y[0], -1 / y[1]]),
        IntegrationError,
        (1,),
        (0.49, 0.5001),
    ),
    "too many steps": (
        lambda _t, y: torch.stack([y[1], -1e8 * y[0]]),
        StepLimitError,
        None,
        (1e-4, 0.5),
    ),
    "overflow": (lambda _t, y: 1e3 * y, BlowUpError, None, (0.1, 0.71)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_typed_and_say_where(method, name):
    rate, error, component, (low, high) = FAILURES[name]
    task = problem(scalar(rate), {"y": vector(1.0, 1.0)}, [0.0, 0.1, 0.2, 2.0])
    limit = 500 if name == "too many steps" else 10_000
    with pytest.raises(error) as caught:
        SciPy(method, max_steps=limit, rtol=1e-3 if name == "overflow" else 1e-6).integrate(task)
    assert type(caught.value) is error
    assert low < caught.value.time < high
    if component is not None:
        assert (caught.value.variable, caught.value.component) == ("y", component)
    reached = 1 + sum(caught.value.time >= t for t in (0.1, 0.2))
    assert task.recorder.lengths.tolist() == [reached]
    assert task.recorder.statistics.steps <= limit
    if name in ("blow-up", "NaN midway"):
        t = task.t[:reached]
        column, exact = (0, 1 / (1 - t)) if name == "blow-up" else (1, torch.exp(-t))
        rows = task.recorder.states()["y"][:, column]
        torch.testing.assert_close(rows, exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("method", EXPLICIT)
def test_explicit_methods_call_a_stiff_problem_stiff(method):
    stiff = lambda t, y: -1e7 * (y - torch.cos(t))  # noqa: E731
    with pytest.raises(StiffnessError, match="Radau") as caught:
        run(SciPy(method, max_steps=500), scalar(stiff), {"y": vector(1.0, 0.0)}, [0.0, 1.0])
    assert caught.value.time < 1e-2
    y = run(SciPy("Radau"), scalar(stiff), {"y": vector(1.0, 0.0)}, [0.0, 1.0])["y"][-1]
    assert y.tolist() == pytest.approx([math.cos(1.0)] * 2, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_state_on_the_way_out_of_its_domain_is_not_lost(method):
    # sqrt of a negative number lies beyond t = 1, and trial steps may go there
    rate = lambda _t, y: -torch.sqrt(y)  # noqa: E731
    y = run(SciPy(method), scalar(rate), {"y": vector(0.25)}, [0.0, 0.9, 0.99])["y"]
    assert y[1:, 0].tolist() == pytest.approx([0.05**2, 0.005**2], rel=1e-2)
    with pytest.raises(NonFiniteError) as caught:
        run(SciPy(method), scalar(rate), {"y": vector(0.25)}, [0.0, 2.0])
    assert caught.value.time == pytest.approx(1.0, abs=1e-3)


def test_lsoda_failure_is_typed():
    # at the jump no step is short enough for the tolerance
    rate = lambda _t, y: torch.where(y < 1, 1.0, -1.0) * torch.ones_like(y)  # noqa: E731
    with pytest.raises(IntegrationError) as caught:
        run(SciPy("LSODA", max_steps=1000), scalar(rate), {"y": vector(0.0)}, [0.0, 3.0])
    assert caught.value.time == pytest.approx(1.0, abs=0.01)


def test_an_interrupted_run_keeps_its_rows():
    def field(t, state):
        if t > 1.3:
            raise KeyboardInterrupt
        return {"y": -state["y"]}

    task = problem(field, {"y": vector(1.0)}, torch.linspace(0, 2, 101))
    with pytest.raises(KeyboardInterrupt):
        SciPy("RK45", max_step=0.1).integrate(task)
    rows = task.recorder.states()["y"][:, 0]
    assert 55 <= len(rows) <= 66
    torch.testing.assert_close(rows, torch.exp(-task.t[: len(rows)]), rtol=1e-5, atol=0)


# jumps


def held(t, state):
    drive = torch.where(t < 0.37, 1.0, torch.where(t < 1.13, -2.0, 0.5)).to(torch.float64)
    drive = drive.unsqueeze(-1) if t.dim() else drive
    return {"y": -state["y"] + drive}


def held_exact(t):
    y, start = 2.0, 0.0
    for end, drive in ((0.37, 1.0), (1.13, -2.0), (math.inf, 0.5)):
        stop = min(t, end)
        y = drive + (y - drive) * math.exp(start - stop)
        start = stop
        if t <= end:
            return y
    return y


@pytest.mark.parametrize("method", METHODS)
def test_rows_across_jumps_forward_and_backward(method):
    t = [0.0, 0.2, 0.37, 0.5, 1.5, 2.0]
    solver = SciPy(method, rtol=1e-9, atol=1e-11)
    task = problem(held, {"y": vector(2.0)}, t, jumps=[0.37, 1.13])
    solver.integrate(task)
    want = vector(*map(held_exact, t))
    torch.testing.assert_close(task.recorder.states()["y"][:, 0], want, rtol=1e-7, atol=0)
    back = run(solver, held, {"y": want[-1:]}, t[::-1], jumps=[0.37, 1.13])["y"][:, 0]
    torch.testing.assert_close(back, want.flip(0), rtol=1e-6, atol=0)


def test_restarts_at_jumps_save_the_search_for_them():
    steps = {}
    for jumps in ([], [0.37, 1.13]):
        task = problem(held, {"y": vector(2.0)}, [0.0, 2.0], jumps=jumps)
        SciPy("RK45", rtol=1e-9, atol=1e-11).integrate(task)
        steps[len(jumps)] = task.recorder.statistics.evaluations
    assert steps[2] < 0.8 * steps[0]


# batches


@pytest.mark.parametrize("method", ["RK45", "LSODA"])
def test_samples_do_not_influence_each_other(method):
    rates = vector(1.0, 300.0, 2.0)[:, None]
    field = lambda t, s: {"y": -rates * (s["y"] - torch.cos(t)[:, None])}  # noqa: E731
    alone_rates = rates[2]
    alone = run(
        SciPy(method),
        lambda t, s: {"y": -alone_rates * (s["y"] - torch.cos(t))},
        {"y": vector(0.5)},
        [0.0, 0.7, 2.0],
    )["y"]
    together = run(
        SciPy(method), field, {"y": torch.full((3, 1), 0.5).double()}, [0.0, 0.7, 2.0], batch=(3,)
    )
    assert together["y"].shape == (3, 3, 1)
    torch.testing.assert_close(together["y"][:, 2], alone, rtol=1e-14, atol=0)


def test_a_shared_variable_makes_the_batch_one_row():
    # two presentations drive one weight, which drives both
    y0 = {"v": vector(1.0, 2.0)[:, None], "w": vector(0.5)}
    field = lambda _t, s: {"v": -s["w"] * s["v"], "w": s["v"].mean(dim=0) - s["w"]}  # noqa: E731
    task = problem(field, y0, [0.0, 1.0], batch=(2,), dims={"v": (1,), "w": (1,)})
    SciPy("Radau", rtol=1e-10, atol=1e-12).integrate(task)
    packed = run(
        SciPy("DOP853", rtol=1e-12, atol=1e-12),
        scalar(lambda _t, y: torch.stack([-y[2] * y[0], -y[2] * y[1], (y[0] + y[1]) / 2 - y[2]])),
        {"y": vector(1.0, 2.0, 0.5)},
        [0.0, 1.0],
    )["y"][-1]
    states = task.recorder.states()
    assert states["v"].shape == (2, 2, 1)
    assert states["w"].shape == (2, 1)
    torch.testing.assert_close(torch.cat([states["v"][-1, :, 0], states["w"][-1]]), packed)
    own = problem(field, y0, [[0.0, 1.0], [0.0, 2.0]], batch=(2,), dims={"v": (1,), "w": (1,)})
    with pytest.raises(ValueError, match="one clock"):
        SciPy().integrate(own)


def test_float32_states_come_back_as_float32():
    states = run(
        SciPy(rtol=1e-4),
        scalar(lambda _t, y: -y),
        {"y": vector(1.0, dtype=torch.float32)},
        [0, 1.0],
    )
    assert states["y"].dtype == torch.float32
    assert states["y"][-1].item() == pytest.approx(math.exp(-1), rel=1e-3)


def test_times_of_their_own_for_each_sample():
    t = vector(0.0, 0.5, 1.0, 1.0, 1.2, 3.0, 2.0, 1.0, 0.0).reshape(3, 3)
    jumps = [0.37, 1.13]
    starts = vector(*(held_exact(float(x)) for x in t[:, 0]))[:, None]
    task = problem(held, {"y": starts}, t, batch=(3,), jumps=jumps, dense=True)
    dense = SciPy("RK45", rtol=1e-9, atol=1e-11).integrate(task)
    got = task.recorder.states()["y"][..., 0]
    want = vector(*(held_exact(float(x)) for x in t.reshape(-1))).reshape(3, 3)
    torch.testing.assert_close(got.T, want, rtol=1e-6, atol=0)
    # dense output at times of their own, backward sample included
    middle = (t[:, :1] + t[:, 1:]) / 2
    values = dense(middle)["y"][..., 0]
    want = vector(*(held_exact(float(x)) for x in middle.reshape(-1))).reshape(3, 2)
    torch.testing.assert_close(values.T, want, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r"spans t=0 to 1; it has no value at t=1\.5"):
        dense(vector(1.5))


def test_a_sample_whose_span_is_empty_stays_where_it_is():
    y0 = vector(1.0, 2.0)[:, None]
    states = run(
        SciPy(), lambda _t, s: {"y": -s["y"]}, {"y": y0}, [[0.0, 0.0], [0.0, 1.0]], batch=(2,)
    )
    assert states["y"][1, 0].item() == 1.0
    assert states["y"][1, 1].item() == pytest.approx(2 * math.exp(-1), rel=1e-5)


# dense output


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", [3.0, -3.0])
def test_dense_output(method, end):
    task = problem(scalar(linear), {"y": vector(0.0, 2.0)}, [0.0, end], dense=True)
    dense = SciPy(method, rtol=1e-7, atol=1e-8).integrate(task)
    t = torch.linspace(0, end, 50, dtype=torch.float64)
    y = dense(t)["y"]
    assert y.shape == (50, 2)
    torch.testing.assert_close(y, linear_exact(t), rtol=0, atol=2e-3 if method == "BDF" else 2e-4)
    torch.testing.assert_close(y[0], vector(0.0, 2.0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y[-1], task.recorder.states()["y"][-1], rtol=1e-12, atol=1e-12)
    for outside in (-0.01 * end, 1.01 * end):
        with pytest.raises(ValueError, match="it has no value at"):
            dense(vector(outside))
    with pytest.raises(ValueError, match="of shape"):
        dense(torch.zeros(2, 2))


def test_no_interpolant_unless_it_is_wanted():
    assert SciPy().integrate(problem(scalar(linear), {"y": vector(0.0, 2.0)}, [0, 1.0])) is None


# events


def ball(_t, state):
    return {"x": state["v"], "v": torch.full_like(state["v"], -9.81)}


BOUNCE = Event(
    lambda _t, s: s["x"][..., 0],
    direction=-1,
    reset=lambda _t, s: {"v": -0.8 * s["v"]},
    name="bounce",
)


def bounces(height, count):
    first = math.sqrt(2 * height / 9.81)
    return [first * (1 + 2 * sum(0.8**k for k in range(1, n + 1))) for n in range(count)]


@pytest.mark.parametrize("method", METHODS)
def test_bouncing_ball(method):
    task = problem(
        ball, {"x": vector(2.0), "v": vector(0.0)}, [0.0, 1.0, 3.0], events=(BOUNCE,), dense=True
    )
    dense = SciPy(method, rtol=1e-10, atol=1e-10).integrate(task)
    want = [t for t in bounces(2.0, 10) if t < 3.0]
    got = task.recorder.events
    assert [event.name for event in got] == ["bounce"] * len(want)
    assert [float(event.time) for event in got] == pytest.approx(want, rel=1e-7)
    # before the reset the ball falls
    speeds = [-math.sqrt(2 * 9.81 * 2.0) * 0.8**k for k in range(len(want))]
    assert [event.state["v"].item() for event in got] == pytest.approx(speeds, rel=1e-7)
    assert got[0].state["x"].item() == pytest.approx(0.0, abs=1e-7)
    # between two bounces: a parabola
    t = vector(1.0)
    since = 1.0 - want[0]
    height = 0.8 * -speeds[0] * since - 9.81 * since**2 / 2
    assert task.recorder.states()["x"][1].item() == pytest.approx(height, rel=1e-6)
    assert dense(t)["x"].item() == pytest.approx(height, rel=1e-6)
    assert task.recorder.lengths.item() == 3


@pytest.mark.parametrize(
    ("method", "left"),
    [("RK45", 0.8), ("DOP853", 0.8), ("Radau", 0.8), *((method, 0.0) for method in METHODS)],
)
def test_bounces_that_pile_up_are_an_error(method, left):
    stop = Event(BOUNCE.condition, -1, reset=lambda _t, s: {"v": -left * s["v"]}, name="bounce")
    task = problem(ball, {"x": vector(2.0), "v": vector(0.0)}, [0.0, 10.0], events=(stop,))
    with pytest.raises(StepLimitError, match="'bounce' fires again and again") as caught:
        SciPy(method).integrate(task)
    want = math.sqrt(4 / 9.81) * (1 + 2 * left / (1 - left))
    assert caught.value.time == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", [20.0, -20.0])
def test_directions_and_limits(method, end):
    events = tuple(
        Event(lambda _t, s: s["y"][..., 0], direction=d, limit=limit, name=f"{d}/{limit}")
        for d in (0, 1, -1)
        for limit in (None, 2)
    )
    circle = lambda _t, y: torch.stack([y[1], -y[0]])  # noqa: E731
    task = problem(scalar(circle), {"y": vector(0.0, 1.0)}, [0.0, end], events=events)
    SciPy(method, rtol=1e-7, atol=1e-8).integrate(task)
    # sin(t), and the zero at the start is no crossing; the direction is that of the run
    zeros = [math.copysign(k * math.pi, end) for k in range(1, 7)]
    expected = {0: zeros, 1: zeros[1::2], -1: zeros[::2]}
    if end < 0:
        expected[1], expected[-1] = expected[-1], expected[1]
    for d in expected:
        for limit in (None, 2):
            got = [float(e.time) for e in task.recorder.events if e.name == f"{d}/{limit}"]
            assert got == pytest.approx(expected[d][:limit], rel=1e-4)


def test_a_terminal_event_ends_its_sample_only():
    y0 = {"x": vector(1.0, 4.0)[:, None], "v": torch.zeros(2, 1).double()}
    floor = Event(lambda _t, s: s["x"][..., 0], direction=-1, terminal=True, name="floor")
    t = torch.linspace(0, 0.8, 9)
    task = problem(ball, y0, t, batch=(2,), events=(floor,), dense=True)
    dense = SciPy("LSODA", rtol=1e-8).integrate(task)
    lands = math.sqrt(2 / 9.81)
    assert task.recorder.lengths.tolist() == [math.floor(lands / 0.1) + 1, 9]
    (event,) = task.recorder.events
    assert (event.sample, event.name) == (0, "floor")
    assert float(event.time) == pytest.approx(lands, rel=1e-7)
    assert event.state["x"].shape == (1,)
    x = task.recorder.states()["x"]
    assert x.shape == (9, 2, 1)
    assert torch.isnan(x[5:, 0]).all()
    assert torch.isfinite(x[:, 1]).all()
    with pytest.raises(ValueError, match="no value"):
        dense(vector(0.7))


def test_events_at_one_time_all_fire_before_the_reset():
    clock = lambda _t, s: {"y": torch.ones_like(s["y"])}  # noqa: E731
    events = (
        Event(
            lambda _t, s: s["y"][..., 0] - 1, reset=lambda _t, s: {"y": 0 * s["y"]}, name="reset"
        ),
        Event(lambda _t, s: 2 * s["y"][..., 0] - 2, name="watch"),
        Event(lambda t, _s: t - 1.0, direction=-1, name="never"),
    )
    task = problem(clock, {"y": vector(0.0)}, [0.0, 2.5], events=events)
    SciPy("RK45").integrate(task)
    got = [(event.name, round(float(event.time), 9)) for event in task.recorder.events]
    assert got == [("reset", 1.0), ("watch", 1.0), ("reset", 2.0), ("watch", 2.0)]
    assert task.recorder.states()["y"][-1].item() == pytest.approx(0.5)


def test_short_excursions_within_a_step_are_found():
    # above 0.9 for a fifth of the natural step only
    event = Event(lambda _t, s: s["y"][..., 0] - 0.9, name="peak")
    circle = lambda _t, y: torch.stack([y[1], -y[0]])  # noqa: E731
    task = problem(scalar(circle), {"y": vector(0.0, 1.0)}, [0.0, 6.0], events=(event,))
    SciPy("DOP853", rtol=1e-4).integrate(task)
    rise = math.asin(0.9)
    got = [float(event.time) for event in task.recorder.events]
    assert got == pytest.approx([rise, math.pi - rise], rel=1e-3)


def test_conditions_that_are_no_good():
    circle = lambda _t, y: torch.stack([y[1], -y[0]])  # noqa: E731
    nan = Event(lambda t, _s: torch.where(t > 1, torch.nan, 1.0), name="odd")
    with pytest.raises(NonFiniteError, match="condition of event 'odd' is nan"):
        run(SciPy(), scalar(circle), {"y": vector(0.0, 1.0)}, [0.0, 6.0], events=(nan,))
    wide = Event(lambda _t, s: s["y"], name="wide")
    with pytest.raises(ValueError, match="one number for each sample"):
        run(SciPy(), scalar(circle), {"y": vector(0.0, 1.0)}, [0.0, 6.0], events=(wide,))


# statistics, progress, options


def test_progress_reports_the_clock_of_every_sample():
    seen = []
    y0 = {"y": vector(1.0, 2.0)[:, None]}
    rates = vector(1.0, 50.0)[:, None]
    task = problem(
        lambda _t, s: {"y": -rates * s["y"]},
        y0,
        [0.0, 1.0],
        batch=(2,),
        accepted=lambda t, s, f: seen.append((t.clone(), s["y"].clone(), f)),
    )
    SciPy("RK45").integrate(task)
    assert all(t.shape == (2,) and y.shape == (2, 1) for t, y, _ in seen)
    mean = [float(t.mean()) for t, _, _ in seen]
    assert mean == sorted(mean)
    assert seen[-1][0].tolist() == [1.0, 1.0]
    torch.testing.assert_close(seen[-1][1], task.recorder.states()["y"][-1], rtol=0, atol=0)
    own = [sum(t[k] > u[k] for (u, _, _), (t, _, _) in itertools.pairwise(seen)) for k in (0, 1)]
    assert task.recorder.statistics.steps == max(own[0] + 1, own[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rk45"}, r"unknown method 'rk45' \(did you mean 'RK45'\?\); accepted: BDF"),
        ({"rtol": 0.0}, "rtol must be positive"),
        ({"rtol": 1e-15}, "rtol must be at least 2.2e-14"),
        ({"atol": -1.0}, "atol must be positive"),
        ({"atol": {"y": 0.0}}, r"atol\['y'\] must be positive"),
        ({"max_steps": 0}, "max_steps must be positive"),
        ({"first_step": -0.1}, "first_step must be positive"),
        ({"max_step": math.nan}, "max_step must be positive"),
        ({"jacobian": "exakt"}, "did you mean 'exact'"),
        ({"method": "RK45", "jacobian": "differences"}, "explicit and does not use"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SciPy(**options)


@pytest.mark.parametrize(
    ("atol", "message"),
    [({"z": 1e-3}, "unknown variable in atol 'z'"), ({"y": 1e-3}, "missing: w")],
)
def test_tolerances_by_name_must_fit(atol, message):
    y0 = {"y": vector(1.0), "w": vector(1.0)}
    with pytest.raises(ValueError, match=message):
        run(SciPy(atol=atol), lambda _t, s: {"y": -s["y"]}, y0, [0.0, 1.0])


@pytest.mark.parametrize("method", METHODS)
def test_first_and_longest_step(method):
    seen = []
    task = problem(
        scalar(lambda _t, y: -y),
        {"y": vector(1.0)},
        [0.0, 1.0],
        accepted=lambda t, _s, _f: seen.append(float(t)),
    )
    SciPy(method, first_step=1e-3, max_step=0.01, rtol=1e-3).integrate(task)
    steps = [b - a for a, b in zip([0.0, *seen], seen, strict=False)]
    assert steps[0] <= 1e-3 * (1 + 1e-9)
    assert max(steps) <= 0.01 * (1 + 1e-9)
