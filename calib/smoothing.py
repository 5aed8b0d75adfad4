"""SmoothQuant's scales at no cost: into the LayerNormalization before them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from vitedge.extras import require

if TYPE_CHECKING:
    import onnx


def fold_smoothing(graph: onnx.ModelProto) -> int:
    """Multiply the scale and bias of a LayerNormalization by the per-channel constant that follows it.

    ``(γ·x̂ + β)·s`` is ``(γ·s)·x̂ + β·s``. A scale stays where it is if anything else reads what it multiplies, or if the
    constants are shared.

    Args:
        graph: changed in place.

    Returns:
        How many multiplications are gone.

    Raises:
        MissingExtraError: ONNX is not installed.
    """
    arrays = require("onnx", extra="convert", purpose="quantizing to int8").numpy_helper
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    norms = {node.output[0]: node for node in graph.graph.node if node.op_type == "LayerNormalization"}
    readers = Counter(name for node in graph.graph.node for name in node.input)
    readers.update(output.name for output in graph.graph.output)
    folded = [node for node in graph.graph.node if _folds(node, norms, constants, readers)]
    for node in folded:
        norm, scale = norms[node.input[0]], arrays.to_array(constants[node.input[1]]).reshape(-1)
        for name in filter(None, norm.input[1:]):
            constants[name].CopyFrom(arrays.from_array(arrays.to_array(constants[name]) * scale, name))
        norm.output[0] = node.output[0]
        graph.graph.node.remove(node)
    return len(folded)


def _folds(
    node: onnx.NodeProto,
    norms: dict[str, onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
    readers: Counter[str],
) -> bool:
    if node.op_type != "Mul" or node.input[0] not in norms or node.input[1] not in constants:
        return False
    affine = [name for name in norms[node.input[0]].input[1:] if name]
    channels = constants[node.input[1]].dims
    return (
        readers[node.input[0]] == 1
        and all(readers[name] == 1 and name in constants for name in affine)
        and all(list(constants[name].dims) == [channels[-1]] for name in affine)
        and all(size == 1 for size in channels[:-1])
    )
