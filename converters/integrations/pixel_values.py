"""The graph of a bundle in OpenVINO, changed to take the normalized pixels that Transformers' image processors give."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as operators

from vitedge.bundle.bundle import OUTPUT_NAME
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.integrations.image_processor import rgb
from vitedge.errors import ConversionError

PIXEL_VALUES = "pixel_values"
LEVELS = 255
TO_LAST = (0, 2, 3, 1)
"""NCHW to NHWC."""


def with_pixel_values(model: openvino.Model, preprocessing: Preprocessing, temperature: float = 1.0) -> openvino.Model:
    """Make a model that takes ``pixel_values``, float32 ``(1,3,H,W)`` RGB, instead of ``frame``.

    The pixels go back to the 0…255 scale, where the graph casts the bytes of a frame to floating point: nothing is
    rounded, and whatever normalization and int8 operators follow stay as they are.

    Args:
        model: uint8 ``frame`` (1,H,W,3) in, float32 ``logits`` (1,classes) out; its operators are used again.
        preprocessing: preprocessing of the bundle.
        temperature: ``logits`` are divided by it, so that their softmax gives the scores of the bundle.

    Raises:
        ConversionError: the graph computes with the bytes themselves.
    """
    height, width = preprocessing.input_size
    pixels = operators.parameter([1, 3, height, width], np.float32, name=PIXEL_VALUES)
    pixels.output(0).get_tensor().set_names({PIXEL_VALUES})
    frame = _frame_of(pixels, preprocessing)
    for use in list(_float_frames(model)):
        use.replace_source_output(frame)
    return openvino.Model([over_temperature(model, temperature)], [pixels], model.get_friendly_name())


def _frame_of(pixels: openvino.Node, preprocessing: Preprocessing) -> openvino.Output:
    """Undo the normalization: float32 ``(1,H,W,3)``, 0…255, in the channel order of the network.

    The reshape keeps the sizes behind it constant if a reader, as optimum does, makes the sizes of the input dynamic.
    """
    height, width = preprocessing.input_size
    sized = operators.reshape(pixels, np.array([1, 3, height, width], np.int64), special_zero=False)
    scaled = operators.multiply(sized, _channels(rgb(preprocessing, preprocessing.std)))
    levels = operators.add(scaled, _channels(rgb(preprocessing, preprocessing.mean)))
    if preprocessing.channel_order == "BGR":
        levels = operators.gather(levels, np.array([2, 1, 0], np.int64), np.int64(1))
    return operators.transpose(levels, np.array(TO_LAST, np.int64)).output(0)


def _channels(values: tuple[float, float, float]) -> NDArray[np.float32]:
    return (LEVELS * np.array(values, np.float64)).astype(np.float32).reshape(1, 3, 1, 1)


def _float_frames(model: openvino.Model) -> Iterable[openvino.Input]:
    """Find what reads the frame after its cast to floating point."""
    for use in model.input(0).get_node().output(0).get_target_inputs():
        cast = use.get_node()
        if cast.get_type_name() != "Convert" or cast.get_element_type() != openvino.Type.f32:
            raise ConversionError(
                f"the graph computes with the bytes of a frame: {cast.get_friendly_name():.80}",
                expected="a graph that casts the frame to floating point first, as vitedge convert writes it",
            )
        yield from cast.output(0).get_target_inputs()


def over_temperature(model: openvino.Model, temperature: float) -> openvino.Node:
    """Return the result of a model with its ``logits`` divided by a temperature."""
    (result,) = model.get_results()
    if temperature == 1.0:
        return result
    logits = result.input_value(0)
    logits.get_tensor().set_names(set())
    divided = operators.divide(logits, np.float32(temperature))
    divided.output(0).get_tensor().set_names({OUTPUT_NAME})
    return operators.result(divided)
