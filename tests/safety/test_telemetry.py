from __future__ import annotations

import os

import pytest

from vitedge.safety import telemetry


def test_what_the_application_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    telemetry.disable()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    assert os.environ["DO_NOT_TRACK"] == "1"
