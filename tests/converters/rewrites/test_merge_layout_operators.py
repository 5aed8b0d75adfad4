"""Chains of Reshape and Transpose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import timm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from timm.models.mobilevit import MobileVitBlock
from torch import nn

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.onnx_export import export
from vitedge.converters.rewrites import merge_layout_operators as merge_moves
from vitedge.converters.rewrites.merge_layout_operators import Step, followed

PIXELS = Preprocessing((64, 64), (64, 64))
UNFOLD: list[Step] = [[24, 2, 4, 2], (0, 2, 1, 3), [1, 6, 16, 4], (0, 3, 2, 1), [4, 16, 6]]
"""MobileViT's, of a map of 6 channels and 8x8 pixels in patches of 2x2."""
FOLD: list[Step] = [[1, 4, 16, 6], (0, 3, 2, 1), [24, 4, 2, 2], (0, 2, 1, 3), [1, 6, 8, 8]]


def carried_out(values: NDArray[np.float32], chain: Sequence[Step]) -> NDArray[np.float32]:
    for step in chain:
        values = values.transpose(step) if isinstance(step, tuple) else values.reshape(step)
    return values


def model_of(shape: Sequence[int], chain: Sequence[Step]) -> ir.Model:
    """The chain between two Relus, with the shape of every value."""
    nodes = [helper.make_node("Relu", ["x"], ["v0"])]
    values, sizes, shapes = [], [], np.empty(shape, np.float32)
    for index, step in enumerate(chain):
        shapes = carried_out(shapes, [step])
        if isinstance(step, tuple):
            nodes.append(helper.make_node("Transpose", [f"v{index}"], [f"v{index + 1}"], perm=step))
        else:
            sizes.append(numpy_helper.from_array(np.asarray(step, np.int64), f"s{index}"))
            nodes.append(helper.make_node("Reshape", [f"v{index}", f"s{index}"], [f"v{index + 1}"]))
        values.append(helper.make_tensor_value_info(f"v{index + 1}", TensorProto.FLOAT, shapes.shape))
    nodes.append(helper.make_node("Relu", [f"v{len(chain)}"], ["y"]))
    values.append(helper.make_tensor_value_info("v0", TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes.shape)],
        sizes,
        value_info=values,
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def moves_of(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node if node.op_type != "Relu"]


def rewritten(shape: Sequence[int], chain: Sequence[Step]) -> onnx.ModelProto:
    """After the rewrite; its outputs are those of the chain, bit for bit."""
    model = model_of(shape, chain)
    assert merge_moves.check(model, PIXELS) == ""
    assert merge_moves.rewrite(model, PIXELS).changed == 1
    assert merge_moves.check(model, PIXELS) == "no chain has several Transposes"
    proto: onnx.ModelProto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    values = np.arange(1, math.prod(shape) + 1, dtype=np.float32).reshape(shape)
    (found,) = ReferenceEvaluator(proto).run(None, {"x": values})
    np.testing.assert_array_equal(found, carried_out(values, chain))
    return proto


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Step]]:
    """A shape, and permutations and groupings of it that a network might have."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2, max_size=5)))
    steps: list[Step] = []
    now = list(shape)
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            step = tuple(draw(st.permutations(range(len(now)))))
            now = [now[axis] for axis in step]
            steps.append(step)
        else:
            cut = draw(st.integers(0, len(now) - 2)) if len(now) > 1 else 0
            now = [*now[:cut], math.prod(now[cut : cut + 2]), *now[cut + 2 :]]
            if now[cut] % 2 == 0 and draw(st.booleans()):
                now = [*now[:cut], 2, now[cut] // 2, *now[cut + 1 :]]
            steps.append(list(now))
    return shape, steps


@given(chains())
@settings(max_examples=200, deadline=None)
def test_what_was_followed_moves_every_value_to_the_same_place(drawn: tuple[tuple[int, ...], list[Step]]) -> None:
    shape, chain = drawn
    moves = followed(shape, chain)
    if moves is None:
        return
    values = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    short = values.reshape(moves.sizes).transpose(moves.order).ravel() if moves.order else values.ravel()
    np.testing.assert_array_equal(short, carried_out(values, chain).ravel())


def test_factors_that_stay_together_are_one() -> None:
    moves = followed((2, 3, 4, 5), [(2, 3, 0, 1), [20, 6], (1, 0)])
    assert moves is not None
    assert (moves.sizes, moves.order) == ((120,), (0,))


def test_an_axis_that_cannot_be_split_is_left_alone() -> None:
    assert followed((4, 3), [(1, 0), [2, 6], (1, 0)]) is None
    model = model_of((4, 3), [(1, 0), [2, 6], (1, 0)])
    assert merge_moves.check(model, PIXELS) == "no chain has several Transposes"


def test_unfolding_moves_whole_pixels() -> None:
    proto = rewritten((1, 6, 8, 8), UNFOLD)
    assert moves_of(proto) == ["Transpose", "Reshape", "Transpose", "Reshape"]
    inner = [node for node in proto.graph.node if node.op_type == "Transpose"][1]
    assert list(inner.attribute[0].ints) == [1, 3, 0, 2, 4]


def test_folding_moves_whole_pixels() -> None:
    proto = rewritten((4, 16, 6), FOLD)
    assert moves_of(proto) == ["Reshape", "Transpose", "Reshape", "Transpose"]
    assert list(proto.graph.node[-2].attribute[0].ints) == [0, 3, 1, 2]


def test_elsewhere_one_transpose_remains() -> None:
    proto = rewritten((4, 6, 8), [(1, 0, 2), [6, 4, 2, 4], (2, 0, 1, 3)])
    assert moves_of(proto) == ["Reshape", "Transpose", "Reshape"]


def test_one_transpose_stays_as_it_is() -> None:
    model = model_of((4, 6, 8), [[4, 6, 2, 4], (1, 0, 2, 3)])
    assert merge_moves.check(model, PIXELS) == "no chain has several Transposes"


def test_a_value_that_others_read_ends_the_chain() -> None:
    model = model_of((1, 6, 8, 8), UNFOLD)
    between = next(node for node in model.graph if node.outputs[0].name == "v2").outputs[0]
    model.graph.outputs.append(between)
    assert merge_moves.check(model, PIXELS) == "no chain has several Transposes"


def test_a_block_of_mobilevit_unfolds_and_folds() -> None:
    block = MobileVitBlock(16, transformer_dim=24, transformer_depth=1, num_heads=2)
    module = nn.Sequential(nn.Conv2d(3, 16, 1), block, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = ir.from_proto(export(module.eval(), (16, 16)))
    assert merge_moves.check(model, PIXELS) == ""
    assert merge_moves.rewrite(model, PIXELS).changed == 2


@pytest.mark.long
@pytest.mark.parametrize(("name", "places"), [("mobilevit_xxs", 6), ("resnet10t", 0)])
def test_places_of_a_network(name: str, places: int) -> None:
    model = ir.from_proto(export(timm.create_model(name).eval(), (64, 64)))
    assert (merge_moves.check(model, PIXELS) == "") == bool(places)
    assert merge_moves.rewrite(model, PIXELS).changed == places
