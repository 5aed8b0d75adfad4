"""ONNX files to a checked graph with its card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from onnx import TensorProto, version_converter
from onnx.external_data_helper import load_external_data_for_model
from onnx_ir.passes.common import NameFixPass, RemoveInitializersFromInputsPass

from vitedge.bundle import MANIFEST, OUTPUT_NAME, sha256_of
from vitedge.converters.export import OPSET
from vitedge.converters.given_preprocessing import given_preprocessing, require_preprocessing
from vitedge.converters.labels import choose_labels, configured_labels
from vitedge.converters.quiet import quiet
from vitedge.converters.reference import graph_logits
from vitedge.converters.sources import OnnxFile
from vitedge.converters.timm_config import CONFIG, preprocessing_from, pretrained_cfg_of, read_config
from vitedge.errors import CheckpointError
from vitedge.manifest import parse_manifest
from vitedge.model_card import ModelCard
from vitedge.preprocessing import Preprocessing
from vitedge.progress import Progress, Silent

MIN_OPSET = 13
PROBABILITY_TOLERANCE = 1e-4
MIN_CLASSES = 2
CONTRACT = "one image, float32 (1,3,H,W) normalized or uint8 (1,H,W,3); one output (1,classes)"
STANDARD_DOMAINS = ("", "ai.onnx")
BACKEND_DOMAINS = (*STANDARD_DOMAINS, "com.microsoft")
HALF_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulNBits",
)


@dataclass(frozen=True)
class OnnxModel:
    """A classifier that came as ONNX.

    Attributes:
        card: identity, labels, preprocessing.
        graph: one input, float32 ``(1,3,H,W)`` or uint8 ``(1,H,W,3)``, static; one output ``logits``, ``(1,classes)``.
    """

    card: ModelCard
    graph: onnx.ModelProto


def load_onnx(
    source: OnnxFile,
    *,
    labels: Path | None,
    preprocessing: str | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> OnnxModel:
    """Read an ONNX classifier.

    Preprocessing and labels come from ``config.json`` beside the file (timm's ``pretrained_cfg``, by itself or within
    a hub configuration), or, for the graph of a bundle, from the bundle's manifest. A final Softmax is taken off,
    open dimensions are fixed, local functions are inlined, and an old opset is upgraded.

    Args:
        source: the file.
        labels: file of labels, instead of those beside the graph.
        preprocessing: see ``given_preprocessing``; None for what stands beside the graph.
        progress: is told of an upgrade.

    Raises:
        UsageError: ``preprocessing`` names nothing.
        CheckpointError: not an ONNX file, not an image classifier, quantized, an operator that no backend has, nothing
            says how images are to be preprocessed, or labels do not match the logits.
    """
    proto = _read(source.path)
    _check_float(proto, source.path)
    proto = _upgraded(onnx.inliner.inline_local_functions(proto), source.path, progress)
    _check_operators(proto, source.path)
    _check_valid(proto, source.path)
    model = ir.from_proto(proto)
    RemoveInitializersFromInputsPass()(model)
    _check_ends(model, source.path)
    beside = _described_beside(source.path, preprocessing, _size_of(model.graph.inputs[0]))
    _fix_input(model, beside.preprocessing, source.path)
    _name_logits(model, source.path)
    graph: onnx.ModelProto = ir.to_proto(model)
    logits = _count_logits(graph, beside.preprocessing, source.path)
    graph.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [1, logits]))
    card = ModelCard(
        name=source.name,
        source=str(source.path),
        architecture="onnx",
        labels=choose_labels(logits, file=labels, configured=beside.labels, where=str(beside.path)),
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


def _described_beside(path: Path, given: str | None, size: tuple[int, int] | None) -> _Beside:
    """What the file beside the graph says, and ``--preprocessing`` in its place where it is given."""
    manifest, config = path.parent / MANIFEST, path.parent / CONFIG
    if manifest.is_file():
        model = parse_manifest(manifest.read_text(encoding="utf-8"), where=str(manifest)).model
        preprocessing = model.preprocessing if given is None else given_preprocessing(given, size)
        return _Beside(manifest, preprocessing, model.labels, model.pretrained)
    if not config.is_file():
        holder = f"an ONNX graph does not, and there is no {config}"
        preprocessing = require_preprocessing(given, size, name=str(path), holder=holder)
        return _Beside(config, preprocessing, None, pretrained=True)
    read = read_config(config)
    described = pretrained_cfg_of(read)
    preprocessing = preprocessing_from(described) if given is None else given_preprocessing(given, size)
    return _Beside(config, preprocessing, configured_labels({**described, **read}), pretrained=True)


def _size_of(value: ir.Value) -> tuple[int, int] | None:
    """(height, width) of an input, where both are fixed."""
    shape = tuple(value.shape or ())
    sides = shape[1:3] if value.dtype == ir.DataType.UINT8 else shape[2:4]
    fixed = tuple(side for side in sides if isinstance(side, int))
    return (fixed[0], fixed[1]) if len(fixed) == 2 else None


def _read(path: Path) -> onnx.ModelProto:
    try:
        graph = onnx.load(path, load_external_data=False)
        missing = [name for name in _external_files(graph) if not (path.parent / name).is_file()]
        if not missing:
            load_external_data_for_model(graph, str(path.parent))
    except Exception as error:  # protobuf and external data each raise their own
        raise _invalid(path, error) from error
    if missing:
        raise CheckpointError(
            f"weights of {path} are in {missing[0]}, which is not beside it",
            expected=f"the graph and its data in one folder: {path.parent / missing[0]}",
            fix="copy that file too; it has to keep its name",
        )
    return graph


def _external_files(graph: onnx.ModelProto) -> list[str]:
    """Files that hold weights, relative to the graph's folder."""
    entries = [entry for tensor in graph.graph.initializer for entry in tensor.external_data]
    return sorted({entry.value for entry in entries if entry.key == "location"})


