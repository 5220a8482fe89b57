"""Projective integration: beside full runs, and what it refuses."""

from __future__ import annotations

import pytest
import torch

import ctsigprop as ct

F64 = torch.float64
FULL = ct.Tsit5(rtol=1e-8, atol=1e-10, max_steps=10**6)
SHORT = {"period": 4.0, "rtol": 2e-2}


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def system(eps, rule=None, loop=0.0, weight=None):
    signal = ct.Rhythm(draw(3), 0.25, offset=draw(3, seed=1))
    given = draw(2, 3, seed=2) if weight is None else weight
    synapse = ct.Synapse("x", "y", given, plasticity=rule or ct.oja(eps))
    back = ct.Synapse("y", "y", loop * torch.eye(2, dtype=F64), name="loop")
    return ct.System(ct.Source("x", 3, signal), ct.rate("y", 2, tau=0.5), synapse, back)


def error(run, full, name):
    other = full[name].flatten(1)
    apart = (run[name].flatten(1) - other).square().mean(1).sqrt().max()
    return float(apart / other.square().mean(1).sqrt().max())


RULES = {
    "oja": lambda eps: ct.oja(eps),
    "bcm": lambda eps: ct.bcm(eps, tau_theta=1 / eps, theta=0.3),
}


@pytest.mark.parametrize("name", RULES)
def test_the_error_is_below_the_estimate(name):
    eps = 1e-2
    learner = system(eps, RULES[name](eps))
    t = [0.0, 3.0, 60.0, 101.3]  # within the first burst, and within a period
    full = ct.solve(learner, t=t, solver=FULL)
    run = ct.solve(learner, t=t, solver=ct.Projective(**SHORT))
    statistics = run.statistics
    for variable in learner.variables:
        if float(full[variable].abs().max()) > 1e-6:
            assert error(run, full, variable) < 2 * statistics.estimates["total"], variable
    assert ("theta_W_y_x" in statistics.slow) == (name == "bcm")


def test_it_is_closer_than_averaging():
    eps = 1e-2
    learner, t = system(eps), [0.0, 101.0]
    full = ct.solve(learner, t=t, solver=FULL)
    errors = [
        error(ct.solve(learner, t=t, solver=solver), full, "W_y_x")
        for solver in (ct.Projective(4.0, rtol=5e-2), ct.Averaging(4.0, rtol=0.2))
    ]
    assert errors[0] < 0.2 * errors[1]
    assert errors[0] < 5e-4


def test_refusals():
    t = [0.0, 400.0]
    with pytest.raises(ct.IntegrationError, match="do not forget"):
        ct.solve(system(1e-4, loop=4.0, weight=0.01 * draw(2, 3)), t=t, solver=ct.Projective(4.0))
    with pytest.raises(ct.IntegrationError, match="within a burst"):
        ct.solve(system(0.3), t=t, solver=ct.Projective(4.0))
    with pytest.raises(ValueError, match="source 'x' differs"):
        ct.solve(system(1e-3), t=t, solver=ct.Projective(3.0))
    with pytest.raises(ValueError, match="float64"):
        ct.solve(system(1e-3).to(torch.float32), t=t, solver=ct.Projective(4.0))
    for options in ({"rtol": 0.0}, {"max_settle": 0}, {"max_steps": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            ct.Projective(4.0, **options)
    with pytest.raises(TypeError, match="micro"):
        ct.Projective(4.0, micro="rk4")


def test_it_is_stored_and_run_again():
    run = ct.solve(system(1e-3), t=[0.0, 100.0], solver=ct.Projective(4.0))
    assert torch.equal(ct.rerun(run.to_xarray())["W_y_x"], run["W_y_x"])
