import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from ctsigprop.errors import (
    BlowUpError,
    IntegrationError,
    NonFiniteError,
    StepLimitError,
    StiffnessError,
)
from ctsigprop.solvers.base import Layout, Problem, Recorder
from ctsigprop.solvers.torchdiffeq_ import TorchDiffEq

CASES = json.loads((Path(__file__).parents[1] / "oracles" / "cases.json").read_text())["cases"]
ORACLE = {case["id"]: case for case in CASES}

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
ONE_STEP = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")


def vector(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def problem(field, y0, t, batch=(), jumps=(), system=None, dims=None, **rest):
    dims = dims or {name: tuple(y.shape[len(batch) :]) for name, y in y0.items()}
    layout = Layout(y0, dims, batch)
    t = torch.as_tensor(t, dtype=torch.float64)
    recorder = Recorder(layout, t.shape[-1])
    return Problem(
        field=field,
        y0=y0,
        layout=layout,
        t=t,
        jumps=torch.as_tensor(jumps, dtype=torch.float64),
        system=system,
        recorder=recorder,
        **rest,
    )


def run(solver, *args, **kwargs):
    task = problem(*args, **kwargs)
    solver.integrate(task)
    return task.recorder.states()


def scalar(rate):
    """A field of one variable `y` that has one number."""
    return lambda t, state: {"y": rate(t, state["y"])}


def pendulum(t, state):
    return {"angle": state["speed"], "speed": -torch.sin(state["angle"]) + 0.3 * torch.cos(1.1 * t)}


PENDULUM = {"angle": vector(1.2), "speed": vector(-0.3)}


def kepler(_t, state):
    x = state["x"]
    return {"x": state["v"], "v": -x / x.norm() ** 3}


def parabolic(_t, y):
    return nn.functional.pad(y[:-1], (1, 0)) - 2 * y + nn.functional.pad(y[1:], (0, 1))


DETEST = {
    "ODE-DETEST-A1": lambda _t, y: -y,
    "ODE-DETEST-A3": lambda t, y: y * torch.cos(t),
    "ODE-DETEST-A5": lambda t, y: (y - t) / (y + t),
    "ODE-DETEST-B1": lambda _t, y: torch.stack([2 * (y[0] - y[0] * y[1]), y[0] * y[1] - y[1]]),
    "ODE-DETEST-C3": parabolic,
    "ODE-DETEST-D4": lambda _t, y: torch.cat([y[2:], -y[:2] / y[:2].norm() ** 3]),
    "ODE-DETEST-E2": lambda _t, y: torch.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]]),
}


