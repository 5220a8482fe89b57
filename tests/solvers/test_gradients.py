"""Gradients of steps that are repeated equal those of the whole graph, and none is lost."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import ctsigprop as ct
from ctsigprop.errors import GradientError

F64 = torch.float64
WHOLE = float("inf")


def tensor(values, requires_grad=True):
    return torch.tensor(values, dtype=F64, requires_grad=requires_grad)


def network(size=2, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(size, 5), nn.Tanh(), nn.Linear(5, size)).double()


def learned(field, size=2):
    return ct.System(ct.VectorField(lambda t, y: field(y) * torch.cos(t), size=size))


def driven(seed=0):
    """Return a network that learns, with a gate that opens late, and what it depends on."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.randn(3, 3, generator=generator, dtype=F64).requires_grad_()
    weights = torch.randn(2, 3, generator=generator, dtype=F64)
    rule = ct.hebb(0.3, gate=ct.Pulse(0.8, 1.4)).learn("eta")
    synapse = ct.Synapse("x", "y", weights, plasticity=[rule])
    terms = [ct.Source("x", 3, ct.Held([0.0, 0.5, 1.1], held)), ct.rate("y", 2, tau=0.7)]
    return ct.System(*terms, synapse).learn("tau"), held


SOLVERS = {
    "Tsit5": ct.Tsit5(rtol=1e-6),
    "Dopri5": ct.Dopri5(rtol=1e-6),
    "BogackiShampine": ct.BogackiShampine(rtol=1e-4),
    "together": ct.Dopri5(rtol=1e-6, together=True),
    "Tsit5 fixed": ct.Tsit5(dt=0.1),
    "RK4": ct.RK4(dt=0.1),
    "Euler": ct.Euler(dt=0.05),
}


def both(loss, leaves, second=False):
    """Return values and gradients with the whole graph, and with every step repeated."""
    found = []
    for tape in (WHOLE, 0.0):
        run, value = loss(tape)
        first = torch.autograd.grad(value, leaves, create_graph=second)
        more = ()
        if second:
            more = torch.autograd.grad(sum((g**2).sum() for g in first), leaves)
        found.append((run, (value, *first, *more)))
    (whole, expected), (repeated, values) = found
    assert whole.statistics.repeated == 0
    assert repeated.statistics.repeated >= repeated.statistics.steps > 0
    assert repeated.statistics.steps == whole.statistics.steps
    assert repeated.statistics.evaluations == whole.statistics.evaluations
    assert repeated.statistics.rejections == whole.statistics.rejections
    for name in whole.states:
        assert torch.equal(whole[name], repeated[name])
    return expected, values