def _check_valid(graph: onnx.ModelProto, path: Path) -> None:
    try:
        with quiet():
            onnx.checker.check_model(graph)
    except Exception as error:  # the checker's errors have no other base
        raise _invalid(path, error) from error


def _invalid(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is cut off, or not a valid ONNX file: {str(error).splitlines()[0] if str(error) else error!r}",
        fix="export or copy the file again",
    )


def _check_float(graph: onnx.ModelProto, path: Path) -> None:
    kinds = {node.op_type for node in graph.graph.node}
    if kinds & set(QUANTIZED):
        raise CheckpointError(f"{path} is quantized already", expected="float32 weights", fix="give the original graph")
    half = next((each.name for each in graph.graph.initializer if each.data_type in HALF_TYPES), None)
    if half is not None:
        raise CheckpointError(
            f"{path} has float16 weights, such as {half}",
            expected="float32 weights; --precision fp16 makes them smaller again",
            fix="export the model in float32, or give the original graph",
        )


def _upgraded(graph: onnx.ModelProto, path: Path, progress: Progress) -> onnx.ModelProto:
    """The graph in an opset that the rewrites and backends know."""
    opset = max((each.version for each in graph.opset_import if each.domain in STANDARD_DOMAINS), default=OPSET)
    if opset >= MIN_OPSET:
        return graph
    progress.step(f"upgrading the graph from opset {opset} to {OPSET}")
    try:
        return version_converter.convert_version(graph, OPSET)
    except Exception as error:  # the converter's errors have no other base
        raise CheckpointError(
            f"{path} has opset {opset}, and cannot be upgraded to {OPSET}: {str(error).splitlines()[0]}",
            expected=f"opset {MIN_OPSET} or newer",
            fix=f"export the model again with opset_version={OPSET}",
        ) from error


