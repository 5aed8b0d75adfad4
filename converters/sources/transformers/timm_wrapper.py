"""Build the timm model inside ``TimmWrapperForImageClassification``, as Transformers does, and load its weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from torch import nn

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.sources.timm.builder import TimmBuilder
from vitedge.converters.sources.timm.config import CONFIG, completed, preprocessing_from
from vitedge.converters.sources.weights.checkpoints import Checkpoint
from vitedge.converters.sources.weights.state_dict import IncompatibleKeys
from vitedge.errors import CheckpointError, did_you_mean

PREFIX = "timm_model."
"""Prefix of the parameters inside Transformers' module; files have it or not."""

LOADING_ARGUMENTS = frozenset(inspect.signature(timm.create_model).parameters) - {"kwargs"} | {"num_classes"}
"""Arguments of ``timm.create_model`` that control loading, not the architecture: a URL, a file, a cache, code paths."""


def build_timm_wrapper(config: Mapping[str, Any], stored: Checkpoint, folder: Path, size: tuple[int, int]) -> nn.Module:
    """Build the model of ``architecture`` and ``model_args``, with the weights of the folder.

    Args:
        config: ``config.json``.
        stored: the weights.
        folder: the folder, for errors.
        size: (height, width) of the input in pixels.

    Raises:
        CheckpointError: timm does not have the architecture or refuses its arguments, an argument controls loading, or
            weights are missing, unused or misshaped.
    """
    where = folder / CONFIG
    builder = TimmBuilder(
        _architecture(config, where),
        where=str(where),
        input_size=None,
        classes=_classes(config, where),
        arguments=_arguments(config, where),
    )
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in stored.state_dict.items()}
    builder.check(tensors, size)
    module = builder.build()
    mismatch = IncompatibleKeys.between(module.state_dict(), tensors)
    if mismatch:
        raise mismatch.error(str(folder), fix="take the config.json that was saved with these weights")
    module.load_state_dict(tensors)
    return module


def wrapped_preprocessing(config: Mapping[str, Any], where: Path) -> Preprocessing:
    """Return the evaluation transform of ``pretrained_cfg``, which ``TimmWrapperImageProcessor`` follows.

    Args:
        config: ``config.json``.
        where: path of the file, for errors.

    Raises:
        CheckpointError: there is no ``pretrained_cfg``, or a value is missing or wrong.
    """
    described = config.get("pretrained_cfg") or {}
    if not isinstance(described, Mapping):
        raise CheckpointError(f"{where} has pretrained_cfg {described!r:.60}", expected="an object of timm's keys")
    whole = completed(described, architecture=config.get("architecture"), where=f"pretrained_cfg of {where}")
    return replace(preprocessing_from(whole), exif_orientation=True)  # Transformers turns the images that it loads


def _classes(config: Mapping[str, Any], where: Path) -> int:
    """Return the number of logits: ``num_classes`` of timm's layout, else of the labels."""
    classes = config.get("num_classes") or config.get("num_labels")
    if isinstance(classes, int) and not isinstance(classes, bool) and classes > 0:
        return classes
    raise CheckpointError(f"{where} has num_classes {classes!r:.60}", expected="the number of logits")


def _architecture(config: Mapping[str, Any], where: Path) -> str:
    """Return the name of a timm model; names of the hub or of a folder (``hf-hub:…``) are refused."""
    name = config.get("architecture")
    if isinstance(name, str) and ":" not in name and timm.is_model(name):
        return name
    raise CheckpointError(
        f"{where} has architecture {name!r:.80}",
        expected="a name of timm.list_models()",
        fix=did_you_mean(str(name), timm.list_models()),
    )


def _arguments(config: Mapping[str, Any], where: Path) -> Mapping[str, Any]:
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, Mapping):
        raise CheckpointError(f"{where} has model_args {arguments!r:.80}", expected="an object of timm's arguments")
    for name in sorted(LOADING_ARGUMENTS & set(arguments)):
        raise CheckpointError(
            f"model_args of {where} has {name!r}, which says how a model is loaded",
            expected="arguments of the architecture alone",
        )
    return arguments
