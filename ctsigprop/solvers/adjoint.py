"""The gradient at a steady state, by the implicit-function theorem: no tape of how it was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from ctsigprop.errors import ConvergenceError
from ctsigprop.solvers.relaxation import Relaxation, Rest
from ctsigprop.terms import State

__all__ = ["attach", "gmres"]

DEPTH = 30
RESTARTS = 40


def attach(relaxation: Relaxation, rest: Rest, tensors: Sequence[Tensor]) -> State:
    """Return a steady state that is differentiable in tensors on which it depends.

        f(y*, p) = 0,    dy*/dp = −J⁻¹ ∂f/∂p,    J = ∂f/∂y

    A gradient v of y* is sent back by one linear system, Jᵀ λ = −v, and one product, λᵀ ∂f/∂p;
    memory is that of one evaluation of f and of `DEPTH` directions.

    Parameters
    ----------
    relaxation : Relaxation
        f, with the weights and inputs that hold the tensors.
    rest : Rest
        y*, where it came to rest last.
    tensors : sequence of Tensor
        p, each as it enters f.

    Raises
    ------
    ConvergenceError
        From the backward pass: J is singular, or nearly so.
    """
    names = list(rest.state)
    values: tuple[Tensor, ...] = _Implicit.apply(  # type: ignore[no-untyped-call]
        relaxation, rest, names, *tensors
    )
    return dict(zip(names, values, strict=True))


@final
class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, relaxation: Relaxation, rest: Rest, names: list[str], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.relaxation, ctx.rest, ctx.names = relaxation, rest, names
        pulls = relaxation.pulls()
        ctx.pulls = _rows([pulls[name] for name in names])
        ctx.save_for_backward(*tensors)  # torch notices when one has changed since
        return tuple(rest.state[name].clone() for name in names)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("a steady state has no second derivative: the first keeps no graph")
        tensors: tuple[Tensor, ...] = ctx.saved_tensors
        relaxation, rest, names = ctx.relaxation, ctx.rest, ctx.names
        with torch.enable_grad():
            y = {name: rest.state[name].detach().requires_grad_() for name in names}
            slopes = relaxation.slopes(y)
        f, at = [slopes[name] for name in names], list(y.values())
        pulls = ctx.pulls

        def product(mu: Tensor) -> Tensor:
            sent = _split(mu * pulls, at)
            back = torch.autograd.grad(f, at, sent, retain_graph=True, allow_unused=True)
            kept = [torch.zeros_like(a) if b is None else b for a, b in zip(at, back, strict=True)]
            return -_rows(kept)

        mu, left = gmres(product, _rows(gradients))
        if left is not None:
            raise ConvergenceError(
                time=float(relaxation.t),
                cause="the steady state has no gradient: the Jacobian there is singular, or "
                "nearly so, as at a bifurcation (the adjoint equation is left with an error of "
                f"{left:.2g} of its right-hand side)",
            )
        wanted = [k for k, tensor in enumerate(tensors) if tensor.requires_grad]
        found = torch.autograd.grad(
            f, [tensors[k] for k in wanted], _split(mu * pulls, at), allow_unused=True
        )
        result: list[Tensor | None] = [None] * len(tensors)
        for k, gradient in zip(wanted, found, strict=True):
            result[k] = gradient
        return None, None, None, *result


def gmres(product: Callable[[Tensor], Tensor], v: Tensor) -> tuple[Tensor, float | None]:
    """Solve A x = v for each row of v by restarted GMRES.

    Parameters
    ----------
    product : callable
        ``product(x) -> A x``, rows ``(samples, n)``, each with an A of its own.
    v : Tensor
        ``(samples, n)``.

    Returns
    -------
    x : Tensor
    left : float or None
        The largest relative residual, measured with one more product, if it is too large, or if x
        is so large against v that A is singular to working precision.

    References
    ----------
    Saad & Schultz 1986, SIAM J. Sci. Stat. Comput. 7:856-869.
    """
    accuracy = torch.finfo(v.dtype).eps ** (2 / 3)
    size = torch.linalg.vector_norm(v, dim=1)
    scale = torch.where(size > 0, size, torch.ones_like(size))
    x, rest = torch.zeros_like(v), v
    for _ in range(RESTARTS):
        norm = torch.linalg.vector_norm(rest, dim=1)
        if bool((norm <= accuracy * scale).all()):
            largest = torch.linalg.vector_norm(x, dim=1) / scale
            singular = (
                float(largest.max()) * torch.finfo(v.dtype).eps ** 0.5 > 1 if v.numel() else False
            )
            return x, float((norm / scale).max()) if singular else None
        x = x + _arnoldi(product, rest, norm, accuracy * scale)
        before, rest = norm, v - product(x)
        after = torch.linalg.vector_norm(rest, dim=1)
        if not bool((after < 0.99 * before).any()):
            break  # no headway
    left = float((torch.linalg.vector_norm(rest, dim=1) / scale).max())
    return x, left


def _arnoldi(
    product: Callable[[Tensor], Tensor], rest: Tensor, norm: Tensor, enough: Tensor
) -> Tensor:
    """Return the step that makes the residual smallest within the Krylov space of each row."""
    tiny = torch.finfo(rest.dtype).tiny ** 0.5
    depth = min(DEPTH, rest.shape[1])
    basis = [rest / norm.clamp(min=tiny)[:, None]]
    H = rest.new_zeros(len(rest), depth + 1, depth)
    for k in range(depth):
        w = product(basis[k])
        start = torch.linalg.vector_norm(w, dim=1)
        for _ in range(2):  # twice is enough (Giraud, Langou & Rozložník 2005)
            Q = torch.stack(basis, 1)
            c = (Q @ w.unsqueeze(-1)).squeeze(-1)
            w = w - (c.unsqueeze(1) @ Q).squeeze(1)
            H[:, : k + 1, k] += c
        height = torch.linalg.vector_norm(w, dim=1)
        height = torch.where(height > torch.finfo(w.dtype).eps * start, height, 0.0)
        H[:, k + 1, k] = height
        basis.append(w * torch.where(height > 0, 1 / height.clamp(min=tiny), 0.0)[:, None])
        y = _least_squares(H[:, : k + 2, : k + 1], norm)
        first = torch.zeros_like(H[:, : k + 2, 0])
        first[:, 0] = norm
        left = first - (H[:, : k + 2, : k + 1] @ y.unsqueeze(-1)).squeeze(-1)
        if bool((torch.linalg.vector_norm(left, dim=1) <= 0.5 * enough).all()):
            break
    return (y.unsqueeze(1) @ torch.stack(basis[: y.shape[1]], 1)).squeeze(1)


def _least_squares(H: Tensor, norm: Tensor) -> Tensor:
    """Return the y of the smallest |norm e_1 − H y|, the shortest where there are many."""
    right = torch.zeros_like(H[:, :, 0])
    right[:, 0] = norm
    inverse: Tensor = torch.linalg.pinv(H)
    return (inverse @ right.unsqueeze(-1)).squeeze(-1)


def _rows(values: Sequence[Tensor]) -> Tensor:
    """Return tensors ``(*batch, n_k)`` side by side, one row for each sample."""
    return torch.cat([value.reshape(-1, value.shape[-1]) for value in values], 1)


def _split(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(rows, [value.shape[-1] for value in like], 1)
    return [part.reshape(value.shape) for part, value in zip(parts, like, strict=True)]
