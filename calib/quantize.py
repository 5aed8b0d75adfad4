"""FP32 graph and images to a Q/DQ graph, by NNCF's post-training quantization on ONNX.

Linear layers and convolutions become int8: weights symmetric and per-channel, activations asymmetric and per-tensor.
Residual additions, LayerNorm, softmax, GELU and the attention products stay in floating point: quantized residual
additions destroy vision transformers. So do the classifier and the layer before it, which take little of the time: in
DeiT-Tiny the last block's second linear layer alone makes half of the noise in the logits. The first convolution is
int8 where it reads the frame itself (``frame_convolution``), else float.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle import INPUT_NAME
from vitedge.calib.finite import WEIGHT_LAYERS, check_finite
from vitedge.calib.frame_convolution import quantize_frame_convolution
from vitedge.calib.smoothing import fold_smoothing
from vitedge.errors import CalibrationError, ConversionError
from vitedge.extras import require
from vitedge.progress import Progress, Silent

if TYPE_CHECKING:
    import onnx

PURPOSE = "quantizing to int8"
FLOAT_LAST = 2
SMOOTH_QUANT_ALPHA = 0.5
"""Share of the outliers that moves from activations to weights (Xiao et al., "SmoothQuant", 2022, equation 4)."""


@dataclass(frozen=True)
class QuantizedGraph:
    """What quantization made.

    Attributes:
        graph: the Q/DQ graph; opset and inputs and outputs as before.
        recipe: name of the quantizer and its settings.
    """

    graph: onnx.ModelProto
    recipe: str


def quantize(
    graph: onnx.ModelProto,
    frames: NDArray[np.uint8],
    *,
    progress: Progress = Silent(),  # noqa: B008
) -> QuantizedGraph:
    """Quantize a graph to int8.

    Activation ranges minimize the quantization error over a histogram; biases are corrected for the mean error of
    their layer (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019; NNCF's
    fast bias correction).

    Args:
        graph: FP32; uint8 ``frame`` ``(1,H,W,3)`` in, ``logits`` out. It is not changed.
        frames: ``(N,H,W,3)`` uint8, preprocessed.
        progress: told of every image that passes through the graph.

    Raises:
        CalibrationError: no frames, or the graph's outputs on the first of them are not finite.
        ConversionError: the graph is quantized already, holds weights that are not finite or nothing to quantize, does
            not take the frames, or NNCF failed.
        MissingExtraError: NNCF is not installed.
    """
    nncf = require("nncf", extra="convert", purpose=PURPOSE)
    if not len(frames):
        raise CalibrationError("there are no calibration images", expected="some hundred like those of the camera")
    _refuse_quantized(graph)
    check_finite(graph, frames)
    copy = type(graph)()
    copy.CopyFrom(graph)
    try:
        with _quiet():
            result = nncf.quantize(copy, _dataset(nncf, frames, progress), **_settings(nncf, copy, len(frames)))
    except (RuntimeError, ValueError, KeyError, nncf.ValidationError, nncf.InternalError) as error:
        raise ConversionError(
            f"NNCF cannot quantize this graph: {error}", fix="--precision fp16 needs no quantizer"
        ) from error
    fold_smoothing(result)
    first = quantize_frame_convolution(result, frames)
    _as_uint8_activations(result)
    return QuantizedGraph(
        graph=result,
        recipe=f"NNCF {version('nncf')}, SmoothQuant {SMOOTH_QUANT_ALPHA}, histogram ranges, fast bias correction, "
        f"{'' if first else 'first convolution and '}last {FLOAT_LAST} layers float",
    )


def float_layers(graph: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes that stay in floating point: all but convolutions and products with constant weights.

    The first convolution, which is the patch embedding or the stem, and the last two layers with weights stay too;
    ``quantize_frame_convolution`` may quantize the first one afterwards.
    """
    constants = {tensor.name for tensor in graph.graph.initializer}
    weighted = [node.name for node in graph.graph.node if _has_weights(node, constants)]
    first = next((node.name for node in graph.graph.node if node.op_type == "Conv"), "")
    quantized = set(weighted[:-FLOAT_LAST]) - {first}
    if not quantized:
        raise ConversionError("the graph has no layer to quantize", expected="linear layers or convolutions")
    return tuple(node.name for node in graph.graph.node if node.name not in quantized)


def _has_weights(node: onnx.NodeProto, constants: set[str]) -> bool:
    return node.op_type in WEIGHT_LAYERS and any(name in constants for name in node.input[:2])


def _refuse_quantized(graph: onnx.ModelProto) -> None:
    for node in graph.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise ConversionError(
                f"the graph is quantized already: {node.name or node.op_type}",
                expected="float32",
                fix="give the original",
            )


def _dataset(nncf: Any, frames: NDArray[np.uint8], progress: Progress) -> Any:
    class Tracked:
        """Iterated once for each of NNCF's passes."""

        def __iter__(self) -> Iterator[dict[str, NDArray[np.uint8]]]:
            for frame in progress.track(frames, total=len(frames), unit="images"):
                yield {INPUT_NAME: frame[np.newaxis]}

    return nncf.Dataset(Tracked())


def _settings(nncf: Any, graph: onnx.ModelProto, images: int) -> dict[str, Any]:
    advanced = nncf.quantization.advanced_parameters
    ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet
    return {
        "subset_size": images,
        "preset": nncf.QuantizationPreset.MIXED,
        "model_type": nncf.ModelType.TRANSFORMER,
        "ignored_scope": nncf.IgnoredScope(names=list(float_layers(graph))),
        "advanced_parameters": nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.DISABLE,
            activations_quantization_params=advanced.QuantizationParameters(per_channel=False),
            activations_range_estimator_params=ranges.HISTOGRAM,
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTH_QUANT_ALPHA, convolution=-1),
        ),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's notes and bars to itself; ours are shown instead."""
    logger = logging.getLogger("nncf")
    level, logger.level = logger.level, logging.ERROR
    try:
        with _redirected(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _redirected(stream: Any) -> Iterator[None]:
    import rich

    console = rich.get_console()
    kept, console.file = console.file, stream
    try:
        yield
    finally:
        console.file = kept


def _as_uint8_activations(graph: onnx.ModelProto) -> None:
    """Turn signed zero points of activations into unsigned ones, which OpenVINO and oneDNN multiply fastest; exact."""
    from onnx import TensorProto, numpy_helper

    del graph.graph.value_info[:]  # it repeats the old types
    zero_points = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        for attribute in [each for each in node.attribute if each.name == "output_dtype"]:
            node.attribute.remove(attribute)
        tensor = zero_points[node.input[2]]
        if tensor.data_type == TensorProto.INT8:
            shifted = numpy_helper.to_array(tensor).astype(np.int16) + 128
            tensor.CopyFrom(numpy_helper.from_array(shifted.astype(np.uint8), tensor.name))
