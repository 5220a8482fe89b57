"""Figures, drawn from result trees alone: nothing is computed again."""

from ctsigprop.analyses.plots.basins import plot_basins
from ctsigprop.analyses.plots.bifurcations import (
    plot_bifurcation_curves,
    plot_bifurcations,
    plot_cycles,
    plot_frequencies,
)
from ctsigprop.analyses.plots.circuit import plot_changes, plot_circuit
from ctsigprop.analyses.plots.comparison import plot_comparison
from ctsigprop.analyses.plots.cost import plot_cost
from ctsigprop.analyses.plots.courses import plot_time_courses
from ctsigprop.analyses.plots.delay import plot_delay
from ctsigprop.analyses.plots.fast_slow import plot_fast_slow
from ctsigprop.analyses.plots.learning import plot_learning, plot_weights
from ctsigprop.analyses.plots.learning_portraits import plot_learning_portraits
from ctsigprop.analyses.plots.look import style
from ctsigprop.analyses.plots.lyapunov import plot_lyapunov
from ctsigprop.analyses.plots.measures import plot_energy, plot_robustness, plot_similarity
from ctsigprop.analyses.plots.needs import plot_needs
from ctsigprop.analyses.plots.plausibility import plot_alignment, plot_locality
from ctsigprop.analyses.plots.portraits import plot_portrait
from ctsigprop.analyses.plots.propagation import plot_propagation
from ctsigprop.analyses.plots.reduced import plot_reduced_flow
from ctsigprop.analyses.plots.sections import plot_section, plot_spectrum
from ctsigprop.analyses.plots.statistics import plot_statistics

__all__ = [
    "plot_alignment",
    "plot_basins",
    "plot_bifurcation_curves",
    "plot_bifurcations",
    "plot_changes",
    "plot_circuit",
    "plot_comparison",
    "plot_cost",
    "plot_cycles",
    "plot_delay",
    "plot_energy",
    "plot_fast_slow",
    "plot_frequencies",
    "plot_learning",
    "plot_learning_portraits",
    "plot_locality",
    "plot_lyapunov",
    "plot_needs",
    "plot_portrait",
    "plot_propagation",
    "plot_reduced_flow",
    "plot_robustness",
    "plot_section",
    "plot_similarity",
    "plot_spectrum",
    "plot_statistics",
    "plot_time_courses",
    "plot_weights",
    "style",
]
