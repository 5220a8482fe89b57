"""Products of matrices by oneDNN, and with transposed matrices, are those of any other library."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ctsigprop.learning.continuous import ContinuousSigprop
from ctsigprop.models.networks import sigprop_network
from ctsigprop.solvers import products
from ctsigprop.solvers.explicit.fixed import Euler
from ctsigprop.solvers.products import ENOUGH, FEW, LARGE, TURNS, Ordered, Product
from ctsigprop.solvers.relaxation import Steady

ROWS, PRE, POST = 30, 200, 210

needs_it = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"), reason="torch has no oneDNN here"
)


@pytest.fixture(autouse=True)
def on_any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products go by oneDNN, also where torch's own are as fast."""
    monkeypatch.setattr(products, "by_onednn", lambda: True)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape or (1,), generator=torch.Generator().manual_seed(seed)).reshape(shape)


@needs_it
@pytest.mark.parametrize("base", [None, drawn(), drawn(POST), drawn(ROWS, POST), drawn(1, POST)])
@pytest.mark.parametrize("turn", [lambda w: w, lambda w: w.T.contiguous().T], ids=["W", "W.T"])
def test_every_call_writes_the_exact_product(
    base: Tensor | None, turn: Callable[[Tensor], Tensor]
) -> None:
    s, weight, out = drawn(ROWS, PRE), turn(drawn(POST, PRE, seed=1)), torch.empty(ROWS, POST)
    ordered = Ordered()
    product = Product(base, weight, 1.0, s, out, ordered)
    for k in range(2 + ENOUGH // ROWS):  # W is put in order at the last but one
        s.copy_(drawn(ROWS, PRE, seed=k))
        product()
        exact = s.double() @ weight.double().T + (0 if base is None else base.double())
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-4)


@needs_it
def test_the_base_may_be_the_buffer() -> None:
    s, weight, out = drawn(ROWS, PRE), drawn(POST, PRE, seed=1), torch.zeros(ROWS, POST)
    product = Product(out, weight, 1.0, s, out, Ordered())
    for k in range(1, 4):
        product()
        exact = k * s.double() @ weight.double().T
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=3e-4)


@needs_it
def test_a_matrix_is_put_in_order_once_for_all_its_products() -> None:
    s, ordered, buffers = drawn(ROWS, PRE), Ordered(), torch.empty(3, ROWS, POST)
    weight, other = drawn(POST, PRE, seed=1), drawn(POST, PRE, seed=2)
    for out, (matrix, alpha) in zip(
        buffers, [(weight, 1.0), (weight, -0.5), (other, 1.0)], strict=True
    ):
        Product(None, matrix, alpha, s, out, ordered)()
        torch.testing.assert_close(out, alpha * s @ matrix.T, rtol=0, atol=1e-4)
    for expected in (0, ENOUGH):
        ordered.expected = expected
        found = [ordered.matrix(weight, 1.0, ROWS) for _ in range(ENOUGH // ROWS + 2)]
        assert found[-1] is found[-2]
        assert found[-1] is not weight
        assert (found[0] is found[-1]) == (expected > 0)


@pytest.mark.parametrize(
    ("s", "weight"),
    [
        (drawn(ROWS, PRE).double(), drawn(POST, PRE).double()),
        (drawn(2, PRE), drawn(POST, PRE)),
        (drawn(ROWS, PRE).to("meta"), drawn(POST, PRE).to("meta")),
    ],
    ids=["float64", "small", "elsewhere"],
)
def test_what_is_not_for_it(s: Tensor, weight: Tensor) -> None:
    assert not Product.accepts(s, weight)


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    return lambda on: monkeypatch.setattr(torch.backends.mkldnn, "enabled", on)


def test_it_is_left_alone_where_it_is_switched_off(switch: Callable[[bool], None]) -> None:
    switch(False)
    assert not Product.accepts(drawn(ROWS, PRE), drawn(POST, PRE))


@needs_it
@pytest.mark.parametrize("solver", [Euler(dt=0.3), Steady(tol=1e-5)], ids=["steps", "rest"])
def test_a_network_learns_the_same_with_it_and_without(
    solver: Euler | Steady, switch: Callable[[bool], None]
) -> None:
    sizes, batch = [20, 150, 150, 5], 50
    assert batch * sizes[1] * sizes[2] >= LARGE
    x, labels = drawn(batch, sizes[0]), torch.arange(batch) % sizes[-1]
    found = []
    for enabled in (True, False):
        network = sigprop_network(sizes, onset=15.0, seed=0)
        learner = ContinuousSigprop(network, update="delta", solver=solver)
        switch(enabled)
        outputs = learner.present(x, labels)
        found.append({"y": outputs, **learner.weights})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-5)
    start = sigprop_network(sizes, onset=15.0, seed=0).float().initial_state(dtype=torch.float32)
    assert (found[0]["W_h2_h1"] - start["W_h2_h1"]).abs().max() > 1e-4


@pytest.mark.parametrize(("maker", "own"), [("GenuineIntel", False), ("AuthenticAMD", True)])
def test_intels_library_is_left_alone_on_intels_processors(
    maker: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "_processor", lambda: f"vendor_id : {maker}")
    there = hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    assert products.by_onednn.__wrapped__() is (own and there)


def test_a_matrix_is_transposed_for_many_products_of_few_rows() -> None:
    weight, ordered = drawn(POST, PRE), Ordered()
    for rows, expected in ((ROWS, 0), (ROWS, TURNS - 1), (FEW + 1, TURNS)):
        ordered.expected = expected
        assert ordered.transposed(weight, rows).data_ptr() == weight.data_ptr()
    ordered.expected = TURNS
    turned = ordered.transposed(weight, ROWS)
    assert turned.is_contiguous()
    assert torch.equal(turned, weight.T)
    ordered.expected = 0
    assert ordered.transposed(weight, ROWS) is turned
    assert ordered.transposed(drawn(POST, PRE, seed=1), ROWS) is not turned


@pytest.mark.parametrize("batch", [30, 50])
def test_a_network_relaxes_the_same_whatever_multiplies(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [20, 200, 200, 5]
    assert batch * sizes[1] * sizes[2] >= LARGE
    x, labels = drawn(batch, sizes[0]), torch.arange(batch) % sizes[-1]
    found = []
    for own, turns in ((False, TURNS), (False, 10**9), (True, TURNS)):
        monkeypatch.setattr(products, "by_onednn", lambda own=own: own)
        monkeypatch.setattr(products, "TURNS", turns)
        network = sigprop_network(sizes, onset=15.0, seed=0)
        learner = ContinuousSigprop(network, update="delta", solver=Euler(dt=0.3))
        found.append({"y": learner.present(x, labels), **learner.weights})
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5)
