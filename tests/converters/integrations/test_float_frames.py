"""The graph that takes floating-point frames and gives probabilities answers as the bundle's own does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("onnxruntime")

from bundles import SIDE, colour_frame, colour_graph

from vitedge.converters.integrations.float_frames import PROBABILITIES, check_same, with_float_frames
from vitedge.errors import ConversionError

FRAMES = np.stack(
    [colour_frame(colour, order="RGB", seed=seed) for seed, colour in enumerate(("red", "green", "blue"))]
)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_answers_are_the_same(temperature: float) -> None:
    graph = colour_graph()
    changed = with_float_frames(graph, temperature)
    check_same(graph, changed, FRAMES, temperature)
    (frame,), (output,) = changed.graph.input, changed.graph.output
    assert frame.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [dim.dim_value for dim in frame.type.tensor_type.shape.dim] == [1, SIDE, SIDE, 3]
    assert output.name == PROBABILITIES
    assert any(node.op_type == "Div" for node in changed.graph.node) == (temperature != 1.0)


def test_the_graph_it_was_made_from_stays() -> None:
    graph = colour_graph()
    before = graph.SerializeToString()
    with_float_frames(graph)
    assert graph.SerializeToString() == before


def test_a_frame_that_is_moved_before_it_is_cast() -> None:
    moved = colour_graph()
    cast, rest = moved.graph.node[0], list(moved.graph.node[1:])
    cast.input[0] = "turned"
    del moved.graph.node[:]
    turn = helper.make_node("Transpose", ["frame"], ["turned"], perm=[0, 2, 1, 3])
    moved.graph.node.extend([turn, cast, *rest])
    moved.graph.value_info.append(helper.make_tensor_value_info("turned", TensorProto.UINT8, [1, SIDE, SIDE, 3]))
    check_same(moved, with_float_frames(moved), FRAMES, 1.0)


def test_a_graph_that_computes_with_bytes_is_refused() -> None:
    graph = colour_graph()
    graph.graph.node[0].CopyFrom(helper.make_node("DequantizeLinear", ["frame", "one", "none"], ["pixels"]))
    for name, value in (("one", np.float32(1)), ("none", np.uint8(0))):
        graph.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    with pytest.raises(ConversionError, match="computes with the bytes"):
        with_float_frames(graph)


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_other_answers_are_noticed(factor: float) -> None:
    graph = colour_graph()
    changed = with_float_frames(graph)
    weights = next(each for each in changed.graph.initializer if each.name == "weights")
    weights.CopyFrom(numpy_helper.from_array(np.float32(factor) * numpy_helper.to_array(weights), "weights"))
    with pytest.raises(ConversionError, match="differs by"):
        check_same(graph, changed, FRAMES, 1.0)


def test_tensorrt_for_rtx_compiles_it(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    onnx.save(with_float_frames(colour_graph()), tmp_path / "model.onnx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    assert trt.OnnxParser(network, builder.logger).parse((tmp_path / "model.onnx").read_bytes())
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None
