"""Load ONNX classifiers as checked graphs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from vitedge.bundle.bundle import OUTPUT_NAME
from vitedge.bundle.model_card import Activation, ModelCard
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.onnx_export import OPSET
from vitedge.converters.reference import normalized
from vitedge.converters.sources.activation import activation_of_problem
from vitedge.converters.sources.labels import choose_labels
from vitedge.converters.sources.onnx.files import (
    GraphFile,
    MissingExternalDataError,
    external_data_files,
    load_own_data,
    read_graph,
)
from vitedge.converters.sources.onnx.graph_check import GraphError, tensors_of
from vitedge.converters.sources.onnx.image_input import HALF_TYPES, GraphValue
from vitedge.converters.sources.onnx.inner_normalization import without_inner_normalization
from vitedge.converters.sources.onnx.neighbours import Neighbours, read_neighbours
from vitedge.converters.sources.onnx.worker import CONTRACT, GRAPH, IMAGE, MIN_OPSET, opset_of
from vitedge.converters.sources.parse import OnnxFile
from vitedge.counts import counted
from vitedge.errors import CheckpointError, UsageError, did_you_mean
from vitedge.progress import Progress, Silent
from vitedge.safety.limits import GRAPH_COPIES, GRAPH_NODES, MIB, SANDBOX_MEMORY
from vitedge.safety.sandbox import SandboxLimits, run_sandboxed

MIN_CLASSES = 1
WORKER = "vitedge.converters.sources.onnx.worker"
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
    """An ONNX classifier.

    Attributes:
        card: identity, labels, preprocessing.
        graph: one static input, float32 ``(1,3,H,W)`` or uint8 ``(1,H,W,3)`` named ``frame``; one output ``logits``,
            ``(1,classes)``.
        activation: of the file, which is no longer in the graph, or of its configuration; None if neither has one.
        gives_logits: whether the outputs are known to be logits: an activation was cut off, or a bundle holds the file.
    """

    card: ModelCard
    graph: onnx.ModelProto
    activation: Activation | None = None
    gives_logits: bool = False


def load_onnx(
    source: OnnxFile,
    *,
    labels: Path | None,
    preprocessing: str | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> OnnxModel:
    """Read an ONNX classifier.

    Preprocessing and labels come from the files around it: see ``read_neighbours``. A child process (``worker``)
    removes a final softmax or sigmoid, fixes dynamic dimensions, inlines local functions and upgrades an old opset.
    Float16 and bfloat16 become float32. Its limits on memory and time follow from the file's size.

    Args:
        source: the file.
        labels: file of labels; None for the labels beside the graph.
        preprocessing: see ``read_preprocessing``; None for the preprocessing beside the graph.
        progress: told of what is changed in the graph.

    Raises:
        UsageError: ``read_preprocessing`` refuses ``preprocessing``, or nothing defines the preprocessing.
        CheckpointError: the file is no ONNX file, no image classifier or quantized, has a loop or an operator that no
            backend has, or exceeds ``vitedge.safety.limits``; or labels do not match the logits.
        ConversionError: ONNX Runtime cannot run the graph.
    """
    path = source.path
    facts = _facts(path, source.logits)
    beside = read_neighbours(
        path, given=preprocessing, size=facts.input.size, metadata=facts.metadata, progress=progress
    )
    image = _image(facts.input, beside.preprocessing, path)
    if facts.opset is not None and facts.opset < MIN_OPSET:
        progress.step(f"upgrading the graph from opset {facts.opset} to {OPSET}")
    graph, logits, activation = _checked(facts, image, beside.preprocessing.input_size, path)
    graph.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [1, logits]))
    card = ModelCard(
        name=source.name,
        source=str(path),
        architecture="onnx",
        labels=choose_labels(
            logits, file=labels, configured=beside.labels, where=str(beside.path), imagenet=beside.imagenet
        ),
        preprocessing=without_inner_normalization(
            graph, beside.preprocessing, given=preprocessing is not None, name=str(path), progress=progress
        ),
        weights_sha256=facts.sha256,
        pretrained=beside.pretrained,
    )
    gives_logits = activation is not None or beside.activation is not None
    return OnnxModel(card, graph, _agreed(activation, beside, logits, path), gives_logits)


def _agreed(cut: Activation | None, beside: Neighbours, logits: int, path: Path) -> Activation | None:
    """Return the activation that the graph had, or that the files around it state; refuse a graph that has another."""
    problem_type, stated = beside.model.get("problem_type"), beside.activation
    if beside.model:
        stated = activation_of_problem(problem_type, logits, str(beside.path))
    if cut is not None and cut != stated and (beside.activation is not None or problem_type is not None):
        raise CheckpointError(
            f"{path} ends in a {cut}, and {beside.path} says {stated}",
            expected="the configuration of the model that the graph was exported from",
            fix="put its own beside the graph",
        )
    return cut or stated


@dataclass(frozen=True)
class _GraphInfo:
    """Facts about a graph, which is not kept in memory.

    Attributes:
        input: the only input.
        logits: name of the output with the logits.
        opset: opset of ONNX's operators; None if the graph imports none.
        sha256: hex SHA-256 of the file.
        size: size of the file with its external data, in bytes.
        is_half: whether a tensor has 16-bit floating-point numbers.
        outside: files with external data.
        metadata: of the file, by key.
    """

    input: GraphValue
    logits: str
    opset: int | None
    sha256: str
    size: int
    is_half: bool
    outside: tuple[Path, ...]
    metadata: Mapping[str, str]


def _facts(path: Path, logits: str | None) -> _GraphInfo:
    file = _read(path)
    _check_not_quantized(file.model, path)
    return _GraphInfo(
        input=_only_input(file.model, logits, path),
        logits=logits or file.model.graph.output[0].name,
        opset=opset_of(file.model),
        sha256=file.sha256,
        size=file.size,
        is_half=any(each.data_type in HALF_TYPES for each in tensors_of(file.model)),
        outside=tuple(_files_beside(file.model, path)),
        metadata={each.key: each.value for each in file.model.metadata_props},
    )


def _read(path: Path) -> GraphFile:
    try:
        file = read_graph(path)
    except GraphError as error:
        raise _unsupported(path, error) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is cut off, or not a valid ONNX file: {error}", fix="export or copy the file again"
        ) from error
    return file


def _unsupported(path: Path, error: GraphError) -> CheckpointError:
    return CheckpointError(
        f"vitedge does not convert the graph {path}: {error}",
        expected=f"a graph without loops, with at most {GRAPH_NODES} nodes, dense tensors of numbers, and weights in "
        "its folder",
        fix="export the model again with torch.onnx.export",
    )


def _files_beside(model: onnx.ModelProto, path: Path) -> list[Path]:
    try:
        return external_data_files(model, path)
    except MissingExternalDataError as error:
        raise CheckpointError(
            f"weights of {path} are in {error.name}, which is not beside it",
            expected=f"the graph and its data in one folder: {path.parent / error.name}",
            fix="copy that file too, and keep its name",
        ) from error
    except GraphError as error:
        raise _unsupported(path, error) from error
    except OSError as error:
        raise CheckpointError(f"weights of {path} cannot be read: {error}", fix="copy them again") from error


def _check_not_quantized(graph: onnx.ModelProto, path: Path) -> None:
    kinds = {node.op_type for node in graph.graph.node}
    if kinds & set(QUANTIZED):
        raise CheckpointError(f"{path} is quantized already", expected="float32 weights", fix="give the original graph")


def _only_input(model: onnx.ModelProto, logits: str | None, path: Path) -> GraphValue:
    """Return the input; refuse several inputs, and several outputs of which none is named."""
    weights = {each.name for each in model.graph.initializer}
    inputs = [GraphValue.of(each) for each in model.graph.input if each.name not in weights]
    outputs = [GraphValue.of(each) for each in model.graph.output]
    if len(inputs) != 1:
        raise CheckpointError(
            f"{path} has {counted(len(inputs), 'input')}: {', '.join(map(str, inputs))}",
            expected=CONTRACT,
            fix="export a module that takes an image alone, and has the others as constants",
        )
    names, listed = [each.name for each in outputs], ", ".join(map(str, outputs))
    if logits is not None and logits not in names:
        raise UsageError(
            f"{path} has no output {logits!r:.200}",
            expected=f"one of its outputs: {listed}",
            fix=did_you_mean(logits, names),
        )
    if logits is None and len(outputs) != 1:
        raise CheckpointError(
            f"{path} has {counted(len(outputs), 'output')}: {listed}",
            expected=CONTRACT,
            fix="name the logits: logits=NAME",
        )
    return inputs[0]


def _image(entry: GraphValue, preprocessing: Preprocessing, path: Path) -> NDArray[Any]:
    """Return an image of random pixels: uint8 ``(1,H,W,3)`` for a graph that takes bytes, else normalized planes."""
    height, width = preprocessing.input_size
    if not entry.layouts(preprocessing.input_size):
        raise CheckpointError(
            f"the input of {path} is {entry}",
            expected=f"{CONTRACT}; its configuration says that (H,W) is {preprocessing.input_size}",
            fix="export it with a batch size of 1 or a dynamic one, or correct the configuration",
        )
    frames = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return frames if entry.kind == TensorProto.UINT8 else normalized(frames, preprocessing)


def _checked(
    facts: _GraphInfo, image: NDArray[Any], size: tuple[int, int], path: Path
) -> tuple[onnx.ModelProto, int, Activation | None]:
    """Let a child prepare the graph and run it on an image; return the graph, the number of logits, the activation."""
    request = {
        "path": str(path.absolute()),
        "name": str(path),
        "sha256": facts.sha256,
        "logits": facts.logits,
        "layouts": list(facts.input.layouts(size)),
        "size": list(size),
        "shape": list(image.shape),
        "dtype": str(image.dtype),
        "opset": OPSET,
    }
    size_in_float32 = 2 * facts.size if facts.is_half else facts.size
    limits = SandboxLimits(
        memory_bytes=SANDBOX_MEMORY + GRAPH_COPIES * size_in_float32,
        file_bytes=64 * MIB + 2 * (size_in_float32 + image.nbytes),
    )
    with tempfile.TemporaryDirectory(prefix="vitedge-onnx-") as scratch:
        folder = Path(scratch)
        image.tofile(folder / IMAGE)
        told = run_sandboxed(WORKER, request, folder, limits, readable=[path, *facts.outside], subject=str(path))
        logits, activation = _count_logits(told, path), _activation(told, path)
        graph = _read(folder / GRAPH).model
        try:
            load_own_data(graph, folder / GRAPH)
        except (OSError, GraphError) as error:
            raise CheckpointError(f"{path} cannot be read: the child left weights outside the graph") from error
    return graph, logits, activation


def _activation(told: Any, path: Path) -> Activation | None:
    """Check the activation that the child reports, which is not trusted."""
    match told.get("activation"):
        case None | "softmax" | "sigmoid" as activation:
            return activation
    raise CheckpointError(f"{path} cannot be read: the child did not describe its activation")


def _count_logits(told: Any, path: Path) -> int:
    """Check the child's report, which is not trusted, and return the number of logits."""
    match told:
        case {"shape": list(shape), "dtype": str(dtype), "probabilities": bool(probabilities)}:
            pass
        case _:
            raise CheckpointError(f"{path} cannot be read: the child did not describe its output")
    if probabilities:
        raise CheckpointError(f"{path} gives probabilities", expected="logits", fix="export it without the softmax")
    if dtype != "float32" or len(shape) != 2 or shape[0] != 1 or type(shape[1]) is not int or shape[1] < MIN_CLASSES:
        raise CheckpointError(
            f"the output of {path} has shape {tuple(shape)}, type {dtype}: it has no logits",
            expected=CONTRACT,
            fix="export the classifier with its head, and without what comes after the logits",
        )
    return shape[1]