def assert_equal(expected, values, tolerance=1e-12):
    for a, b in zip(expected, values, strict=True):
        size = max(1.0, float(a.detach().abs().max()))
        torch.testing.assert_close(b, a, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("second", [False, True])
def test_repeated_steps_have_the_gradients_of_the_graph(name, second):
    field = network()
    y0 = tensor([[0.5, -1.0], [2.0, 0.3], [-0.2, 0.1]])
    leaves = [y0, *field.parameters()]

    def loss(tape):
        t = [0.0, 0.4, 0.7, 1.5]
        run = ct.solve(learned(field), {"y": y0}, t, solver=SOLVERS[name], tape=tape)
        return run, (run["y"] * torch.arange(1.0, 5.0)[:, None, None]).square().sum()

    assert_equal(*both(loss, leaves, second), tolerance=1e-11 if second else 1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_gradcheck(name):
    weight = tensor([[0.3, -1.0], [1.2, 0.1]])
    y0 = tensor([[0.5, -1.0], [2.0, 0.3]])
    solver = SOLVERS[name]
    if hasattr(solver, "rtol") and solver.dt is None:
        # sizes count as constants, which is no more than the error
        solver = solver.with_options(rtol=1e-9, atol=1e-11)

    def rows(weight, y0):
        system = ct.System(ct.VectorField(lambda t, y: torch.tanh(y @ weight) * t.cos(), size=2))
        return ct.solve(system, {"y": y0}, [0.0, 0.3, 1.0], solver=solver, tape=0.0)["y"]

    assert torch.autograd.gradcheck(rows, (weight, y0), eps=1e-5, atol=1e-6, rtol=1e-6)
    if not hasattr(solver, "rtol"):
        assert torch.autograd.gradgradcheck(rows, (weight, y0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("solver", [ct.Tsit5(rtol=1e-7), ct.RK4(dt=0.05), ct.Heun(dt=0.05)])
def test_inputs_that_jump_gates_that_open_late_and_parameters(solver):
    system, held = driven()
    parameters = [p for p in system.parameters() if p.requires_grad]
    start = tensor([0.1, -0.4])

    def loss(tape):
        run = ct.solve(system, {"s_y": start}, [0.0, 1.0, 2.0], solver=solver, tape=tape)
        return run, sum(run[name][1:].square().sum() for name in run.states)

    expected, values = both(loss, [held, start, *parameters])
    assert all(float(g.abs().max()) > 1e-6 for g in expected[1:])
    assert_equal(expected, values)


@pytest.mark.parametrize("solver", [ct.Tsit5(rtol=1e-7), ct.RK4(dt=0.1)])
@pytest.mark.parametrize("ragged", [False, True])
def test_times(solver, ragged):
    y0, field = tensor([[0.5, -1.0], [2.0, 0.3]]), network()
    t = tensor([[0.0, 0.4, 1.5], [0.2, 0.9, 2.0]] if ragged else [0.0, 0.4, 1.5])

    def loss(tape):
        run = ct.solve(learned(field), {"y": y0}, t, solver=solver, tape=tape)
        return run, run["y"].square().sum()

    assert_equal(*both(loss, [y0, t]))


def test_events_and_dense_output():
    rate, y0 = tensor(0.8), tensor([[1.0], [0.7]])
    bounce = ct.Event(lambda _t, s: s["y"][..., 0] - 0.4, reset=lambda _t, s: {"y": s["y"] + 1})
    system = ct.System(ct.VectorField(lambda _t, y: -rate * y, size=1))

    def with_events(tape):
        run = ct.solve(system, {"y": y0}, [0.0, 1.0, 2.0], events=bounce, tape=tape)
        assert run.events
        return run, run["y"].square().sum() + sum(event.time for event in run.events)

    def densely(tape):
        run = ct.solve(system, {"y": y0}, [0.0, 2.0], dense=True, tape=tape)
        return run, run(tensor([0.3, 1.1], False))["y"].square().sum()

    for loss in (with_events, densely):
        assert_equal(*both(loss, [rate, y0]))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    samples=st.integers(1, 4),
    name=st.sampled_from(sorted(SOLVERS)),
    backward=st.booleans(),
    single=st.booleans(),
)
def test_any_field(seed, samples, name, backward, single):
    dtype = torch.float32 if single else F64
    field = network(3, seed).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    y0 = torch.randn(samples, 3, generator=generator, dtype=dtype).requires_grad_()
    solver = SOLVERS[name]
    t = sorted((3 * torch.rand(4, generator=generator)).tolist(), reverse=backward)

    def loss(tape):
        run = ct.solve(learned(field, 3), {"y": y0}, t, solver=solver, tape=tape)
        return run, run["y"].square().sum()

    assert_equal(*both(loss, [y0, *field.parameters()]), tolerance=1e-5 if single else 1e-12)


def kept(system, y0, span, tape, solver):
    """Return the bytes that a run keeps for its gradient, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in system.parameters()}
    saved = weakref.WeakSet()

    class Saved:
        def __init__(self, x):
            self.x = x.detach()  # an output would hold on to itself
            saved.add(self)

    with saved_tensors_hooks(Saved, lambda held: held.x):
        run = ct.solve(system, {"y": y0}, [0.0, span], solver=solver, tape=tape)
    assert run["y"].requires_grad
    storages = [held.x.untyped_storage() for held in saved]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for place, size in sizes.items() if place not in own), run.statistics


@pytest.mark.parametrize("solver", [ct.RK4(dt=0.05), ct.Tsit5(dt=0.05), ct.Tsit5(rtol=1e-9)])
def test_a_repeated_step_keeps_two_states(solver):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 500), nn.Tanh(), nn.Linear(500, 2)).double()

        def forward(self, t, y):
            return self.net(y) * torch.cos(t)

    system = ct.System(ct.VectorField(Wide(), size=2))
    y0 = torch.ones(10, 2, dtype=F64, requires_grad=True)
    whole, _ = kept(system, y0, 1.0, WHOLE, solver)
    short, few = kept(system, y0, 1.0, 0.0, solver)
    long, many = kept(system, y0, 5.0, 0.0, solver)
    steps = many.steps - few.steps
    assert steps > 15
    # two states, and times of ten samples and up to seven stages
    assert (long - short) / steps <= 2 * y0.nbytes + 8 * 10 * 10
    assert short < whole / 50


@pytest.mark.parametrize("solver", [ct.RK4(dt=0.01), ct.Tsit5(rtol=1e-6, first_step=0.01)])
def test_a_limit_is_kept_and_changes_nothing(solver):
    system, y0 = learned(network()), tensor([[0.5, -1.0]])
    runs = [ct.solve(system, {"y": y0}, [0.0, 30.0], solver=solver, tape=x) for x in (WHOLE, 0.02)]
    statistics = runs[1].statistics
    assert statistics.taped > 0
    assert statistics.repeated > 0
    found = [torch.autograd.grad(run["y"][-1].sum(), y0)[0] for run in runs]
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-12)


def solve_repeatedly(field, y0, t=(0.0, 1.0), size=2, **options):
    return ct.solve(ct.System(ct.VectorField(field, size=size)), {"y": y0}, t, tape=0.0, **options)


def test_tensors_computed_before_the_run():
    a, y0 = tensor([0.5, 1.5]), tensor([[1.0, 2.0]])
    weight = torch.diag(a**2)  # not a leaf

    def loss(tape):
        system = ct.System(ct.VectorField(lambda _t, y: -torch.tanh(y @ weight), size=2))
        run = ct.solve(system, {"y": y0 * a}, [0.0, 1.0], tape=tape)
        return run, run["y"].square().sum()

    found = []
    for tape in (WHOLE, 0.0):
        run, value = loss(tape)
        found.append(torch.autograd.grad(value, [a, y0], retain_graph=True))
    assert run.statistics.repeated > 0
    assert_equal(*found)


@pytest.mark.parametrize("deep", [False, True])
def test_sources_that_depend_on_each_other_keep_the_graph(deep):
    a, y0 = tensor([0.5, 1.5]), tensor([[1.0, 2.0]])
    first = 3 * a if deep else a
    twice = 2 * first
    run = solve_repeatedly(lambda _t, y: -first * y + torch.sin(twice * y), y0)
    assert run.statistics.repeated == 0
    system = ct.System(ct.VectorField(lambda _t, y: -first * y + torch.sin(2 * first * y), size=2))
    whole = ct.solve(system, {"y": y0}, [0.0, 1.0])
    for x in (a, y0):
        (given,), (wanted,) = (
            torch.autograd.grad(r["y"][-1].sum(), x, retain_graph=True) for r in (run, whole)
        )
        torch.testing.assert_close(given, wanted)


def test_random_fields_keep_the_graph():
    y0 = tensor([[1.0, 2.0]])
    run = solve_repeatedly(
        lambda _t, y: -y * (1 + 1e-9 * torch.rand(2, dtype=F64)), y0, solver=ct.RK4(dt=0.1)
    )
    assert run.statistics.repeated == 0
    torch.autograd.grad(run["y"][-1].sum(), y0)


def test_a_leaf_that_is_read_late_is_not_dropped():
    early, late, y0 = tensor(1.0), tensor(1.0), tensor([[1.0, 2.0]])

    def field(t, y):
        return -(early if float(t.detach().max()) < 0.5 else late) * y

    run = solve_repeatedly(field, y0, solver=ct.RK4(dt=0.1))
    with pytest.raises(GradientError, match="did not read at the start"):
        torch.autograd.grad(run["y"][-1].sum(), early)


def test_a_field_that_has_changed_is_refused():
    rate, y0 = {"value": 1.0}, tensor([[1.0, 2.0]])
    run = solve_repeatedly(lambda _t, y: -rate["value"] * y, y0, solver=ct.RK4(dt=0.1))
    rate["value"] = 2.0
    with pytest.raises(GradientError, match="came out otherwise"):
        torch.autograd.grad(run["y"][-1].sum(), y0)


def test_parameters_that_have_changed_are_refused():
    field, y0 = network(), tensor([[1.0, 2.0]])
    run = ct.solve(learned(field), {"y": y0}, [0.0, 1.0], tape=0.0)
    with torch.no_grad():
        field[0].weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(run["y"][-1].sum(), y0)


def test_third_derivatives():
    rate, y0 = tensor(0.7), tensor([[1.0, 2.0]])
    system = ct.System(ct.VectorField(lambda _t, y: -torch.sin(rate * y), size=2))
    found = []
    for tape in (WHOLE, 0.0):
        run = ct.solve(system, {"y": y0}, [0.0, 1.0], tape=tape)
        value, row = run["y"][-1].sum(), []
        for _ in range(3):
            by_rate, by_y0 = torch.autograd.grad(value, (rate, y0), create_graph=True)
            row += [by_rate, by_y0]
            value = by_rate + by_y0.sum()
        found.append(row)
    assert run.statistics.repeated > 0
    assert_equal(*found, tolerance=1e-11)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_functional_and_forward_derivatives_keep_the_graph():
    y0 = tensor([1.0, 2.0], False)

    def end(y):
        return solve_repeatedly(lambda _t, x: -torch.sin(x), y)["y"][-1]

    expected = torch.autograd.functional.jacobian(end, y0)
    torch.testing.assert_close(torch.func.jacfwd(end, randomness="error")(y0), expected)
    slope = torch.func.grad(lambda y: end(y).sum())(y0)
    torch.testing.assert_close(slope, expected.sum(0))


def test_a_field_that_differentiates():
    energy, y0 = network(2), tensor([[0.4, 0.2]])

    def field(_t, y):
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(energy(y).square().sum(), y, create_graph=True)
        return torch.stack([slope[..., 1], -slope[..., 0]], dim=-1)

    def loss(tape):
        system = ct.System(ct.VectorField(field, size=2))
        run = ct.solve(system, {"y": y0}, [0.0, 1.0], solver=ct.RK4(dt=0.05), tape=tape)
        return run, run["y"].square().sum()

    assert_equal(*both(loss, [y0, *energy.parameters()][:-1]))
    run, value = loss(1e-3)
    assert min(run.statistics.taped, run.statistics.repeated) > 0
    torch.autograd.grad(value, y0)


def test_impulses_share_the_limit():
    y0, field = tensor([[1.0, 2.0]]), network()
    kicks = ct.Impulse(torch.arange(1.0, 20.0, dtype=F64), lambda _t, s: {"y": s["y"] + 0.1})
    found = []
    for tape in (WHOLE, 0.05):
        run = ct.solve(learned(field), {"y": y0}, [0.0, 20.0], impulses=kicks, tape=tape)
        found.append(torch.autograd.grad(run["y"][-1].sum(), [y0, *field.parameters()]))
    assert 0 < run.statistics.taped < run.statistics.steps
    assert_equal(*found)


def test_a_batch_steps_together():
    field, y0 = network(), torch.linspace(-2, 2, 40, dtype=F64).reshape(20, 2)
    t = [0.0, 0.3, 1.0, 4.0]
    true = ct.solve(learned(field), {"y": y0}, t, rtol=1e-12, atol=1e-13)["y"].detach()
    run = ct.solve(learned(field), {"y": y0}, t, rtol=1e-7, atol=1e-7, together=True)
    assert run["y"].shape == (4, 20, 2)
    assert float((run["y"].detach() - true).abs().max()) < 1e-6
    densely = ct.solve(learned(field), {"y": y0}, t, rtol=1e-7, together=True, dense=True)
    torch.testing.assert_close(
        densely(tensor([0.3, 2.0], False))["y"][0], true[1], rtol=0, atol=1e-6
    )
    # one sample alone has no mean over others
    for together in (False, True):
        alone = ct.solve(learned(field), {"y": y0[0]}, t, together=together)
        assert torch.equal(alone["y"], ct.solve(learned(field), {"y": y0[0]}, t)["y"]) or together
    event = ct.Event(lambda _t, s: s["y"][..., 0])
    with pytest.raises(ValueError, match="excludes events"):
        ct.solve(learned(field), {"y": y0}, t, events=event, together=True)
    own = tensor([[0.0, 1.0]] * 20, False)
    with pytest.raises(ValueError, match="excludes times of their own"):
        ct.solve(learned(field), {"y": y0}, own, together=True)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # by torch's own compiler
@pytest.mark.parametrize("tape", [WHOLE, 0.0], ids=["kept", "repeated"])
def test_a_compiled_field_has_the_same_gradients(tape):
    field, y0 = network(), torch.linspace(-2, 2, 40, dtype=F64).reshape(20, 2)
    found = []
    for f in (field, torch.compile(field, backend="aot_eager")):  # needs no compiler
        system = ct.System(ct.VectorField(lambda _t, y, f=f: f(y), size=2))
        run = ct.solve(system, {"y": y0}, [0.0, 3.0], tape=tape)
        found.append([run["y"][-1], *torch.autograd.grad(run["y"][-1].sum(), field.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bad", [-1.0, math.nan, "1"])
def test_limits_that_are_refused(bad):
    for make in (lambda: ct.Tsit5(tape=bad), lambda: ct.RK4(dt=0.1, tape=bad)):
        with pytest.raises(ValueError, match="tape must be >= 0"):
            make()
