"""Building, choosing, publishing, interrupted and contended; plans are stand-ins but where a test says real."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import vits
from bundles import file_records, rewrite_manifest
from fake_tensorrt import FakeTensorrt, fake_device
from tensorrt_bundles import AnyPlan, Steps, answers_of, fake_module, make_tensorrt_bundle

import vitedge
from vitedge.bundle.bundle import MODEL_FP16_ONNX, MODEL_ONNX, Bundle
from vitedge.errors import BundleIntegrityError, EngineError, UsageError
from vitedge.runtime.engines.tensorrt import open as engine_module
from vitedge.runtime.engines.tensorrt import plan_store as store
from vitedge.runtime.engines.tensorrt.build import build as build_module
from vitedge.runtime.engines.tensorrt.build.build import build, check_memory, ensure_built
from vitedge.runtime.engines.tensorrt.build.worker import BuildRequest
from vitedge.runtime.engines.tensorrt.build_record import dump_record
from vitedge.runtime.engines.tensorrt.fingerprint import fingerprint_of
from vitedge.runtime.engines.tensorrt.plan_store import (
    MODEL_PLAN,
    TIMING_CACHE,
    StoredPlan,
    find_plan,
    graphs_of,
    plan_dirs,
    stored_plans,
)
from vitedge.runtime.system.cache import cache_folder
from vitedge.runtime.system.machine import Memory

GIBIBYTE = 1 << 30


class Builder:
    """Stands in for ``build_apart``: a plan names its graph."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.known_timings: list[bytes] = []
        self.errors: dict[str, BaseException] = {}
        self.hook: Callable[[], None] = lambda: None

    def __call__(self, request: BuildRequest, progress: Any) -> None:
        name, cache = Path(request.graph).name, Path(request.timing_cache)
        self.built.append(name)
        self.known_timings.append(cache.read_bytes() if cache.is_file() else b"")
        self.hook()
        if name in self.errors:
            raise self.errors[name]
        Path(request.plan).write_bytes(f"plan of {name}".encode())
        cache.write_bytes(self.known_timings[-1] + b"timed ")


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    made = Builder()
    monkeypatch.setattr(build_module, "build_apart", made)
    for name, value in {"ROUNDS": 2, "RUNS_A_ROUND": 2, "WARM_UP_RUNS": 1}.items():
        monkeypatch.setattr(build_module, name, value)
    monkeypatch.setattr(build_module, "read_memory", lambda: Memory(8 * GIBIBYTE, 6 * GIBIBYTE))
    return made


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    return make_tensorrt_bundle(tmp_path_factory.mktemp("bundles") / "orin.bundle").path


@pytest.fixture
def bundle(template: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(template, tmp_path / "orin.bundle"))


