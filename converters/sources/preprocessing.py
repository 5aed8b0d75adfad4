"""Read preprocessing that a user gives, for a source that has none or a wrong one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.models import get_pretrained_cfg

from vitedge.bundle.manifest import parse_manifest
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.sources.timm.config import (
    TIMM_KEYS,
    check_name,
    completed,
    preprocessing_from,
    pretrained_cfg_of,
    read_config,
)
from vitedge.converters.sources.transformers.processor_files import read_processor
from vitedge.converters.sources.transformers.processors import describes_processor
from vitedge.errors import CheckpointError, UsageError
from vitedge.safety.files import expanded, is_file

EXPECTED = "a JSON file with timm's keys, a preprocessor_config.json, the manifest.json of a bundle, or timm:NAME"
EXAMPLE = (
    '{"input_size": [3, 224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], '
    '"interpolation": "bicubic", "crop_pct": 0.875}'
)


def read_preprocessing(text: str, size: tuple[int, int] | None) -> Preprocessing:
    """Read the preprocessing that a user names.

    Args:
        text: path of a JSON file (timm's ``pretrained_cfg``, by itself or within a hub configuration;
            ``preprocessor_config.json`` or ``processor_config.json`` of Transformers; or the manifest of a bundle), or
            ``timm:NAME`` for the configuration of a timm model.
        size: (height, width) that the network takes; None for any size. It replaces the size of a timm model's
            configuration, and completes a file with timm's keys and without a size.

    Raises:
        UsageError: the text is neither a file nor a timm name.
        CheckpointError: the file holds no preprocessing, or has another size than the network.
    """
    if text.startswith("timm:"):
        return _of_timm(text.removeprefix("timm:"), size)
    path = expanded(text)
    if not is_file(path):
        raise UsageError(
            f"there is no preprocessing at {text!r}", expected=EXPECTED, fix=f"write it, such as {EXAMPLE}"
        )
    preprocessing = _from_file(path, size)
    if size is not None and preprocessing.input_size != size:
        raise CheckpointError(
            f"{path} is for images of {_pixels(preprocessing.input_size)}, the network takes {_pixels(size)}",
            expected="the same height and width, or a file without input_size",
        )
    return preprocessing


def require_preprocessing(text: str | None, size: tuple[int, int] | None, *, name: str, holder: str) -> Preprocessing:
    """Read the preprocessing that a user must name, because the source has none.

    Args:
        text: as for ``read_preprocessing``; None if the user gave none.
        size: (height, width) that the network takes; None for any size.
        name: name of the source.
        holder: reason why the source has none, for the error.

    Raises:
        UsageError: the user gave none, or ``read_preprocessing`` refuses the text.
        CheckpointError: ``read_preprocessing`` refuses the file.
    """
    if text is None:
        raise UsageError(
            f"nothing says how images are preprocessed for {name}: {holder}",
            expected=EXPECTED,
            fix=f"preprocessing=timm:NAME for the preprocessing of a timm model, or preprocessing=FILE with {EXAMPLE}",
        )
    return read_preprocessing(text, size)


def _of_timm(name: str, size: tuple[int, int] | None) -> Preprocessing:
    check_name(name)
    config = get_pretrained_cfg(name)
    if config is None:
        raise UsageError(f"timm does not say how images are preprocessed for {name}", expected=EXPECTED)
    return preprocessing_from(_for_size(config.to_dict(), size))


def _from_file(path: Path, size: tuple[int, int] | None) -> Preprocessing:
    config = read_config(path)
    if "schema_version" in config:
        return parse_manifest(json.dumps(config), where=str(path)).model.preprocessing
    described = pretrained_cfg_of(config)
    timm_keys = sorted({"mean", "std", "input_size", "interpolation"} & set(described))
    if describes_processor(config) and timm_keys:
        raise CheckpointError(
            f"{path} has keys of timm ({', '.join(timm_keys)}) and of an image processor of Transformers",
            expected="keys of one of them",
            fix="remove the keys that the model was not trained with",
        )
    if describes_processor(config):
        return read_processor(path)
    if not timm_keys:
        raise CheckpointError(
            f"{path} does not say how images are preprocessed",
            expected=f"timm's keys {', '.join(TIMM_KEYS)}, crop_mode, exif_orientation; or a preprocessor_config.json",
            fix=f"write them, such as {EXAMPLE}",
        )
    sized = described if described.get("input_size") else _for_size(described, size)
    whole = completed(sized, architecture=config.get("architecture"), where=str(path))
    return replace(preprocessing_from(whole), exif_orientation=_turns(described, path))


def _turns(described: Mapping[str, Any], path: Path) -> bool:
    """Return whether images are turned by their EXIF orientation; timm, whose keys these are, has no such key."""
    turns = described.get("exif_orientation", False)
    if not isinstance(turns, bool):
        raise CheckpointError(f"exif_orientation in {path} is {turns!r:.40}", expected="true or false")
    return turns


def _for_size(config: Mapping[str, Any], size: tuple[int, int] | None) -> Mapping[str, Any]:
    return config if size is None else {**config, "input_size": (3, *size)}


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
