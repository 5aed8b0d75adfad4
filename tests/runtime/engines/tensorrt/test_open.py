from __future__ import annotations

import logging

import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.runtime.engines.tensorrt import open as module


def test_a_number_of_threads_is_said_to_have_no_effect(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_open", lambda _bundle, workers, _progress: ["an engine"] * workers)
    with caplog.at_level(logging.WARNING, logger="vitedge"):
        assert module.open_engine(tiny_bundle) == "an engine"
        assert caplog.messages == []
        assert module.open_engine(tiny_bundle, threads=4) == "an engine"
    assert caplog.messages == ["threads=4 has no effect: TensorRT computes on the GPU"]
