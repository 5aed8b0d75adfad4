from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from vitedge.converters.export import export
from vitedge.converters.reference import graph_logits, module_logits
from vitedge.converters.rewrites import REWRITES, Rewrite, Rewritten, apply_rewrites, is_exact, tidy
from vitedge.converters.rewrites.places import ONE, Places
from vitedge.converters.timm_models import TorchModel
from vitedge.errors import ConversionError
from vitedge.metrics import parity
from vitedge.preprocessing import Preprocessing

Frames = NDArray[np.uint8]

SIDE = 12
PREPROCESSING = Preprocessing(
    input_size=(SIDE, SIDE), resize_size=(SIDE, SIDE), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


class Head(nn.Module):
    """A stem, then the mean over pixels as logits."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.stem(pixels)).mean((2, 3))


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.one(pixels) * self.other(pixels)


def noise(side: int = SIDE, count: int = 4) -> Frames:
    return np.random.default_rng(3).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def rewritten(module: nn.Module, preprocessing: Preprocessing = PREPROCESSING) -> Rewritten:
    torch.manual_seed(0)
    return apply_rewrites(export(Head(module).eval(), preprocessing.input_size), noise(), preprocessing)


def kinds(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


def conv_graph(weight: NDArray[np.float32], bias: NDArray[np.float32] | None, **attributes: Any) -> onnx.ModelProto:
    """``pixels`` → Conv → mean over pixels → ``logits``, made by hand."""
    weights = {"w": weight, **({} if bias is None else {"b": bias})}
    nodes = [
        onnx.helper.make_node("Conv", ["pixels", *weights], ["maps"], **attributes),
        onnx.helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, len(weight)])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


channel = st.tuples(*[st.floats(0, 1, width=32)] * 3)
spread = st.tuples(*[st.floats(0.0625, 2, width=32)] * 3)


@settings(deadline=None, max_examples=60)
@given(
    mean=channel,
    std=spread,
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.one_of(
        st.tuples(*[st.integers(0, 2)] * 4), st.sampled_from(["VALID", "SAME_UPPER", "SAME_LOWER"]), st.none()
    ),
    with_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_folding_is_exact_for_any_convolution(
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    kernel: int,
    stride: int,
    dilation: int,
    padding: Any,
    with_bias: bool,
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((4, 3, kernel, kernel)).astype(np.float32)
    bias = generator.standard_normal(4).astype(np.float32) if with_bias else None
    attributes: dict[str, Any] = {"strides": [stride] * 2, "dilations": [dilation] * 2}
    if isinstance(padding, str):
        attributes |= {"auto_pad": padding, "dilations": [1, 1]}
    elif padding is not None:
        attributes["pads"] = list(padding)
    preprocessing = Preprocessing(input_size=(SIDE, SIDE), resize_size=(SIDE, SIDE), mean=mean, std=std)
    graph = conv_graph(weight, bias, **attributes)
    result = apply_rewrites(graph, noise(), preprocessing)
    assert [*result.applied] == ["tidy", "fold normalization"]
    assert is_exact(parity(graph_logits(graph, noise(), preprocessing), result.logits))


@pytest.mark.parametrize(
    ("mean", "padding", "expected"),
    [
        (0.5, 0, ["Cast", "Transpose", "Conv"]),
        (0.5, 1, ["Cast", "Transpose", "Sub", "Conv"]),
        (0.0, 0, ["Cast", "Transpose", "Conv"]),
        (0.0, 1, ["Cast", "Transpose", "Conv"]),
    ],
)
def test_no_more_operators_than_needed(mean: float, padding: int, expected: list[str]) -> None:
    preprocessing = Preprocessing(input_size=(SIDE, SIDE), resize_size=(SIDE, SIDE), mean=(mean,) * 3)
    result = rewritten(nn.Conv2d(3, 4, 3, padding=padding), preprocessing)
    assert kinds(result.graph)[: len(expected)] == expected


@pytest.mark.parametrize(
    ("stem", "reason"),
    [
        (nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3)), "the input feeds Relu, not one Conv"),
        (TwoReaders(), "the input feeds Conv, Conv, not one Conv"),
        (nn.Conv2d(3, 6, 3, groups=3), "the first Conv is grouped"),
        (nn.PixelUnshuffle(2), "not one Conv"),
    ],
)
def test_what_no_convolution_can_take_in_is_computed(stem: nn.Module, reason: str) -> None:
    result = rewritten(stem)
    assert reason in result.refused["fold normalization"]
    assert [*result.applied] == ["tidy", "prepend normalization"]
    assert kinds(result.graph)[:4] == ["Cast", "Transpose", "Sub", "Mul"]


def test_weights_that_are_computed_are_left(small_model: TorchModel) -> None:
    graph = conv_graph(np.ones((2, 3, 1, 1), np.float32), None)
    graph.graph.node[0].input[1] = "computed"
    graph.graph.node.insert(0, onnx.helper.make_node("GlobalMaxPool", ["pixels"], ["peak"]))
    graph.graph.node.insert(1, onnx.helper.make_node("Mul", ["peak", "w"], ["computed"]))
    del graph.graph.output[0].type.tensor_type.shape.dim[1:]
    graph.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 2
    result = apply_rewrites(graph, noise(), PREPROCESSING)
    assert "prepend normalization" in result.applied


def test_the_contract(small_graph: Rewritten) -> None:
    (frame,), (logits,) = small_graph.graph.graph.input, small_graph.graph.graph.output
    assert (frame.name, frame.type.tensor_type.elem_type) == ("frame", onnx.TensorProto.UINT8)
    assert [dim.dim_value for dim in frame.type.tensor_type.shape.dim] == [1, 32, 32, 3]
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    assert [dim.dim_value for dim in logits.type.tensor_type.shape.dim] == [1, 5]
    onnx.checker.check_model(small_graph.graph, full_check=True)


def test_the_whole_is_exact(small_graph: Rewritten, small_model: TorchModel, frames: Frames) -> None:
    source = module_logits(small_model.module, frames, small_model.card.preprocessing)
    assert is_exact(parity(source, small_graph.logits))
    assert parity(source, small_graph.logits).sqnr_db > 100


def test_a_graph_that_takes_frames_already_is_only_tidied(
    small_graph: Rewritten, small_model: TorchModel, frames: Frames
) -> None:
    again = apply_rewrites(small_graph.graph, frames, small_model.card.preprocessing)
    assert [*again.applied] == ["tidy"]
    assert set(again.refused) == {rewrite.name for rewrite in REWRITES} - {"tidy"}
    assert Counter(kinds(again.graph)) == Counter(kinds(small_graph.graph))
    np.testing.assert_array_equal(again.logits, small_graph.logits)


def test_names_that_are_taken_are_no_obstacle(frames: Frames) -> None:
    graph = conv_graph(np.ones((2, 3, 2, 2), np.float32), None)
    for old, new in (("maps", "frame"), ("pooled", "frame_planes"), ("w", "frame_conv_weight")):
        for node in graph.graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = new if name == old else name
    graph.graph.initializer[0].name = "frame_conv_weight"
    result = apply_rewrites(graph, noise(), PREPROCESSING)
    assert result.graph.graph.input[0].name == "frame"
    onnx.checker.check_model(result.graph, full_check=True)


def test_nothing_of_the_exporter_is_left(small_graph: Rewritten) -> None:
    graph = small_graph.graph
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
    assert not any(value.metadata_props for value in graph.graph.value_info)
    assert not graph.metadata_props
    assert graph.producer_name == "vitedge"
    assert b"/" + b"site-packages" not in graph.SerializeToString()


def test_equal_modules_give_equal_bytes(small_model: TorchModel, frames: Frames) -> None:
    preprocessing = small_model.card.preprocessing
    one, other = (apply_rewrites(export(small_model.module, (32, 32)), frames, preprocessing).graph for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_tidy_computes_constants_once() -> None:
    graph = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[1,3,2,2] pixels) => (float[1,12] logits) <float[1,1] half = {0.5}>
        {
            first = Constant<value = int64[1] {0}>()
            whole = Add(half, half)
            same = Identity(pixels)
            shape = Shape(same)
            batch = Gather<axis = 0>(shape, first)
            rest = Constant<value = int64[1] {-1}>()
            size = Concat<axis = 0>(batch, rest)
            flat = Reshape(same, size)
            logits = Mul(flat, whole)
        }
        """
    )
    model = ir.from_proto(graph)
    tidy.rewrite(model, PREPROCESSING)
    assert {node.op_type for node in model.graph} <= {"Reshape", "Mul"}


