"""The graphs compile: by TensorRT for RTX, which needs no GPU for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from vitedge.calib.quantization import ptq
from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.ptq import quantize
from vitedge.converters.rewrites.apply import Rewritten
from vitedge.converters.tensorrt.typed import half_graph
from vitedge.converters.tensorrt.value_ranges import peaks
from vitedge.converters.verify import Frames
from vitedge.errors import EngineError
from vitedge.progress import Silent
from vitedge.runtime.engines.tensorrt.build.builder import BuiltPlan, build_plan
from vitedge.runtime.engines.tensorrt.layers import attention_blocks, effective_precision

rtx = pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def graphs(small_graph: Rewritten, frames: Frames) -> dict[str, onnx.ModelProto]:
    shaped = {"fp16": inferred(small_graph.graph)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptq, "NEGLIGIBLE", 0.0)  # so that factors are searched for
        for name, scheme in (("int8", Scheme.SHIFTED), ("fp8", Scheme.FLOAT8)):
            shaped[name] = inferred(quantize(small_graph.graph, frames, scheme=scheme).graph)
    return {name: half_graph(each, peaks(each, frames, Silent())).graph for name, each in shaped.items()}


def inferred(graph: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(graph, data_prop=True)


def built(graph: onnx.ModelProto, folder: Path) -> BuiltPlan:
    onnx.save(graph, folder / "model.onnx")
    return build_plan(rtx, folder / "model.onnx")


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_it_builds_in_its_precision(graphs: dict[str, onnx.ModelProto], tmp_path: Path, precision: str) -> None:
    plan = built(graphs[precision], tmp_path)
    assert effective_precision(plan.layers) == precision
    assert all(block.dtype == "fp16" for block in attention_blocks(plan.layers))


def test_factors_and_shifts_before_a_quantizer_cost_no_kernel(
    graphs: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    plain, replaced = onnx.ModelProto(), dict[str, str]()
    plain.CopyFrom(graphs["int8"])
    for node in graphs["int8"].graph.node:
        if node.name.endswith(("_scale_channels", "_subtract")):
            plain.graph.node.remove(node)
            replaced[node.output[0]] = replaced.get(node.input[0], node.input[0])
    for node in plain.graph.node:
        node.input[:] = [replaced.get(name, name) for name in node.input]
    assert len(replaced) >= 2
    layers = built(graphs["int8"], tmp_path).layers
    assert len(layers) == len(built(plain, tmp_path).layers)
    (quantize_layer,) = [each for each in layers if any(name.endswith("_subtract") for name in each.nodes)][:1]
    assert any("gelu" in name for name in quantize_layer.nodes)


def test_asymmetric_quantizers_are_refused(small_graph: Rewritten, frames: Frames, tmp_path: Path) -> None:
    graph = quantize(small_graph.graph, frames).graph
    with pytest.raises(EngineError, match="QuantizeLinear"):
        built(graph, tmp_path)


def test_a_missing_cast_is_refused(graphs: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(graphs["fp16"])
    bias = next(each for each in graph.graph.initializer if each.name.endswith("bias_half"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias).astype(np.float32), bias.name))
    with pytest.raises(EngineError):
        built(graph, tmp_path)


def test_polygraphy_finds_nothing(graphs: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    polygraphy = shutil.which("polygraphy", path=str(Path(sys.executable).parent))
    if polygraphy is None:
        pytest.skip("polygraphy is not installed")
    onnx.save(graphs["int8"], tmp_path / "model.onnx")
    found = subprocess.run(
        [polygraphy, "check", "lint", str(tmp_path / "model.onnx")], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
