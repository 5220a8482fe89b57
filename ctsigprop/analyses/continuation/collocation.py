"""Periodic orbits as piecewise polynomials that satisfy the equations at Gauss points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from ctsigprop.analyses.continuation.curve import Curve
from ctsigprop.analyses.parametric import ParametricField

__all__ = [
    "DEGREE",
    "Cycle",
    "Cycles",
    "even_mesh",
    "multipliers",
    "node_times",
    "remeshed",
]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

DEGREE = 4
"""Of the polynomials, and the number of Gauss points in each interval."""


@cache
def _basis() -> tuple[Array, Array, Array]:
    """Return the Lagrange basis and its derivative at the Gauss points, and Gauss's weights.

    The nodes of the basis lie evenly in [0, 1]; the first two are ``(gauss, node)``.
    """
    points, weights = np.polynomial.legendre.leggauss(DEGREE)
    values, slopes = _lagrange((points + 1) / 2)
    return values, slopes, np.asarray(weights, float) / 2


def _lagrange(at: NDArray[Any]) -> tuple[Array, Array]:
    """Return the values and derivatives of the Lagrange polynomials at some points of [0, 1]."""
    nodes = np.linspace(0, 1, DEGREE + 1)
    powers = np.linalg.inv(np.vander(nodes, increasing=True))  # coefficients of each polynomial
    values = np.vander(at, DEGREE + 1, increasing=True)
    slopes = np.zeros_like(values)
    slopes[:, 1:] = values[:, :-1] * np.arange(1, DEGREE + 1)
    return values @ powers, slopes @ powers


@final
@dataclass(frozen=True)
class Cycle:
    """A periodic orbit x(t/T), as polynomials between the times of a mesh.

    Parameters
    ----------
    mesh : array
        Times in units of the period from 0 to 1, ``(intervals + 1,)``.
    x : array
        States at the nodes, ``(intervals · degree, n)``; the last node is the first.
    period : float
        T.
    p : float
        The parameter.
    """

    mesh: Array
    x: Array
    period: float
    p: float

    def nodes(self) -> Array:
        """Return the states at the nodes of every interval, ``(intervals, degree + 1, n)``."""
        count = len(self.mesh) - 1
        index = np.arange(count)[:, None] * DEGREE + np.arange(DEGREE + 1)
        picked: Array = self.x[index % len(self.x)]
        return picked

    def on(self, mesh: Array) -> Cycle:
        """Return the same orbit on another mesh."""
        return replace(self, mesh=mesh, x=self(node_times(mesh)))

    def __call__(self, phase: Array) -> Array:
        """Return the states at phases in [0, 1], ``(len(phase), n)``."""
        k = np.clip(np.searchsorted(self.mesh, phase, side="right") - 1, 0, len(self.mesh) - 2)
        share = (phase - self.mesh[k]) / np.diff(self.mesh)[k]
        values, _ = _lagrange(share)
        states: Array = np.einsum("pj,pjn->pn", values, self.nodes()[k])
        return states

    def extremes(self) -> tuple[Array, Array]:
        """Return the least and the greatest value of each component, ``(n,)`` each."""
        shares = np.linspace(0, 1, 21)
        values, _ = _lagrange(shares)
        dense = np.einsum("sj,ijn->isn", values, self.nodes())
        found = []
        for sign in (-1, 1):
            curve = sign * dense
            top = curve.reshape(-1, curve.shape[-1]).argmax(0)
            i, s = np.unravel_index(top, curve.shape[:2])
            middle = np.clip(s, 1, len(shares) - 2)
            n = np.arange(curve.shape[-1])
            a, b, c = (curve[i, middle + k, n] for k in (-1, 0, 1))
            bend = a - 2 * b + c
            with np.errstate(divide="ignore", invalid="ignore"):
                peak = b - (c - a) ** 2 / (8 * bend)
            inside = (bend < 0) & (np.abs(c - a) <= -4 * bend)
            found.append(sign * np.where(inside, peak, curve[i, s, n]))
        return found[0], found[1]

    def roughness(self, size: Array) -> tuple[Array, float]:
        """Return how densely the mesh should lie in each interval, and the local error.

        The derivative of order degree + 1 is estimated from the jumps of the highest derivative
        from interval to interval (Ascher, Mattheij and Russell 1995, section 9.3).
        """
        h = np.diff(self.mesh)
        signs = np.array([(-1) ** (DEGREE - j) * _binomial(j) for j in range(DEGREE + 1)])
        highest = (
            np.einsum("j,ijn->in", signs, self.nodes() / size) * (DEGREE / h[:, None]) ** DEGREE
        )
        middle = h + np.roll(h, 1)
        jumps = np.abs(highest - np.roll(highest, 1, 0)).max(1) / (middle / 2)
        either = np.maximum(jumps, np.roll(jumps, -1))
        density = either ** (1 / (DEGREE + 1))
        error = float((h ** (DEGREE + 1) * either).max()) / (2 * DEGREE) ** (DEGREE + 1)
        return density, error


def _binomial(j: int) -> int:
    from math import comb

    return comb(DEGREE, j)


@final
class Cycles(Curve):
    """dx/dτ = T f(x, p), x(1) = x(0), ∫ x·x̂' dτ = 0: u = (x at the nodes, log T, p).

    x̂ is a cycle nearby, which fixes the phase. Doedel, Keller and Kernevez (1991).

    Parameters
    ----------
    family : ParametricField
        f, whose first parameter is p, if it has any; the others stand still.
    like : Cycle
        x̂, and the mesh.
    size, width : array
        The scale of y ``(n,)``, and of the parameters ``(k,)``.
    """

    def __init__(self, family: ParametricField, like: Cycle, size: Array, width: Array) -> None:
        self.family, self.mesh, self.size, self.width = family, like.mesh, size, width
        self.n, self.count = len(size), len(like.mesh) - 1
        self.h = np.diff(like.mesh)
        values, slopes, weights = _basis()
        self.rest = family.initial[1:]
        unknown = self.count * DEGREE
        self.scale = np.concatenate([np.tile(size * np.sqrt(unknown), unknown), [1.0, width[0]]])
        drift = np.einsum("gj,ijn->ign", slopes, like.nodes())  # h · x̂' at the Gauss points
        drift = drift * weights[:, None] / size**2
        phase = np.zeros((self.count, DEGREE + 1, self.n))
        phase += np.einsum("ign,gj->ijn", drift, values)
        self.phase = np.zeros((unknown, self.n))
        index = np.arange(self.count)[:, None] * DEGREE + np.arange(DEGREE + 1)
        np.add.at(self.phase, index % unknown, phase)
        self._index = index % unknown

    def pack(self, cycle: Cycle) -> Array:
        """Return the unknowns of a cycle on the same mesh."""
        return np.concatenate([cycle.x.reshape(-1), [np.log(cycle.period), cycle.p]])

    def cycle(self, u: Array) -> Cycle:
        """Return the cycle of some unknowns."""
        return Cycle(self.mesh, u[:-2].reshape(-1, self.n), float(np.exp(u[-2])), float(u[-1]))

    def blocks(self, u: Array) -> tuple[Array, Array, Array, Array]:
        """Return the residuals ``(i, g, n)``, and their derivatives by nodes, by log T and by p."""
        values, slopes, _ = _basis()
        x = u[:-2].reshape(-1, self.n)[self._index]
        states = np.einsum("gj,ijn->ign", values, x)
        moved = np.einsum("gj,ijn->ign", slopes, x)
        like = self.family.initial
        y = torch.as_tensor(states.reshape(-1, self.n)).to(like)
        here = torch.tensor([float(u[-1])], dtype=torch.float64).to(like)
        p = torch.cat([here, self.rest])[: len(self.family.parameters)].expand(len(y), -1)
        f, J, Jp = (a.cpu().numpy() for a in self.family.linear(y, p))
        shape = states.shape
        T = np.exp(u[-2])
        lengths = T * self.h[:, None, None]
        f = f.reshape(shape) * lengths / self.size
        J = J.reshape(*shape, self.n) * (lengths / self.size)[..., None]
        Jp = Jp[:, :, :1].sum(-1).reshape(shape) * lengths / self.size
        G = moved / self.size - f
        own = slopes[:, :, None] * np.ones(self.n) / self.size  # (g, j, n)
        by_x = -values[None, :, None, :, None] * J[:, :, :, None, :]  # (i, g, n, j, n')
        diagonal = np.arange(self.n)
        by_x[:, :, diagonal, :, diagonal] += own.transpose(2, 0, 1)[:, None]
        return G, by_x, -f, -Jp

    def divergence(self, by_x: Array) -> float:
        """Return ∫ div f dt over the period from the derivatives that `blocks` gives."""
        values, slopes, weights = _basis()
        # the part of the node that weighs most at each Gauss point, without that of d/dτ
        g = np.arange(DEGREE)
        j = np.abs(values).argmax(1)
        own = np.einsum("ignn->ig", by_x[:, g, :, j].transpose(1, 0, 2, 3) * self.size)
        return float(((self.n * slopes[g, j] - own) / values[g, j] @ weights).sum())

    def linear(self, u: Array) -> tuple[Array, Any]:
        """Return the residuals and their sparse Jacobian."""
        from scipy.sparse import csr_matrix

        G, by_x, by_T, by_p = self.blocks(u)
        i, g, n, j, m = by_x.shape
        rows = np.arange(i * g * n).reshape(i, g * n)
        columns = (self._index[:, :, None] * n + np.arange(n)).reshape(i, -1)  # (i, j n')
        last = self.count * DEGREE * n
        r = [np.repeat(rows.reshape(-1), j * m), rows.reshape(-1), rows.reshape(-1)]
        c = [np.repeat(columns[:, None], g * n, 1).reshape(-1)]
        c += [np.full(i * g * n, last), np.full(i * g * n, last + 1)]
        v = [by_x.reshape(-1), by_T.reshape(-1), by_p.reshape(-1)]
        r.append(np.full(last, last))
        c.append(np.arange(last))
        v.append(self.phase.reshape(-1))
        A = csr_matrix(
            (np.concatenate(v), (np.concatenate(r), np.concatenate(c))), shape=(last + 1, last + 2)
        )
        slip = float(self.phase.reshape(-1) @ u[:-2])
        return np.append(G.reshape(-1), slip), A

    def solve(self, A: Any, row: Array, rhs: Array) -> Array:
        """Return the x of [A·scale; row] x = rhs, by a sparse factorisation."""
        from scipy.sparse import csr_matrix, diags, vstack
        from scipy.sparse.linalg import splu

        matrix = vstack([A @ diags(self.scale), csr_matrix(row)]).tocsc()
        try:
            x: Array = splu(matrix).solve(rhs)
        except RuntimeError:  # exactly singular
            x = np.full(rhs.shape, np.nan)
        return x


def multipliers(curve: Cycles, u: Array) -> Complex:
    """Return the Floquet multipliers, ``(n,)``, the trivial one first.

    The nodes inside each interval are eliminated by orthogonal transformations, then the mesh
    points one after another, until P x(0) + Q x(1) = 0 is left, whose eigenvalues they are
    (Fairgrieve and Jepson 1991, SIAM J. Numer. Anal. 28:1446). In the plane the other one is
    exp(∫ div f dt), Liouville's formula.
    """
    from scipy.linalg import eig

    _, by_x, _, _ = curve.blocks(u)
    i, g, n, j, m = by_x.shape
    if n == 2:
        return np.array([1.0, np.exp(curve.divergence(by_x))], complex)
    blocks = (by_x * curve.size).reshape(i, g * n, j * m)
    inner = blocks[:, :, m:-m]
    q = np.linalg.qr(inner, mode="complete").Q[:, :, inner.shape[2] :]
    left, right = (q.transpose(0, 2, 1) @ part for part in (blocks[:, :, :m], blocks[:, :, -m:]))
    P, Q = left[0], right[0]
    for A, B in zip(left[1:], right[1:], strict=True):
        away = np.linalg.qr(np.concatenate([Q, A]), mode="complete").Q[:, n:]
        P, Q = away[:n].T @ P, away[n:].T @ B
    values = eig(P, -Q, right=False).astype(complex)
    values = np.where(np.isfinite(values), values, np.inf)
    trivial = int(np.abs(values - 1).argmin())
    others = np.delete(values, trivial)
    return np.append(values[trivial], others[np.argsort(-np.abs(others))])


def remeshed(cycle: Cycle, size: Array, count: int) -> Array:
    """Return a mesh on which the error of a cycle is spread evenly."""
    density, _ = cycle.roughness(size)
    density = density + 0.1 * max(float(density @ np.diff(cycle.mesh)), 1e-12)
    return even_mesh(cycle.mesh, density * np.diff(cycle.mesh), count)


def even_mesh(times: Array, amounts: Array, count: int) -> Array:
    """Return a mesh whose intervals hold equal parts of the amounts between some times."""
    filled = np.concatenate([[0.0], np.cumsum(amounts)])
    mesh = np.interp(np.linspace(0, filled[-1], count + 1), filled, times)
    mesh[0], mesh[-1] = 0.0, 1.0
    return mesh


def node_times(mesh: Array) -> Array:
    """Return the times of the nodes of all intervals but the last node, which is the first."""
    steps = np.diff(mesh)[:, None] * np.arange(DEGREE) / DEGREE
    times: Array = (mesh[:-1, None] + steps).reshape(-1)
    return times