@pytest.mark.parametrize("case", DETEST)
@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_published_values_are_reached_at_their_tolerance(method, case):
    want = ORACLE[case]["expected"][0]
    y0 = vector(*ORACLE[case]["initial_state"])
    solver = TorchDiffEq(method, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        y = run(solver, scalar(DETEST[case]), {"y": y0}, ORACLE[case]["span"])["y"][-1]
    torch.testing.assert_close(y, vector(*want["value"]), rtol=want["rtol"], atol=want["atol"])


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_methods_keep_their_tolerance_forward_and_backward(method):
    # atol + rtol·abs(y) per step, over 2 time units
    solver = TorchDiffEq(method, rtol=1e-6, atol=1e-9)
    field = scalar(lambda t, y: -y + torch.sin(t))
    exact = lambda t: (1.5 * torch.exp(-t) + (torch.sin(t) - torch.cos(t)) / 2)[:, None]  # noqa: E731
    for t in (torch.linspace(0, 2, 7).double(), torch.linspace(0, -2, 7).double()):
        y = run(solver, field, {"y": vector(1.0)}, t)["y"]
        torch.testing.assert_close(y, exact(t), rtol=2e-4, atol=0)


def test_the_methods_are_those_of_torchdiffeq():
    from torchdiffeq._impl.odeint import SOLVERS

    ours = {*ADAPTIVE, *ONE_STEP, *ADAMS}
    assert set(SOLVERS) == ours | {"scipy_solver"}
    for method in ours:
        TorchDiffEq(method, dt=None if method in ADAPTIVE else 0.1)


@pytest.mark.parametrize("method", ONE_STEP)
def test_order_of_the_one_step_methods(method):
    want = vector(*ORACLE["ODE-ORDER-EULER"]["expected"][0]["value"])
    errors = []
    for n in (80, 160):
        last = run(TorchDiffEq(method, dt=3 / n), pendulum, PENDULUM, [0.0, 1.0, 3.0])
        errors.append(torch.stack([last["angle"][-1, 0], last["speed"][-1, 0]]).sub(want).norm())
    order = math.log2(errors[0] / errors[1])
    assert order == pytest.approx(ONE_STEP[method], abs=0.1)


@pytest.mark.parametrize("case", ["EULER", "MIDPOINT", "RK4"])
def test_fixed_steps_are_the_published_ones(case):
    value = next(e["value"] for e in ORACLE[f"ODE-ORDER-{case}"]["expected"] if "n=40" in e["name"])
    solver = TorchDiffEq(case.lower(), dt=3 / 40)
    last = run(solver, pendulum, PENDULUM, [0.0, 3.0])
    # torchdiffeq's rk4 is the 3/8 rule, and the published one the classical
    tolerance = 1e-6 if case == "RK4" else 1e-12
    assert last["angle"][-1].item() == pytest.approx(value[0], rel=tolerance)
    assert last["speed"][-1].item() == pytest.approx(value[1], rel=tolerance)


@pytest.mark.parametrize("method", ADAMS)
@pytest.mark.parametrize("t", [torch.linspace(0, 3, 11), torch.tensor([0.0, 0.4, 1.7, 3.0])])
def test_adams_methods_are_of_order_four_at_least_whatever_the_outputs(method, t):
    errors = []
    for dt in (0.02, 0.01):
        tight = {} if method == "explicit_adams" else {"rtol": 1e-13, "atol": 1e-13}
        tight |= {"max_order": 6}
        angle = run(TorchDiffEq(method, dt=dt, **tight), pendulum, PENDULUM, t)["angle"]
        want = run(TorchDiffEq("dopri8", rtol=1e-12, atol=1e-13), pendulum, PENDULUM, t)["angle"]
        errors.append(float((angle - want).abs().max()))
    assert errors[1] < 1e-7
    assert math.log2(errors[0] / errors[1]) > 3.7


def test_nothing_is_interpolated_with_fixed_steps():
    t = torch.tensor([0.0, 0.31, 0.77, 1.0], dtype=torch.float64)
    y = run(TorchDiffEq("rk4", dt=0.05), scalar(lambda _t, y: -y), {"y": vector(1.0)}, t)["y"]
    torch.testing.assert_close(y[:, 0], torch.exp(-t), rtol=1e-7, atol=0)


def test_a_corrector_that_does_not_converge_is_an_error():
    solver = TorchDiffEq("implicit_adams", dt=0.1)
    with pytest.raises(StiffnessError, match="corrector"):
        run(solver, scalar(lambda _t, y: -200 * y), {"y": vector(1.0)}, [0.0, 1.0])


def test_dopri8_is_not_limited_by_its_interpolant():
    t = torch.linspace(0, 5, 21, dtype=torch.float64)
    errors = {}
    for lands in (None, False):
        solver = TorchDiffEq("dopri8", rtol=1e-10, atol=1e-12, land_on_outputs=lands)
        x = run(solver, kepler, {"x": vector(0.7, 0.0), "v": vector(0.0, 1.3627702877384937)}, t)
        exact = TorchDiffEq("dopri5", rtol=1e-13, atol=1e-14, land_on_outputs=True)
        want = run(exact, kepler, {"x": vector(0.7, 0.0), "v": vector(0.0, 1.3627702877384937)}, t)
        errors[lands] = float((x["x"] - want["x"]).abs().max())
    assert errors[None] < 1e-10
    assert errors[False] > 100 * errors[None]


# failures

FAILURES = {
    "blow-up": (lambda _t, y: torch.stack([y[0] ** 2, -y[1]]), BlowUpError, (0,), (0.999, 1.0)),
    "NaN midway": (
        lambda t, y: torch.stack([-y[0], torch.where(t > 0.5, torch.nan, -y[1])]),
        NonFiniteError,
        (1,),
        (0.3, 0.5),
    ),
    "NaN at the start": (
        lambda _t, y: torch.stack([-y[0], y[1] * torch.nan]),
        NonFiniteError,
        (1,),
        (-1e-9, 1e-9),
    ),
    "stiff": (lambda t, y: -1e7 * (y - torch.cos(t)), StiffnessError, None, (0, 0.1)),
    "too many steps": (
        lambda _t, y: torch.stack([y[1], -1e8 * y[0]]),
        StepLimitError,
        None,
        (0, 0.5),
    ),
}


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3"])
@pytest.mark.parametrize(
    "name", ["blow-up", "NaN midway", "NaN at the start", "stiff", "too many steps"]
)
def test_failures_are_typed_and_say_where(method, name):
    rate, error, component, (low, high) = FAILURES[name]
    task = problem(scalar(rate), {"y": vector(1.0, 1.0)}, [0.0, 0.1, 0.2, 2.0])
    with pytest.raises(error) as caught, torch.no_grad():
        TorchDiffEq(method, max_steps=2000).integrate(task)
    assert type(caught.value) is error
    assert low < caught.value.time < high
    if component is not None:
        assert (caught.value.variable, caught.value.component) == ("y", component)
    # the rows that were passed are kept, and are right
    reached = 1 + sum(caught.value.time >= t for t in (0.1, 0.2))
    assert task.recorder.lengths.tolist() == [reached]
    if name in ("blow-up", "NaN midway"):
        t = task.t[:reached]
        column, exact = (0, 1 / (1 - t)) if name == "blow-up" else (1, torch.exp(-t))
        rows = task.recorder.states()["y"][:, column]
        torch.testing.assert_close(rows, exact, rtol=1e-4, atol=0)


def test_a_singularity_stops_the_run_where_it_is():
    rate = lambda t, y: -((abs(t - 0.3) + 1e-18) ** -0.75) + 0 * y  # noqa: E731
    with pytest.raises(IntegrationError, match="singular") as caught:
        run(TorchDiffEq(rtol=1e-9, atol=1e-9), scalar(rate), {"y": vector(9.0)}, [0.0, 1.0])
    assert type(caught.value) is IntegrationError
    assert caught.value.time == pytest.approx(0.3, abs=1e-9)


@pytest.mark.parametrize("method", ONE_STEP)
def test_fixed_steps_do_not_return_nan(method):
    rate = lambda t, y: torch.where(t > 0.505, torch.nan, -y)  # noqa: E731
    task = problem(scalar(rate), {"y": vector(1.0, 1.0)}, torch.linspace(0, 1, 101))
    with pytest.raises(NonFiniteError) as caught:
        TorchDiffEq(method, dt=0.01).integrate(task)
    assert (caught.value.variable, caught.value.component) == ("y", (0,))
    assert 0.49 < caught.value.time < 0.52
    # every row before the step that failed is there
    assert task.recorder.lengths.item() == (task.t <= caught.value.time).sum()
    assert torch.isfinite(task.recorder.states()["y"]).all()


def test_nan_in_the_very_last_step_is_found():
    rate = lambda t, y: torch.where(t > 0.985, torch.nan, -y)  # noqa: E731
    with pytest.raises(NonFiniteError):
        run(TorchDiffEq("rk4", dt=0.01), scalar(rate), {"y": vector(1.0)}, [0.0, 0.99])


def test_fixed_steps_beyond_stability_are_called_stiff_and_growth_is_called_blow_up():
    with pytest.raises(StiffnessError, match="beyond stability"):
        run(
            TorchDiffEq("rk4", dt=0.1), scalar(lambda _t, y: -1e4 * y), {"y": vector(1.0)}, [0, 9.0]
        )
    with pytest.raises(BlowUpError):
        run(TorchDiffEq("rk4", dt=0.1), scalar(lambda _t, y: y * y), {"y": vector(1.0)}, [0, 9.0])


def test_too_fine_a_grid_is_refused_before_it_is_built():
    with pytest.raises(StepLimitError, match="dt=1e-12 needs 1e"):
        run(TorchDiffEq("euler", dt=1e-12), scalar(lambda _t, y: -y), {"y": vector(1.0)}, [0, 1.0])


def test_the_step_limit_counts_the_whole_run():
    t = torch.linspace(0, 60, 61)
    task = problem(pendulum, PENDULUM, t)
    with pytest.raises(StepLimitError, match="50 steps"):
        TorchDiffEq(max_steps=50).integrate(task)
    statistics = task.recorder.statistics
    assert statistics.steps + statistics.rejections == 50
    assert 2 < task.recorder.lengths.item() < 30


def test_an_interrupted_run_keeps_its_rows():
    def field(t, state):
        if t > 1.305:
            raise KeyboardInterrupt
        return pendulum(t, state)

    task = problem(field, PENDULUM, torch.linspace(0, 2, 101))
    with pytest.raises(KeyboardInterrupt):
        TorchDiffEq("rk4", dt=0.01).integrate(task)
    assert task.recorder.lengths.item() == 66


# statistics and progress


def test_statistics_and_progress():
    calls, seen = [], []

    def field(t, state):
        calls.append(t)
        return pendulum(t, state)

    t = torch.linspace(0, 3, 40)
    task = problem(
        field, PENDULUM, t, accepted=lambda t, y, f: seen.append((float(t), y["angle"].item(), f))
    )
    TorchDiffEq(rtol=1e-8).integrate(task)
    statistics = task.recorder.statistics
    assert statistics.evaluations == len(calls)
    assert all(t.dtype == torch.float64 and t.shape == () for t in calls)
    assert statistics.steps == len(seen) > 20
    assert statistics.rejections > 0
    times = [time for time, _, _ in seen]
    assert times == sorted(set(times))
    assert seen[-1][:2] == (3.0, task.recorder.states()["angle"][-1].item())


def test_callbacks_of_the_failed_stretch_are_not_repeated():
    seen = []
    rate = lambda t, y: torch.where(t > 0.5, torch.nan, -y)  # noqa: E731
    task = problem(
        scalar(rate),
        {"y": vector(1.0)},
        torch.linspace(0, 1, 101),
        accepted=lambda t, _y, _f: seen.append(float(t)),
    )
    with pytest.raises(NonFiniteError):
        TorchDiffEq("rk4", dt=0.01).integrate(task)
    assert seen == sorted(set(seen))


# jumps


def held(t, state):
    """A leaky variable driven by an input that jumps at 0.37 and 1.13."""
    drive = torch.where(t < 0.37, 1.0, torch.where(t < 1.13, -2.0, 0.5))
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


def test_rk4_keeps_its_order_across_jumps():
    errors = []
    for dt in (0.1, 0.05, 0.025):
        y = run(TorchDiffEq("rk4", dt=dt), held, {"y": vector(2.0)}, [0, 2.0], jumps=[0.37, 1.13])
        errors.append(abs(y["y"][-1].item() - held_exact(2.0)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(4, abs=0.3)
    without = run(TorchDiffEq("rk4", dt=0.025), held, {"y": vector(2.0)}, [0, 2.0])["y"][-1].item()
    assert abs(without - held_exact(2.0)) > 1e4 * errors[2]


@pytest.mark.parametrize("solver", [TorchDiffEq(), TorchDiffEq("implicit_adams", dt=0.01)])
def test_rows_across_jumps_forward_and_backward(solver):
    t = [0.0, 0.2, 0.37, 0.5, 1.5, 2.0]
    y = run(solver, held, {"y": vector(2.0)}, t, jumps=[0.37, 1.13])["y"][:, 0]
    torch.testing.assert_close(y, vector(*map(held_exact, t)), rtol=1e-5, atol=0)
    back = run(solver, held, {"y": vector(held_exact(2.0))}, t[::-1], jumps=[0.37, 1.13])["y"]
    torch.testing.assert_close(back[:, 0], vector(*map(held_exact, t[::-1])), rtol=1e-5, atol=0)


# state and batch


def test_a_variable_that_is_missing_from_the_derivative_is_at_rest():
    y0 = {"y": vector(1.0), "w": vector(3.0, 4.0)}
    states = run(TorchDiffEq(), lambda _t, s: {"y": -s["y"] * s["w"][:1]}, y0, [0.0, 1.0])
    assert states["w"].tolist() == [[3.0, 4.0], [3.0, 4.0]]
    assert states["y"][-1].item() == pytest.approx(math.exp(-3), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_and_dtypes(dtype):
    rates = torch.linspace(0.5, 2.0, 6, dtype=dtype).reshape(2, 3, 1)

    def field(t, state):
        assert t.dtype == torch.float64
        return {"y": -rates * state["y"], "z": torch.ones_like(state["z"])}

    states = run(
        TorchDiffEq(rtol=1e-5, atol=1e-7),
        field,
        {"y": torch.ones(2, 3, 1, dtype=dtype), "z": torch.zeros(2, 3, dtype=dtype)},
        [0.0, 0.5, 1.0],
        batch=(2, 3),
    )
    assert states["y"].dtype == dtype
    assert states["y"].shape == (3, 2, 3, 1)
    torch.testing.assert_close(states["y"][-1], torch.exp(-rates), rtol=1e-4, atol=0)
    torch.testing.assert_close(states["z"][-1], torch.ones(2, 3, dtype=dtype), rtol=1e-5, atol=0)


def test_many_quiet_numbers_do_not_dilute_the_error_of_a_few():
    exact = math.exp(math.sin(40.0))
    errors = []
    for quiet in (1, 10**5):
        y = run(
            TorchDiffEq(rtol=1e-5, atol=1e-8),
            lambda t, s: {"y": s["y"] * torch.cos(t), "w": -1e-3 * s["w"]},
            {"y": vector(1.0), "w": torch.ones(quiet, dtype=torch.float64)},
            [0.0, 40.0],
        )["y"]
        errors.append(abs(y[-1].item() - exact))
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_an_empty_variable_does_no_harm():
    y0 = {"y": vector(1.0), "none": torch.zeros(0, dtype=torch.float64)}
    states = run(TorchDiffEq(), lambda _t, s: {"y": -s["y"], "none": s["none"]}, y0, [0.0, 1.0])
    assert states["none"].shape == (2, 0)
    assert states["y"][-1].item() == pytest.approx(math.exp(-1), rel=1e-5)


# gradients


class Decay(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(vector(0.7))
        self.fixed = nn.Parameter(vector(5.0), requires_grad=False)

    def forward(self, _t, state):
        return {"y": -self.a * state["y"]}


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("method", ["dopri5", "dopri8", "rk4"])
def test_gradients_of_the_closed_form(method, adjoint):
    want = {e["name"].split("=")[0]: e["value"] for e in ORACLE["LT-ADJOINT-LINEAR"]["expected"]}
    options = {"dt": 0.005} if method == "rk4" else {"rtol": 1e-10, "atol": 1e-12}
    system, y0 = Decay(), vector(1.5).requires_grad_()
    t = vector(0.0, 0.3, 1.1, 2.0).requires_grad_()
    task = problem(system, {"y": y0}, t, system=system)
    TorchDiffEq(method, adjoint=adjoint, **options).integrate(task)
    y = task.recorder.states()["y"][-1, 0]
    (y * y / 2).backward()
    assert system.a.grad.item() == pytest.approx(want["dL/da"], rel=1e-8)
    assert y0.grad.item() == pytest.approx(want["dL/dy0"], rel=1e-8)
    assert t.grad[-1].item() == pytest.approx(want["dL/dT"], rel=1e-8)
    assert t.grad[0].item() == pytest.approx(-want["dL/dT"], rel=1e-8)
    torch.testing.assert_close(t.grad[1:-1], torch.zeros(2).double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("adjoint", [False, True])
def test_gradients_flow_through_jumps_and_reach_what_the_field_holds(adjoint):
    drive = vector(1.0, -2.0, 0.5).requires_grad_()
    ends = vector(0.37, 1.13)
    y0 = vector(1.5).requires_grad_()

    def field(t, state):
        # the values of an input: no parameter of the system
        return {"y": -state["y"] + (2 * drive)[torch.searchsorted(ends, t.detach(), right=True)]}

    def end(y0, drive):
        y = y0
        for k, (start, stop) in enumerate([(0.0, 0.37), (0.37, 1.13), (1.13, 2.0)]):
            y = 2 * drive[k] + (y - 2 * drive[k]) * math.exp(start - stop)
        return y

    solver = TorchDiffEq(rtol=1e-10, atol=1e-12, adjoint=adjoint)
    states = run(
        solver, field, {"y": y0}, [0.0, 1.0, 2.0], jumps=[0.37, 1.13], system=nn.Identity()
    )
    loss = states["y"][-1, 0] + 0.3 * states["y"][1, 0]
    got = torch.autograd.grad(loss, [y0, drive])
    middle = 2 * drive[0] + (y0 - 2 * drive[0]) * math.exp(-0.37)
    middle = 2 * drive[1] + (middle - 2 * drive[1]) * math.exp(0.37 - 1.0)
    want = torch.autograd.grad((end(y0, drive) + 0.3 * middle).sum(), [y0, drive])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_the_direct_gradient_is_that_of_finite_differences():
    def loss(y):
        speed = torch.ones_like(y)
        with torch.set_grad_enabled(y.requires_grad):
            states = run(TorchDiffEq(rtol=1e-9), pendulum, {"angle": y, "speed": speed}, [0.0, 1.0])
        return states["angle"][-1]

    assert torch.autograd.gradcheck(loss, [vector(0.4, 1.0).requires_grad_()], atol=1e-5)


def test_a_variable_at_rest_does_not_spoil_the_gradient():
    y0 = {"y": vector(1.0).requires_grad_(), "w": vector(0.0)}
    states = run(TorchDiffEq(), lambda _t, s: {"y": -s["y"], "w": 0 * s["w"]}, y0, [0.0, 1.0])
    (grad,) = torch.autograd.grad(states["y"][-1].sum(), [y0["y"]])
    assert grad.item() == pytest.approx(math.exp(-1), rel=1e-5)


def test_the_adjoint_needs_a_module():
    with pytest.raises(ValueError, match=r"no torch\.nn\.Module|torch\.nn\.Module"):
        run(TorchDiffEq(adjoint=True), pendulum, PENDULUM, [0.0, 1.0], system=object())


@pytest.mark.parametrize(
    ("rate", "y0", "error"),
    [(-50.0, 0.0, StepLimitError), (1000.0, 1.0, IntegrationError)],
)
def test_a_backward_solve_that_cannot_go_on_is_a_typed_error(rate, y0, error):
    system, start = Decay(), vector(y0).requires_grad_()
    task = problem(
        lambda _t, s: {"y": rate * system.a * s["y"]},
        {"y": start},
        [0.0, 0.02 if rate > 0 else 10.0],
        system=system,
    )
    TorchDiffEq(adjoint=True, max_steps=50, rtol=1e-3, atol=1e-12).integrate(task)
    with pytest.raises(error, match="adjoint equation") as caught:
        task.recorder.states()["y"][-1].sum().backward()
    assert type(caught.value) is error


# options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dopri9"}, r"unknown method 'dopri9' \(did you mean 'dopri8'\?\); accepted"),
        ({"method": "scipy_solver"}, "use SciPy"),
        ({"method": "rk4"}, "fixed steps: give their length, dt"),
        ({"method": "dopri5", "dt": 0.1}, "'dopri5' does not use dt=0.1; it uses adjoint, atol"),
        ({"method": "rk4", "dt": 0.1, "rtol": 1e-3}, "does not use rtol"),
        ({"method": "rk4", "dt": 0.1, "max_order": 5}, "does not use max_order"),
        ({"method": "explicit_adams", "dt": 0.1, "max_iters": 5}, "does not use max_iters"),
        ({"method": "dopri5", "max_order": 5}, "does not use max_order"),
        ({"rtol": 0.0}, "rtol must be positive"),
        ({"atol": -1e-3}, "atol must be positive"),
        ({"rtol": math.nan}, "rtol must be positive"),
        ({"max_steps": 0}, "max_steps must be positive"),
        ({"method": "rk4", "dt": -0.1}, "dt must be positive"),
        ({"safety": 1.5}, "safety must be within"),
        ({"ifactor": 0.5}, "ifactor must be within"),
        ({"method": "explicit_adams", "dt": 0.1, "max_order": 3}, "max_order must be within 4"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TorchDiffEq(**options)


def test_options_of_the_step_control_arrive():
    seen = []
    task = problem(pendulum, PENDULUM, [0.0, 1.0], accepted=lambda t, _y, _f: seen.append(float(t)))
    TorchDiffEq(first_step=0.01, max_step=0.05, ifactor=2.0, rtol=1e-3).integrate(task)
    steps = [b - a for a, b in zip([0.0, *seen], seen, strict=False)]
    assert steps[:3] == pytest.approx([0.01, 0.02, 0.04])
    assert max(steps) == pytest.approx(0.05)
