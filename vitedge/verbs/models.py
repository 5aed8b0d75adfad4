"""``vitedge.models``: the models that this version was measured on, from the data of ``benchmarks/matrix.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from vitedge.errors import UsageError, did_you_mean

DATA = "models.json"


@dataclass(frozen=True)
class KnownModel:
    """A model that was converted and measured.

    Attributes:
        name: source for ``vitedge.convert``; under Transformers, the ``model_type`` of its folders.
        family: heading of its group.
        input_size: (height, width) in pixels; zeros if no conversion succeeded.
        parameters: of the PyTorch module; 0 if not measured.
        macs: multiply-accumulates for one image; 0 if not measured.
        speedups: by precision, over ONNX Runtime in fp32 on the same processor.
        megabytes: size of the bundle by precision, in 10⁶ bytes.
        failed: by precision, first line of the error.
        processor: the processor that the speedups were measured on.
        date: date of the measurement, ``YYYY-MM-DD``.
    """

    name: str
    family: str
    input_size: tuple[int, int]
    parameters: int
    macs: int
    speedups: Mapping[str, float]
    megabytes: Mapping[str, float]
    failed: Mapping[str, str]
    processor: str
    date: str


def models(text: str = "") -> tuple[KnownModel, ...]:
    """List the models that were converted and measured, by family.

    Args:
        text: part of a name or of a family; empty for all models.

    Raises:
        UsageError: no model matches.
    """
    known = _known_models()
    found = tuple(model for model in known if text.lower() in f"{model.name} {model.family}".lower())
    if not found:
        names = sorted({model.name for model in known} | {model.family for model in known})
        raise UsageError(
            f"no model of the list matches {text!r}",
            expected="part of a name or of a family",
            fix=did_you_mean(text, names) or "any other timm classifier can be tried: each conversion verifies itself",
        )
    return found


def _known_models() -> tuple[KnownModel, ...]:
    data = json.loads((files("vitedge") / DATA).read_text(encoding="utf-8"))
    return tuple(_model(each, processor=data["processor"], date=data["date"]) for each in data["models"])


def _model(value: Mapping[str, Any], *, processor: str, date: str) -> KnownModel:
    converted = {name: each for name, each in value["precisions"].items() if not each["failed"]}
    return KnownModel(
        name=value["name"],
        family=value["family"],
        input_size=(value["input_size"][0], value["input_size"][1]),
        parameters=value["parameters"],
        macs=value["macs"],
        speedups={name: each["speedup"] for name, each in converted.items()},
        megabytes={name: each["megabytes"] for name, each in converted.items()},
        failed={name: each["failed"] for name, each in value["precisions"].items() if each["failed"]},
        processor=processor,
        date=date,
    )
