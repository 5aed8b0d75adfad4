"""A PyTorch module to an FP32 ONNX graph."""

from __future__ import annotations

import ast
import itertools
from collections import Counter

import onnx
import torch
from timm.utils import reparameterize_model
from torch import nn

from vitedge.bundle.bundle import OUTPUT_NAME
from vitedge.converters.quiet import quiet
from vitedge.counts import counted
from vitedge.errors import ConversionError
from vitedge.graph.folding import fold_constants

OPSET = 20
PIXELS_NAME = "pixels"
NAME_SCOPES = "pkg.torch.onnx.name_scopes"
NAMED_BY_MODULE = frozenset({"Conv", "Gemm", "LayerNormalization", "MatMul"})


def export(module: nn.Module, input_size: tuple[int, int]) -> onnx.ModelProto:
    """Trace a classifier with ``torch.export`` and write it as ONNX.

    LayerNormalization and Gelu stay single operators (opset 20), branches that merge at inference are merged
    (``reparameterize_model``), the batch is 1 and all shapes are static.

    Args:
        module: maps ``(1, 3, H, W)`` float32 to ``(1, classes)`` float32; it is not changed.
        input_size: (height, width) in pixels.

    Returns:
        A graph with input ``pixels``, normalized float32 NCHW, and output ``logits``.

    Raises:
        ConversionError: the module does not run on an input of that size, or ONNX has no form for it.
    """
    pixels = torch.zeros(1, 3, *input_size)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                reparameterize_model(module),
                (pixels,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[PIXELS_NAME],
                output_names=[OUTPUT_NAME],
                verbose=False,
                optimize=False,
            )
            fold_constants(program.model)
    except Exception as error:  # a model's own code runs here
        raise ConversionError(
            f"the model cannot be exported to ONNX: {type(error).__name__}: {str(error).splitlines()[0]}",
            expected=f"a model that runs on one {input_size[0]}x{input_size[1]} image",
        ) from error
    graph: onnx.ModelProto = program.model_proto
    check_outputs(graph)
    _name_by_module(graph.graph)
    return graph


def _name_by_module(graph: onnx.GraphProto) -> None:
    """Name each operator with weights after its module, such as ``blocks.3.mlp.fc2``.

    Operators of a module that has several of them, such as the products of attention, also carry their function's name.
    """
    scopes = {node.name: _scopes(node) for node in graph.node if node.op_type in NAMED_BY_MODULE}
    alone = {module for module, count in Counter(scope[0] for scope in scopes.values() if scope).items() if count == 1}
    taken = {node.name for node in graph.node}
    for node in graph.node:
        scope = scopes.get(node.name)
        if scope is None:
            continue
        module, function = scope
        wanted = module if module in alone else f"{module}.{function}".lstrip(".")
        numbered = (f"{wanted}_{number}" for number in itertools.count(1))
        taken.discard(node.name)
        node.name = next(name for name in itertools.chain([wanted], numbered) if name and name not in taken)
        taken.add(node.name)


def _scopes(node: onnx.NodeProto) -> tuple[str, str] | None:
    """Return the path of a node's module and the name of its function, as torch.onnx notes them."""
    noted = next((each.value for each in node.metadata_props if each.key == NAME_SCOPES), "")
    scopes = ast.literal_eval(noted) if noted else []
    return (str(scopes[-2]), str(scopes[-1])) if len(scopes) > 1 else None


def check_outputs(graph: onnx.ModelProto) -> None:
    """Refuse a graph that does not give one output of shape ``(1, classes)``.

    Raises:
        ConversionError: it does not.
    """
    shapes = [[dim.dim_value for dim in output.type.tensor_type.shape.dim] for output in graph.graph.output]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ConversionError(
            f"the model gives {counted(len(shapes), 'output')}, of shape {', '.join(map(str, shapes))}",
            expected="one output of shape [1, classes]",
        )
