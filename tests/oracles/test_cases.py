"""Every case of `cases.json`: measured, or said to be missing.

The file says what is known: systems, parameters, values and tolerances. What it says in words only
is asserted where it is measured.
"""

from __future__ import annotations

import json
from pathlib import Path

import dynamics
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
TABLE = ode.CASES | dynamics.CASES | phase.CASES | plasticity.cases(CASES) | learning.cases(CASES)
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


@pytest.mark.parametrize("name", robustness.CASES)
def test_robustness(name, request):
    robustness.CASES[name](request)
