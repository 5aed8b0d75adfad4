"""The sandboxed child that inlines, checks, upgrades and runs an untrusted graph; ``models`` is its parent.

The parent uses only graphs that pass here. It folds constants, compiles and runs the same graph again. Here each of
these steps took no more than the size of the file justifies, and only numbers of the graph depend on the image.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass, RemoveInitializersFromInputsPass, RemoveUnusedNodesPass

from vitedge.bundle.bundle import INPUT_NAME, OUTPUT_NAME
from vitedge.bundle.model_card import Activation
from vitedge.converters.opset import upgraded
from vitedge.converters.sources.head_activation import NoLogitsError, find_activation
from vitedge.converters.sources.onnx.files import GraphFile, load_external_data, read_graph
from vitedge.converters.sources.onnx.fitting import fit_input, flatten_output, keep_output, widen
from vitedge.converters.sources.onnx.graph_check import nodes_of
from vitedge.converters.sources.onnx.image_dependence import first_dependence
from vitedge.converters.sources.onnx.image_input import Layout
from vitedge.counts import counted
from vitedge.errors import CheckpointError, ConversionError, first_line
from vitedge.graph.files import without_weights, write_graph
from vitedge.graph.folding import fold_constants
from vitedge.graph.operators import is_standard
from vitedge.graph.session import open_session
from vitedge.graph.values import shape_of
from vitedge.safety.limits import GIB, GRAPH_GIB_TIMES, GRAPH_NODES_A_TIME, GRAPH_TIMES
from vitedge.safety.sandbox_child import OUT_OF_MEMORY

GRAPH = "graph.onnx"
IMAGE = "image"
BACKEND_DOMAIN = "com.microsoft"
MIN_OPSET = 13
INITIALIZERS_ALONE = 4
"""Version of the format since which an initializer need not be an input, too."""
PROBABILITY_TOLERANCE = 1e-4
CONTRACT = "one image, (1,3,H,W) or (1,H,W,3), floating-point and normalized, or uint8; one output (1,classes)"


def serve(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Prepare a graph for the parent, and run it once.

    Args:
        request: ``path`` of the file, its ``name`` for errors and its ``sha256``; name of the output ``logits``;
            possible ``layouts`` of the input, and its ``size`` (height, width); ``shape`` and ``dtype`` of the image in
            ``IMAGE``; the ``opset`` to which older ones are upgraded.
        folder: contains ``IMAGE``, and receives ``GRAPH``: one static input, ``frame`` if it takes bytes, and one
            output ``logits``.

    Returns:
        ``shape`` and ``dtype`` of the output, whether it holds ``probabilities``, and the ``activation`` that was cut
        off; None if there was none.

    Raises:
        CheckpointError: the graph is invalid, has an operator that no backend has, does not end with logits, or has
            sizes or branches that depend on the content of the image.
        ConversionError: ONNX Runtime cannot run the graph.
    """
    path, name, opset = Path(request["path"]), request["name"], int(request["opset"])
    file = read_graph(path)
    _limit_time(file)
    if file.sha256 != request["sha256"]:
        raise CheckpointError(f"{name} was changed while it was read", fix="convert it again")
    load_external_data(file.model, path)
    model = _checked(file.model, name)
    del file
    graph = ir.from_proto(model)
    RemoveInitializersFromInputsPass()(graph)
    graph.ir_version = max(graph.ir_version, INITIALIZERS_ALONE)
    keep_output(graph, request["logits"])
    widen(graph)
    image = np.fromfile(folder / IMAGE, dtype=request["dtype"]).reshape(request["shape"])
    _fit_input(graph, request["layouts"], request["size"], image, name)
    activation = _cut_activation(graph, folder / GRAPH, image, name)
    _flatten_logits(graph, folder / GRAPH, image, name)
    _name_ends(graph)
    model = ir.to_proto(graph)
    write_graph(folder / GRAPH, model)
    del graph
    _check_image_dependence(model, opset, name)
    del model
    (logits,) = _run(folder / GRAPH, image, name)
    return {
        "shape": list(logits.shape),
        "dtype": str(logits.dtype),
        "probabilities": _are_probabilities(logits),
        "activation": activation,
    }


