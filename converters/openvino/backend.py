"""ONNX to OpenVINO IR, with the section that OpenVINO Model API and DL Streamer read."""

from __future__ import annotations

import io
import platform
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
from numpy.typing import NDArray
from openvino.frontend import FrontEndManager

from vitedge.audit import Audit
from vitedge.bundle.bundle import MODEL_ONNX, OPENVINO_XML, Bundle
from vitedge.bundle.model_card import LABEL_THRESHOLD, ModelCard
from vitedge.bundle.precision_records import CalibrationRecord
from vitedge.bundle.preprocessing import Preprocessing, ResizeMode
from vitedge.bundle.targets import Precision
from vitedge.bundle.verification_records import StageRecord
from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.row_weights import quantize_row_weights
from vitedge.converters.backends import BackendInputs, Mended, Reduced, quantized
from vitedge.converters.openvino import stages
from vitedge.converters.openvino.channel_factors import fold_channel_factors
from vitedge.converters.openvino.faults import work_around
from vitedge.converters.openvino.reading import read_model
from vitedge.converters.openvino.rewrites import REWRITES as REWRITES
from vitedge.converters.openvino.strided_convolutions import widen_strided_convolutions
from vitedge.converters.precision import half_weights
from vitedge.converters.quiet import quiet
from vitedge.errors import ConversionError
from vitedge.graph import rounding
from vitedge.graph.files import is_beyond_protobuf
from vitedge.progress import Progress
from vitedge.runtime.engines.audit.openvino import audit as audit_openvino
from vitedge.runtime.engines.base import Engine
from vitedge.runtime.engines.open import open_engine
from vitedge.runtime.engines.openvino import open_model
from vitedge.runtime.system.capabilities import read_features, recommend_precision
from vitedge.safety.escape import terminal

WRITES = "ONNX and OpenVINO IR"
COMPARES = "the compiled engine"
RESIZE_TYPES: Mapping[ResizeMode, str] = {"shortest": "crop", "squash": "standard", "border": "fit_to_window_letterbox"}
INTERPOLATION_MODES: Mapping[str, str] = {"nearest": "NEAREST", "bicubic": "CUBIC"}
FLOAT_TYPES: Mapping[str, str] = {"bf16": "bf16", "fp16": "f16"}
"""OpenVINO's names of the 16-bit types."""
UNCONVERTED = ("NotSupportedONNXNode", "ONNXFrameworkNode")
"""What OpenVINO's reader puts in the place of a node that it has no form for, or cannot convert."""


def check_operators(graph: onnx.ModelProto) -> None:
    """Refuse a graph that OpenVINO cannot read, before more work goes into it.

    Raises:
        ConversionError: names each operator that OpenVINO does not convert, and its layer.
    """
    try:
        with quiet():
            read_model(graph)
    except RuntimeError as error:
        raise ConversionError(
            f"OpenVINO cannot convert {_unconverted(graph) or f'the graph: {_reason(error)}'}",
            expected="operators that OpenVINO reads from ONNX",
            fix="write that layer with other operators, and export again",
        ) from error


def _unconverted(graph: onnx.ModelProto) -> str:
    """List the unconverted operators, each with its first layer; operators of branches and loops are left out."""
    if is_beyond_protobuf(graph):
        return ""
    reader = FrontEndManager().load_by_framework("onnx")
    converted = reader.convert_partially(reader.load(io.BytesIO(graph.SerializeToString())))
    names = {node.get_friendly_name() for node in converted.get_ops() if node.get_type_name() in UNCONVERTED}
    layers = defaultdict[str, list[str]](list)
    for node in graph.graph.node:
        if {node.name, *node.output} & names:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            layers[operator].append(node.name or node.output[0])
    return "; ".join(
        f"the operator {operator}, layer {first!r}" + (f" and {len(others)} more" if others else "")
        for operator, (first, *others) in layers.items()
    )


def _reason(error: RuntimeError) -> str:
    """Return OpenVINO's message without the positions in its own code."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("Exception from", "Check 'false'")))


def mend(inputs: BackendInputs, precision: Precision, progress: Progress) -> Mended:
    """Compile the FP32 graph here, compare, and work around what OpenVINO computes wrongly."""
    return work_around(inputs.graph, inputs.compared, inputs.card.preprocessing, precision, progress)


def reduce(inputs: BackendInputs, precision: Precision, progress: Progress) -> Reduced:
    """Reduce a graph to a precision: OpenVINO computes in 16 bits as the CPU can, so only weights are halved for it.

    The weights that int8 leaves in floating point are halved as well.
    """
    if precision == "int8":
        _warn_without_int8(progress)
        found, record = quantized(inputs, Scheme.ASYMMETRIC, progress)
        graph, record = _with_row_weights(found.graph, record, inputs)
        return Reduced(half_weights(widen_strided_convolutions(graph)), record)
    return Reduced(half_weights(inputs.graph) if precision == "fp16" else inputs.graph, None)


def _with_row_weights(
    graph: onnx.ModelProto, record: CalibrationRecord, inputs: BackendInputs
) -> tuple[onnx.ModelProto, CalibrationRecord]:
    """Give large products of a single row int8 weights, and name them in the recipe."""
    frames = inputs.frames if inputs.photos is None else inputs.photos.frames
    with quiet():
        rows = quantize_row_weights(inputs.graph, graph, frames)
    if not rows.layers:
        return graph, record
    return rows.graph, replace(record, recipe=f"{record.recipe}; int8 weights alone: {', '.join(rows.layers)}")


def _warn_without_int8(progress: Progress) -> None:
    """Say before the calibration, which takes minutes, that this processor does not multiply 8-bit integers faster."""
    recommended = recommend_precision(read_features(), platform.machine())
    if recommended is not None and recommended.precision != "int8":
        progress.step(f"warning: this processor has {recommended.reason}")


def computed(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Give the graph itself: ONNX Runtime computes it as it is written."""
    return graph


