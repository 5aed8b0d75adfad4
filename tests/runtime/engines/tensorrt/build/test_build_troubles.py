"""Builds that are interrupted or contended, and too little memory or disk: the engine that was there stays."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import FakeTensorrt
from plan_builder import GIBIBYTE, Builder, files, here
from tensorrt_bundles import Steps

from vitedge.bundle.bundle import MODEL_FP16_ONNX, Bundle
from vitedge.errors import EngineError
from vitedge.runtime.engines.tensorrt import open as engine_module
from vitedge.runtime.engines.tensorrt import plan_store as store
from vitedge.runtime.engines.tensorrt.build import build as build_module
from vitedge.runtime.engines.tensorrt.build.build import build, check_memory
from vitedge.runtime.engines.tensorrt.plan_store import plan_dirs, stored_plans
from vitedge.runtime.system.machine import Memory

INTERRUPTIONS = ("build", "self-test", "timing", "record", "moved away", "moved in")


@pytest.mark.parametrize("phase", INTERRUPTIONS)
def test_an_interrupt_leaves_the_engine_that_was_there(
    phase: str, bundle: Bundle, module: FakeTensorrt, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build(bundle)
    with monkeypatch.context() as patched:
        interrupt(phase, builder, patched)
        with pytest.raises(KeyboardInterrupt):
            build(bundle, overwrite=True)
    assert here(bundle, module).record == before
    assert here(bundle, module).read() == f"plan of {before.kept}".encode()
    assert files(bundle.path) == {"tensorrt", "manifest.json", *bundle.manifest.files}
    assert (module.cuda.left, module.alive, module.cuda.wrong) == ([], [], [])


def interrupt(phase: str, builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(*arguments: object, **named: object) -> Any:
        raise KeyboardInterrupt

    if phase == "build":
        builder.errors[MODEL_FP16_ONNX] = KeyboardInterrupt()
    elif phase in ("self-test", "timing", "record"):
        name = {"self-test": "self_test", "timing": "_latency", "record": "dump_record"}[phase]
        monkeypatch.setattr(build_module, name, raising)
    else:
        rename = Path.rename

        def interrupted(path: Path, target: Path) -> Path:
            moves_in = path.name.startswith(".tensorrt-") and target.name == "tensorrt" and "previous" not in path.name
            if (phase == "moved in" and moves_in) or (phase == "moved away" and target.name == ".tensorrt-previous"):
                raise KeyboardInterrupt
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", interrupted)


def test_killed_between_the_two_moves(bundle: Bundle, module: FakeTensorrt, builder: Builder) -> None:
    """What SIGKILL leaves there is found by the next that builds or loads."""
    before = build(bundle)
    (bundle.path / "tensorrt").rename(bundle.path / ".tensorrt-previous")
    (bundle.path / ".tensorrt-1").mkdir()
    assert build(bundle) == before
    assert len(builder.built) == 2
    assert files(bundle.path) == {"tensorrt", "manifest.json", *bundle.manifest.files}


def test_two_at_once_build_once(bundle: Bundle, module: FakeTensorrt, builder: Builder) -> None:
    begun, waiting = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert waiting.wait(30)

    builder.hook = hold
    records = []
    first = threading.Thread(target=lambda: records.append(build(bundle)))
    first.start()
    assert begun.wait(30)
    second = Steps(lambda text: waiting.set() if "waiting" in text else None)
    records.append(build(bundle, progress=second))
    first.join(30)
    assert "another process is building" in second.steps[0]
    assert records[0] == records[1]
    assert len(builder.built) == 2


def test_a_bundle_that_cannot_be_written(
    bundle: Bundle, module: FakeTensorrt, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a read-only file system: the engine goes to the cache, and is found there."""
    access = os.access
    monkeypatch.setattr(store.os, "access", lambda path, mode: path != bundle.path and access(path, mode))
    build(bundle)
    _, cached = plan_dirs(bundle)
    assert here(bundle, module).folder == cached
    assert files(bundle.path) == {"manifest.json", *bundle.manifest.files}
    engine_module.open_engine(bundle).close()
    assert len(builder.built) == 2
    monkeypatch.setattr(store.os, "access", lambda path, mode: False)
    with pytest.raises(EngineError, match="written nowhere"):
        build(bundle, overwrite=True)


def test_an_engine_in_the_bundle_for_another_device_gives_way_to_that_in_the_cache(
    bundle: Bundle, module: FakeTensorrt, builder: Builder
) -> None:
    build(bundle)
    _, cached = plan_dirs(bundle)
    cached.parent.mkdir(parents=True)
    shutil.copytree(bundle.path / "tensorrt", cached)
    record = bundle.path / "tensorrt" / "build.json"
    record.write_text(record.read_text().replace('"Orin"', '"Xavier"'))
    assert here(bundle, module).folder == cached
    assert len(stored_plans(bundle)) == 2


def test_too_little_memory(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def available(size: int | None) -> None:
        monkeypatch.setattr(build_module, "read_memory", lambda: Memory(8 * GIBIBYTE, size))

    available(GIBIBYTE)
    with pytest.raises(EngineError, match="1024 MiB are available") as caught:
        check_memory(bundle, None)
    assert "1024 MiB for TensorRT" in caught.value.expected
    assert "estimate" in caught.value.expected
    assert "workspace_mb" in caught.value.fix
    available(2 * GIBIBYTE)
    assert check_memory(bundle, None) == GIBIBYTE // 2
    with pytest.raises(EngineError, match="takes about"):
        check_memory(bundle, 2 * GIBIBYTE)
    available(64 * GIBIBYTE)
    assert check_memory(bundle, None) == GIBIBYTE
    assert check_memory(bundle, 5) == 5
    available(None)
    assert check_memory(bundle, None) == GIBIBYTE


def test_too_little_memory_builds_nothing(
    bundle: Bundle, module: FakeTensorrt, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "read_memory", lambda: Memory(GIBIBYTE, GIBIBYTE))
    with pytest.raises(EngineError, match="MiB"):
        build(bundle)
    assert builder.built == []
    assert files(bundle.path) == {"manifest.json", *bundle.manifest.files}


def test_a_full_disk(bundle: Bundle, module: FakeTensorrt, builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(record: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_module, "dump_record", full)
    with pytest.raises(EngineError, match="No space left"):
        build(bundle)
    assert files(bundle.path) == {"manifest.json", *bundle.manifest.files}
