"""Periodic answers of a leak, and macro steps with a twin: against what is known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsigprop.errors import StepLimitError
from ctsigprop.solvers.slow.cycle import Fourier, Panels, graded
from ctsigprop.solvers.slow.macro import Macro

F64 = torch.float64


@settings(max_examples=30, deadline=None)
@given(
    a=st.floats(-20.0, -0.05),
    period=st.floats(0.1, 10.0),
    wave=st.integers(0, 3),
    phase=st.floats(0.0, 0.99),
)
def test_answers_to_waves(a, period, wave, phase):
    """ds/dt = a s + cos(ωt): s = Re e^(iωt)/(iω − a)."""
    omega = 2 * math.pi * wave / period

    def exact(t):
        return (torch.exp(1j * omega * t) / (1j * omega - a)).real

    at = torch.tensor(phase * period, dtype=F64)
    panels = [[k * period / 16 for k in range(17)]]
    for cycle, tolerance in ((Fourier(0.0, period, 9), 1e-12), (Panels(panels), 3e-5)):
        green, drive = cycle.green(a), torch.cos(omega * cycle.t)
        scale = float(exact(cycle.t).abs().max())
        s = green(drive[:, None])[:, 0]
        torch.testing.assert_close(s, exact(cycle.t), rtol=0, atol=tolerance * scale)
        assert abs(float(green.row(float(at)) @ drive - exact(at))) < tolerance * scale
        assert float(cycle.share.sum()) == pytest.approx(1.0)


@settings(max_examples=20, deadline=None)
@given(a=st.floats(-5.0, -0.1), levels=st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=6))
def test_answers_to_steps(a, levels):
    """Held inputs: exponentials from jump to jump; two windows come round on their own."""
    edges = [0.7 * k for k in range(len(levels) + 1)]
    late = [100.0 + x for x in edges]
    cycle = Panels([graded(edges, 0.5), graded(late, 0.5)])
    place = (cycle.t % 100.0 / 0.7).long().clamp(max=len(levels) - 1)
    drive = torch.tensor(levels, dtype=F64)[place]
    rest = [-level / a for level in levels]
    s = 0.0
    for _ in range(200):
        starts = []
        for level in rest:
            starts.append(s)
            s = level + (s - level) * math.exp(0.7 * a)
    found = cycle.green(a)(drive[:, None])[:, 0]
    gone = cycle.t % 100.0 - 0.7 * place.double()
    level = torch.tensor(rest, dtype=F64)[place]
    exact = level + (torch.tensor(starts, dtype=F64)[place] - level) * torch.exp(a * gone)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-10)


def test_many_panels_are_answered_as_few():
    """Beyond the size at which the answer is one matrix."""
    edges = [float(k) for k in range(301)]
    cycle = Panels([edges])
    assert len(cycle.t) > 600
    s = cycle.green(-1.0)(torch.cos(2 * math.pi * cycle.t / 300.0)[:, None])[:, 0]
    omega = 2 * math.pi / 300.0
    exact = (torch.exp(1j * omega * cycle.t) / (1j * omega + 1.0)).real
    torch.testing.assert_close(s, exact, rtol=0, atol=1e-9)


def run(tol, max_steps=1000):
    """dW/dt = W (1 − W), a logistic curve over a thousandfold growth."""
    macro = Macro(
        lambda _t, W: W * (1 - W), lambda W: W.abs().reshape(1), tol=tol, max_steps=max_steps
    )
    start, pieces = torch.tensor([1e-3], dtype=F64), []
    end = macro.run(0.0, 12.0, start, lambda done, _: pieces.extend(done))
    return macro, end, pieces


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, 1e-8])
def test_the_twin_bounds_the_error(tol):
    macro, end, pieces = run(tol)

    def exact(t):
        return 1 / (1 + 999 * math.exp(-t))

    assert abs(float(end) - exact(12.0)) < macro.error < 300 * tol
    for piece in pieces:
        assert piece.h > 0
        middle = piece.t + 0.4 * piece.h
        assert abs(float(piece.at(middle)) - exact(middle)) < 3 * macro.error


def test_macro_steps_are_limited():
    with pytest.raises(StepLimitError, match="macro steps"):
        run(1e-8, max_steps=3)
