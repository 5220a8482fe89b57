"""Every case of `cases.json`: measured, or said to be missing.

The file says what is known: systems, parameters, values and tolerances. What it says in words only
is asserted where it is measured.
"""

from __future__ import annotations

import json
from pathlib import Path

import bio
import dynamics
import files
import learning
import numpy as np
import ode
import phase
import plasticity
import pytest
import robustness

CASES = {
    case["id"]: case
    for case in json.loads(Path(__file__).with_name("cases.json").read_text())["cases"]
}
TABLE = (
    ode.CASES
    | dynamics.CASES
    | phase.CASES
    | bio.CASES
    | plasticity.cases(CASES)
    | learning.cases(CASES)
)
REFUSALS = robustness.CASES | files.CASES
CONTINUATION = "continuation of fixed points: folds, Hopf points and their criticality"
EXPONENTS = "Lyapunov exponents"
IMPLICIT = "implicit methods of fixed step: Euler, trapezoid, midpoint, Gauss and Radau"
LARGE = "spiking networks larger than one layer, with current synapses"
NOT_YET = {
    "ODE-IMPLICIT-ONESTEP": IMPLICIT,
    "DYN-FHN-HOPF": CONTINUATION,
    "DYN-ML-HOPF": CONTINUATION,
    "DYN-ML-SNIC": CONTINUATION,
    "DYN-HH-HOPF": CONTINUATION,
    "DYN-IZH-FIXED": CONTINUATION,
    "DYN-NORMALFORMS": f"{CONTINUATION}, and of cycles",
    "DYN-LORENZ-FIXED": f"{CONTINUATION}, and homoclinic orbits",
    "DYN-LORENZ-LE": EXPONENTS,
    "DYN-LORENZ-STABLE-LE": EXPONENTS,
    "DYN-ROSSLER": EXPONENTS,
    "DYN-LINEAR-LE": EXPONENTS,
    "DYN-STUART-LANDAU": f"{EXPONENTS}, and Floquet multipliers of cycles",
    "DYN-KURAMOTO": "order parameter and critical coupling of a population of oscillators",
    "SPK-ADEX-TONIC": f"{CONTINUATION}: the rheobase",
    "SPK-ADEX-ADAPTATION": f"{CONTINUATION}: the rheobase",
    "SPK-SIEGERT": "firing rate in white noise, in closed form",
    "SPK-IZH2003-NET": LARGE,
    "SPK-CUBA": LARGE,
    "PL-CLOPATH-CLAMP": "voltage-based plasticity",
    "PL-VOGELS-ISTDP": "inhibitory plasticity in a spiking network",
    "LT-BASELINES-PUBLISHED": "equilibrium propagation, forward-forward and feedback alignment",
    "FIT-GAMMA": "coincidence factor of spike trains",
    "FIT-RECOVER-LIF": "confidence intervals of fitted parameters",
}
ROWS = [(name, label) for name, variants in TABLE.items() for label in variants]


def flat(values):
    """Return numbers of any nesting in a row."""
    if isinstance(values, list | tuple):
        return np.concatenate([flat(value) for value in values])
    if hasattr(values, "detach"):
        values = values.detach()
    return np.asarray(values, dtype=float).reshape(-1)


def agree(found, expected):
    value = expected["value"]
    if value is None or isinstance(value, str | bool):
        return found == value
    found, value = flat(found), flat(value)
    assert len(found) == len(value)
    return bool(
        (np.abs(found - value) <= expected["atol"] + expected["rtol"] * np.abs(value)).all()
    )


@pytest.mark.parametrize(("name", "label"), ROWS, ids=["-".join(filter(None, r)) for r in ROWS])
def test_case(name, label):
    case = CASES[name]
    measured = TABLE[name][label](case)
    for found, expected in zip(measured, case["expected"], strict=True):
        assert agree(found, expected), f"{expected['name']}: {found}, not {expected['value']}"


def test_every_case_is_measured_or_said_to_be_missing():
    measured = TABLE.keys() | REFUSALS.keys()
    assert measured | NOT_YET.keys() == CASES.keys()
    assert not measured & NOT_YET.keys()
    assert all(len(reason) > 10 for reason in NOT_YET.values())


@pytest.mark.parametrize("name", REFUSALS)
def test_robustness(name, request):
    REFUSALS[name](request)