def _limit_time(file: GraphFile) -> None:
    """Limit the remaining processor time, by the file's size and the time that importing the libraries took."""
    imported = time.process_time()
    times = GRAPH_TIMES + file.nodes / GRAPH_NODES_A_TIME + GRAPH_GIB_TIMES * file.size / GIB
    limit = int(imported * (1 + times)) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _checked(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Inline functions, and check the graph with ONNX's checker.

    It keeps its opset: its logits as given are the reference of the conversion.
    """
    inlined = onnx.inliner.inline_local_functions(model) if model.functions else model
    _check_operators(inlined, name)
    try:
        without_weights(inlined, onnx.checker.check_model)
    except Exception as error:  # the checker's errors have no other base
        raise CheckpointError(
            f"{name} is not a valid ONNX file: {first_line(error)}", fix="export or copy the file again"
        ) from error
    return inlined


def opset_of(model: onnx.ModelProto) -> int | None:
    """Return the opset of ONNX's own operators; None if the graph imports none."""
    return max((each.version for each in model.opset_import if is_standard(each.domain)), default=None)


def _upgraded(model: onnx.ModelProto, opset: int, name: str) -> onnx.ModelProto:
    try:
        return upgraded(model, opset)
    except Exception as error:  # the converter's errors have no other base
        raise CheckpointError(
            f"{name} has opset {opset_of(model)}, and cannot be upgraded to {opset}: {first_line(error)}",
            expected=f"opset {MIN_OPSET} or newer",
            fix=f"export the model again with opset_version={opset}",
        ) from error


def _check_operators(model: onnx.ModelProto, name: str) -> None:
    """Refuse operators that neither ONNX nor a backend defines."""
    for node in nodes_of(model.graph):
        known = onnx.defs.has(node.op_type) if is_standard(node.domain) else node.domain == BACKEND_DOMAIN
        if not known:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise CheckpointError(
                f"no backend has the operator {operator}, layer {node.name or node.output[0]!r} of {name}",
                expected="operators of ONNX, or functions that the file defines",
                fix="write that layer with standard operators, and export again",
            )


def _fit_input(model: ir.Model, layouts: Sequence[Layout], size: Sequence[int], image: NDArray[Any], name: str) -> None:
    """Make the input static, in the only layout in which the graph runs."""
    height, width = size
    if len(layouts) > 1:
        layouts = [layout for layout in layouts if _runs(model, layout, (height, width), image)]
    if len(layouts) != 1:
        raise CheckpointError(
            f"the input of {name} is {_shown(model.graph.inputs[0])}, and the graph runs on "
            f"{'images with channels first and with channels last' if layouts else f'no image of {height}x{width}'}",
            expected=CONTRACT,
            fix="export it with static dimensions, of which one is 3",
        )
    fit_input(model, layouts[0], (height, width))


def _runs(model: ir.Model, layout: Layout, size: tuple[int, int], image: NDArray[Any]) -> bool:
    tried = ir.from_proto(ir.to_proto(model))
    fit_input(tried, layout, size)
    NameFixPass()(tried)
    try:
        session = open_session(ir.to_proto(tried), threads=1)
        session.run(None, {session.get_inputs()[0].name: image})
    except Exception as error:  # ONNX Runtime's errors have no other base
        if any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        return False
    return True


def _flatten_logits(model: ir.Model, scratch: Path, image: NDArray[Any], name: str) -> None:
    """Flatten logits of another shape, whose other sizes are 1."""
    match shape_of(model.graph.outputs[0]):
        case (1, _):
            return
    NameFixPass()(model)
    write_graph(scratch, ir.to_proto(model))
    (logits,) = _run(scratch, image, name)
    flatten_output(model, logits.shape)


def _cut_activation(model: ir.Model, scratch: Path, image: NDArray[Any], name: str) -> Activation | None:
    """Cut off a final softmax or sigmoid, because the classifier computes scores itself, and prove the cut by a run."""
    outputs = model.graph.outputs
    try:
        cut = find_activation(model)
    except NoLogitsError as error:
        raise _no_logits(model, error.node, name) from error
    if cut is None:
        return None
    outputs.append(cut.logits)
    NameFixPass()(model)
    write_graph(scratch, ir.to_proto(model))
    scores, logits = _run(scratch, image, name)
    if not cut.is_proved(logits, scores):
        raise CheckpointError(
            f"the {cut.node.op_type} at the end of {name} is no {cut.activation} of "
            f"{counted(logits.size, 'class', 'classes')}",
            expected=f"a softmax over all classes, a sigmoid, or logits: {CONTRACT}",
            fix="export the model without it",
        )
    outputs.pop(0)
    RemoveUnusedNodesPass()(model)
    return cut.activation


def _name_ends(model: ir.Model) -> None:
    """Name the input and the logits; other values that have these names get new ones.

    Bytes are the frame that every bundle's graph takes, and rewrites make it the input of other graphs.
    """
    (image,), (logits,) = model.graph.inputs, model.graph.outputs
    image.name = INPUT_NAME if image.dtype == ir.DataType.UINT8 else IMAGE
    logits.name = OUTPUT_NAME
    NameFixPass()(model)


def _no_logits(model: ir.Model, node: ir.Node, name: str) -> CheckpointError:
    value = node.inputs[0]
    return CheckpointError(
        f"the output of {name} is {_shown(model.graph.outputs[0])}, made by {node.op_type}: it has no logits",
        expected=f"logits: {CONTRACT}",
        fix=f"end the graph before it: onnx.utils.extract_model({Path(name).name!r}, 'logits.onnx', "
        f"[{model.graph.inputs[0].name!r}], [{value.name if value else ''!r}])",
    )


def _shown(value: ir.Value) -> str:
    return f"{value.name} {value.dtype} ({','.join(map(str, value.shape or ()))})"


def _run(graph: Path, image: NDArray[Any], name: str) -> list[NDArray[Any]]:
    """Run the graph once, because exporters leave shapes dynamic; on one core, so that its time can be limited.

    Returns the outputs.
    """
    try:
        session = open_session(graph, threads=1)
        (entry,) = session.get_inputs()
        outputs = session.run(None, {entry.name: image})
    except Exception as error:  # ONNX Runtime's errors have no other base
        if any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        said = first_line(error).replace(str(graph), name)
        raise ConversionError(f"ONNX Runtime cannot run the graph: {said}") from error
    return [np.asarray(each) for each in outputs]


def _are_probabilities(logits: NDArray[Any]) -> bool:
    if logits.dtype.kind != "f" or not logits.size:
        return False
    return bool(logits.min() >= 0 and abs(float(logits.sum()) - 1) < PROBABILITY_TOLERANCE)


def _check_image_dependence(model: onnx.ModelProto, opset: int, name: str) -> None:
    """Fold constants, as the parent will, and refuse sizes and branches that depend on the image."""
    version = opset_of(model)
    graph = ir.from_proto(model if version is None or version >= opset else _upgraded(model, opset, name))
    fold_constants(graph)
    node = first_dependence(graph.graph)
    if node is not None:
        raise CheckpointError(
            "the content of the image decides the size or the branch of layer "
            f"{node.name or node.outputs[0].name!r} of {name}, a {node.op_type}",
            expected="a graph that computes tensors of the same sizes, on the same branches, for every image",
            fix="export the model in evaluation mode with an example image, by torch.onnx.export",
        )
