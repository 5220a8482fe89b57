"""The field's standard plasticity rules, each a short text."""

from __future__ import annotations

from ctsigprop.models.neurons import Value
from ctsigprop.models.plasticity import TextPlasticity
from ctsigprop.signals import Signal

__all__ = [
    "anti_hebb",
    "bcm",
    "covariance",
    "delta_rule",
    "differential_hebb",
    "eligibility",
    "hebb",
    "homeostatic_scaling",
    "oja",
    "rhythmic_hebb",
    "subtractive_hebb",
    "tagged_hebb",
    "weight_decay",
]


def hebb(eta: Value, *, gate: Signal | None = None) -> TextPlasticity:
    """Return Hebb's rule: dw/dt = eta · y · x.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate, in 1/(time unit).
    gate : Signal, optional
        When it is on.

    References
    ----------
    Hebb 1949, The Organization of Behavior.

    Examples
    --------
    >>> hebb(0.1).text
    'dw/dt = eta*x*y'
    """
    return TextPlasticity("dw/dt = eta*x*y", gate=gate, eta=eta)


def anti_hebb(eta: Value, *, gate: Signal | None = None) -> TextPlasticity:
    """Return the anti-Hebbian rule: dw/dt = −eta · y · x.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate, in 1/(time unit).
    gate : Signal, optional
        When it is on.

    References
    ----------
    Földiák 1990, Biol. Cybern. 64:165-170.

    Examples
    --------
    >>> anti_hebb(0.1).text
    'dw/dt = -eta*x*y'
    """
    return TextPlasticity("dw/dt = -eta*x*y", gate=gate, eta=eta)


def covariance(eta: Value, *, tau: Value) -> TextPlasticity:
    """Return the covariance rule: dw/dt = eta (y − ȳ)(x − x̄), running means over tau.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate, in 1/(time unit).
    tau : Parameter, Tensor or float
        Time constant of the means: tau dȳ/dt = y − ȳ.

    References
    ----------
    Sejnowski 1977, J. Math. Biol. 4:303-321.

    Examples
    --------
    >>> len(covariance(0.1, tau=10.0).structure.outer)
    1
    """
    text = """
        dw/dt = eta*(y - ybar)*(x - xbar)
        dybar/dt = (y - ybar)/tau : 1 (post)
        dxbar/dt = (x - xbar)/tau : 1 (pre)
    """
    return TextPlasticity(text, eta=eta, tau=tau)


def delta_rule(eta: Value, *, error: str) -> TextPlasticity:
    """Return the delta rule: dw/dt = eta · e · x.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate, in 1/(time unit).
    error : str
        The population whose activity is e, one unit for each postsynaptic one.

    References
    ----------
    Widrow & Hoff 1960, IRE WESCON Convention Record 4:96-104.

    Examples
    --------
    >>> delta_rule(0.1, error="e_h1").modulator
    'e_h1'
    """
    return TextPlasticity("dw/dt = eta*m*x", modulator=error, eta=eta)


def oja(eta: Value) -> TextPlasticity:
    """Return Oja's rule: dw/dt = eta (y·x − y²·w).

    The weights of a linear neuron turn to the first principal component, with unit length.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate, in 1/(time unit).

    References
    ----------
    Oja 1982, J. Math. Biol. 15:267-273, eq. 3.

    Examples
    --------
    >>> oja(0.1).text
    'dw/dt = eta*(y*x - y**2*w)'
    """
    return TextPlasticity("dw/dt = eta*(y*x - y**2*w)", eta=eta)


def bcm(eta: Value, *, tau_theta: Value, theta: float = 0.0) -> TextPlasticity:
    """Return the BCM rule with a sliding threshold.

        dw/dt = eta · x · y (y − θ),    tau_theta dθ/dt = y² − θ

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate, in 1/(time unit).
    tau_theta : Parameter, Tensor or float
        Time constant of the threshold; stable learning needs it short against 1/eta.
    theta : float
        Initial threshold.

    References
    ----------
    Bienenstock, Cooper & Munro 1982, J. Neurosci. 2:32-48; threshold of Intrator & Cooper 1992.

    Examples
    --------
    >>> len(bcm(0.1, tau_theta=1.0).structure.outer)
    1
    """
    text = """
        dw/dt = eta*x*y*(y - theta)
        dtheta/dt = (y**2 - theta)/tau_theta : 1 (post)
    """
    return TextPlasticity(text, initial=theta, eta=eta, tau_theta=tau_theta)


def homeostatic_scaling(eta: Value, *, target: Value) -> TextPlasticity:
    """Return multiplicative synaptic scaling: dw/dt = eta · w (y* − y); ratios of weights stay.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Rate, in 1/(time unit · activity).
    target : Parameter, Tensor or float
        The activity y* that is held.

    References
    ----------
    Turrigiano et al. 1998, Nature 391:892-896; van Rossum et al. 2000, J. Neurosci. 20:8812-8821.

    Examples
    --------
    >>> homeostatic_scaling(0.2, target=5.0).structure.decay_post is not None
    True
    """
    return TextPlasticity("dw/dt = eta*(target - y)*w", eta=eta, target=target)


