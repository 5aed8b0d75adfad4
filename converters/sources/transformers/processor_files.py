"""Find and read the file that describes the image processor of a folder in Transformers' layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.sources.timm.config import CONFIG, read_config
from vitedge.converters.sources.transformers.families import families
from vitedge.converters.sources.transformers.processors import (
    NESTED,
    NESTED_PROCESSOR_CONFIG,
    PROCESSOR_CONFIG,
    TYPE_KEYS,
    processor_preprocessing,
)
from vitedge.errors import CheckpointError
from vitedge.safety.files import is_file

TIMM_WRAPPER_PROCESSOR = "TimmWrapperImageProcessor"
COMPARED = ("input_size", "resize_size", "resize_mode", "interpolation", "mean", "std", "channel_order")
"""What must be the same in timm's and Transformers' configuration of one model."""


def find_processor(folder: Path) -> Path | None:
    """Return the file that Transformers would read; None if the folder has none.

    Transformers reads ``processor_config.json`` first, if an image processor is in it.

    Raises:
        CheckpointError: ``processor_config.json`` cannot be read.
    """
    nested, alone = folder / NESTED_PROCESSOR_CONFIG, folder / PROCESSOR_CONFIG
    if is_file(nested) and isinstance(read_config(nested).get(NESTED), Mapping):
        return nested
    return alone if is_file(alone) else None


def read_processor(path: Path, *, model: Mapping[str, Any] | None = None) -> Preprocessing:
    """Read the preprocessing of an image processor.

    Args:
        path: ``preprocessor_config.json`` or ``processor_config.json``.
        model: ``config.json`` of its model, which tells the processor that a file without a name describes; None for
            the one beside the file, if there is one.

    Raises:
        CheckpointError: see ``processor_preprocessing``.
        MissingExtraError: the file names no processor, and Transformers, which knows the model's, is not installed.
    """
    config = read_config(path)
    default = None if _names_processor(config) else _processor_of(_model_beside(path) if model is None else model)
    return processor_preprocessing(config, default=default, where=path)


def check_processor_agrees(folder: Path, preprocessing: Preprocessing) -> None:
    """Refuse a folder whose image processor contradicts timm's ``config.json`` in it. timm would ignore the processor.

    Args:
        folder: the folder.
        preprocessing: of timm's ``config.json``.

    Raises:
        CheckpointError: they differ, or the processor cannot be read.
    """
    processor = find_processor(folder)
    if processor is None or is_timm_processor(processor):
        return
    other = read_processor(processor, model={})
    differing = [name for name in COMPARED if getattr(other, name) != getattr(preprocessing, name)]
    if differing:
        raise CheckpointError(
            f"{folder / CONFIG} of timm and {processor.name} of Transformers differ in {', '.join(differing)}",
            expected="one of them, or the same preprocessing in both",
            fix=f"give the right one: preprocessing={str(processor)!r} or preprocessing={str(folder / CONFIG)!r}",
        )


def is_timm_processor(path: Path) -> bool:
    """Return whether a file names the processor of Transformers' wrapper of timm, which follows ``config.json``.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return bool(read_config(path).get(TYPE_KEYS[0]) == TIMM_WRAPPER_PROCESSOR)


def _names_processor(config: Mapping[str, Any]) -> bool:
    nested = config.get(NESTED)
    described = nested if isinstance(nested, Mapping) else config
    return any(described.get(key) for key in TYPE_KEYS)


def _model_beside(path: Path) -> Mapping[str, Any]:
    beside = path.parent / CONFIG
    return read_config(beside) if is_file(beside) else {}


def _processor_of(model: Mapping[str, Any]) -> str | None:
    model_type = model.get("model_type")
    family = families().get(model_type) if isinstance(model_type, str) else None
    return None if family is None else family.processor
