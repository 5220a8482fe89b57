"""Butcher tableaus of the explicit Runge-Kutta methods, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["BOGACKI_SHAMPINE", "DOPRI5", "EULER", "HEUN", "MIDPOINT", "RK4", "TSIT5", "Tableau"]

Polynomials = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Tableau:
    """The coefficients of an explicit Runge-Kutta method.

    k_i = f(t + c_i h, y + h Σ_j a_ij k_j),   y_1 = y + h Σ_i b_i k_i,
    y(t + θh) = y + h Σ_i (Σ_j dense_ij θ^(j+1)) k_i

    Attributes
    ----------
    order : int
        The order of y_1.
    c, a, b : tuples of float
        Nodes, the strictly lower rows of the matrix (row i has i entries), weights.
    error : tuple of float or None
        Weights of the error estimate, h Σ error_i k_i; None for a method without one.
    dense : tuple of tuples of float
        The interpolant; empty for a method that takes the cubic of Hermite, see `closed`.
    stability : float
        How far the stability region reaches along the negative real axis.

    Examples
    --------
    >>> sum(HEUN.b)
    1.0
    >>> RK4.closed().stages, TSIT5.closed().stages
    (5, 7)
    """

    order: int
    c: tuple[float, ...]
    a: Polynomials
    b: tuple[float, ...]
    stability: float
    error: tuple[float, ...] | None = None
    dense: Polynomials = ()

    @property
    def stages(self) -> int:
        """How many derivatives a step takes, the one at its start included."""
        return len(self.c)

    def closed(self) -> Tableau:
        """Return the method with a last stage at the new point, and an interpolant.

        That stage is the first of the next step, so that it costs nothing; with it the cubic of
        Hermite is an interpolant for any method.
        """
        tableau = self
        if self.c[-1] != 1.0 or self.a[-1] != self.b[:-1]:
            tableau = replace(
                self, c=(*self.c, 1.0), a=(*self.a, self.b), b=(*self.b, 0.0), error=None
            )
        return tableau if tableau.dense else replace(tableau, dense=hermite(tableau.b))


def hermite(b: tuple[float, ...], quartic: tuple[float, ...] | None = None) -> Polynomials:
    """Return the cubic of Hermite as polynomials of the stages, plus ``quartic·θ²(1-θ)²``.

    The last stage must be the derivative at the new point (Hairer, Nørsett & Wanner, Solving
    Ordinary Differential Equations I, II.6, (6.7)).
    """
    last = len(b) - 1
    rows = []
    for i, weight in enumerate(b):
        d = 0.0 if quartic is None else quartic[i]
        first, final = float(i == 0), float(i == last)
        rows.append(
            (
                first,
                3 * weight - 2 * first - final + d,
                -2 * weight + first + final - 2 * d,
                d,
            )
        )
    return tuple(rows)


EULER = Tableau(order=1, c=(0.0,), a=((),), b=(1.0,), stability=2.0)
"""Euler 1768."""

MIDPOINT = Tableau(order=2, c=(0.0, 0.5), a=((), (0.5,)), b=(0.0, 1.0), stability=2.0)
"""Runge 1895; HNW I, II.1, (1.4)."""

HEUN = Tableau(order=2, c=(0.0, 1.0), a=((), (1.0,)), b=(0.5, 0.5), stability=2.0)
"""The trapezoid of Heun 1900; HNW I, II.1."""

RK4 = Tableau(
    order=4,
    c=(0.0, 0.5, 0.5, 1.0),
    a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    stability=2.785,
)
"""Kutta 1901; HNW I, II.1, Table 1.2."""

BOGACKI_SHAMPINE = Tableau(
    order=3,
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    stability=2.512,
)
"""Bogacki & Shampine 1989, Appl. Math. Lett. 2, 321, 3(2)."""

DOPRI5 = Tableau(
    order=5,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    dense=hermite(
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
        (
            -12715105075 / 11282082432,
            0.0,
            87487479700 / 32700410799,
            -10690763975 / 1880347072,
            701980252875 / 199316789632,
            -1453857185 / 822651844,
            69997945 / 29380423,
        ),
    ),
    stability=3.306,
)
"""Dormand & Prince 1980, J. Comput. Appl. Math. 6, 19, 5(4); interpolant of order 4 by Shampine
1986, as in HNW I, II.6, (6.12)."""

TSIT5 = Tableau(
    order=5,
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    a=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ),
        (
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ),
    ),
    b=(
        0.09646076681806523,
        0.01,
        0.4798896504144996,
        1.379008574103742,
        -3.290069515436081,
        2.324710524099774,
        0.0,
    ),
    error=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
    dense=(
        (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
        (0.0, 0.1317, -0.2234, 0.1017),
        (0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253),
        (0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
        (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
        (0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
        (0.0, 1.5, -4.0, 2.5),
    ),
    stability=3.506,
)
"""Tsitouras 2011, Comput. Math. Appl. 62, 770, Table 1, with its free interpolant of order 4."""
