"""Plans that were altered, or built by somebody else, are not run; what lies in their place is built anew."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import FakeTensorrt
from plan_builder import Builder, here, slow
from tensorrt_bundles import Steps

from vitedge.bundle.bundle import MODEL_FP16_ONNX, MODEL_ONNX, Bundle
from vitedge.errors import BundleIntegrityError
from vitedge.runtime.engines.tensorrt import open as engine_module
from vitedge.runtime.engines.tensorrt import plan_store as store
from vitedge.runtime.engines.tensorrt.build import build as build_module
from vitedge.runtime.engines.tensorrt.build.build import build
from vitedge.runtime.engines.tensorrt.build.worker import BuildRequest
from vitedge.runtime.engines.tensorrt.build_record import dump_record
from vitedge.runtime.engines.tensorrt.fingerprint import fingerprint_of
from vitedge.runtime.engines.tensorrt.plan_store import MODEL_PLAN, TIMING_CACHE, find_plan, graphs_of
from vitedge.runtime.system.cache import cache_folder


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.write_bytes(b"plan of model.fp16.onny"[: path.stat().st_size]), "was altered"),
        (lambda path: path.write_bytes(path.read_bytes()[:5]), "has 5 bytes"),
        (lambda path: path.unlink(), "cannot be read"),
    ],
)
def test_an_altered_plan_never_reaches_tensorrt(
    damage: Callable[[Path], Any], problem: str, bundle: Bundle, module: FakeTensorrt, builder: Builder
) -> None:
    slow(module, b"plan of model.onnx")
    build(bundle)
    damage(bundle.path / "tensorrt" / MODEL_PLAN)
    loaded = module.cuda.calls.count("deserialize")
    for attempt in (engine_module.open_engine, engine_module.open_workers, build):
        with pytest.raises(BundleIntegrityError, match=problem) as caught:
            attempt(bundle)
        assert "with overwrite" in caught.value.fix
    assert module.cuda.calls.count("deserialize") == loaded
    build(bundle, overwrite=True)
    engine_module.open_engine(bundle).close()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Go to another machine of the same kind: nothing that was built here is known there."""

    def go() -> None:
        monkeypatch.setattr(store, "_built_in_this_process", {})
        monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path / "another-machine"))

    return go


