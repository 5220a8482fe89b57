"""Elementary functions in vector lanes: those of NumPy, to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctsigprop.equations import Equations
from ctsigprop.solvers.native.compiled import compiled
from ctsigprop.solvers.native.functions import FUNCTIONS
from ctsigprop.solvers.native.lanes import FASTMATH

pytest.importorskip("numba")

EXACT = {
    **{name: getattr(np, name) for name in ("exp", "expm1", "tanh", "sinh", "cosh", "log")},
    "fermi": lambda x: 1 / (1 + np.exp(x)),
}
NEAR = {"near_log2": (np.log2, 5e-8), "near_exp2": (np.exp2, 2e-9)}


def applied(name, x):
    lines = ["def apply(w, n):", "    for k in range(n):", f"        w[n + k] = {name}(w[k])"]
    text = "\n".join([FUNCTIONS, *lines, "    return 0"])
    memory = torch.tensor(np.stack([x, x]))
    compiled(text, "apply", "pi", FASTMATH)(memory.data_ptr(), len(x))
    return memory[1].numpy()


def spread_out(largest):
    random = np.random.default_rng(0)
    small = 10.0 ** random.uniform(-15, 0, 5000)
    return np.concatenate([random.uniform(-b, b, 5000) for b in (1, 20, largest)] + [small, -small])


@pytest.mark.parametrize("name", EXACT)
def test_to_rounding(name):
    x = spread_out(700.0)
    x = np.abs(x) if name == "log" else x
    np.testing.assert_allclose(applied(name, x), EXACT[name](x), rtol=1e-15, atol=1e-300)


@pytest.mark.parametrize("name", EXACT)
def test_at_the_ends(name):
    x = np.array([np.inf, np.nan, 0.0, 711.0, *(() if name == "log" else (-np.inf, -760.0))])
    with np.errstate(all="ignore"):
        expected = EXACT[name](x)
    np.testing.assert_allclose(applied(name, x), expected, rtol=1e-15, atol=1e-300)


@pytest.mark.parametrize("name", NEAR)
def test_near(name):
    function, most = NEAR[name]
    x = spread_out(1000.0)
    if name == "near_log2":
        np.testing.assert_allclose(applied(name, np.abs(x)), function(np.abs(x)), atol=most, rtol=0)
    else:
        np.testing.assert_allclose(applied(name, x), function(x), rtol=most)


def test_sigmoids_are_one_function():
    written = Equations("dx/dt = 1/(1 + exp(-x)) - 2/(1 + exp(x)) : 1")
    assert written.scalars({"x": "y0"}, "u") == ([], ["fermi(-y0) - 2 / (1 + exp(y0))"])
