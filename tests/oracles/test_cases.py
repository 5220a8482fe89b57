"""Every case of `cases.json`: measured, or said to be missing.

The file says what is known: systems, parameters, values and tolerances. What is known in words
(no number, or a number with no tolerance) is asserted where it is measured, and comes back `SHOWN`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import dynamics
import ode
import pytest

CASES = {
    case["id"]: case
    for case in json.loads(Path(__file__).with_name("cases.json").read_text())["cases"]
}
TABLE = {**ode.CASES, **dynamics.CASES}
ROWS = [(name, label) for name, variants in TABLE.items() for label in variants]


def agrees(found, expected):
    if isinstance(expected["value"], str):
        return np.asarray(found == expected["value"])
    value = np.asarray(expected["value"], dtype=float)
    found = np.asarray(found, dtype=float)
    assert found.shape == value.shape
    return np.abs(found - value) <= expected["atol"] + expected["rtol"] * np.abs(value)


@pytest.mark.parametrize(("name", "label"), ROWS, ids=["-".join(filter(None, r)) for r in ROWS])
def test_case(name, label):
    case = CASES[name]
    measured = TABLE[name][label](case)
    for found, expected in zip(measured, case["expected"], strict=True):
        assert agrees(found, expected).all(), (
            f"{expected['name']}: {found}, not {expected['value']}"
        )
