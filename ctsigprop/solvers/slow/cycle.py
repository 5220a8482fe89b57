"""The times over which slow variables are averaged, and the periodic answer of a leak on them."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import final

import numpy as np
import torch
from torch import Tensor

__all__ = ["Cycle", "Fourier", "Green", "Panels", "Stretch", "graded"]

NODES = 5  # Gauss points in a panel
LONGEST = 8.0  # a panel, in time constants of the leak
DENSE = 600  # nodes up to which the answer is one matrix
FORGOTTEN = 1e-18  # of what a leak remembers
FINE = 32  # Gauss points that integrate the kernel of a panel


class Green(abc.ABC):
    """The periodic solution of ds/dt = a·s + r(t) from the values of r at the nodes of a cycle."""

    @abc.abstractmethod
    def __call__(self, rest: Tensor) -> Tensor:
        """Return s at the nodes, ``(nodes, columns)``, from r there."""

    @abc.abstractmethod
    def row(self, t: float) -> Tensor:
        """Return the weights of r at the nodes, ``(nodes,)``, that make s at another time."""


class Cycle(abc.ABC):
    """Nodes in time that are one period, or presentations as if they came round again.

    Attributes
    ----------
    t : Tensor
        The nodes, float64, ``(nodes,)``.
    share : Tensor
        The weight of each in an average over the cycle; they add up to 1.
    length : float
        Its duration.
    """

    t: Tensor
    share: Tensor
    length: float

    @abc.abstractmethod
    def green(self, a: float) -> Green:
        """Return the answer of a leak with rate a < 0."""

    @abc.abstractmethod
    def refined(self) -> Cycle:
        """Return the same cycle with about twice the nodes."""

    @property
    def smooth(self) -> bool:
        """Whether it has no jumps."""
        return isinstance(self, Fourier)


@final
class Fourier(Cycle):
    """A smooth period: equally spaced nodes, an odd number; sums converge faster than any power.

    One node is a constant input: the answer of the leak is then its steady state −r/a.

    Parameters
    ----------
    start, period : float
        Where it begins, and how long it is.
    nodes : int
        How many, odd.

    References
    ----------
    Trefethen & Weideman 2014, SIAM Rev. 56:385-458, sec. 3.

    Examples
    --------
    >>> cycle = Fourier(0.0, 2 * math.pi, 9)
    >>> s = cycle.green(-1.0)(torch.cos(cycle.t)[:, None])[:, 0]  # (cos t + sin t)/2
    >>> torch.allclose(s, (torch.cos(cycle.t) + torch.sin(cycle.t)) / 2)
    True
    """

    def __init__(self, start: float, period: float, nodes: int) -> None:
        self.start, self.length, self.nodes = start, period, nodes
        self.t = start + period * torch.arange(nodes, dtype=torch.float64) / nodes
        self.share = torch.full((nodes,), 1 / nodes, dtype=torch.float64)

    def refined(self) -> Fourier:
        """Return the same period with twice the nodes, and one more."""
        return Fourier(self.start, self.length, 2 * self.nodes + 1 if self.nodes > 1 else 1)

    def green(self, a: float) -> Green:
        """Return the answer of a leak with rate a < 0."""
        return _Waves(self, a)


@final
class _Waves(Green):
    def __init__(self, cycle: Fourier, a: float) -> None:
        self.cycle, nodes = cycle, cycle.nodes
        self.waves = 2 * math.pi / cycle.length * np.arange(nodes // 2 + 1)
        self.answers = 1 / (1j * self.waves - a)
        kernel = np.fft.irfft(self.answers, nodes)
        place = np.arange(nodes)
        self.matrix = torch.from_numpy(kernel[place[:, None] - place])  # from -nodes to nodes

    def __call__(self, rest: Tensor) -> Tensor:
        self.matrix = self.matrix.to(rest)
        return self.matrix @ rest

    def row(self, t: float) -> Tensor:
        late = t - self.cycle.t.numpy()
        real = (np.exp(1j * late[:, None] * self.waves) * self.answers).real
        return torch.from_numpy((2 * real.sum(1) - real[:, 0]) / self.cycle.nodes)


@final
class Panels(Cycle):
    """Stretches between jumps, each with Gauss points; windows of them come round on their own.

    Parameters
    ----------
    windows : sequence of sequence of float
        The edges of the panels of each window, increasing.

    References
    ----------
    Hochbruck & Ostermann 2005, Appl. Numer. Math. 53:323-339: exponential collocation.

    Examples
    --------
    >>> cycle = Panels([[0.0, 1.0, 2.0]])
    >>> step = (cycle.t < 1.0).double()
    >>> s = cycle.green(-1.0)(step[:, None])[:, 0]
    >>> round(float(cycle.share @ s), 12)  # the mean of what enters
    0.5
    """

    def __init__(self, windows: Sequence[Sequence[float]]) -> None:
        self.windows = [list(edges) for edges in windows]
        pieces = [np.array(list(pairwise(edges))) for edges in self.windows]
        self.counts = [len(piece) for piece in pieces]
        spans = torch.from_numpy(np.concatenate(pieces))
        self.begin, self.size = spans[:, 0].contiguous(), spans[:, 1] - spans[:, 0]
        self.points, weights = _gauss(NODES)
        self.t = (self.begin[:, None] + self.size[:, None] * self.points).flatten()
        self.length = float(self.size.sum())
        self.share = (self.size[:, None] * weights / self.length).flatten()

    def windows_of_panels(self) -> list[Tensor]:
        """Return the panels of each window."""
        return list(torch.split(torch.arange(len(self.begin)), self.counts))

    def refined(self) -> Panels:
        """Return the same windows with every panel halved."""
        halved = [
            [*(x for a, b in pairwise(edges) for x in (a, (a + b) / 2)), edges[-1]]
            for edges in self.windows
        ]
        return Panels(halved)

    def green(self, a: float) -> Green:
        """Return the answer of a leak with rate a < 0."""
        return _Collocation(self, a)


@final
class _Collocation(Green):
    """s(t) = e^(a(t−t_k)) s_k + ∫ e^(a(t−σ)) r(σ) dσ, with r the polynomial through its nodes."""

    def __init__(self, cycle: Panels, a: float) -> None:
        self.cycle, self.a = cycle, a
        z = a * cycle.size
        self.decay = torch.exp(z[:, None] * cycle.points)  # (panels, nodes)
        self.inside = torch.stack([self._weights(c, cycle.size) for c in cycle.points.tolist()], 1)
        self.through = self._weights(1.0, cycle.size)  # (panels, nodes)
        self.back = torch.cat([own.roll(1) for own in cycle.windows_of_panels()])
        self.leaps = self._leaps(torch.exp(z)[self.back])
        self.matrix: Tensor | None = None
        nodes = len(cycle.t)
        if nodes <= DENSE:
            self.matrix = self._apply(torch.eye(nodes, dtype=torch.float64))

    def _leaps(self, decay: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what is left after 1, 2, 4, … panels, and the panels that it comes from.

        With these the sum over all panels before is taken in doublings, round and round.
        """
        leaps, back = [], self.back
        while float(decay.max()) > FORGOTTEN:
            leaps.append((decay[:, None], back))
            decay, back = decay * decay[back], back[back]
        return leaps

    def _weights(self, c: float, size: Tensor) -> Tensor:
        """Return h ∫_0^c e^(a h (c−σ)) l_j(σ) dσ of panels of size h, ``(panels, nodes)``."""
        x, w = _gauss(FINE)
        polynomials = _lagrange(self.cycle.points, c * x)
        kernel = torch.exp(self.a * size[:, None] * c * (1 - x)) * (c * w)
        return (kernel @ polynomials.T) * size[:, None]

    def __call__(self, rest: Tensor) -> Tensor:
        if self.matrix is None:
            return self._apply(rest)
        self.matrix = self.matrix.to(rest)
        return self.matrix @ rest

    def _apply(self, rest: Tensor) -> Tensor:
        if self.through.dtype != rest.dtype or self.through.device != rest.device:
            for name in ("through", "inside", "decay"):
                setattr(self, name, getattr(self, name).to(rest))
            self.back = self.back.to(rest.device)
            self.leaps = [(d.to(rest), back.to(rest.device)) for d, back in self.leaps]
        panels = rest.reshape(len(self.back), NODES, -1)
        starts = (self.through[:, None] @ panels)[self.back, 0]
        for decay, back in self.leaps:
            starts = torch.addcmul(starts, decay, starts[back])
        values = torch.baddbmm(self.decay[:, :, None] * starts[:, None], self.inside, panels)
        return values.reshape(rest.shape)

    def row(self, t: float) -> Tensor:
        """Return the weights of r at the nodes, ``(nodes,)``, that make s at another time."""
        cycle, through = self.cycle, self.through.cpu().double()
        k = int(torch.searchsorted(cycle.begin, torch.tensor(t), right=True)) - 1
        k = min(max(k, 0), len(cycle.begin) - 1)
        late = t - float(cycle.begin[k])
        weights = torch.zeros_like(through)
        weights[k] = self._weights(late / float(cycle.size[k]), cycle.size[k : k + 1])[0]
        left = math.exp(self.a * late)
        while left > FORGOTTEN:
            k = int(self.back[k])
            weights[k] += left * through[k]
            left *= math.exp(self.a * float(cycle.size[k]))
        return weights.flatten()