def rounded(graph: onnx.ModelProto, rest: str) -> onnx.ModelProto | None:
    """Round every value to the CPU's 16-bit type; None where the engine computes in float32."""
    return rounding.rounded(graph, FLOAT_TYPES[rest]) if rest in FLOAT_TYPES else None


def write(folder: Path, card: ModelCard, precision: Precision) -> None:
    """Write the IR of the folder's ``model.onnx``."""
    write_ir(folder / MODEL_ONNX, folder / OPENVINO_XML, card, precision)


def record_stages(bundle: Bundle, graph: onnx.ModelProto, frame: NDArray[np.uint8]) -> tuple[StageRecord, ...]:
    """Record values within the graph; see ``stages.record_stages``."""
    return stages.record_stages(bundle, graph, frame)


def audit(bundle: Bundle) -> Audit | None:
    """Compile the IR as a device would, with a profile, and find its layers."""
    return audit_openvino(bundle)


def open_fp16_engine(graph: onnx.ModelProto) -> Engine | None:
    """Compile the FP32 graph as an fp16 bundle is compiled; None on a processor without fast int8, which is known then.

    Raises:
        EngineError: OpenVINO cannot compile the graph.
    """
    recommended = recommend_precision(read_features(), platform.machine())
    if recommended is not None and recommended.precision != "int8":
        return None
    with quiet():
        return open_model(read_model(half_weights(graph)), "fp16")


def open_host_engine(bundle: Bundle) -> Engine:
    """Open the engine that a device would open: this host is one."""
    return open_engine(bundle)


def write_ir(onnx_file: Path, xml_file: Path, card: ModelCard, precision: Precision) -> None:
    """Write ``model.xml`` and ``model.bin``.

    Args:
        onnx_file: the bundle's graph.
        xml_file: where to write; the weights go beside it.
        card: labels and preprocessing for ``model_info``.
        precision: with ``fp16``, weights are stored as float16.

    Raises:
        ConversionError: OpenVINO cannot read the graph, or the files cannot be written.
    """
    xml_file.parent.mkdir(exist_ok=True)
    try:
        with quiet():
            model = _model_of(onnx_file, precision)
            model.inputs[0].get_node().set_layout(openvino.Layout("NHWC"))
            number_nodes(model)
            for key, value in model_info(card).items():
                model.set_rt_info(value, ["model_info", key])
            openvino.save_model(model, xml_file, compress_to_fp16=precision == "fp16")
    except RuntimeError as error:
        raise ConversionError(f"OpenVINO cannot convert the graph: {_reason(error)}") from error


def _model_of(onnx_file: Path, precision: Precision) -> openvino.Model:
    """Read the bundle's graph; int8 convolutions take up factors of channels, which the graph keeps for its readers."""
    if precision == "int8":
        return read_model(fold_channel_factors(onnx.load(onnx_file)))
    return openvino.Core().read_model(onnx_file)


def number_nodes(model: openvino.Model) -> None:
    """Number the nodes that the reader named, so that equal graphs give equal files: it counts on from file to file."""
    for position, node in enumerate(model.get_ordered_ops()):
        kind, _, number = node.get_friendly_name().rpartition("_")
        if kind == node.get_type_name() and number.isdecimal():
            node.set_friendly_name(f"{kind}_{position}")


def model_info(card: ModelCard) -> dict[str, str]:
    """Describe the preprocessing and the labels in the terms of OpenVINO Model API, which reads BGR images.

    Model API resizes without antialiasing, has no share to crop and no temperature: docs/convert.md tells how often its
    answer differs from the bundle's. Mean and scale are in the graph already. Labels are separated by spaces there, so
    their own spaces become underscores.
    """
    preprocessing = card.preprocessing
    return {
        "model_type": "Classification",
        "labels": " ".join(terminal("_".join(label.split())) or str(index) for index, label in enumerate(card.labels)),
        "reverse_input_channels": "YES" if preprocessing.channel_order == "RGB" else "NO",
        "resize_type": _resize_type(preprocessing),
        "interpolation_mode": INTERPOLATION_MODES.get(preprocessing.interpolation, "LINEAR"),
        "pad_value": str(round(sum(preprocessing.padding) / 3)),
        "topk": str(min(5, card.num_classes)),
        **({"multilabel": "True", "confidence_threshold": str(LABEL_THRESHOLD)} if card.is_multilabel else {}),
    }


def _resize_type(preprocessing: Preprocessing) -> str:
    """Return Model API's name for the resize; its ``crop`` is right for square inputs only."""
    height, width = preprocessing.input_size
    if preprocessing.resize_mode == "shortest" and height != width:
        return "standard"
    return RESIZE_TYPES[preprocessing.resize_mode]
