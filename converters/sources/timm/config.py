"""Read timm's model configuration: names, preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import timm
from timm.data import resolve_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg

from vitedge.bundle.preprocessing import INTERPOLATIONS, Preprocessing, ResizeMode, resize_size_for
from vitedge.converters.sources.cswin_pvt.variants import VARIANTS
from vitedge.errors import CheckpointError, UsageError, did_you_mean
from vitedge.safety.files import read_json

Name = TypeVar("Name", bound=str)

CONFIG = "config.json"
TIMM_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct")
"""Keys without which timm's evaluation transform would take ImageNet's values; without ``crop_mode`` it is center."""
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


def completed(config: Mapping[str, Any], *, architecture: object, where: str) -> Mapping[str, Any]:
    """Return a ``pretrained_cfg`` with all of ``TIMM_KEYS``.

    A value that it does not have is the one that timm's default configuration of the architecture states, if timm,
    which takes ImageNet's values then, takes the same one.

    Args:
        config: the ``pretrained_cfg``.
        architecture: timm's name of the architecture; anything else if the configuration names none.
        where: place of the configuration, for the error.

    Raises:
        CheckpointError: a value is missing, and the architecture does not state it.
    """
    missing = [key for key in TIMM_KEYS if not config.get(key)]
    stated = _stated_by(architecture) if missing else {}
    unknown = [key for key in missing if key not in stated]
    if unknown:
        raise CheckpointError(
            f"{where} does not say how images are preprocessed: it has no {', '.join(unknown)}",
            expected=f"timm's keys {', '.join(TIMM_KEYS)}",
            fix="add what is missing, as the model was trained, or give preprocessing=FILE",
        )
    return {**config, **{key: stated[key] for key in missing}}


def _stated_by(architecture: object) -> Mapping[str, Any]:
    """Return the values of an architecture's own configuration that are also timm's for a checkpoint without them."""
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        return {}
    own, assumed = get_pretrained_cfg(architecture), PretrainedCfg()
    return {key: getattr(own, key) for key in TIMM_KEYS if own and getattr(own, key) == getattr(assumed, key)}


def input_size_from(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return (height, width) of a ``pretrained_cfg``; 224x224 if it has no ``input_size``, as timm assumes.

    Raises:
        CheckpointError: ``input_size`` is no size of an image of three channels, or too large.
    """
    channels, height, width = _numbers(config.get("input_size") or (3, 224, 224), "input_size")
    if channels != 3:
        raise CheckpointError(f"the model reads {channels!r:.20} channels", expected="3, as colour images have")
    try:
        return Preprocessing((height, width), (height, width)).input_size
    except UsageError as error:
        raise CheckpointError(f"the configuration is wrong: {error.problem}", expected=error.expected) from error


def preprocessing_from(config: Mapping[str, Any]) -> Preprocessing:
    """Return the evaluation transform of a complete timm configuration (``pretrained_cfg``).

    Raises:
        CheckpointError: one of ``TIMM_KEYS`` is missing, the model does not take three channels, or a value is unknown
            to timm's evaluation transform.
    """
    whole = completed(config, architecture=None, where="the configuration")
    resolved = resolve_data_config(pretrained_cfg=dict(whole))
    size, crop_pct = input_size_from(whole), resolved["crop_pct"]
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