@final
class Stretch(Cycle):
    """Equal steps from one time to another, with nodes at their middles, which weigh the same.

    It is walked along, and does not come round: it has no answers to leaks.

    Parameters
    ----------
    start, duration : float
        Where it begins, and how long it is.
    steps : int
        How many steps.
    """

    def __init__(self, start: float, duration: float, steps: int) -> None:
        self.start, self.length, self.step = start, duration, duration / steps
        self.t = start + self.step * (0.5 + torch.arange(steps, dtype=torch.float64))
        self.share = torch.full((steps,), 1 / steps, dtype=torch.float64)

    def refined(self) -> Stretch:
        """Return the same stretch with twice the steps."""
        return Stretch(self.start, self.length, 2 * len(self.t))

    def green(self, a: float) -> Green:
        """Refuse."""
        del a
        raise TypeError("a stretch does not come round")


def graded(edges: Sequence[float], tau: float) -> list[float]:
    """Return edges with panels of one time constant after each jump, and longer ones later.

    >>> graded([0.0, 4.0], tau=1.0)
    [0.0, 1.0, 3.0, 4.0]
    """
    fine: list[float] = []
    for a, b in pairwise(edges):
        t, h = a, tau
        while t < b - 1e-9 * (b - a):
            fine.append(t)
            t, h = t + h, min(2 * h, LONGEST * tau)
        if len(fine) > 1 and fine[-1] > a and b - fine[-1] < 0.25 * tau:
            fine.pop()
    return [*fine, edges[-1]]


def _gauss(count: int) -> tuple[Tensor, Tensor]:
    """Return the points and weights of Gauss and Legendre on 0 to 1."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2)


def _lagrange(nodes: Tensor, x: Tensor) -> Tensor:
    """Return the polynomials that are 1 at one node and 0 at the others, ``(nodes, len(x))``."""
    rows = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        rows.append(((x - others[:, None]) / (node - others)[:, None]).prod(0))
    return torch.stack(rows)
