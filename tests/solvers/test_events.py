from __future__ import annotations

import math

import pytest
import torch
from problem import make, run

from ctsigprop.errors import NonFiniteError, StepLimitError
from ctsigprop.solvers.events import Event
from ctsigprop.solvers.explicit.adaptive import BogackiShampine, Dopri5, Tsit5
from ctsigprop.solvers.explicit.fixed import RK4, ExponentialEuler, Heun

F64 = torch.float64
TIGHT = Tsit5(rtol=1e-11, atol=1e-13)
G = 9.81


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def falling(_t, s):
    return {"x": s["v"], "v": -G + 0 * s["v"]}


def bounce(restitution, **options):
    return Event(
        lambda _t, s: s["x"],
        direction=-1,
        reset=lambda _t, s: {"v": -restitution * s["v"]},
        name="bounce",
        **options,
    )


def scalar(value):
    return torch.tensor(value, dtype=F64)


def times(problem, sample=0, name=None):
    return torch.stack(
        [e.time for e in problem.recorder.events if e.sample == sample and name in (None, e.name)]
    )


def bounces(height, restitution, count):
    first = math.sqrt(2 * height / G)
    at, flight = [first], 2 * first
    for _ in range(count - 1):
        flight *= restitution
        at.append(at[-1] + flight)
    return tensor(*at)


@pytest.mark.parametrize(
    "method", [Tsit5(), Dopri5(), BogackiShampine(), RK4(dt=0.05), Heun(dt=0.05)]
)
def test_bouncing_ball(method):
    y0 = {"x": scalar(1.0), "v": scalar(0.0)}
    rows, problem, _ = run(method, falling, y0, [0.0, 1.0, 2.0, 2.9], events=(bounce(0.8),))
    expected = bounces(1.0, 0.8, 9)
    expected = expected[expected < 2.9]
    assert len(problem.recorder.events) == len(expected)
    torch.testing.assert_close(times(problem), expected, rtol=0, atol=1e-9)
    record = problem.recorder.events[0]
    assert record.name == "bounce"
    assert float(record.state["v"]) == pytest.approx(-math.sqrt(2 * G), rel=1e-9)
    assert float(record.state["x"]) == pytest.approx(0.0, abs=1e-12)
    assert rows["x"].shape == (4,)
    assert (rows["x"] > 0).all()


def test_every_bounce_until_they_pile_up():
    problem = make(
        falling, {"x": scalar(1.0), "v": scalar(0.0)}, [0.0, 10.0], events=(bounce(0.5),)
    )
    with pytest.raises(StepLimitError, match="pile up") as caught:
        Tsit5().integrate(problem)
    assert caught.value.time == pytest.approx(3 * math.sqrt(2 / G), abs=1e-9)
    found = times(problem)
    torch.testing.assert_close(found[:25], bounces(1.0, 0.5, 25), rtol=0, atol=1e-9)


TAU, THRESHOLD = 20.0, 20.0


def spiking(current):
    return (
        lambda _t, s: {"v": (current - s["v"]) / TAU},
        Event(
            lambda _t, s: s["v"] - THRESHOLD,
            direction=1,
            reset=lambda _t, s: {"v": torch.zeros_like(s["v"])},
            name="spike",
        ),
    )


