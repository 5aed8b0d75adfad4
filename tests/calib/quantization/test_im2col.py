"""Patches: times the weights they are the convolution, whatever its groups, steps, padding and spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from onnx import helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from vitedge.calib.quantization.im2col import has_patches, is_padded, patches  # noqa: E402

SIDE = 9


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
    rows = patches(conv, weight.shape, image)
    assert rows.shape == (groups, expected.shape[1], 6 // groups * kernel[0] * kernel[1])
    by_group = weight.reshape(groups, 12 // groups, -1)
    np.testing.assert_allclose((by_group @ rows.transpose(0, 2, 1)).reshape(12, -1), expected, rtol=1e-3, atol=1e-4)


def test_where_the_padding_is_left_to_the_operator_or_the_image_is_flat_there_are_none() -> None:
    plain, automatic = (helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=each) for each in ("NOTSET", "SAME_UPPER"))
    assert has_patches(plain, (4, 3, 2, 2))
    assert has_patches(helper.make_node("Conv", ["x", "w"], ["y"]), (4, 3, 2, 2))
    assert not has_patches(automatic, (4, 3, 2, 2))
    assert not has_patches(plain, (4, 3, 2))


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
    assert is_padded(helper.make_node("Conv", ["x", "w"], ["y"], **attributes)) == padded