@pytest.mark.parametrize("factor", [2.0, 0.0, 1.001])
def test_a_rewrite_that_changes_the_outputs_is_left_out(
    factor: float,
    small_export: onnx.ModelProto,
    small_model: TorchModel,
    frames: Frames,
) -> None:
    def scale_head(model: ir.Model, preprocessing: Preprocessing) -> Places:
        head = model.graph.initializers["head.weight"]  # the bias is 0
        head.const_value = ir.tensor(head.const_value.numpy() * np.float32(factor), name=head.name)
        return ONE

    wrong = Rewrite("wrong", lambda model, preprocessing: "", scale_head)
    result = apply_rewrites(small_export, frames, small_model.card.preprocessing, (wrong, *REWRITES))
    right = apply_rewrites(small_export, frames, small_model.card.preprocessing)
    assert list(result.unproved) == ["wrong"]
    assert "SQNR" in result.unproved["wrong"]
    assert result.graph.SerializeToString(deterministic=True) == right.graph.SerializeToString(deterministic=True)


def test_one_that_a_bundle_needs_ends_the_conversion(
    small_export: onnx.ModelProto, small_model: TorchModel, frames: Frames
) -> None:
    def double_head(model: ir.Model, preprocessing: Preprocessing) -> Places:
        head = model.graph.initializers["head.weight"]
        head.const_value = ir.tensor(head.const_value.numpy() * np.float32(2), name=head.name)
        return ONE

    wrong = Rewrite("wrong", lambda model, preprocessing: "", double_head, needed=True)
    with pytest.raises(ConversionError, match="'wrong' changed the outputs"):
        apply_rewrites(small_export, frames, small_model.card.preprocessing, (wrong,))


def test_a_model_without_finite_logits_is_named() -> None:
    graph = conv_graph(np.full((2, 3, 2, 2), 3e38, np.float32), None)
    with pytest.raises(ConversionError, match="NaN or infinite logits"):
        apply_rewrites(graph, noise(), PREPROCESSING)


def test_every_rewrite_says_why_it_does_not_apply(small_graph: Rewritten, small_model: TorchModel) -> None:
    model = ir.from_proto(small_graph.graph)
    reasons = {rewrite.name: rewrite.check(model, small_model.card.preprocessing) for rewrite in REWRITES}
    assert [name for name, reason in reasons.items() if not reason] == ["tidy"]
    assert reasons["fold normalization"] == reasons["prepend normalization"] == "the graph takes uint8 frames already"


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.01, 0.0), (1.0, 0.5), (2.0, 0.0), (0.0, 0.0)])
def test_is_exact_fails_on_anything_but_rounding(scale: float, shift: float) -> None:
    logits = np.random.default_rng(0).standard_normal((8, 10)).astype(np.float32)
    assert is_exact(parity(logits, logits * scale + shift)) == (scale == 1 and shift == 0)
