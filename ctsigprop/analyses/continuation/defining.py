"""The equations whose roots are bifurcation points: folds, Hopf points, branch points."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from ctsigprop.analyses.continuation.curve import Curve
from ctsigprop.analyses.parametric import ParametricField

__all__ = ["Branching", "Defining", "Equilibria", "Folding", "Oscillating"]

Array = NDArray[np.float64]

STEP = 6e-6
"""Of the central differences of Jacobians, in scaled unknowns: only Newton's steps use them."""


class Equilibria(Curve):
    """f(y, p) = 0 with one parameter: u = (y, p).

    Parameters
    ----------
    family : ParametricField
        f, with one parameter or more; those after the first stand still.
    size, width : array
        The scale of y ``(n,)``, and of the parameters ``(k,)``.
    """

    def __init__(self, family: ParametricField, size: Array, width: Array) -> None:
        self.family, self.n = family, len(size)
        self.rest = family.initial[1:]
        self.scale = np.append(size, width[0])

    def linear(self, u: Array) -> tuple[Array, Array]:
        """Return f and its derivatives by y and p at one point."""
        f, J, Jp = self.many(u[None])
        return f[0], np.concatenate([J[0], Jp[0]], -1)

    def many(self, u: Array) -> tuple[Array, Array, Array]:
        """Return f, ∂f/∂y and ∂f/∂p at several points ``(b, n + 1)``."""
        points = torch.as_tensor(u).to(self.family.initial)
        y, p = points[:, :-1], points[:, -1:]
        p = torch.cat([p, self.rest.expand(len(p), -1)], -1)
        f, J, Jp = (x.cpu().numpy() for x in self.family.linear(y, p))
        return f, J, Jp[:, :, :1]


@final
@dataclass(frozen=True)
class _Changes:
    """f and its first derivatives at a point, and how they change along some directions."""

    f: Array  # (n,)
    J: Array  # (n, n)
    Jp: Array  # (n, k)
    turn: Array  # of J: (directions, n, n), then one for each parameter
    of_p: Array  # of Jp: (directions + k, n, k)


class Defining(Curve):
    """An extended system G(z) = 0 with z = (y, more unknowns, p).

    With one parameter it has isolated roots, the bifurcation points; with two, curves of them.

    Parameters
    ----------
    family : ParametricField
        f.
    size, width : array
        The scale of y ``(n,)``, and of the parameters ``(k,)``.
    count : int
        How many of the parameters are unknown: 1 or 2. The others stand still.
    """

    more: int
    """How many unknowns there are besides y and p."""

    def __init__(self, family: ParametricField, size: Array, width: Array, count: int = 1) -> None:
        self.family, self.size, self.width, self.count = family, size, width[:count], count
        self.n = len(size)
        self.rest = family.initial[count:]
        self.scale = np.concatenate([size, self._scale_of_more(), self.width])

    @abc.abstractmethod
    def _scale_of_more(self) -> Array:
        """Return the scale of the further unknowns."""

    def split(self, z: Array) -> tuple[Array, Array, Array]:
        """Return y, the further unknowns, and the parameters."""
        n, k = self.n, self.count
        return z[:n], z[n : len(z) - k], z[len(z) - k :]

    def changes(self, y: Array, p: Array, directions: Array) -> _Changes:
        """Return f, J, ∂f/∂p, and the changes of these along directions ``(d, n)`` and p.

        Central differences of exact derivatives, all of them in one evaluation.
        """
        n, k = self.n, self.count
        lengths = STEP / np.maximum(np.abs(directions / self.size).max(-1, initial=0.0), 1e-300)
        moves = np.concatenate([directions * lengths[:, None], np.zeros((k, n))])
        shifts = np.concatenate([np.zeros((len(directions), k)), np.diag(STEP * self.width)])
        Y = y + np.concatenate([np.zeros((1, n)), moves, -moves])
        P = p + np.concatenate([np.zeros((1, k)), shifts, -shifts])
        like = self.family.initial
        points = torch.as_tensor(P).to(like)
        points = torch.cat([points, self.rest.expand(len(P), -1)], -1)
        found = self.family.linear(torch.as_tensor(Y).to(like), points)
        f, J, Jp = (x.cpu().numpy() for x in found)
        Jp = Jp[:, :, :k]
        d = len(moves)
        span = np.concatenate([lengths, STEP * self.width])[:, None, None]
        dJ = (J[1 : d + 1] - J[d + 1 :]) / (2 * span)
        dJp = (Jp[1 : d + 1] - Jp[d + 1 :]) / (2 * span)
        return _Changes(f[0], J[0], Jp[0], dJ, dJp)


@final
class Folding(Defining):
    """Folds: f = 0, J φ = 0, c·φ = 1, with z = (y, φ, p).

    Kuznetsov, Elements of Applied Bifurcation Theory (2004), chapter 10.
    """

    def __init__(self, *arguments: Any, along: Array) -> None:
        super().__init__(*arguments)
        self.c = along / (along @ along)

    def _scale_of_more(self) -> Array:
        return self.size

    def linear(self, z: Array) -> tuple[Array, Array]:
        """Return G and its Jacobian."""
        y, phi, p = self.split(z)
        n, k = self.n, self.count
        found = self.changes(y, p, phi[None])
        G = np.concatenate([found.f, found.J @ phi, [self.c @ phi - 1]])
        A = np.zeros((2 * n + 1, 2 * n + k))
        A[:n, :n], A[:n, 2 * n :] = found.J, found.Jp
        A[n : 2 * n, :n], A[n : 2 * n, n : 2 * n] = found.turn[0], found.J
        A[n : 2 * n, 2 * n :] = (found.turn[1:] @ phi).T
        A[2 * n, n : 2 * n] = self.c
        return G, A

    @staticmethod
    def guess(J: Array, size: Array) -> Array:
        """Return the φ that J takes closest to zero."""
        phi: Array = np.linalg.svd(J * size)[2][-1] * size
        return phi


