"""The convolution that reads the frame: int8 weights, the frame untouched, and nothing done where that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")

import onnx_ir as ir  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from vitedge.calib.quantization.frame_convolution import quantize_frame_convolution  # noqa: E402
from vitedge.metrics import sqnr_db  # noqa: E402
from vitedge.runtime.engines.openvino import effective_precision, executed_layers  # noqa: E402

SIDE, PATCH, CHANNELS = 32, 4, 16


MEANS = np.asarray([123.675, 116.28, 103.53])


def network(*, seed: int = 0, mean: Any = None, pads: int = 0) -> Any:
    """A patch embedding of uint8 frames; a mean is subtracted first."""
    generator = np.random.default_rng(seed)
    constants = {
        "weight": generator.standard_normal((CHANNELS, 3, PATCH, PATCH)) / 255,
        "bias": generator.standard_normal(CHANNELS),
        **({} if mean is None else {"mean": mean}),
    }
    between = [] if mean is None else [helper.make_node("Sub", ["planes", "mean"], ["centered"])]
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        *between,
        helper.make_node(
            "Conv",
            ["planes" if mean is None else "centered", "weight", "bias"],
            ["logits"],
            "stem",
            strides=[PATCH, PATCH],
            pads=[pads] * 4,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CHANNELS, None, None])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def quantized(model: Any, frames: Any) -> str:
    """Quantize in place; the name of the convolution."""
    working = ir.from_proto(model)
    name = quantize_frame_convolution(working, frames)
    model.CopyFrom(ir.to_proto(working))
    del model.graph.value_info[:]
    return name


def random_frames(count: int = 4) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def answers(model: Any, frames: Any) -> Any:
    session = ReferenceEvaluator(model)
    return np.concatenate([session.run(None, {"frame": frame[None]})[0] for frame in frames])


@given(levels=st.lists(st.integers(0, 255), min_size=3, max_size=3))
def test_every_grey_level_goes_through_unchanged(levels: list[int]) -> None:
    model = network()
    quantized(model, random_frames())
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("planes_levels", TensorProto.FLOAT, None))
    frame = np.broadcast_to(np.array(levels, np.uint8), (1, SIDE, SIDE, 3))
    seen = ReferenceEvaluator(model).run(["planes_levels"], {"frame": frame})[0]
    np.testing.assert_array_equal(np.rint(seen[0, :, 0, 0] * 255), levels)


def test_weights_are_int8_and_all_channels_use_their_range() -> None:
    model = network()
    assert quantized(model, random_frames()) == "stem"
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weight = known["stem_weight_int8"]
    assert weight.dtype == np.int8
    assert np.all(np.abs(weight.astype(int)).max(axis=(1, 2, 3)) == 127)
    assert not known["stem_weight_zero_point"].any()
    assert "weight" not in known  # nothing reads the float ones any more


def test_it_comes_close_and_its_error_has_no_mean() -> None:
    model, frames = network(), random_frames(16)
    before = answers(model, frames)
    quantized(model, frames)
    error = answers(model, frames) - before
    assert sqnr_db(before, before + error) > 40
    spread = error.std(axis=(0, 2, 3))
    assert np.all(np.abs(error.mean(axis=(0, 2, 3))) < 0.2 * spread)


def test_openvino_computes_it_in_int8(tmp_path: Path) -> None:
    model = network()
    quantized(model, random_frames())
    onnx.save(model, tmp_path / "model.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU")
    assert effective_precision(executed_layers(compiled)) == "int8"


@pytest.mark.parametrize("means", [MEANS, np.full(3, 127.5)])
def test_a_convolution_that_pads_reads_the_centered_frame(means: Any, tmp_path: Path) -> None:
    model, frames = network(mean=means.reshape(1, 3, 1, 1), pads=2), random_frames(8)
    expected = answers(model, frames)
    assert quantized(model, frames) == "stem"
    error = answers(model, frames) - expected
    assert sqnr_db(expected, expected + error) > 38
    assert np.all(np.abs(error.mean(axis=(0, 2, 3))) < 0.2 * error.std(axis=(0, 2, 3)))
    onnx.save(model, tmp_path / "model.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU")
    assert effective_precision(executed_layers(compiled)) == "int8"
    computed = np.concatenate([compiled(frame[None])[0] for frame in frames])
    assert sqnr_db(expected, computed) > 38


def test_a_mean_of_each_pixel_leaves_it_in_floating_point() -> None:
    model = ir.from_proto(network(mean=np.linspace(90, 130, 3 * SIDE * SIDE).reshape(1, 3, SIDE, SIDE)))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert quantize_frame_convolution(model, random_frames()) == ""
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_bias_that_another_layer_reads_stays_as_it_is_there() -> None:
    model = network()
    model.graph.node.append(helper.make_node("Conv", ["planes", "weight", "bias"], ["other"], strides=[PATCH, PATCH]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    frames = random_frames()

    def other() -> Any:
        return ReferenceEvaluator(model).run(["other"], {"frame": frames[:1]})[0]

    before = other()
    assert quantized(model, frames) == "stem"
    np.testing.assert_array_equal(other(), before)
