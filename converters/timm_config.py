"""timm's model configuration to the nouns of vitedge."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from timm.data import resolve_data_config

from vitedge.errors import CheckpointError, UsageError
from vitedge.preprocessing import INTERPOLATIONS, Preprocessing, ResizeMode, resize_size_for

Name = TypeVar("Name", bound=str)

CONFIG = "config.json"
RESIZE_MODES: Mapping[str, ResizeMode] = {"center": "shortest", "squash": "squash", "border": "border"}


def read_config(path: Path) -> dict[str, Any]:
    """Read a ``config.json``.

    Raises:
        CheckpointError: missing, or not a JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist", expected="timm's hub layout: config.json beside it") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", expected="a JSON object") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a JSON object", expected="a timm configuration")
    return config


def preprocessing_from(config: Mapping[str, Any]) -> Preprocessing:
    """The evaluation transform that a timm configuration (``pretrained_cfg``) describes; missing keys as in timm.

    Raises:
        CheckpointError: not three channels, or a value that timm's evaluation transform does not have.
    """
    resolved = resolve_data_config(pretrained_cfg=dict(config) or {"input_size": (3, 224, 224)})
    channels, height, width = _numbers(resolved["input_size"], "input_size")
    if channels != 3:
        raise CheckpointError(f"the model reads {channels:g} channels", expected="3, as colour images have")
    size, crop_pct = (int(height), int(width)), resolved["crop_pct"]
    if not isinstance(crop_pct, (int, float)) or not crop_pct > 0:
        raise CheckpointError(f"crop_pct of the configuration is {crop_pct!r}", expected="a share above 0, up to 1")
    try:
        return Preprocessing(
            input_size=size,
            resize_size=resize_size_for(size, crop_pct),
            resize_mode=RESIZE_MODES[_one_of(RESIZE_MODES, resolved, "crop_mode")],
            interpolation=_one_of(INTERPOLATIONS, resolved, "interpolation"),
            mean=_numbers(resolved["mean"], "mean"),
            std=_numbers(resolved["std"], "std"),
        )
    except UsageError as error:
        raise CheckpointError(f"the configuration is wrong: {error.problem}", expected=error.expected) from error


def _one_of(known: Iterable[Name], resolved: Mapping[str, Any], key: str) -> Name:
    for name in known:
        if name == resolved[key]:
            return name
    raise CheckpointError(
        f"{key} of the configuration is {resolved[key]!r}", expected=f"one of {', '.join(map(str, known))}"
    )


def _numbers(values: object, key: str) -> tuple[float, float, float]:
    if isinstance(values, (list, tuple)) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values):
        return (values[0], values[1], values[2])
    raise CheckpointError(f"{key} of the configuration is {values!r:.60}", expected="three numbers")