@final
class Oscillating(Defining):
    """Hopf points: f = 0, (J² + κ) q = 0, c·q = 1, d·q = 0, with z = (y, q, κ, p), κ = ω².

    Where κ < 0 it is a neutral saddle, whose real eigenvalues ±√−κ cancel. The square lets a curve
    of Hopf points go on through a Bogdanov–Takens point. Kuznetsov 2004, chapter 10.
    """

    def __init__(self, *arguments: Any, plane: Array) -> None:
        q, r = np.linalg.qr(plane.T)
        dual = q @ np.linalg.inv(r).T  # c·q_re = 1, c·q_im = 0, and the other way round
        self.c, self.d = dual.T
        super().__init__(*arguments)

    def _scale_of_more(self) -> Array:
        return np.append(self.size, 1.0)

    def linear(self, z: Array) -> tuple[Array, Array]:
        """Return G and its Jacobian."""
        y, more, p = self.split(z)
        n, k, q, kappa = self.n, self.count, more[:-1], more[-1]
        J = self.changes(y, p, np.empty((0, n))).J
        found = self.changes(y, p, np.stack([q, J @ q]))
        G = np.concatenate([found.f, J @ (J @ q) + kappa * q, [self.c @ q - 1, self.d @ q]])
        A = np.zeros((2 * n + 2, 2 * n + 1 + k))
        A[:n, :n], A[:n, 2 * n + 1 :] = found.J, found.Jp
        A[n : 2 * n, :n] = found.turn[1] + J @ found.turn[0]
        A[n : 2 * n, n : 2 * n] = J @ J + kappa * np.eye(n)
        A[n : 2 * n, 2 * n] = q
        A[n : 2 * n, 2 * n + 1 :] = (found.turn[2:] @ (J @ q) + found.turn[2:] @ q @ J.T).T
        A[2 * n, n : 2 * n], A[2 * n + 1, n : 2 * n] = self.c, self.d
        return G, A

    @staticmethod
    def guess(J: Array, size: Array) -> tuple[Array, float]:
        """Return the plane (2, n) and κ of the pair of eigenvalues whose sum is closest to zero."""
        scaled = J * size / size[:, None]
        values = np.linalg.eigvals(scaled)
        pairs = [(abs(values[i] + values[j]), i, j) for i in range(len(J)) for j in range(i)]
        _, i, j = min(pairs)
        kappa = float((values[i] * values[j]).real)
        square = scaled @ scaled + kappa * np.eye(len(J))
        plane: Array = np.linalg.svd(square)[2][-2:] * size
        return plane, kappa


@final
class Branching(Defining):
    """Branch points: f + ε ψ = 0, Jᵀ ψ = 0, ψ·∂f/∂p = 0, ψ·ψ = 1, with z = (y, ψ, ε, p).

    Moore (1980), SIAM J. Numer. Anal. 17:567. A root with ε ≠ 0 is none of the system: an
    imperfection has taken its branches apart.
    """

    def _scale_of_more(self) -> Array:
        return np.ones(self.n + 1)

    def linear(self, z: Array) -> tuple[Array, Array]:
        """Return G and its Jacobian."""
        y, more, p = self.split(z)
        n, psi, eps = self.n, more[:-1], more[-1]
        # equations weigh as their unknowns do, so that ψ has entries of one size
        found = self.changes(y, p, np.diag(self.size))
        s = self.size
        f, Jp = found.f / s, found.Jp[:, 0] / s
        J = found.J * s / s[:, None]
        G = np.concatenate([f + eps * psi, J.T @ psi, [psi @ Jp, psi @ psi - 1]])
        dJ = found.turn * s / s[:, None]
        dJp = found.of_p[..., 0] / s
        A = np.zeros((2 * n + 2, 2 * n + 2))
        A[:n, :n], A[:n, n : 2 * n] = J / s, eps * np.eye(n)
        A[:n, 2 * n], A[:n, 2 * n + 1] = psi, Jp
        A[n : 2 * n, :n] = np.einsum("dij,i->jd", dJ[:n], psi) / s
        A[n : 2 * n, n : 2 * n] = J.T
        A[n : 2 * n, 2 * n + 1] = dJ[n].T @ psi
        A[2 * n, :n], A[2 * n, n : 2 * n] = dJp[:n] @ psi / s, Jp
        A[2 * n, 2 * n + 1] = dJp[n] @ psi
        A[2 * n + 1, n : 2 * n] = 2 * psi
        return G, A

    @staticmethod
    def guess(J: Array, size: Array) -> Array:
        """Return the ψ that Jᵀ takes closest to zero, with rows and columns scaled."""
        psi: Array = np.linalg.svd(J * size / size[:, None])[0][:, -1]
        return psi
