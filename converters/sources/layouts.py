"""Tell whose layout a ``config.json`` has: timm's, or Transformers'."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vitedge.converters.sources.transformers.families import TIMM_WRAPPER
from vitedge.errors import CheckpointError

Layout = Literal["timm", "transformers"]

HUB_KEYS = frozenset({"architecture", "pretrained_cfg"})
"""Keys that only timm's hub configurations have."""
TIMM_ALONE = frozenset({"input_size", "mean", "std", "interpolation", "crop_pct", "label_names", "label_descriptions"})
"""Keys of a ``pretrained_cfg`` by itself."""


def layout_of(config: Mapping[str, Any], where: Path) -> Layout | None:
    """Return the layout of a ``config.json``; None if it has the keys of neither.

    The configuration of ``TimmWrapperForImageClassification`` is timm's, with a ``model_type``.

    Args:
        config: the configuration.
        where: path of the file, for the error.

    Raises:
        CheckpointError: it has keys of both layouts.
    """
    model_type, hub_keys = config.get("model_type"), sorted(HUB_KEYS & set(config))
    if model_type is not None and model_type != TIMM_WRAPPER:
        if hub_keys:
            raise CheckpointError(
                f"{where} is of timm ({', '.join(hub_keys)}) and of Transformers (model_type {model_type!r:.60})",
                expected="the config.json that was saved with the weights, of one of them",
                fix="remove the keys of the library that did not save the weights",
            )
        return "transformers"
    return "timm" if hub_keys or TIMM_ALONE & set(config) else None