def subtractive_hebb(
    eta: Value, *, decay: Value, rest: Value = 0.5, mean: str = "m"
) -> TextPlasticity:
    """Return Hebb's rule with subtractive normalisation, soft bounds and a return to rest.

        dw/dt = eta · w (1 − w) · y (x − m) + decay (w_rest − w)

    With m the mean of the inputs, what one synapse wins the others lose; a weight slows down
    towards its bounds 0 and 1. On average two synapses of unit variance and correlation c share
    their neuron where c > 1 − 4 decay/eta, and one of them takes it where c is less: a
    supercritical pitchfork, w = 1/2 ± √(1 − 4 decay/(eta (1 − c)))/2.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate, in 1/(time unit).
    decay : Parameter, Tensor or float
        Rate of return, in 1/(time unit).
    rest : Parameter, Tensor or float
        w_rest.
    mean : str
        The population of one channel whose activity is m.

    References
    ----------
    Subtractive normalisation: Miller & MacKay 1994, Neural Computation 6:100-126; soft bounds:
    Gütig, Aharonov, Rotter & Sompolinsky 2003, J. Neurosci. 23:3697-3714. The combination, and its
    pitchfork, are derived here.

    Examples
    --------
    >>> subtractive_hebb(1.0, decay=0.1).modulator
    'm'
    """
    text = "dw/dt = eta*w*(1 - w)*y*(x - m) + decay*(rest - w)"
    return TextPlasticity(text, modulator=mean, eta=eta, decay=decay, rest=rest)


def weight_decay(rate: Value) -> TextPlasticity:
    """Return decay: dw/dt = −rate · w.

    Parameters
    ----------
    rate : Parameter, Tensor or float
        In 1/(time unit).

    Examples
    --------
    >>> weight_decay(0.01).structure.decay_scalar is not None
    True
    """
    return TextPlasticity("dw/dt = -rate*w", rate=rate)


def differential_hebb(eta: Value, *, gate: Signal | None = None) -> TextPlasticity:
    """Return the differential Hebbian rule: dw/dt = eta · (dy/dt) · x.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate (dimensionless for equal units of x and y).
    gate : Signal, optional
        When it is on: in sigprop's continuous form while the learning signal is.

    References
    ----------
    Kosko 1986, AIP Conf. Proc. 151:277-282; the form of Ernoult et al. 2020, arXiv 2005.04168.

    Examples
    --------
    >>> differential_hebb(0.1).text
    'dw/dt = eta*dy*x'
    """
    return TextPlasticity("dw/dt = eta*dy*x", gate=gate, eta=eta)


def eligibility(
    eta: Value, *, tau_e: Value, modulator: str | Signal, theta: Value = 0.0
) -> TextPlasticity:
    """Return a three-factor rule: a Hebbian trace waits for the third factor m.

        dw/dt = eta · m · e,    tau_e de/dt = −e + (y − θ)·x

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate.
    tau_e : Parameter, Tensor or float
        How long a synapse stays eligible.
    modulator : str or Signal
        m: reward, novelty or another global signal.
    theta : Parameter, Tensor or float
        Postsynaptic threshold θ.

    References
    ----------
    Gerstner et al. 2018, Front. Neural Circuits 12:53, eqs. 1 and 3.

    Examples
    --------
    >>> eligibility(0.1, tau_e=20.0, modulator="reward").modulator
    'reward'
    """
    text = """
        dw/dt = eta*m*e
        de/dt = (-e + (y - theta)*x)/tau_e : 1
    """
    return TextPlasticity(text, modulator=modulator, eta=eta, tau_e=tau_e, theta=theta)


def tagged_hebb(eta: Value, *, tau_c: Value, signal: Signal) -> TextPlasticity:
    """Return the differential Hebbian rule with a tag that is captured when the signal is off.

        de/dt = m · (dy/dt) · x − (1 − m) e/tau_c,    dw/dt = eta (1 − m) e/tau_c

    While the learning signal is on (m = 1) the synapse keeps a tag e, and its weight rests; when it
    is off, the weight takes up what the tag loses. The plain rule moves the weight, and with it
    the activity that it differentiates, at once: that feeds back, and limits its rate.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate (dimensionless for equal units of x and y).
    tau_c : Parameter, Tensor or float
        Time constant of the capture.
    signal : Signal
        m: 1 while the learning signal is on, else 0.

    References
    ----------
    The two stages are those of synaptic tagging: Frey & Morris 1997, Nature 385:533-536.

    Examples
    --------
    >>> from ctsigprop.signals import Pulse
    >>> tagged_hebb(0.1, tau_c=2.0, signal=Pulse(1.0)).structures["e"] is not None
    True
    """
    text = """
        dw/dt = eta*(1 - m)*e/tau_c
        de/dt = m*dy*x - (1 - m)*e/tau_c
    """
    return TextPlasticity(text, modulator=signal, eta=eta, tau_c=tau_c)


def rhythmic_hebb(eta: Value, *, tau_c: Value, rhythm: Signal) -> TextPlasticity:
    """Return the differential Hebbian rule demodulated by a rhythm that the learning signal rides.

        de/dt = m · (dy/dt) · x − e/tau_c,    dw/dt = eta e/tau_c

    The tag e gathers what of dy/dt moves with m; the weight takes it up over tau_c. With m the rate
    at which the signal changes, ∫ m (dy/dt) x dt over whole periods is the response to the signal
    times the mean x, whatever y is without it.

    Parameters
    ----------
    eta : Parameter, Tensor or float
        Learning rate (dimensionless for equal units of x and y).
    tau_c : Parameter, Tensor or float
        Time constant of the capture.
    rhythm : Signal
        m.

    References
    ----------
    Demodulation as in holomorphic equilibrium propagation, Laborieux & Zenke 2022,
    arXiv 2209.00530; for this rule reconstructed.

    Examples
    --------
    >>> from ctsigprop.signals import Rhythm
    >>> rhythmic_hebb(0.1, tau_c=9.0, rhythm=Rhythm(1.0, 0.1)).structures["e"] is not None
    True
    """
    text = """
        dw/dt = eta*e/tau_c
        de/dt = m*dy*x - e/tau_c
    """
    return TextPlasticity(text, modulator=rhythm, eta=eta, tau_c=tau_c)
