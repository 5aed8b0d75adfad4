"""ONNX files to a checked graph with its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto
from onnx_ir.passes.common import NameFixPass, RemoveInitializersFromInputsPass

from vitedge.bundle import MANIFEST, OUTPUT_NAME, sha256_of
from vitedge.converters.labels import check_label_count, configured_labels, numbered_labels, read_labels
from vitedge.converters.quiet import quiet
from vitedge.converters.reference import graph_logits
from vitedge.converters.sources import OnnxFile
from vitedge.converters.timm_config import CONFIG, preprocessing_from, read_config
from vitedge.errors import CheckpointError
from vitedge.manifest import parse_manifest
from vitedge.model_card import ModelCard
from vitedge.preprocessing import Preprocessing

MIN_OPSET = 13
PROBABILITY_TOLERANCE = 1e-4
CONTRACT = "one image, float32 (1,3,H,W) normalized or uint8 (1,H,W,3); one output (1,classes)"


@dataclass(frozen=True)
class OnnxModel:
    """A classifier that came as ONNX.

    Attributes:
        card: identity, labels, preprocessing.
        graph: one input, float32 ``(1,3,H,W)`` or uint8 ``(1,H,W,3)``, static; one output ``logits``, ``(1,classes)``.
    """

    card: ModelCard
    graph: onnx.ModelProto


def load_onnx(source: OnnxFile, *, labels: Path | None) -> OnnxModel:
    """Read an ONNX classifier.

    Preprocessing and labels come from ``config.json`` beside the file (timm's ``pretrained_cfg``, by itself or within
    a hub configuration), or, for the graph of a bundle, from the bundle's manifest. A final Softmax is taken off.

    Raises:
        CheckpointError: not an ONNX file, not an image classifier, quantized, nothing says how images are to be
            preprocessed, or labels do not match the logits.
    """
    proto = _read(source.path)
    beside = _described_beside(source.path)
    _check_float(proto, source.path)
    model = ir.from_proto(proto)
    RemoveInitializersFromInputsPass()(model)
    _fix_input(model, beside.preprocessing, source.path)
    _name_logits(model)
    graph: onnx.ModelProto = ir.to_proto(model)
    logits = _count_logits(graph, beside.preprocessing, source.path)
    graph.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [1, logits]))
    card = ModelCard(
        name=source.name,
        source=str(source.path),
        architecture="onnx",
        labels=_labels(beside, logits, file=labels),
        preprocessing=beside.preprocessing,
        weights_sha256=sha256_of(source.path),
        pretrained=beside.pretrained,
    )
    return OnnxModel(card, graph)


@dataclass(frozen=True)
class _Beside:
    """What the file next to a graph says of it."""

    path: Path
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    pretrained: bool


def _described_beside(path: Path) -> _Beside:
    manifest, config = path.parent / MANIFEST, path.parent / CONFIG
    if manifest.is_file():
        model = parse_manifest(manifest.read_text(encoding="utf-8"), where=str(manifest)).model
        return _Beside(manifest, model.preprocessing, model.labels, model.pretrained)
    if not config.is_file():
        raise CheckpointError(
            f"nothing says how images are preprocessed for {path}",
            expected=f"{config}, with timm's keys input_size, mean, std, interpolation, crop_pct, crop_mode; "
            "label_names if the classes have names",
            fix='write it, such as {"input_size": [3, 224, 224], "mean": [0.485, 0.456, 0.406], '
            '"std": [0.229, 0.224, 0.225], "interpolation": "bicubic", "crop_pct": 0.875}',
        )
    read = read_config(config)
    pretrained_cfg = _nested(read)
    return _Beside(config, preprocessing_from(pretrained_cfg), configured_labels({**pretrained_cfg, **read}), True)


def _nested(config: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = config.get("pretrained_cfg", config)
    return nested if isinstance(nested, Mapping) else {}


def _read(path: Path) -> onnx.ModelProto:
    try:
        with quiet():
            graph = onnx.load(path)
            onnx.checker.check_model(graph)
    except Exception as error:  # protobuf, the checker and external data each raise their own
        raise CheckpointError(
            f"{path} is cut off, or not a valid ONNX file: {str(error).splitlines()[0] if str(error) else error!r}",
            fix="export or copy the file again",
        ) from error
    return graph


def _check_float(graph: onnx.ModelProto, path: Path) -> None:
    kinds = {node.op_type for node in graph.graph.node}
    if "QuantizeLinear" in kinds or "DequantizeLinear" in kinds:
        raise CheckpointError(f"{path} is quantized already", expected="float32 weights", fix="give the original graph")
    if any(each.data_type == TensorProto.FLOAT16 for each in graph.graph.initializer):
        raise CheckpointError(f"{path} has float16 weights", expected="float32 weights", fix="give the original graph")
    opset = max((each.version for each in graph.opset_import if each.domain in ("", "ai.onnx")), default=0)
    if opset < MIN_OPSET:
        raise CheckpointError(
            f"{path} has opset {opset}", expected=f"{MIN_OPSET} or newer", fix="export with opset_version=20"
        )


def _fix_input(model: ir.Model, preprocessing: Preprocessing, path: Path) -> None:
    """Make the one input static, with batch 1 and the configured height and width."""
    inputs, outputs = model.graph.inputs, model.graph.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise CheckpointError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs", expected=CONTRACT)
    height, width = preprocessing.input_size
    shapes = {ir.DataType.FLOAT: (1, 3, height, width), ir.DataType.UINT8: (1, height, width, 3)}
    static = shapes.get(inputs[0].dtype or ir.DataType.UNDEFINED, ())
    found = tuple(inputs[0].shape or ())
    if not static or len(found) != len(static) or not all(map(_may_be, found, static)):
        raise CheckpointError(
            f"the input of {path} is {inputs[0].dtype} {tuple(map(str, found))}",
            expected=f"{CONTRACT}; its configuration says that (H,W) is {preprocessing.input_size}",
        )
    inputs[0].shape = ir.Shape(static)


def _may_be(dimension: object, size: int) -> bool:
    return dimension == size or not isinstance(dimension, int)


def _name_logits(model: ir.Model) -> None:
    """Name the output; a Softmax at the end gives way to its input: the classifier computes probabilities itself."""
    outputs = model.graph.outputs
    last = outputs[0].producer()
    if last is not None and last.op_type in ("Softmax", "LogSoftmax") and last.inputs[0] is not None:
        outputs[0] = last.inputs[0]
        model.graph.remove(last)
    outputs[0].name = OUTPUT_NAME
    NameFixPass()(model)


def _count_logits(graph: onnx.ModelProto, preprocessing: Preprocessing, path: Path) -> int:
    """Run the graph once, since exporters leave shapes open."""
    frames = np.random.default_rng(0).integers(0, 256, (1, *preprocessing.input_size, 3), dtype=np.uint8)
    logits = graph_logits(graph, frames, preprocessing)
    if logits.ndim != 2 or logits.dtype != np.float32:
        raise CheckpointError(f"the output of {path} has shape {logits.shape}, type {logits.dtype}", expected=CONTRACT)
    if logits.min() >= 0 and abs(float(logits.sum()) - 1) < PROBABILITY_TOLERANCE:
        raise CheckpointError(f"{path} gives probabilities", expected="logits", fix="export it without the softmax")
    return int(logits.shape[1])


def _labels(beside: _Beside, logits: int, *, file: Path | None) -> tuple[str, ...]:
    if file is not None:
        return check_label_count(read_labels(file), logits, where=str(file))
    if beside.labels is not None:
        return check_label_count(beside.labels, logits, where=str(beside.path))
    return numbered_labels(logits)
