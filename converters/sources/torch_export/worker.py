"""The sandboxed child that loads and exports a program of ``torch.export``; ``programs`` is its parent.

PyTorch sees only the archive that ``archives`` rewrote. Nevertheless it loads, traces and runs the program in
``vitedge.safety.sandbox``, because checks of PyTorch's input prove nothing about PyTorch itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from vitedge.converters.onnx_export import PIXELS_NAME, export
from vitedge.converters.quiet import quiet
from vitedge.converters.reference import image_logits
from vitedge.converters.sources.onnx.image_dependence import first_dependence
from vitedge.converters.sources.torch_export.archives import CONTRACT, rewrite_archive
from vitedge.errors import CheckpointError, ConversionError
from vitedge.graph.files import write_graph
from vitedge.graph.folding import fold_constants
from vitedge.graph.session import open_session
from vitedge.safety.sandbox_child import OUT_OF_MEMORY

MIN_CLASSES = 1
GRAPH = "model.onnx"
IMAGES = "images.f32"
LOGITS = "logits.f32"


def serve(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Describe a program, or export it.

    Args:
        request: ``path`` of the archive, and its ``name`` for errors. With ``input_size``, (height, width) in pixels,
            the program is exported to ``GRAPH`` and run on the images in ``IMAGES``, ``(N,3,H,W)`` float32; ``LOGITS``
            receives ``(N, classes)`` float32.
        folder: folder of these files.

    Returns:
        ``input_size``, None if it is dynamic, and the number of ``logits``.

    Raises:
        CheckpointError: the file is no program or would run code, or the program is no image classifier or was exported
            in training mode.
        ConversionError: the program cannot be exported to ONNX.
    """
    name = request["name"]
    program = _load(Path(request["path"]), folder / "program.pt2", name)
    _check_mode(program, name)
    described = {"input_size": _check_input(program, name), "logits": _check_output(program, name)}
    if request.get("input_size"):
        _export(program, tuple(request["input_size"]), folder, name)
    return described


def _load(path: Path, rewritten: Path, name: str) -> ExportedProgram:
    operators = rewrite_archive(path, rewritten, name=name)
    _check_operators(operators, name)
    try:
        with quiet():
            return torch.export.load(rewritten)
    except Exception as error:  # PyTorch's deserializer raises anything on a wrong value
        raise CheckpointError(
            f"{name} cannot be loaded: {type(error).__name__}: {error}".splitlines()[0],
            expected="a program that torch.export.save of this version of torch, or an older one, wrote",
            fix="save it again with the torch that is installed here",
        ) from error
    finally:
        rewritten.unlink()


def _check_operators(operators: Iterable[str], name: str) -> None:
    """Refuse attributes of ``torch.ops`` that are not operators."""
    for operator in operators:
        if not operator.startswith("torch.ops."):
            continue
        found: Any = torch.ops
        for each in operator.split(".")[2:]:
            found = getattr(found, each, None)
        if not isinstance(found, (torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
            raise CheckpointError(
                f"no backend has the operator {operator} of {name}",
                expected="operators of ATen",
                fix="save it again with the torch that is installed here",
            )


def _export(program: ExportedProgram, input_size: tuple[int, int], folder: Path, name: str) -> None:
    module = program.module(check_guards=False)
    graph = export(module, input_size)
    images = np.fromfile(folder / IMAGES, dtype=np.float32).reshape(-1, 3, *input_size)
    _try(graph, images[:1], name)
    write_graph(folder / GRAPH, graph)
    del graph
    (folder / LOGITS).write_bytes(image_logits(module, images).tobytes())


def _try(graph: onnx.ModelProto, image: NDArray[np.float32], name: str) -> None:
    """Run the graph and fold its constants within limits, as the parent will do later without limits."""
    try:
        open_session(graph).run(None, {PIXELS_NAME: image})
    except Exception as error:  # ONNX Runtime's errors have no other base
        if any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise ConversionError(f"ONNX Runtime cannot run the graph of {name}: {str(error).splitlines()[0]}") from error
    folded = ir.from_proto(graph)
    fold_constants(folded)
    node = first_dependence(folded.graph)
    if node is not None:
        raise CheckpointError(
            f"the content of the image decides the size or the branch of layer {node.name} of {name}, a {node.op_type}",
            expected="a program that computes tensors of the same sizes, on the same branches, for every image",
            fix="write that layer without indices or sizes that come from the image, and export again",
        )


def _check_mode(program: ExportedProgram, name: str) -> None:
    """Refuse dropout and batch statistics in training mode."""
    for node in program.graph.nodes:
        arguments = node.target._schema.arguments if isinstance(node.target, torch._ops.OpOverload) else ()
        given = dict(zip((each.name for each in arguments), node.args, strict=False)) | node.kwargs
        if given.get("train") is True or given.get("training") is True:
            raise CheckpointError(
                f"{name} was exported in training mode: {node.name} is {node.target}",
                expected="a program of a model in evaluation mode",
                fix="call model.eval() before torch.export.export",
            )


def _check_input(program: ExportedProgram, name: str) -> tuple[int, int] | None:
    """Check the input; return (height, width) of its image, or None if they are dynamic."""
    signature = program.graph_signature
    shapes = [_described(program, each) for each in signature.user_inputs]
    image = _only_tensor(program, signature.user_inputs)
    by_position = program.call_spec.in_spec.child(0).num_leaves == 1
    if image is None or not by_position or not _is_image(image):
        raise CheckpointError(
            f"{name} takes {', '.join(shapes) or 'no input'}",
            expected=CONTRACT,
            fix="export a module that takes one image by position: torch.export.export(model.eval(), (image,))",
        )
    sides = [side for side in image.shape[2:] if isinstance(side, int)]
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _is_image(value: torch.Tensor) -> bool:
    if value.ndim != 4 or value.dtype != torch.float32:
        return False
    batch, channels = value.shape[:2]
    return channels == 3 and (batch == 1 or not isinstance(batch, int))


def _check_output(program: ExportedProgram, name: str) -> int:
    """Check the output; return the number of logits."""
    outputs = program.graph_signature.user_outputs
    logits = _only_tensor(program, outputs)
    if logits is None or logits.ndim != 2 or logits.dtype != torch.float32 or not int(logits.shape[1]) >= MIN_CLASSES:
        raise CheckpointError(
            f"{name} returns {', '.join(_described(program, each) for each in outputs) or 'nothing'}",
            expected=CONTRACT,
            fix="export a module that returns the logits alone",
        )
    return int(logits.shape[1])


def _only_tensor(program: ExportedProgram, names: Sequence[object]) -> torch.Tensor | None:
    """Return the only tensor among inputs or outputs; None if there are several values, or no tensor."""
    value = _value(program, names[0]) if len(names) == 1 else None
    return value if isinstance(value, torch.Tensor) else None


def _value(program: ExportedProgram, name: object) -> object:
    """Return the value of an input or output while tracing: a tensor without data, or a constant."""
    return next((node.meta.get("val") for node in program.graph.nodes if node.name == name), name)


def _described(program: ExportedProgram, name: object) -> str:
    value = _value(program, name)
    if not isinstance(value, torch.Tensor):
        return f"{name} ({type(value).__name__})"
    return f"{name} {value.dtype} ({','.join(map(str, value.shape))})"
