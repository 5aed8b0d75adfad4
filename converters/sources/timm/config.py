"""Read timm's model configuration: names, preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import timm
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg

from vitedge.bundle.preprocessing import INTERPOLATIONS, Preprocessing, ResizeMode, resize_size_for
from vitedge.converters.sources.cswin_pvt.variants import VARIANTS
from vitedge.errors import CheckpointError, UsageError, did_you_mean
from vitedge.safety.files import read_json

Name = TypeVar("Name", bound=str)

CONFIG = "config.json"
RESIZE_MODES: Mapping[str, ResizeMode] = {"center": "shortest", "squash": "squash", "border": "border"}


def read_config(path: Path) -> dict[str, Any]:
    """Read a ``config.json``.

    Raises:
        CheckpointError: the file is missing, no regular file, no JSON object, or exceeds a limit.
    """
    try:
        config = read_json(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist", expected="timm's hub layout: config.json beside it") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", expected="a JSON object") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a JSON object", expected="a timm configuration")
    return config


def pretrained_cfg_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the ``pretrained_cfg`` of a hub configuration, or the configuration itself if it has none."""
    nested = config.get("pretrained_cfg", config)
    return nested if isinstance(nested, Mapping) else {}


def check_name(name: str) -> None:
    """Refuse a name that is no timm model, or whose tag timm does not know.

    Raises:
        UsageError: there is no such model or tag; the message suggests close names.
    """
    if not timm.is_model(name):
        raise UsageError(
            f"timm has no model {name!r}, and there is no file or folder of that name",
            expected="a name of timm.list_models(), a folder, or a file",
            fix=_near(name),
        )
    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:
        tagged = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise UsageError(str(error), expected=f"one of {', '.join(tagged)}", fix=did_you_mean(name, tagged)) from error


def _near(name: str) -> str:
    if name in VARIANTS:
        return f"timm does not have it, vitedge does: write {name}, without timm:"
    return did_you_mean(name, [*VARIANTS, *timm.list_models()]) or "vitedge models lists names to start from"


def preprocessing_from(config: Mapping[str, Any]) -> Preprocessing:
    """Return the evaluation transform of a timm configuration (``pretrained_cfg``), with timm's defaults.

    Raises:
        CheckpointError: the model does not take three channels, or a value is unknown to timm's evaluation transform.
    """
    resolved = resolve_data_config(pretrained_cfg=dict(config) or {"input_size": (3, 224, 224)})
    channels, height, width = _numbers(resolved["input_size"], "input_size")
    size, crop_pct = (height, width), resolved["crop_pct"]
    if channels != 3:
        raise CheckpointError(f"the model reads {channels!r:.20} channels", expected="3, as colour images have")
    if not _is_number(crop_pct):
        raise CheckpointError(
            f"crop_pct of the configuration is {crop_pct!r:.60}", expected="a number above 0, up to 1"
        )
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
        f"{key} of the configuration is {resolved[key]!r:.60}", expected=f"one of {', '.join(map(str, known))}"
    )


def _numbers(values: object, key: str) -> tuple[Any, Any, Any]:
    if isinstance(values, (list, tuple)) and len(values) == 3 and all(map(_is_number, values)):
        return (values[0], values[1], values[2])
    raise CheckpointError(f"{key} of the configuration is {values!r:.60}", expected="three numbers")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
