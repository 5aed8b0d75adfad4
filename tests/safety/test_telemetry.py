"""What libraries are told before they are imported; ``tests/test_connections.py`` watches what they do then."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from types import ModuleType

import pytest

from vitedge.safety import telemetry

REPORTER = "openvino_telemetry"


def test_what_the_application_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    telemetry.disable()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    assert os.environ["DO_NOT_TRACK"] == "1"


@pytest.mark.parametrize("module", ["vitedge", "vitedge.runtime.engines.base", "vitedge.cli", "vitedge.safety.child"])
def test_any_module_of_vitedge_is_enough(module: str) -> None:
    code = f"import {module}, os; print(sorted(name for name in {sorted(telemetry.VARIABLES)} if name in os.environ))"
    environment = {name: value for name, value in os.environ.items() if name not in telemetry.VARIABLES}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sorted(telemetry.VARIABLES))


def test_a_reporter_that_cannot_be_told_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, REPORTER, raising=False)
    telemetry.disable()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(REPORTER)


def test_a_reporter_that_the_application_imported_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = ModuleType(REPORTER)
    monkeypatch.setitem(sys.modules, REPORTER, imported)
    telemetry.disable()
    assert sys.modules[REPORTER] is imported
