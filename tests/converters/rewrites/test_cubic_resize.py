"""Cubic Resizes as products with constant matrices."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds, rewritten

from vitedge.converters.openvino import rewrites as openvino_rewrites
from vitedge.converters.rewrites import cubic_resize
from vitedge.converters.rewrites.apply import REWRITES, apply_rewrites, is_exact
from vitedge.graph.layers import linear_layers

SHAPE = (1, 3, 7, 9)
CUBIC = 'mode = "cubic"'


def model(attributes: str = CUBIC, inputs: str = "x, , , sizes") -> graphs.ir.Model:
    return graphs.model(
        SHAPE,
        f"m = Resize<{attributes}>({inputs}) y = Relu(m)",
        sizes=np.asarray([1, 3, 12, 5]),
        scales=np.asarray([1, 1, 1.7, 0.6], dtype=np.float32),
        channels=np.asarray([1, 4, 12, 5]),
    )


@pytest.mark.parametrize("inputs", ["x, , , sizes", "x, , scales"])
@pytest.mark.parametrize("coefficient", ["", ", cubic_coeff_a = -0.5"])
def test_two_products(inputs: str, coefficient: str) -> None:
    graph = model(f"{CUBIC}{coefficient}", inputs)
    assert cubic_resize.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(cubic_resize, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert kinds(graph) == ["MatMul", "MatMul", "Relu"]
    assert not {"sizes", "scales"} & set(graph.graph.initializers)


def test_an_image_that_is_read_in_two_sizes() -> None:
    """Its normalization stays in front of both: no convolution can take it in."""
    body = (
        f"small = Resize<{CUBIC}>(x, , , sizes) first = Conv<strides = [2, 2]>(x, kernel) second = Conv(small, kernel) "
        "one = GlobalAveragePool(first) two = GlobalAveragePool(second) both = Add(one, two) y = Flatten(both)"
    )
    graph = graphs.model((1, 3, 12, 12), body, sizes=np.asarray([1, 3, 7, 7]), kernel=graphs.random(8, 3, 3, 3))
    own = tuple(each for each in openvino_rewrites.REWRITES if each.name == "cubic Resize")
    result = apply_rewrites(graphs.ir.to_proto(graph), graphs.noise(), graphs.PHOTOS, (*REWRITES, *own))
    assert {"prepend normalization", "cubic Resize"} <= set(result.applied)


def test_the_products_are_no_layers_that_a_quantizer_takes() -> None:
    graph = model()
    rewritten(cubic_resize, graph)
    assert list(linear_layers(graph.graph)) == []


@pytest.mark.parametrize("change", ["antialias = 1", "exclude_outside = 1", 'keep_aspect_ratio_policy = "not_larger"',
                                    'coordinate_transformation_mode = "align_corners"'])  # fmt: skip
def test_other_cubic_resizes_stay(change: str) -> None:
    assert cubic_resize.check(model(f"{CUBIC}, {change}"), PREPROCESSING) == cubic_resize.OTHER_FORM


def test_what_else_stays() -> None:
    assert cubic_resize.check(model('mode = "linear"'), PREPROCESSING) == "there is no cubic Resize"
    assert cubic_resize.check(model(inputs="x, , , channels"), PREPROCESSING) == cubic_resize.OTHER_FORM
    unknown = model()
    graphs.forget_shape(unknown, "m")
    assert cubic_resize.check(unknown, PREPROCESSING) == cubic_resize.NO_SHAPE
