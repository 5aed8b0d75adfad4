"""Plans are built for real, by TensorRT for RTX, which needs no GPU for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import vits

from vitedge.errors import EngineError
from vitedge.runtime.engines.tensorrt.build.builder import BuiltPlan, build_plan, flags_of
from vitedge.runtime.engines.tensorrt.layers import attention_blocks, effective_precision, rest_precision
from vitedge.runtime.engines.tensorrt.versions import api_of

rtx = pytest.importorskip("tensorrt_rtx")


class Recorded:
    """A ``Progress`` that remembers its counters."""

    def __init__(self, error: Exception | None = None) -> None:
        self.counted: dict[str, list[int]] = {}
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.error = error

    def step(self, text: str) -> None:
        raise AssertionError("the builder's caller names the step")

    def track(self, items: Iterable[Any], *, total: int, unit: str) -> Iterator[Any]:
        self.counted[unit] = [0, total]
        self.begun.append(unit)
        try:
            for item in items:
                self.counted[unit][0] += 1
                if self.error is not None:
                    raise self.error
                yield item
        finally:
            self.ended.append(unit)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[onnx.ModelProto], Path]:
    folder = tmp_path_factory.mktemp("graphs")

    def save(model: onnx.ModelProto) -> Path:
        path = folder / f"{len(list(folder.iterdir()))}.onnx"
        onnx.save(model, path)
        return path

    return save


@pytest.fixture(scope="module")
def plans(saved: Callable[[onnx.ModelProto], Path]) -> dict[str, BuiltPlan]:
    return {kind: build_plan(rtx, saved(vits.vit(kind, blocks=1))) for kind in ("fp32", "fp16", "int8")}  # type: ignore[arg-type]


def test_a_plan_is_built_in_the_precision_of_the_graph(plans: dict[str, BuiltPlan]) -> None:
    assert {kind: effective_precision(built.layers) for kind, built in plans.items()} == {
        "fp32": "fp32",
        "fp16": "fp16",
        "int8": "int8",
    }
    assert rest_precision(plans["int8"].layers) == "fp16"
    for built in plans.values():
        assert built.plan[:4] == plans["fp32"].plan[:4]
        assert built.timing_cache == b""  # this TensorRT times nothing


def test_attention_is_one_kernel_in_16_and_8_bits_and_the_report_says_so(plans: dict[str, BuiltPlan]) -> None:
    reports = {kind: attention_blocks(built.layers) for kind, built in plans.items()}
    assert {kind: [block.fused for block in blocks] for kind, blocks in reports.items()} == {
        "fp32": [False],
        "fp16": [True],
        "int8": [True],
    }
    assert {"block0.scores", "block0.softmax", "block0.mixed"} <= set(reports["fp16"][0].nodes)
    assert reports["int8"][0].dtype == "int8"
    assert reports["fp32"][0].reason == "reads fp32: fused kernels take fp16, bf16, fp8 and int8"


def test_a_head_that_no_int8_kernel_takes_is_the_reason(saved: Callable[[onnx.ModelProto], Path]) -> None:
    built = build_plan(rtx, saved(vits.vit("int8", blocks=1, head=36)))
    (block,) = attention_blocks(built.layers)
    assert not block.fused
    assert block.reason == "heads are 36 wide: in int8, fused kernels take 16, 32 and 64"


def test_phases_reach_the_progress_and_end(saved: Callable[[onnx.ModelProto], Path]) -> None:
    progress = Recorded()
    build_plan(rtx, saved(vits.vit(blocks=1)), progress=progress)
    assert progress.counted["Building engine"][1] > 1
    assert progress.counted["Optimizing graph"][0] > 1
    assert sorted(progress.ended) == sorted(progress.begun)


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("no such bar"), RuntimeError()])
def test_a_progress_that_fails_ends_no_build(
    saved: Callable[[onnx.ModelProto], Path], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert build_plan(rtx, saved(vits.vit(blocks=1)), progress=Recorded(error)).plan
    assert caplog.messages == ["the progress cannot be shown any more; the work goes on"]


def test_an_unsupported_operator_is_named_with_its_node(saved: Callable[[onnx.ModelProto], Path]) -> None:
    model = vits.vit(blocks=1)
    model.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    model.graph.node[-1].input[0] = "bent"
    model.graph.node.insert(
        len(model.graph.node) - 1, onnx.helper.make_node("Bend", ["head"], ["bent"], name="the_bend", domain="custom")
    )
    with pytest.raises(EngineError, match=r"node 'the_bend' \(Bend\)") as caught:
        build_plan(rtx, saved(model))
    assert "TensorRT for RTX" in caught.value.problem
    assert "convert for this target" in caught.value.fix


def test_types_that_do_not_fit_are_named_with_their_node(saved: Callable[[onnx.ModelProto], Path]) -> None:
    """In a strongly typed network nothing is cast silently."""
    model = vits.vit("fp16", blocks=1)
    (weight,) = (each for each in model.graph.initializer if each.name == "block0.proj_weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype("float32"), weight.name))
    with pytest.raises(EngineError, match=r"block0\.proj"):
        build_plan(rtx, saved(model))


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (None, "is not an ONNX graph"), (b"not a graph", "is not an ONNX graph")],
)
def test_a_damaged_file(content: bytes | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(vits.vit(blocks=1).SerializeToString()[:5000] if content is None else content)
    with pytest.raises(EngineError, match=problem) as caught:
        build_plan(rtx, path)
    assert "copy the bundle again" in caught.value.fix


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be read"):
        build_plan(rtx, tmp_path / "model.onnx")


def test_the_flags_of_a_plan() -> None:
    assert flags_of(api_of(rtx)) == ("STRONGLY_TYPED", "no TF32", "REQUIRE_USER_ALLOCATION")


def test_a_tensorrt_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(logger: Any) -> None:
        logger.log(rtx.ILogger.Severity.ERROR, "CUDA driver version is insufficient\nfor CUDA runtime version")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(rtx, "Builder", refuse)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"any")
    with pytest.raises(EngineError, match="does not start: CUDA driver version is insufficient for CUDA"):
        build_plan(rtx, path)
