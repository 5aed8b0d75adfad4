"""Programs of ``torch.export`` (``.pt2``) to a module with its card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram

from vitedge.bundle import sha256_of
from vitedge.converters.given_preprocessing import require_preprocessing
from vitedge.converters.labels import choose_labels
from vitedge.converters.program_archives import check_archive
from vitedge.converters.quiet import quiet
from vitedge.converters.sources import ProgramFile
from vitedge.converters.timm_models import TorchModel
from vitedge.errors import CheckpointError
from vitedge.model_card import ModelCard

ARCHITECTURE = "torch.export"
CONTRACT = "one image (1,3,H,W), normalized float32, to logits (1,classes), two or more; sizes may be open"
MIN_CLASSES = 2


def load_program(source: ProgramFile, *, labels: Path | None, preprocessing: str | None) -> TorchModel:
    """Read a program that ``torch.export.save`` wrote, without running code from the file.

    Args:
        source: the file.
        labels: file of labels; the program has none.
        preprocessing: see ``given_preprocessing``; the program does not say it, so it must be given.

    Raises:
        UsageError: ``preprocessing`` is not given, or names nothing.
        CheckpointError: not a program, one that would run code, no image classifier, exported in training mode, or
            labels do not match the logits.
    """
    path = source.path
    check_archive(path)
    program = _read(path)
    _check_mode(program, path)
    size = _check_input(program, path)
    logits = _check_output(program, path)
    holder = "a program of torch.export does not"
    card = ModelCard(
        name=source.name,
        source=str(path),
        architecture=ARCHITECTURE,
        labels=choose_labels(logits, file=labels, configured=None, where=str(path)),
        preprocessing=require_preprocessing(preprocessing, size, name=str(path), holder=holder),
        weights_sha256=sha256_of(path),
        pretrained=True,
    )
    return TorchModel(card, program.module(check_guards=False))


def _read(path: Path) -> ExportedProgram:
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # PyTorch's deserializer raises whatever a wrong value leads to
        raise CheckpointError(
            f"{path} cannot be loaded: {type(error).__name__}: {error}".splitlines()[0],
            expected="a program that torch.export.save of this version of torch, or an older one, wrote",
            fix="save it again with the torch that is installed here",
        ) from error


def _check_mode(program: ExportedProgram, path: Path) -> None:
    """Refuse dropout and batch statistics, which only training has."""
    for node in program.graph.nodes:
        arguments = node.target._schema.arguments if isinstance(node.target, torch._ops.OpOverload) else ()
        given = dict(zip((each.name for each in arguments), node.args, strict=False)) | node.kwargs
        if given.get("train") is True or given.get("training") is True:
            raise CheckpointError(
                f"{path} was exported in training mode: {node.name} is {node.target}",
                expected="a program of a model in evaluation mode",
                fix="call model.eval() before torch.export.export",
            )


def _check_input(program: ExportedProgram, path: Path) -> tuple[int, int] | None:
    """(height, width) of the image that the program takes; None if both are open."""
    signature = program.graph_signature
    shapes = [_described(program, name) for name in signature.user_inputs]
    image = _only_tensor(program, signature.user_inputs)
    by_position = program.call_spec.in_spec.child(0).num_leaves == 1
    if image is None or not by_position or not _is_image(image):
        raise CheckpointError(
            f"{path} takes {', '.join(shapes) or 'nothing'}",
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


def _check_output(program: ExportedProgram, path: Path) -> int:
    """Number of logits."""
    names = program.graph_signature.user_outputs
    logits = _only_tensor(program, names)
    if logits is None or logits.ndim != 2 or logits.dtype != torch.float32 or not int(logits.shape[1]) >= MIN_CLASSES:
        raise CheckpointError(
            f"{path} gives {', '.join(_described(program, name) for name in names) or 'nothing'}",
            expected=CONTRACT,
            fix="export a module that returns the logits alone",
        )
    return int(logits.shape[1])


def _only_tensor(program: ExportedProgram, names: Sequence[object]) -> torch.Tensor | None:
    """The one tensor among inputs or outputs; None where there are others beside it, or none."""
    value = _value(program, names[0]) if len(names) == 1 else None
    return value if isinstance(value, torch.Tensor) else None


def _value(program: ExportedProgram, name: object) -> object:
    """What stands for an input or output while tracing: a tensor without data, or a constant."""
    return next((node.meta.get("val") for node in program.graph.nodes if node.name == name), name)


def _described(program: ExportedProgram, name: object) -> str:
    value = _value(program, name)
    if not isinstance(value, torch.Tensor):
        return f"{name} ({type(value).__name__})"
    return f"{name} {value.dtype} ({','.join(map(str, value.shape))})"
