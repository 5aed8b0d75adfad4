"""im2col: times the weights it is the convolution, whatever its groups, strides, padding and dilations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

import onnx_ir as ir  # noqa: E402
from onnx import helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from vitedge.calib.quantization.im2col import im2col, supports_im2col  # noqa: E402
from vitedge.graph.attributes import pads_with_zeros  # noqa: E402

SIDE = 9


def conv_node(**attributes: Any) -> ir.Node:
    return ir.from_proto(helper.make_node("Conv", ["x", "w"], ["y"], **attributes))


def convolved(conv: Any, image: Any, weight: Any) -> Any:
    known = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, values.shape)
        for name, values in (("x", image), ("w", weight))
    ]
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_model(
        helper.make_graph([conv], "g", known, [result]), opset_imports=[helper.make_opsetid("", 20)]
    )
    return ReferenceEvaluator(graph).run(None, {"x": image, "w": weight})[0]


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 6]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    spread=st.integers(1, 2),
)
def test_times_the_weights_they_are_the_convolution(
    groups: int, kernel: tuple[int, int], strides: tuple[int, int], pads: list[int], spread: int
) -> None:
    random = np.random.default_rng(0)
    image = random.standard_normal((1, 6, SIDE, SIDE + 2)).astype(np.float32)
    weight = random.standard_normal((12, 6 // groups, *kernel)).astype(np.float32)
    conv = helper.make_node(
        "Conv", ["x", "w"], ["y"], group=groups, strides=strides, pads=pads, dilations=[spread, spread]
    )
    expected = convolved(conv, image, weight)[0].reshape(12, -1)
    rows = im2col(ir.from_proto(conv), weight.shape, image)
    assert rows.shape == (groups, expected.shape[1], 6 // groups * kernel[0] * kernel[1])
    by_group = weight.reshape(groups, 12 // groups, -1)
    np.testing.assert_allclose((by_group @ rows.transpose(0, 2, 1)).reshape(12, -1), expected, rtol=1e-3, atol=1e-4)


def test_where_the_padding_is_left_to_the_operator_or_the_image_is_flat_there_are_none() -> None:
    plain, automatic = (conv_node(auto_pad=each) for each in ("NOTSET", "SAME_UPPER"))
    assert supports_im2col(plain, (4, 3, 2, 2))
    assert supports_im2col(conv_node(), (4, 3, 2, 2))
    assert not supports_im2col(automatic, (4, 3, 2, 2))
    assert not supports_im2col(plain, (4, 3, 2))


@pytest.mark.parametrize(
    ("attributes", "padded"),
    [
        ({}, False),
        ({"pads": [0, 0, 0, 0]}, False),
        ({"pads": [0, 0, 0, 1]}, True),
        ({"auto_pad": "VALID"}, False),
        ({"auto_pad": "NOTSET", "pads": [1, 1, 1, 1]}, True),
        ({"auto_pad": "SAME_UPPER"}, True),
    ],
)
def test_what_pads_with_zeros(attributes: dict[str, Any], padded: bool) -> None:
    assert pads_with_zeros(conv_node(**attributes)) == padded
