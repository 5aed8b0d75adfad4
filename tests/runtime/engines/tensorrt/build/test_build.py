"""Building and choosing; plans are stand-ins but where a test says real."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import vits
from bundles import file_records, rewrite_manifest
from fake_tensorrt import FakeTensorrt, fake_device
from plan_builder import Builder, files, here, slow
from tensorrt_bundles import AnyPlan, Steps, answers_of, fake_module, make_tensorrt_bundle

import vitedge
from vitedge.bundle.bundle import MODEL_FP16_ONNX, MODEL_ONNX, Bundle
from vitedge.errors import EngineError, UsageError
from vitedge.runtime.engines.tensorrt import open as engine_module
from vitedge.runtime.engines.tensorrt.build.build import build, ensure_built
from vitedge.runtime.engines.tensorrt.plan_store import MODEL_PLAN, TIMING_CACHE


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
