"""The preprocessing of a bundle as OpenVINO operators: from a BGR image of any size to the frame of the network.

OpenVINO's ``Interpolate`` has Pillow's antialiased bilinear and bicubic filters. On bytes they round as Pillow does;
single pixels differ by a level. Sizes are computed in integers, as ``Preprocessing.geometry`` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as operators

from vitedge.bundle.preprocessing import Interpolation, Preprocessing

MODES: Mapping[Interpolation, str] = {
    "nearest": "nearest",
    "bilinear": "bilinear_pillow",
    "bicubic": "bicubic_pillow",
    "lanczos": "bicubic_pillow",
    "box": "bilinear_pillow",
    "hamming": "bilinear_pillow",
}
"""OpenVINO's mode for each filter of Pillow: the same one, or the nearest one that it has."""
EXACT: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic")
"""Filters that OpenVINO has."""
BICUBIC_COEFFICIENT = -0.5
"""Pillow's (Resample.c, ``bicubic_filter``)."""
AXES = (1, 2)
"""Height and width in NHWC."""


def frame_of(image: openvino.Output, preprocessing: Preprocessing) -> openvino.Output:
    """Preprocess an image in the graph.

    Args:
        image: uint8 (1,height,width,3), BGR, of any size.
        preprocessing: preprocessing of the bundle.

    Returns:
        uint8 (1,H,W,3), the frame of the network, in its order of channels.
    """
    sizes = _image_size(image)
    resized_size = _resized(sizes, preprocessing)
    resized = operators.interpolate(
        _ordered(image, preprocessing),
        resized_size,
        mode=MODES[preprocessing.interpolation],
        shape_calculation_mode="sizes",
        axes=_integers(*AXES),
        coordinate_transformation_mode="half_pixel",
        nearest_mode="round_prefer_ceil",
        cube_coeff=BICUBIC_COEFFICIENT,
        pads_begin=[0] * 4,
        pads_end=[0] * 4,
    )
    return _window(resized.output(0), resized_size, preprocessing)


def _ordered(image: openvino.Output, preprocessing: Preprocessing) -> openvino.Output:
    if preprocessing.channel_order == "BGR":
        return image
    return operators.gather(image, _integers(2, 1, 0), np.int64(3)).output(0)


def _image_size(image: openvino.Output) -> openvino.Node:
    return operators.gather(operators.shape_of(image, output_type="i64"), _integers(*AXES), np.int64(0))


def _resized(size: openvino.Node, preprocessing: Preprocessing) -> openvino.Node:
    """Compute (height, width) after the resize, as ``Preprocessing.geometry`` does."""
    target = _integers(*preprocessing.resize_size)
    if preprocessing.resize_mode == "squash":
        return operators.constant(target)
    height, width = preprocessing.resize_size
    if preprocessing.resize_mode == "shortest" and height == width:
        shortest = operators.reduce_min(size, np.int64(0), keep_dims=True)
        return operators.divide(operators.multiply(size, target), shortest)
    return _in_proportion(size, target, fit_inside=preprocessing.resize_mode == "border")


def _in_proportion(size: openvino.Node, target: NDArray[np.int64], *, fit_inside: bool) -> openvino.Node:
    """Scale both sides by one factor, rounded to whole pixels, at least 1; one side gets its target.

    The side with the largest (``fit_inside``) or smallest size over target gives the factor.
    """
    crossed = operators.multiply(size, target[::-1].copy())  # height × target width, width × target height
    reduce = operators.reduce_max if fit_inside else operators.reduce_min
    decides = operators.equal(crossed, reduce(crossed, np.int64(0), keep_dims=True))
    numerator = operators.reduce_max(
        operators.select(decides, operators.constant(target), _integers(0)), np.int64(0), keep_dims=True
    )
    side = operators.reduce_max(operators.select(decides, size, _integers(0)), np.int64(0), keep_dims=True)
    return _rounded_ratio(operators.multiply(size, numerator), side)


def _rounded_ratio(numerator: openvino.Node, denominator: openvino.Node) -> openvino.Node:
    """Divide and round to the nearest integer, a half to the even one, at least 1."""
    twice = operators.multiply(denominator, _integers(2))
    raised = operators.add(operators.multiply(numerator, _integers(2)), denominator)
    up = operators.divide(raised, twice)
    is_half = operators.equal(operators.floor_mod(raised, twice), _integers(0))
    even = operators.subtract(up, operators.select(is_half, _parity(up), _integers(0)))
    return operators.maximum(even, _integers(1))


def _window(resized: openvino.Output, size: openvino.Node, preprocessing: Preprocessing) -> openvino.Output:
    """Cut the window of the input's size out of the middle, and pad where the image does not cover it."""
    window = _integers(*preprocessing.input_size)
    offset = _offset(operators.subtract(size, window), preprocessing)
    none = _integers(0)
    before = operators.maximum(operators.negative(offset), none)
    after = operators.maximum(operators.subtract(operators.add(offset, window), size), none)
    start = operators.maximum(offset, none)
    padded = _padded(resized, before, after, preprocessing)
    cut = operators.slice(padded, start, operators.add(start, window), _integers(1, 1), _integers(*AXES))
    sizes = _integers(1, *preprocessing.input_size, 3)
    return operators.reshape(cut, sizes, special_zero=False).output(0)


def _offset(margin: openvino.Node, preprocessing: Preprocessing) -> openvino.Node:
    """Halve the margin: odd ones to the even number, or down; negative ones towards zero, or down."""
    half = operators.floor(operators.divide(operators.subtract(margin, _parity(margin)), _integers(2)))
    if preprocessing.crop_rounding == "floor":
        return half
    is_negative = operators.less(margin, _integers(0))
    up = operators.select(is_negative, _integers(1, 1), _parity(half))
    return operators.add(half, operators.multiply(_parity(margin), up))


def _parity(value: openvino.Node) -> openvino.Node:
    return operators.floor_mod(value, _integers(2))


def _padded(
    resized: openvino.Output, before: openvino.Node, after: openvino.Node, preprocessing: Preprocessing
) -> openvino.Output:
    if _covers(preprocessing):
        return resized
    colour = np.array(preprocessing.padding, np.float32)
    around = [operators.concat([_integers(0), sides, _integers(0)], 0) for sides in (before, after)]
    shifted = operators.subtract(operators.convert(resized, "f32"), colour)  # a pad has one value for all channels
    padded = operators.add(operators.pad(shifted, *around, "constant", np.float32(0)), colour)
    return operators.convert(padded, "u8").output(0)


def _covers(preprocessing: Preprocessing) -> bool:
    """Return whether the resized image covers the window, whatever its size."""
    (height, width), (rows, columns) = preprocessing.input_size, preprocessing.resize_size
    return preprocessing.resize_mode != "border" and rows >= height and columns >= width


def _integers(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)
