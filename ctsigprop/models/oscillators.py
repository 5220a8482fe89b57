"""Excitable and oscillating neurons of few variables."""

from __future__ import annotations

from ctsigprop.models.neurons import TextNeuron, Value

__all__ = ["fitzhugh_nagumo", "hindmarsh_rose", "qif", "stuart_landau", "theta"]


def fitzhugh_nagumo(
    name: str = "",
    size: int = 1,
    *,
    a: Value = 0.7,
    b: Value = 0.8,
    tau: Value = 12.5,
    I: Value = 0.0,  # noqa: E741
) -> TextNeuron:
    """Return FitzHugh-Nagumo neurons: dv/dt = v − v³/3 − w + I + J, tau dw/dt = v + a − b w.

    Parameters
    ----------
    name, size : str, int
        The population.
    a, b, tau, I : Parameter, Tensor or float
        Offset, slope of the w-nullcline, slowness of w, constant current; synapses enter at J.

    References
    ----------
    FitzHugh 1961, Biophys. J. 1:445-466, eqs. 1 and 2, with the sign of v of later texts.

    Examples
    --------
    >>> [v.name for v in fitzhugh_nagumo().variables]
    ['v', 'w']
    """
    text = "dv/dt = v - v**3/3 - w + I + J : 1\ndw/dt = (v + a - b*w)/tau : 1\nJ : 1"
    return TextNeuron(text, name, size, a=a, b=b, tau=tau, I=I)


def hindmarsh_rose(
    name: str = "",
    size: int = 1,
    *,
    r: Value = 0.006,
    s: Value = 4.0,
    x_R: Value = -1.6,
    I: Value = 3.25,  # noqa: E741
) -> TextNeuron:
    """Return Hindmarsh-Rose neurons, which burst.

        dx/dt = y + 3x² − x³ − z + I + J,   dy/dt = 1 − 5x² − y,   dz/dt = r (s (x − x_R) − z)

    Parameters
    ----------
    name, size : str, int
        The population.
    r, s, x_R, I : Parameter, Tensor or float
        Slowness and slope of the adaptation z, resting x, constant current; synapses enter at J.

    References
    ----------
    Hindmarsh & Rose 1984, Proc. R. Soc. B 221:87-102.

    Examples
    --------
    >>> [v.name for v in hindmarsh_rose().variables]
    ['x', 'y', 'z']
    """
    text = """
        dx/dt = y + 3*x**2 - x**3 - z + I + J : 1
        dy/dt = 1 - 5*x**2 - y : 1
        dz/dt = r*(s*(x - x_R) - z) : 1
        J : 1
    """
    start = {"x": -1.6, "y": -11.8, "z": 0.0}
    return TextNeuron(text, name, size, initial=start, r=r, s=s, x_R=x_R, I=I)


def stuart_landau(
    name: str = "", size: int = 1, *, mu: Value = 1.0, omega: Value = 1.0, c: Value = 0.0
) -> TextNeuron:
    """Return Stuart-Landau oscillators: dz/dt = (mu + i omega) z − (1 + i c)|z|² z + J, z = x + iy.

    Parameters
    ----------
    name, size : str, int
        The population.
    mu, omega, c : Parameter, Tensor or float
        Distance from the Hopf point, frequency, shear; synapses enter x at J.

    Examples
    --------
    >>> stuart_landau(mu=0.5).output
    'x'
    """
    text = """
        dx/dt = mu*x - omega*y - (x**2 + y**2)*(x - c*y) + J : 1
        dy/dt = mu*y + omega*x - (x**2 + y**2)*(y + c*x) : 1
        J : 1
    """
    return TextNeuron(text, name, size, initial={"x": 0.1}, mu=mu, omega=omega, c=c)


def theta(name: str = "", size: int = 1, *, I: Value = 0.0) -> TextNeuron:  # noqa: E741
    """Return theta neurons: dθ/dt = (1 − cos θ) + (1 + cos θ)(I + J); synapses see 1 − cos θ.

    Parameters
    ----------
    name, size : str, int
        The population.
    I : Parameter, Tensor or float
        Constant drive; spiking above 0 with period π/√I. Synapses enter at J.

    References
    ----------
    Ermentrout & Kopell 1986, SIAM J. Appl. Math. 46:233-253.

    Examples
    --------
    >>> theta(I=0.25).variables[0].name
    'theta'
    """
    text = "dtheta/dt = 1 - cos(theta) + (1 + cos(theta))*(I + J) : 1\nJ : 1"
    return TextNeuron(text, name, size, output="1 - cos(theta)", I=I)


def qif(name: str = "", size: int = 1, *, I: Value = 0.0) -> TextNeuron:  # noqa: E741
    """Return quadratic integrate-and-fire neurons: dv/dt = v² + I + J.

    Without an `Event` that resets it, v blows up at the spike, as it should.

    Parameters
    ----------
    name, size : str, int
        The population.
    I : Parameter, Tensor or float
        Constant drive; synapses enter at J.

    References
    ----------
    Ermentrout & Kopell 1986, SIAM J. Appl. Math. 46:233-253; v = tan(θ/2) gives `theta`.

    Examples
    --------
    >>> qif(I=0.25).ports
    {'J': '1'}
    """
    return TextNeuron("dv/dt = v**2 + I + J : 1\nJ : 1", name, size, I=I)
