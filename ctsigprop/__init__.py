"""Continuous-time neural systems that learn: simulate, analyse, fit.

Neurons, the learning signal and plasticity are one system of differential equations; `solve`
integrates it, and every result is a labelled tree.
"""

from __future__ import annotations

from importlib.metadata import version

from ctsigprop.collection import without_collection

with without_collection():
    from ctsigprop.errors import GradientError, IntegrationError
    from ctsigprop.fit import fit
    from ctsigprop.learning.backprop import Backpropagation, ContinuousBackpropagation
    from ctsigprop.learning.continuous import ContinuousSigprop
    from ctsigprop.learning.continuous_feedback import ContinuousFeedbackAlignment
    from ctsigprop.learning.equilibrium import (
        ContinualEquilibriumPropagation,
        EquilibriumPropagation,
    )
    from ctsigprop.learning.feedback_alignment import DirectFeedbackAlignment, FeedbackAlignment
    from ctsigprop.learning.feedback_control import DeepFeedbackControl
    from ctsigprop.learning.forward_forward import ForwardForward
    from ctsigprop.learning.local_losses import LocalLosses
    from ctsigprop.learning.pepita import Pepita
    from ctsigprop.learning.predictive_coding import PredictiveCoding
    from ctsigprop.learning.predictive_forward_forward import PredictiveForwardForward
    from ctsigprop.learning.sigprop import Sigprop
    from ctsigprop.models.averaged import (
        AveragedBCM,
        AveragedLearning,
        AveragedOja,
        AveragedSanger,
    )
    from ctsigprop.models.conductance import hodgkin_huxley, morris_lecar
    from ctsigprop.models.inputs import Input, LearningSignal
    from ctsigprop.models.kuramoto import Kuramoto
    from ctsigprop.models.layers import Layers
    from ctsigprop.models.networks import feedback_network, sigprop_network
    from ctsigprop.models.neurons import NeuralField, TextNeuron, VectorField
    from ctsigprop.models.oscillators import (
        fitzhugh_nagumo,
        hindmarsh_rose,
        qif,
        stuart_landau,
        theta,
    )
    from ctsigprop.models.plasticity import OjaSubspace, Sanger, TextPlasticity
    from ctsigprop.models.presented import presented
    from ctsigprop.models.rate import hopfield, leaky_integrator, rate, wilson_cowan
    from ctsigprop.models.rules import (
        anti_hebb,
        bcm,
        covariance,
        delta_rule,
        differential_hebb,
        eligibility,
        hebb,
        homeostatic_scaling,
        oja,
        rhythmic_hebb,
        subtractive_hebb,
        tagged_hebb,
        weight_decay,
    )
    from ctsigprop.models.synapses import Synapse
    from ctsigprop.models.triplet import triplet_stdp
    from ctsigprop.quantities import Parameter, Variable
    from ctsigprop.signals import Constant, Held, Noise, Pulse, Rhythm, Sampled, Signal
    from ctsigprop.solution import Solution
    from ctsigprop.solve import rerun, solve
    from ctsigprop.solvers.brian2_ import Brian2
    from ctsigprop.solvers.events import Event
    from ctsigprop.solvers.explicit.adaptive import BogackiShampine, Dopri5, Tsit5
    from ctsigprop.solvers.explicit.fixed import RK4, Euler, ExponentialEuler, Heun, Midpoint
    from ctsigprop.solvers.impulses import Impulse
    from ctsigprop.solvers.relaxation import Steady
    from ctsigprop.solvers.scipy_ import SciPy
    from ctsigprop.solvers.slow import Averaging, Projective
    from ctsigprop.solvers.torchdiffeq_ import TorchDiffEq
    from ctsigprop.steady import SteadyState, steady_state
    from ctsigprop.store import open, save, validate
    from ctsigprop.system import System
    from ctsigprop.terms import Source
    from ctsigprop.train import train

__version__ = version("ctsigprop")

__all__ = [
    "RK4",
    "AveragedBCM",
    "AveragedLearning",
    "AveragedOja",
    "AveragedSanger",
    "Averaging",
    "Backpropagation",
    "BogackiShampine",
    "Brian2",
    "Constant",
    "ContinualEquilibriumPropagation",
    "ContinuousBackpropagation",
    "ContinuousFeedbackAlignment",
    "ContinuousSigprop",
    "DeepFeedbackControl",
    "DirectFeedbackAlignment",
    "Dopri5",
    "EquilibriumPropagation",
    "Euler",
    "Event",
    "ExponentialEuler",
    "FeedbackAlignment",
    "ForwardForward",
    "GradientError",
    "Held",
    "Heun",
    "Impulse",
    "Input",
    "IntegrationError",
    "Kuramoto",
    "Layers",
    "LearningSignal",
    "LocalLosses",
    "Midpoint",
    "NeuralField",
    "Noise",
    "OjaSubspace",
    "Parameter",
    "Pepita",
    "PredictiveCoding",
    "PredictiveForwardForward",
    "Projective",
    "Pulse",
    "Rhythm",
    "Sampled",
    "Sanger",
    "SciPy",
    "Signal",
    "Sigprop",
    "Solution",
    "Source",
    "Steady",
    "SteadyState",
    "Synapse",
    "System",
    "TextNeuron",
    "TextPlasticity",
    "TorchDiffEq",
    "Tsit5",
    "Variable",
    "VectorField",
    "__version__",
    "anti_hebb",
    "bcm",
    "covariance",
    "delta_rule",
    "differential_hebb",
    "eligibility",
    "feedback_network",
    "fit",
    "fitzhugh_nagumo",
    "hebb",
    "hindmarsh_rose",
    "hodgkin_huxley",
    "homeostatic_scaling",
    "hopfield",
    "leaky_integrator",
    "morris_lecar",
    "oja",
    "open",
    "presented",
    "qif",
    "rate",
    "rerun",
    "rhythmic_hebb",
    "save",
    "sigprop_network",
    "solve",
    "steady_state",
    "stuart_landau",
    "subtractive_hebb",
    "tagged_hebb",
    "theta",
    "train",
    "triplet_stdp",
    "validate",
    "weight_decay",
    "wilson_cowan",
]
