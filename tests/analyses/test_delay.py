from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import ctsigprop as ct
from ctsigprop.analyses.delay import delay_law
from ctsigprop.analyses.plots import plot_delay

X = torch.rand(6, 5, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(6) % 3
SIZES = [5, 8, 8, 3]


def feedback(direct: bool, **options: Any) -> Any:
    def make(seed: int) -> ct.ContinuousFeedbackAlignment:
        given = {"tau_w": 5e3, "direct": direct, "seed": seed, **options}
        solver = ct.RK4(dt=1.0)
        return ct.ContinuousFeedbackAlignment(ct.feedback_network(SIZES, **given), solver=solver)

    return make


def sigprop(seed: int, rule: Any = "rhythmic") -> ct.ContinuousSigprop:
    options: dict[str, Any] = {"rho": "tanh", "eta": 0.01, "onset": 12.0, "period": 6.0}
    return ct.ContinuousSigprop(ct.sigprop_network(SIZES, rule=rule, seed=seed, **options))


def test_the_output_learns_as_long_as_its_error_lasts() -> None:
    """∫ of an error that is filtered: (T − d) − tau_e (1 − exp(−(T − d)/tau_e)), at rest before."""
    duration, tau_e = 60.0, 3.0
    delays = [20.0, 30.0, 45.0, 55.0]
    make = feedback(True, learning="output", tau_e=tau_e, tau_w=1e5)
    found = delay_law({"output": make}, X, LABELS, duration=duration, delays=delays, seeds=[0])
    left = duration - np.array(delays)
    want = left - tau_e * (1 - np.exp(-left / tau_e))
    strength = found.strength.values[0, 0]
    np.testing.assert_allclose(strength / strength[0], want / want[0], rtol=0, atol=1e-3)


def test_learning_falls_linearly_with_the_delay() -> None:
    delays = np.linspace(0, 48.0, 5).tolist()
    rules = {"dfa": feedback(True), "fa": feedback(False), "sigprop": sigprop}
    found = delay_law(rules, X, LABELS, duration=48.0, delays=delays, seeds=[0, 1])
    assert dict(found.sizes) == {"rule": 3, "seed": 2, "delay": 5}
    np.testing.assert_allclose(found.strength.sel(delay=0.0), 1.0, atol=1e-6)
    np.testing.assert_allclose(found.strength.sel(delay=48.0), 0.0, atol=1e-6)
    np.testing.assert_allclose(found["mean"], found.strength.mean("seed"))
    np.testing.assert_allclose(found["spread"], found.strength.std("seed"))
    np.testing.assert_allclose(found.fit, found.slope * found.share + found.intercept)
    for rule in ("dfa", "fa"):
        line = found.sel(rule=rule)
        assert float(line.r_squared) > 0.99
        assert float(line.slope) == pytest.approx(-1, abs=0.1)
        assert float(line.intercept) == pytest.approx(1, abs=0.1)
    heard = found["mean"].sel(rule="sigprop").values  # nothing in the last 12 before the end
    np.testing.assert_allclose(heard, np.clip(1 - np.array(delays) / 36, 0, 1), atol=0.05)


def test_the_line_is_that_of_least_squares() -> None:
    found = delay_law(
        {"dfa": feedback(True)}, X, LABELS, duration=9.0, delays=[0.0, 3.0, 8.0], seeds=[0]
    ).isel(rule=0)
    residual = (found["mean"] - found.fit).values
    assert abs(residual.sum()) < 1e-12
    assert abs((residual * found.share).sum()) < 1e-12
    explained = np.corrcoef(found.share, found["mean"])[0, 1] ** 2
    assert float(found.r_squared) == pytest.approx(explained)
    assert explained < 0.999


def test_the_figure_shows_what_was_measured() -> None:
    rules = {"dfa": feedback(True), "fa": feedback(False)}
    found = delay_law(rules, X, LABELS, duration=20.0, delays=[0.0, 10.0, 20.0], seeds=[0, 1])
    tree = xr.DataTree.from_dict({"delay": found})
    figure = plot_delay(tree)
    assert [axis.get_title() for axis in figure.axes] == ["dfa", "fa"]
    for axis, rule in zip(figure.axes, rules, strict=True):
        drawn = [line.get_ydata() for line in axis.lines]
        for wanted in (found.fit.sel(rule=rule), found["mean"].sel(rule=rule)):
            assert any(np.array_equal(values, wanted) for values in drawn)
        assert axis.get_xlabel() == "delay/duration (T = 20)"
        assert f"{float(found.slope.sel(rule=rule)):.2f}" in axis.texts[0].get_text()
    with pytest.raises(ValueError, match="no group 'delay'"):
        plot_delay(xr.DataTree())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rules": {}}, ValueError, "at least one rule and one seed"),
        ({"seeds": []}, ValueError, "at least one rule and one seed"),
        ({"duration": math.inf}, ValueError, "duration must be > 0; got inf"),
        ({"delays": [0.0, 0.0]}, ValueError, "two or more from 0 to 20.0"),
        ({"delays": [0.0, 21.0]}, ValueError, r"got \[0.0, 21.0\]"),
        ({"rules": {"a": lambda _: 1}}, TypeError, "rule 'a' must be a learner of coupled"),
        ({"rules": {"a": lambda s: sigprop(s, "tagged")}}, ValueError, "rule='rhythmic'"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"rules": {"dfa": feedback(True)}, "duration": 20.0}
    with pytest.raises(error, match=message):
        delay_law(x=X, labels=LABELS, **{**given, "delays": [0.0, 10.0], **options})