def test_a_plan_that_came_with_the_bundle_is_not_run(
    bundle: Bundle,
    module: FakeTensorrt,
    builder: Builder,
    elsewhere: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was built for this very kind of device, and has its true hash."""
    record = build(bundle)
    elsewhere()
    evil = b"plan of a stranger"
    path = bundle.path / "tensorrt" / "build.json"
    (path.parent / MODEL_PLAN).write_bytes(evil)
    path.write_text(
        dump_record(replace(record, plan_sha256=hashlib.sha256(evil).hexdigest(), plan_bytes=len(evil))),
        encoding="utf-8",
    )
    with caplog.at_level(logging.WARNING, "vitedge"):
        engine_module.open_engine(Bundle.open(bundle.path)).close()
    (message,) = (each.getMessage() for each in caplog.records)
    assert "not one that this user built on this machine, and is not run; building it now" in message
    assert len(builder.built) == 4
    assert here(bundle, module).read() != evil


def test_a_plan_that_was_copied_to_another_machine_is_built_anew_there_and_once(
    bundle: Bundle, module: FakeTensorrt, builder: Builder, elsewhere: Callable[[], None]
) -> None:
    first, second = Steps(), Steps()
    build(bundle, progress=first)
    elsewhere()
    build(bundle, progress=second)
    engine_module.open_engine(bundle).close()
    assert len(builder.built) == 4
    assert not first.steps[0].startswith("building anew")
    assert "building anew: its engine is not one that this user built on this machine" in second.steps[0]


@pytest.mark.parametrize("change", [{"kept": MODEL_ONNX}, {"workspace_bytes": 1}, {"created_at": "later"}])
def test_a_record_of_another_build_is_not_remembered(
    bundle: Bundle, module: FakeTensorrt, builder: Builder, change: dict[str, Any]
) -> None:
    slow(module, b"plan of model.onnx")
    record = build(bundle)
    assert here(bundle, module).is_built_here
    path = bundle.path / "tensorrt" / "build.json"
    path.write_text(dump_record(replace(record, **change)), encoding="utf-8")
    found = find_plan(bundle, fingerprint_of(module, module.cuda.gpu(), graphs_of(bundle)))
    assert isinstance(found, str)
    assert "is not run" in found


@pytest.mark.parametrize("entry", ["{}", '{"plan_sha256": 3}', '{"plan_sha256": "0"}', "[]", "{"])
def test_a_memory_that_names_another_plan_is_none(
    bundle: Bundle, module: FakeTensorrt, builder: Builder, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(bundle)
    monkeypatch.setattr(store, "_built_in_this_process", {})
    (path,) = (cache_folder() / store.BUILDS).iterdir()
    assert here(bundle, module).is_built_here
    path.write_text(entry, encoding="utf-8")
    build(bundle)
    assert len(builder.built) == 4


def test_what_a_stranger_timed_does_not_reach_tensorrt(
    bundle: Bundle, module: FakeTensorrt, builder: Builder, elsewhere: Callable[[], None]
) -> None:
    build(bundle)
    (bundle.path / "tensorrt" / TIMING_CACHE).write_bytes(b"evil")
    build(bundle, overwrite=True)
    assert builder.known_timings[2] == b""
    elsewhere()
    build(bundle)
    assert builder.known_timings[4] == b""


def test_without_a_cache_this_process_alone_knows(
    bundle: Bundle, module: FakeTensorrt, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITEDGE_CACHE", "/proc/none")
    steps = Steps()
    build(bundle, progress=steps)
    assert "VITEDGE_CACHE" in steps.steps[-1]
    engine_module.open_engine(bundle).close()
    assert len(builder.built) == 2
    monkeypatch.setattr(store, "_built_in_this_process", {})
    assert isinstance(find_plan(bundle, fingerprint_of(module, module.cuda.gpu(), graphs_of(bundle))), str)


def test_the_graph_that_is_built_is_the_one_that_was_hashed(
    bundle: Bundle, module: FakeTensorrt, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is put in its place while the other process starts."""
    seen: list[bytes] = []

    def swapped(request: BuildRequest, progress: Any) -> None:
        bundle.file(Path(request.graph).name).write_bytes(b"evil")
        seen.append(Path(request.graph).read_bytes())
        assert Path(request.graph).parent.stat().st_mode & 0o777 == 0o700
        builder(request, progress)

    true = [bundle.file(name).read_bytes() for name in (MODEL_ONNX, MODEL_FP16_ONNX)]
    monkeypatch.setattr(build_module, "build_apart", swapped)
    build(bundle)
    assert seen == true
    with pytest.raises(BundleIntegrityError, match="has 4 bytes"):
        build(bundle, overwrite=True)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["build.json", MODEL_PLAN, TIMING_CACHE])
@pytest.mark.parametrize("plant", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_whatever_lies_in_the_folder_is_built_anew_or_one_clear_error(
    bundle: Bundle, module: FakeTensorrt, builder: Builder, name: str, plant: Callable[[Path], object]
) -> None:
    build(bundle)
    path = bundle.path / "tensorrt" / name
    path.unlink()
    plant(path)
    opened = Bundle.open(bundle.path)
    if name == MODEL_PLAN:
        with pytest.raises(BundleIntegrityError, match="cannot be read"):
            build(opened)
    build(opened, overwrite=True)
    assert here(opened, module).read()


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 7}', "\udcff"])
def test_a_record_that_cannot_be_read_is_built_anew(
    text: str, bundle: Bundle, module: FakeTensorrt, builder: Builder
) -> None:
    build(bundle)
    (bundle.path / "tensorrt" / "build.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    build(bundle)
    assert len(builder.built) == 4
    here(bundle, module)