@pytest.fixture
def module(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> FakeTensorrt:
    made = fake_module(bundle)
    for user in (build_module, engine_module):
        monkeypatch.setattr(user, "open_device", lambda name: fake_device(made))
    return made


def here(bundle: Bundle, module: FakeTensorrt) -> StoredPlan:
    found = find_plan(bundle, fingerprint_of(module, module.cuda.gpu(), graphs_of(bundle)))
    assert isinstance(found, StoredPlan), found
    return found


def files(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def slow(module: FakeTensorrt, plan: bytes) -> None:
    """Make one plan slower by far more than any noise."""
    answer = module.answers[plan]

    def slower(frame: Any) -> Any:
        time.sleep(0.02)
        return answer(frame)

    module.answers[plan] = slower


@pytest.mark.parametrize(("slower", "kept"), [(MODEL_ONNX, MODEL_FP16_ONNX), (MODEL_FP16_ONNX, MODEL_ONNX)])
def test_both_are_built_and_the_faster_is_kept(
    slower: str, kept: str, bundle: Bundle, module: FakeTensorrt, builder: Builder
) -> None:
    slow(module, f"plan of {slower}".encode())
    steps = Steps()
    record = build(bundle, progress=steps)
    assert builder.built == [MODEL_ONNX, MODEL_FP16_ONNX]
    assert record.kept == kept
    assert [each.graph for each in record.candidates] == [MODEL_ONNX, MODEL_FP16_ONNX]
    for candidate in record.candidates:
        assert candidate.refusal == ""
        assert candidate.sqnr_db is not None
        assert candidate.latency is not None
        assert candidate.latency.runs == 4
        assert candidate.latency.low <= candidate.latency.median <= candidate.latency.high
    assert record.chosen.latency == min((each.latency for each in record.candidates), key=lambda each: each.median)  # type: ignore[union-attr]
    stored = here(bundle, module)
    assert stored.record == record
    assert stored.read() == f"plan of {kept}".encode()
    assert files(stored.folder) == {MODEL_PLAN, TIMING_CACHE, "build.json"}
    assert files(bundle.path) == {"tensorrt", "manifest.json", *bundle.manifest.files}
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    assert any("minutes" in step for step in steps.steps)
    assert (module.cuda.left, module.alive, module.cuda.wrong) == ([], [], [])


def test_a_bundle_without_a_twin(tmp_path: Path, builder: Builder) -> None:
    bundle = make_tensorrt_bundle(tmp_path / "alone.bundle", twin=False)
    module = fake_module(bundle)
    record = ensure_built(bundle, fake_device(module)).record
    assert [each.graph for each in record.candidates] == [record.kept] == [MODEL_ONNX]


def test_a_plan_that_fails_its_self_test_is_not_kept(bundle: Bundle, module: FakeTensorrt, builder: Builder) -> None:
    module.answers[b"plan of model.onnx"] = lambda frame: np.ones(3, np.float32)
    record = build(bundle)
    assert record.kept == MODEL_FP16_ONNX
    assert "self-test" in record.candidates[0].refusal
    assert record.candidates[0].latency is None


def test_the_twin_is_held_against_its_own_golden_logits(bundle: Bundle, module: FakeTensorrt, builder: Builder) -> None:
    module.answers[b"plan of model.fp16.onnx"] = module.answers[b"plan of model.onnx"]
    record = build(bundle)
    assert record.kept == MODEL_ONNX
    assert "SQNR" in record.candidates[1].refusal


def test_a_graph_that_cannot_be_built_leaves_the_other(bundle: Bundle, module: FakeTensorrt, builder: Builder) -> None:
    builder.errors[MODEL_ONNX] = EngineError("node 'x' (Bend): unsupported")
    record = build(bundle)
    assert record.kept == MODEL_FP16_ONNX
    assert "node 'x'" in record.candidates[0].refusal


def test_nothing_can_be_kept(bundle: Bundle, module: FakeTensorrt, builder: Builder) -> None:
    builder.errors = {name: EngineError(f"{name} fails") for name in (MODEL_ONNX, MODEL_FP16_ONNX)}
    with pytest.raises(EngineError, match=r"model\.onnx fails(.|\n)*model\.fp16\.onnx fails"):
        build(bundle)
    assert files(bundle.path) == {"manifest.json", *bundle.manifest.files}


def test_it_is_built_once(bundle: Bundle, module: FakeTensorrt, builder: Builder) -> None:
    first = build(bundle)
    assert build(bundle) == first
    assert len(builder.built) == 2
    build(bundle, overwrite=True)
    assert len(builder.built) == 4
    assert builder.known_timings == [b"", b"timed ", b"timed timed ", b"timed timed timed "]


def test_a_mismatch_is_explained_and_built_anew(
    bundle: Bundle, module: FakeTensorrt, builder: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    build(bundle)
    module.__version__ = "10.13.3"
    with caplog.at_level(logging.WARNING, "vitedge"):
        engine_module.open_engine(bundle).close()
    (message,) = (each.getMessage() for each in caplog.records)
    assert "built for something else: version 10.3.0 → 10.13.3; building it now" in message
    assert len(builder.built) == 4
    caplog.clear()
    engine_module.open_engine(bundle).close()
    assert caplog.records == []


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


def test_what_cannot_be_asked(bundle: Bundle, tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="cpu"):
        build(tiny_bundle)
    with pytest.raises(UsageError, match="cpu"):
        engine_module.open_engine(tiny_bundle)
    with pytest.raises(UsageError, match="workspace"):
        build(bundle, workspace_mb=0)


def test_load_builds_and_classifies(
    bundle: Bundle, module: FakeTensorrt, builder: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vitedge"), vitedge.load(bundle) as classifier:
        (message,) = (each.getMessage() for each in caplog.records)
        assert "has no engine yet; building it now" in message
        golden = bundle.golden()
        assert [int(np.argmax(classifier.infer(frame))) for frame in golden.frames] == [0, 1, 2]
        assert len(classifier.workers()) == 2
        assert classifier.info.graph == here(bundle, module).record.kept
    assert (module.cuda.left, module.alive, module.cuda.wrong) == ([], [], [])


def test_load_tells_how_the_build_goes(bundle: Bundle, module: FakeTensorrt, builder: Builder) -> None:
    steps = Steps()
    vitedge.load(bundle, progress=steps).close()
    assert [step.split(" with ")[0] for step in steps.steps[:2]] == ["building model.onnx", "building model.fp16.onnx"]


def test_a_progress_that_fails_ends_no_build(bundle: Bundle, module: FakeTensorrt, builder: Builder) -> None:
    def fail(_: str) -> None:
        raise ValueError("no such bar")

    assert build(bundle, progress=Steps(fail)).kept


def test_built_for_real_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By TensorRT for RTX; what runs the plan is the stand-in, for that needs a GPU."""
    pytest.importorskip("tensorrt_rtx")
    bundle = make_tensorrt_bundle(tmp_path / "rtx.bundle", target="rtx", twin=False)
    module = fake_module(bundle, rtx=True)
    module.answers = AnyPlan(answers_of(bundle)[b"plan of model.onnx"])
    steps = Steps()
    record = ensure_built(bundle, fake_device(module), workspace=64 << 20, progress=steps)
    assert record.record.plan_bytes > 10_000
    assert steps.counted["Building engine"][0] > 1
    assert record.read()[:4] == b"vtrt"
    assert not (record.folder / TIMING_CACHE).exists()


def test_a_real_build_that_fails_names_the_node(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = make_tensorrt_bundle(tmp_path / "rtx.bundle", target="rtx", twin=False)
    model = vits.vit(blocks=1)
    model.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    model.graph.node[-1].domain, model.graph.node[-1].name = "custom", "the_bend"
    model.graph.node[-1].op_type = "Bend"
    onnx.save(model, bundle.path / MODEL_ONNX)
    rewrite_manifest(bundle.path, replace(bundle.manifest, files=file_records(bundle.path)))
    module = fake_module(bundle, rtx=True)
    with pytest.raises(EngineError, match=r"node 'the_bend' \(Bend\)") as caught:
        ensure_built(Bundle.open(bundle.path), fake_device(module), workspace=64 << 20)
    assert str(bundle.path / MODEL_ONNX) in caught.value.problem
