"""Where the tests of this folder run: `tests/test_device.py` gives each module a process."""

from __future__ import annotations

import pytest
import torch
from device import another_device, no_inference


@pytest.fixture(scope="session")
def device() -> torch.device:
    return another_device()[0]


@pytest.fixture(autouse=True)
def _no_inference(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    if device.type != "cuda":
        monkeypatch.setattr(torch, "inference_mode", no_inference)
