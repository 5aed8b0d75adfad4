"""The benchmark's bare loop computes what the engine computes, and frees what it took; over stand-ins."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fake_tensorrt import RECORD, FakeCuda, FakeTensorrt, fake_device

from vitedge.runtime.engines.tensorrt.plan_store import StoredPlan

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("tensorrt_overhead", SCRIPTS / "tensorrt_overhead.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tensorrt_overhead", module)
    spec.loader.exec_module(module)
    return module


def test_the_bare_loop(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    module = FakeTensorrt(cuda, {b"plan": lambda frame: frame.mean(axis=(0, 1), dtype=np.float32)})
    monkeypatch.setattr(StoredPlan, "read", lambda self: b"plan")
    with script.bare_loop(fake_device(module), StoredPlan(Path("nowhere"), RECORD)) as call:
        before = len(cuda.calls)
        call()
        assert cuda.calls[before:] == ["copy_in", "execute_async_v3", "copy_out", "synchronize"]
        logits = [np.frombuffer(buffer, np.float32) for kind, buffer in cuda.memory.values() if len(buffer) == 12]
        assert all(values.tolist() == [0xAA, 0xAA, 0xAA] for values in logits)
    assert (cuda.left, module.alive, cuda.wrong) == ([], [], [])
