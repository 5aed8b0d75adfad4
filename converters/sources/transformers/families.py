"""The image classifiers of the installed Transformers, by its own mappings, and the refused ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vitedge.converters.quiet import quiet
from vitedge.errors import CheckpointError, did_you_mean
from vitedge.extras import require

TIMM_WRAPPER = "timm_wrapper"

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "dinat": "its attention is the library NATTEN's, whose operators ONNX does not have",
        "imagegpt": "it reads the index of a colour cluster for each pixel, and the runtime gives pixels",
        "perceiver": "it looks at values while it runs, so that its memory for an image cannot be checked beforehand",
        "shieldgemma2": "it is a language model that answers a question about an image",
        "siglip2": "its patches follow the shape of each image (NaFlex), and a network on a device has one input size; "
        "SigLIP 2 checkpoints of one size have model_type siglip, and convert",
    }
)
"""Reasons, by ``model_type``."""

PROCESSORS: Mapping[str, str] = MappingProxyType({"dinov2_with_registers": "BitImageProcessor"})
"""Image processors of model types for which Transformers names none, from their published checkpoints."""

OUTPUTS: Mapping[str, str] = MappingProxyType({"PPLCNetForImageClassification": "last_hidden_state"})
"""Classes whose logits have another name than ``logits``."""


@dataclass(frozen=True)
class Family:
    """A model type that vitedge converts.

    Attributes:
        classifiers: classes with logits; the first is the default if ``config.json`` names no class.
        processor: default image processor, if ``preprocessor_config.json`` names none; None if Transformers has none.
    """

    classifiers: tuple[str, ...]
    processor: str | None


WRAPPED = Family(("TimmWrapperForImageClassification",), "TimmWrapperImageProcessor")
"""Transformers' wrapper of timm, which timm alone builds."""


def families() -> Mapping[str, Family]:
    """Return the families of the installed Transformers that vitedge converts, by ``model_type``.

    Raises:
        MissingExtraError: Transformers is not installed.
    """
    return {name: family for name, family in _classifiers().items() if name not in REFUSED}


def find_classifier(config: Mapping[str, Any], where: Path) -> tuple[Family, str]:
    """Return the family of a configuration, and the class that it names.

    Args:
        config: ``config.json``.
        where: path of the file, for errors.

    Raises:
        MissingExtraError: Transformers is not installed.
        CheckpointError: vitedge or the installed Transformers does not have the model type, or the class is no image
            classifier.
    """
    model_type = str(config.get("model_type"))
    family = WRAPPED if model_type == TIMM_WRAPPER else families().get(model_type)
    if family is None:
        raise _unknown(model_type, families(), where)
    named = config.get("architectures") or family.classifiers[:1]
    if not isinstance(named, (list, tuple)):
        raise CheckpointError(f"{where} has architectures {named!r:.80}", expected="a list of class names")
    for name in family.classifiers:
        if name in named:
            return family, name
    raise CheckpointError(
        f"{where} has architectures {named!r:.80}, which are no image classifiers",
        expected=" or ".join(family.classifiers),
        fix="take a checkpoint that was fine-tuned for image classification",
    )


def classifier_class(name: str) -> Any:
    """Return a class of the installed Transformers.

    Args:
        name: a class of ``Family.classifiers``.
    """
    transformers = _transformers()
    with quiet():
        return getattr(transformers, name)


def _unknown(model_type: str, known: Mapping[str, Family], where: Path) -> CheckpointError:
    mistyped = model_type not in REFUSED and model_type not in _auto("configuration_auto").CONFIG_MAPPING_NAMES
    return CheckpointError(
        f"{where} has model_type {model_type!r:.60}, which vitedge does not convert: {_reason(model_type)}",
        expected=f"one of {', '.join(known)}",
        fix=(did_you_mean(model_type, known) if mistyped else "")
        or "export it to ONNX yourself, and convert the .onnx file",
    )


def _reason(model_type: str) -> str:
    if model_type in REFUSED:
        return REFUSED[model_type]
    version = _transformers().__version__
    if model_type in _auto("configuration_auto").CONFIG_MAPPING_NAMES:
        return f"Transformers {version} has no image classifier of this type"
    return f"Transformers {version}, which is installed, does not have it"


def _classifiers() -> dict[str, Family]:
    """Read Transformers' own mappings of model types to image classifiers and to image processors."""
    classes = _auto("modeling_auto").MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    processors = _auto("image_processing_auto").IMAGE_PROCESSOR_MAPPING_NAMES
    return {
        model_type: Family(
            (names,) if isinstance(names, str) else tuple(names),
            PROCESSORS.get(model_type) or _processor(processors.get(model_type)),
        )
        for model_type, names in classes.items()
    }


def _processor(listed: Any) -> str | None:
    """Return the name of a processor without its backend; Transformers lists a class for each backend."""
    names = listed.values() if isinstance(listed, Mapping) else listed or ()
    first = next(filter(None, names), None)
    return None if first is None else str(first).removesuffix("Fast").removesuffix("Pil")


def _transformers() -> Any:
    with quiet():
        return require("transformers", extra="transformers", purpose="a model in Transformers' layout")


def _auto(module: str) -> Any:
    _transformers()
    with quiet():
        return import_module(f"transformers.models.auto.{module}")