@pytest.mark.parametrize(
    ("method", "atol"),
    [
        (TIGHT, 1e-8),
        (Dopri5(rtol=1e-11, atol=1e-13), 1e-8),
        (RK4(dt=0.25), 1e-7),
        (ExponentialEuler(dt=0.5), 1e-8),
    ],
)
def test_interspike_intervals(method, atol):
    current = tensor(19.0, 20.5, 25.0, 40.0, 100.0)
    field, spike = spiking(current)
    rows, problem, _ = run(
        method,
        field,
        {"v": torch.zeros(5, dtype=F64)},
        torch.linspace(0, 200, 11, dtype=F64),
        batch=(5,),
        events=(spike,),
        linear=lambda _t, _s: {"v": tensor(-1 / TAU)},
    )
    assert not any(e.sample == 0 for e in problem.recorder.events)
    for i in range(1, 5):
        interval = TAU * math.log(float(current[i]) / (float(current[i]) - THRESHOLD))
        count = int(200 / interval)
        found = times(problem, i)
        assert len(found) == count
        torch.testing.assert_close(
            found, interval * torch.arange(1, count + 1, dtype=F64), rtol=0, atol=atol * count
        )
        phase = (torch.linspace(0, 200, 11, dtype=F64)) % interval
        torch.testing.assert_close(
            rows["v"][:, i], current[i] * (1 - torch.exp(-phase / TAU)), rtol=0, atol=1e-5
        )


def test_samples_with_events_do_not_feel_each_other():
    current = tensor(25.0, 100.0, 400.0)
    t = torch.linspace(0, 60, 13, dtype=F64)
    for method in (Tsit5(), RK4(dt=0.7)):
        field, spike = spiking(current)
        together, _, _ = run(
            method, field, {"v": torch.zeros(3, dtype=F64)}, t, batch=(3,), events=(spike,)
        )
        for i in range(3):
            field, spike = spiking(current[i])
            alone, _, _ = run(method, field, {"v": scalar(0.0)}, t, events=(spike,))
            torch.testing.assert_close(together["v"][:, i], alone["v"], rtol=0, atol=1e-12)


def oscillator(_t, s):
    return {"x": s["v"], "v": -s["x"]}


CIRCLE = {"x": torch.tensor(1.0, dtype=F64), "v": torch.tensor(0.0, dtype=F64)}


@pytest.mark.parametrize("method", [TIGHT, RK4(dt=0.1)])
@pytest.mark.parametrize(
    ("direction", "shares"), [(-1, [0.25, 1.25]), (1, [0.75, 1.75]), (0, [0.25, 0.75, 1.25, 1.75])]
)
def test_direction(method, direction, shares):
    event = Event(lambda _t, s: s["x"], direction=direction)
    _, problem, _ = run(method, oscillator, CIRCLE, [0.0, 4 * math.pi], events=(event,))
    atol = 1e-9 if method is TIGHT else 1e-4
    torch.testing.assert_close(times(problem), 2 * math.pi * tensor(*shares), rtol=0, atol=atol)


