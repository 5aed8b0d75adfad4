"""Fixtures of the tests of ONNX files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vitedge.converters.sources.onnx import worker


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare graphs in this process, without limits, where a test is about their meaning: a child takes a second."""

    def serve(module: str, request: dict[str, Any], folder: Path, *_: Any, **__: Any) -> Any:
        assert module == worker.__name__
        return json.loads(json.dumps(worker.serve(json.loads(json.dumps(request)), folder)))

    monkeypatch.setattr(worker, "_limit_time", lambda file: None)
    monkeypatch.setattr("vitedge.converters.sources.onnx.models.run_sandboxed", serve)