def _check_operators(graph: onnx.ModelProto, path: Path) -> None:
    """Refuse operators that neither ONNX nor a backend defines, before anything runs into one."""
    for node in _nodes(graph.graph):
        known = onnx.defs.has(node.op_type) if node.domain in STANDARD_DOMAINS else node.domain in BACKEND_DOMAINS
        if not known:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise CheckpointError(
                f"no backend has the operator {operator}, layer {node.name or node.output[0]!r} of {path}",
                expected="operators of ONNX, or functions that the file defines",
                fix="write that layer with standard operators, and export again",
            )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _check_ends(model: ir.Model, path: Path) -> None:
    """Refuse more than one input or output, naming them, with the command that leaves the others out."""
    inputs, outputs = model.graph.inputs, model.graph.outputs
    if len(inputs) != 1:
        raise CheckpointError(
            f"{path} has {len(inputs)} inputs: {', '.join(map(_shown, inputs))}",
            expected=CONTRACT,
            fix="export a module that takes an image alone, and has the others as constants",
        )
    if len(outputs) != 1:
        raise CheckpointError(
            f"{path} has {len(outputs)} outputs: {', '.join(map(_shown, outputs))}",
            expected=CONTRACT,
            fix="keep the one with the logits: "
            f"onnx.utils.extract_model({path.name!r}, 'logits.onnx', [{inputs[0].name!r}], ['NAME OF THE LOGITS'])",
        )


def _shown(value: ir.Value) -> str:
    return f"{value.name} {value.dtype} ({','.join(map(str, value.shape or ()))})"


def _fix_input(model: ir.Model, preprocessing: Preprocessing, path: Path) -> None:
    """Make the input static, with batch 1 and the configured height and width."""
    (entry,) = model.graph.inputs
    height, width = preprocessing.input_size
    shapes = {ir.DataType.FLOAT: (1, 3, height, width), ir.DataType.UINT8: (1, height, width, 3)}
    static = shapes.get(entry.dtype or ir.DataType.UNDEFINED, ())
    found = tuple(entry.shape or ())
    if not static or len(found) != len(static) or not all(map(_may_be, found, static)):
        raise CheckpointError(
            f"the input of {path} is {_shown(entry)}",
            expected=f"{CONTRACT}; its configuration says that (H,W) is {preprocessing.input_size}",
            fix="export it with a batch of 1, or an open one, or correct the configuration",
        )
    entry.shape = ir.Shape(static)


def _may_be(dimension: object, size: int) -> bool:
    return dimension == size or not isinstance(dimension, int)


def _name_logits(model: ir.Model, path: Path) -> None:
    """Name the output; a Softmax at the end gives way to its input: the classifier computes probabilities itself."""
    outputs = model.graph.outputs
    last = outputs[0].producer()
    if last is not None and last.op_type in ("Softmax", "LogSoftmax") and last.inputs[0] is not None:
        outputs[0] = last.inputs[0]
        model.graph.remove(last)
    elif last is not None and last.op_type in ("Sigmoid", "ArgMax", "TopK"):
        raise CheckpointError(
            f"the output of {path} is {_shown(outputs[0])}, made by {last.op_type}: it has no logits",
            expected=f"logits: {CONTRACT}",
            fix=f"end the graph before it: onnx.utils.extract_model({path.name!r}, 'logits.onnx', "
            f"[{model.graph.inputs[0].name!r}], [{last.inputs[0].name if last.inputs[0] else ''!r}])",
        )
    outputs[0].name = OUTPUT_NAME
    NameFixPass()(model)


def _count_logits(graph: onnx.ModelProto, preprocessing: Preprocessing, path: Path) -> int:
    """Run the graph once, since exporters leave shapes open."""
    frames = np.random.default_rng(0).integers(0, 256, (1, *preprocessing.input_size, 3), dtype=np.uint8)
    logits = graph_logits(graph, frames, preprocessing)
    if logits.ndim != 2 or logits.dtype != np.float32 or logits.shape[1] < MIN_CLASSES:
        raise CheckpointError(
            f"the output of {path} has shape {logits.shape}, type {logits.dtype}: it has no logits",
            expected=CONTRACT,
            fix="export the classifier with its head, and without what comes after the logits",
        )
    if logits.min() >= 0 and abs(float(logits.sum()) - 1) < PROBABILITY_TOLERANCE:
        raise CheckpointError(f"{path} gives probabilities", expected="logits", fix="export it without the softmax")
    return int(logits.shape[1])
