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
from vitedge.safety.files import is_file


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
