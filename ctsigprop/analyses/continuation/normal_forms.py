"""Normal forms: what the flow near a bifurcation point is like, from exact derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctsigprop.analyses.parametric import ParametricField

__all__ = ["branch_coefficients", "first_lyapunov", "fold_coefficient", "null_vectors"]

Array = NDArray[np.floating[Any]]
Complex = NDArray[np.complexfloating[Any, Any]]

DEGENERATE = 1e-7
"""A coefficient below this share of the terms that it is the sum of counts as zero, and so does
one that would change a rate by less than this share over the whole range."""


class _Forms:
    """B(u, v) and C(u, v, w) of f at one point, for real and complex directions."""

    def __init__(self, family: ParametricField, y: Array, p: Array) -> None:
        self.family = family
        self.y, self.p = (torch.as_tensor(x).to(family.initial) for x in (y, p))

    def __call__(self, *directions: Array | Complex) -> Complex:
        """Return the form of real or complex directions: multilinear, so part by part."""
        parts = [(np.real(v), np.imag(v)) for v in directions]
        total: Complex = np.zeros(len(self.y), complex)
        for choice in np.ndindex(*[2] * len(parts)):
            chosen = [part[k] for part, k in zip(parts, choice, strict=True)]
            if all(np.any(v) for v in chosen):
                total += 1j ** sum(choice) * self._real(chosen)
        return total

    def _real(self, directions: list[Array]) -> Array:
        moved = [torch.as_tensor(v.copy()).to(self.y) for v in directions]
        value: Array = self.family.derivative(self.y, self.p, *moved).detach().cpu().numpy()
        return value


def null_vectors(J: Array, size: Array) -> tuple[Array, Array]:
    """Return φ with J φ = 0, |φ| = 1, and ψ with Jᵀ ψ = 0, ψ·φ = 1, for the smallest value of J."""
    left, _, right = np.linalg.svd(J * size / size[:, None])
    phi, psi = right[-1] * size, left[:, -1] / size
    phi = phi / np.linalg.norm(phi)
    phi = phi * (1.0 if phi[np.abs(phi).argmax()] > 0 else -1.0)
    overlap = psi @ phi
    return phi, psi / overlap if abs(overlap) > 1e-12 * np.linalg.norm(psi) else psi


def fold_coefficient(family: ParametricField, y: Array, p: Array, J: Array, size: Array) -> float:
    """Return a = ½ ψ·B(φ, φ) (Kuznetsov 2004, section 5.4); 0 is a cusp."""
    phi, psi = null_vectors(J, size)
    return float(np.real(psi @ _Forms(family, y, p)(phi, phi))) / 2


def branch_coefficients(
    family: ParametricField, y: Array, p: Array, J: Array, size: Array
) -> tuple[float, float, bool]:
    """Return the quadratic and cubic coefficients at a branch point, and whether it is a pitchfork.

    a = ½ ψ·B(φ, φ), c = ⅙ ψ·(C(φ, φ, φ) − 3 B(φ, h)) with J h = B(φ, φ) on the complement
    of φ: Kuznetsov 2004, section 5.4.
    """
    phi, psi = null_vectors(J, size)
    forms = _Forms(family, y, p)
    twice = np.real(forms(phi, phi))
    a = float(psi @ twice) / 2
    h = np.linalg.lstsq(J, twice - (psi @ twice) * phi, rcond=None)[0]
    h = h - (psi @ h) * phi
    c = float(np.real(psi @ (forms(phi, phi, phi) - 3 * forms(phi, h)))) / 6
    return a, c, abs(a) <= 1e-6 * max(float(np.abs(psi) @ np.abs(twice)), abs(c), 1e-300)


def first_lyapunov(
    family: ParametricField, y: Array, p: Array, J: Array, omega: float, size: Array
) -> tuple[float, bool]:
    """Return the first Lyapunov coefficient of a Hopf point, and whether it vanishes.

    l₁ = Re[⟨p, C(q, q, q̄)⟩ − 2 ⟨p, B(q, J⁻¹ B(q, q̄))⟩ + ⟨p, B(q̄, (2iω − J)⁻¹ B(q, q))⟩] / 2ω with
    J q = iω q, Jᵀ p = −iω p, |q| = 1, ⟨p, q⟩ = 1 (Kuznetsov 2004, section 5.4). Negative: a stable
    cycle is born (supercritical); positive: an unstable one (subcritical).
    """
    values, vectors = np.linalg.eig(J)
    q = vectors[:, np.abs(values - 1j * omega).argmin()]
    values, vectors = np.linalg.eig(J.T)
    adjoint = vectors[:, np.abs(values + 1j * omega).argmin()]
    adjoint = adjoint / np.conj(np.vdot(adjoint, q))
    forms = _Forms(family, y, p)
    mixed, twice = np.real(forms(q, q.conj())), forms(q, q)
    still = np.linalg.solve(J, mixed)
    double = np.linalg.solve(2j * omega * np.eye(len(J)) - J, twice)

    def pairing(v: Complex) -> float:
        return float((adjoint.conj() @ v).real)

    terms = np.array(
        [
            pairing(forms(q, q, q.conj())),
            -2 * pairing(forms(q, still)),
            pairing(forms(q.conj(), double)),
        ]
    ) / (2 * omega)
    total = float(terms.sum())
    felt = abs(total) * float((np.abs(q) * size).max()) ** 2  # of a cycle as large as the ranges
    small = felt <= DEGENERATE * omega or abs(total) <= DEGENERATE * float(np.abs(terms).sum())
    return total, small
