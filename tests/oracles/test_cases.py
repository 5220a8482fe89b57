"""Every case of `cases.json`: measured, or said to be missing.

The file says what is known: systems, parameters, values and tolerances. What it says in words only
is asserted where it is measured.
"""

from __future__ import annotations

import json
from pathlib import Path

import bifurcation
import bio
import dynamics
import exponents
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
    | exponents.CASES
    | bifurcation.CASES
    | phase.CASES
    | bio.CASES
    | plasticity.cases(CASES)
    | learning.cases(CASES)
)
REFUSALS = robustness.CASES | files.CASES
IMPLICIT = "implicit methods of fixed step: Euler, trapezoid, midpoint, Gauss and Radau"
LARGE = "spiking networks larger than one layer, with current synapses"
NOT_YET = {
    "ODE-IMPLICIT-ONESTEP": IMPLICIT,
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