def test_direction_backward():
    event = Event(lambda _t, s: s["x"], direction=-1)
    _, problem, _ = run(TIGHT, oscillator, CIRCLE, [0.0, -4 * math.pi], events=(event,))
    torch.testing.assert_close(times(problem), -2 * math.pi * tensor(0.25, 1.25), rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", [Tsit5(), RK4(dt=0.1)])
def test_limit_of_each_sample(method):
    event = Event(lambda _t, s: s["x"], limit=2)
    y0 = {"x": tensor(1.0, 1.0), "v": tensor(0.0, 0.0)}
    speed = tensor(1.0, 5.0)

    def field(_t, s):
        return {"x": speed * s["v"], "v": -speed * s["x"]}

    _, problem, _ = run(method, field, y0, [0.0, 20.0], batch=(2,), events=(event,))
    assert sorted(e.sample for e in problem.recorder.events) == [0, 0, 1, 1]


@pytest.mark.parametrize("method", [Tsit5(), RK4(dt=0.1), RK4(dt=0.7)])
def test_terminal(method):
    event = Event(lambda _t, s: s["x"], terminal=True, name="zero")
    y0 = {"x": tensor(1.0, 1.0, 1.0), "v": tensor(0.0, 0.0, 0.0)}
    speed = tensor(1.0, 0.1, 0.5)

    def field(_t, s):
        return {"x": speed * s["v"], "v": -speed * s["x"]}

    t = torch.linspace(0, 4, 9, dtype=F64)
    rows, problem, between = run(method, field, y0, t, batch=(3,), events=(event,), dense=True)
    assert problem.recorder.lengths.tolist() == [4, 9, 7]
    assert [e.sample for e in problem.recorder.events] == [0, 2]
    true = torch.cos(t[:, None] * speed)
    reached = torch.arange(9)[:, None] < problem.recorder.lengths
    atol = 1e-2 if method == RK4(dt=0.7) else 1e-4
    torch.testing.assert_close(rows["x"][reached], true[reached], rtol=0, atol=atol)
    assert torch.isnan(rows["x"][~reached]).all()
    torch.testing.assert_close(between(tensor(1.0))["x"][0], true[2], rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="in sample 0"):
        between(tensor(2.0))


@pytest.mark.parametrize("method", [TIGHT, RK4(dt=0.05)])
def test_an_ended_sample_stays_where_it_ended(method):
    seen = []
    event = Event(lambda _t, s: s["x"], terminal=True)

    def field(t, s):
        seen.append(t)
        return {"x": s["v"], "v": -s["x"]}

    y0 = {"x": tensor(0.1, 1.0), "v": tensor(-1.0, 0.0)}
    t = torch.linspace(0, 1.5, 31, dtype=F64)
    _, problem, _ = run(method, field, y0, t, batch=(2,), events=(event,))
    (end,) = times(problem)
    assert problem.recorder.lengths.tolist() == [int(float(end) / 0.05) + 1, 31]
    after = torch.stack(seen)[len(seen) // 2 :, 0]
    assert (after == end).all()


def test_a_row_at_the_time_of_an_event_is_before_the_reset():
    event = Event(lambda t, _s: t - 0.5, reset=lambda _t, s: {"y": s["y"] + 10.0}, name="kick")
    for method in (Tsit5(), RK4(dt=0.125), RK4(dt=0.2)):
        rows, problem, between = run(
            method,
            lambda _t, s: {"y": 1.0 + 0 * s["y"]},
            {"y": tensor(0.0, 1.0)},
            [0.0, 0.25, 0.5, 1.0],
            events=(event,),
            dense=True,
        )
        torch.testing.assert_close(rows["y"][:, 0], tensor(0.0, 0.25, 0.5, 11.0))
        assert float(problem.recorder.events[0].time) == 0.5
        assert problem.recorder.events[0].state["y"].shape == (2,)
        torch.testing.assert_close(
            between(tensor(0.4, 0.5, 0.6))["y"][:, 0], tensor(0.4, 0.5, 10.6)
        )


def test_the_earliest_of_several_comes_first():
    early = Event(lambda _t, s: s["y"] - 0.3, name="early", reset=lambda _t, s: {"y": s["y"] - 0.1})
    late = Event(lambda _t, s: s["y"] - 0.31, name="late", terminal=True)
    for method in (Tsit5(), RK4(dt=0.5)):
        _, problem, _ = run(
            method,
            lambda _t, s: {"y": 1.0 + 0 * s["y"]},
            {"y": scalar(0.0)},
            [0.0, 2.0],
            events=(late, Event(early.condition, name="early", reset=early.reset, limit=3)),
        )
        found = [(e.name, round(float(e.time), 9)) for e in problem.recorder.events]
        assert found == [("early", 0.3), ("early", 0.4), ("early", 0.5), ("late", 0.61)]


def test_events_at_one_time_all_happen():
    one = Event(lambda _t, s: s["y"] - 0.3, name="one", reset=lambda _t, s: {"y": s["y"] - 0.3})
    # the same zero, but for the rounding
    two = Event(lambda _t, s: s["y"] ** 2 - 0.3**2, name="two")
    three = Event(lambda _t, s: s["y"] ** 3 - 0.3**3, name="three")
    _, problem, _ = run(
        Tsit5(),
        lambda _t, s: {"y": 1.0 + 0 * s["y"]},
        {"y": scalar(0.0)},
        [0.0, 1.0],
        events=(three, one, two),
    )
    assert [e.name for e in problem.recorder.events] == ["three", "one", "two"] * 3


def test_two_crossings_in_one_step_are_seen():
    # y = t is integrated exactly in one long step, in which the condition dips below zero
    event = Event(lambda _t, s: (s["y"] - 3.0) * (s["y"] - 5.0))
    _, problem, _ = run(
        Tsit5(first_step=10.0),
        lambda _t, s: {"y": 1.0 + 0 * s["y"]},
        {"y": scalar(0.0)},
        [0.0, 10.0],
        events=(event,),
    )
    torch.testing.assert_close(times(problem), tensor(3.0, 5.0), rtol=0, atol=1e-12)


def test_starting_on_the_condition_is_no_event():
    event = Event(lambda _t, s: s["x"], direction=-1)
    up = {"x": scalar(0.0), "v": scalar(1.0)}
    _, problem, _ = run(Tsit5(), oscillator, up, [0.0, 3.0], events=(event,))
    assert not problem.recorder.events
    _, problem, _ = run(TIGHT, oscillator, up, [0.0, 4.0], events=(event,))
    torch.testing.assert_close(times(problem), tensor(math.pi), rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", [Tsit5(), RK4(dt=0.1)])
def test_never_firing(method):
    event = Event(lambda _t, s: s["x"] - 2.0, terminal=True)
    t = torch.linspace(0, 9, 10, dtype=F64)
    rows, problem, _ = run(method, oscillator, CIRCLE, t, events=(event,))
    without, _, _ = run(method, oscillator, CIRCLE, t)
    assert not problem.recorder.events
    torch.testing.assert_close(rows["x"], without["x"], rtol=0, atol=1e-13)


def test_an_event_on_the_end_of_the_span():
    event = Event(lambda t, _s: t - 1.0, reset=lambda _t, s: {"x": s["x"] + 5})
    for method in (Tsit5(), RK4(dt=0.1)):
        rows, problem, _ = run(method, oscillator, CIRCLE, [0.0, 1.0], events=(event,))
        assert [float(e.time) for e in problem.recorder.events] == [1.0]
        assert float(rows["x"][-1]) == pytest.approx(math.cos(1.0), abs=1e-5)


@pytest.mark.parametrize("solver", [TIGHT, Tsit5(), RK4(dt=0.5), ExponentialEuler(dt=0.5)])
def test_gradient_of_the_time_of_an_event(solver):
    def spikes(current, tau, start):
        field = lambda _t, s: {"v": (current - s["v"]) / tau}  # noqa: E731
        reset = lambda _t, s: {"v": 0.1 * s["v"]}  # noqa: E731
        spike = Event(lambda _t, s: s["v"] - THRESHOLD, direction=1, reset=reset)
        rows, problem, _ = run(
            solver,
            field,
            {"v": start},
            [0.0, 45.0, 60.0],
            events=(spike,),
            linear=lambda _t, _s: {"v": -1 / tau},
        )
        first, second = problem.recorder.events
        return torch.stack([first.time, second.time, rows["v"][-1]])

    inputs = [scalar(v).requires_grad_() for v in (30.0, TAU, 2.0)]
    if solver != Tsit5():  # whose steps change with the inputs
        assert torch.autograd.gradcheck(
            spikes, inputs, eps=1e-4, atol=1e-6, rtol=1e-6, nondet_tol=1e-12
        )
    current, tau, start = inputs
    first, second, end = spikes(*inputs)
    exact = [tau * torch.log((current - start) / (current - THRESHOLD))]
    exact.append(exact[0] + tau * torch.log((current - 2.0) / (current - THRESHOLD)))
    final = current + (0.1 * THRESHOLD - current) * torch.exp(-(60.0 - exact[1]) / tau)
    rel = 1e-3 if isinstance(solver, RK4) else 1e-5
    for found, true in zip((first, second, end), (*exact, final), strict=True):
        assert float(found.detach()) == pytest.approx(float(true.detach()), rel=rel)
        for x in inputs:
            a, b = (torch.autograd.grad(v, x, retain_graph=True)[0] for v in (found, true))
            assert float(a) == pytest.approx(float(b), rel=rel)


def test_gradient_in_the_time_of_the_start():
    t = tensor(0.5, 40.0).requires_grad_()
    field, spike = spiking(scalar(30.0))
    _, problem, _ = run(TIGHT, field, {"v": scalar(0.0)}, t, events=(spike,))
    (slope,) = torch.autograd.grad(problem.recorder.events[0].time, t)
    torch.testing.assert_close(slope, tensor(1.0, 0.0))


def test_fixed_steps_find_events_to_their_order():
    event = Event(lambda _t, s: s["x"])
    errors = {}
    for method, order in ((RK4, 4), (Heun, 2)):
        for steps in (40, 80):
            _, problem, _ = run(
                method(dt=6.5 / steps), oscillator, CIRCLE, [0.0, 6.5], events=(event,)
            )
            errors[steps] = abs(float(times(problem)[-1]) - 1.5 * math.pi)
        assert abs(math.log2(errors[40] / errors[80]) - order) < 0.15


def test_a_jump_and_an_event():
    # the level steps at 0.5, and y crosses in the second stretch
    field = lambda t, s: {"y": torch.where(t < 0.5, 0.0, 2.0).to(F64) + 0 * s["y"]}  # noqa: E731
    event = Event(lambda _t, s: s["y"] - 1.0, reset=lambda _t, s: {"y": s["y"] - 1.0})
    for method in (Tsit5(), RK4(dt=0.3)):
        _, problem, _ = run(
            method, field, {"y": scalar(0.0)}, [0.0, 2.2], jumps=[0.5], events=(event,)
        )
        torch.testing.assert_close(times(problem), tensor(1.0, 1.5, 2.0), rtol=0, atol=1e-12)


def test_a_shared_variable_has_one_clock():
    def field(_t, s):
        return {"v": s["w"] + 0 * s["v"], "w": 0 * s["w"] + 1.0}

    y0 = {"v": tensor(0.0, 0.5), "w": scalar(0.0)}
    options = {"dims": {"v": (), "w": ()}, "batch": (2,)}
    event = Event(lambda _t, s: s["v"].max() - 1.0, reset=lambda _t, s: {"v": 0 * s["v"]})
    _, problem, _ = run(TIGHT, field, y0, [0.0, 1.5], events=(event,), **options)
    torch.testing.assert_close(times(problem), tensor(1.0), rtol=0, atol=1e-12)
    assert problem.recorder.events[0].state["v"].shape == (2,)
    wrong = Event(lambda _t, s: s["v"] - 1.0)
    with pytest.raises(ValueError, match=r"must be of shape \(\) or \(\), got \(2,\).*one clock"):
        run(TIGHT, field, y0, [0.0, 1.5], events=(wrong,), **options)


def test_a_condition_that_is_nan_is_refused():
    event = Event(lambda t, s: s["x"] * torch.where(t > 0.5, torch.nan, 1.0), name="bad")
    with pytest.raises(NonFiniteError, match="'bad' is nan"):
        run(Tsit5(), oscillator, CIRCLE, [0.0, 9.0], events=(event,))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"condition": 3}, TypeError, "condition must be a function"),
        ({"reset": {"v": 0.0}}, TypeError, "reset must be a function"),
        ({"direction": 2}, ValueError, "direction must be -1, 0 or 1, got 2"),
        ({"limit": 0}, ValueError, "limit must be a whole number >= 1 or None, got 0"),
        ({"limit": 1.5}, ValueError, "limit must be a whole number >= 1 or None, got 1.5"),
    ],
)
def test_bad_events_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Event(**{"condition": lambda _t, s: s["v"], **options})
