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
class ModelPeer:
    """The same model without vitedge: OpenVINO's own IR, quantized by NNCF or in 16 bits.

    Attributes:
        precision: precision of vitedge's bundle that it is compared with.
        time_ratio: time of the bundle over the peer's, the median of some rounds; None without times.
        time_ratio_range: smallest and largest of the rounds; None without times.
        sqnr_db: SQNR of its logits against PyTorch.
        agreement: percent of photos with the same top-1 as PyTorch.
        collapsed: whether it has lost the answers that vitedge's int8 keeps; ``docs/models.md`` states the limit.
        reason: if it is faster and did not collapse, what the audit of both engines shows; empty otherwise.
    """

    precision: str
    time_ratio: float | None
    time_ratio_range: tuple[float, float] | None
    sqnr_db: float
    agreement: float
    collapsed: bool
    reason: str


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
        sqnr_db: SQNR of the logits against PyTorch by precision; empty if not measured.
        agreement: percent of photos with the same top-1 as PyTorch by precision; empty if not measured.
        peers: by name; empty if not measured.
        processor: the processor that it was measured on; empty if it was not.
        date: date of the measurement, ``YYYY-MM-DD``; empty likewise.
    """

    name: str
    family: str
    input_size: tuple[int, int]
    parameters: int
    macs: int
    speedups: Mapping[str, float]
    megabytes: Mapping[str, float]
    failed: Mapping[str, str]
    sqnr_db: Mapping[str, float]
    agreement: Mapping[str, float]
    peers: Mapping[str, ModelPeer]
    processor: str
    date: str

    @property
    def fastest_int8_peer(self) -> ModelPeer | None:
        """Return the fastest peer in int8 that did not collapse, by its ratio of times; None without one."""
        timed = [
            (peer.time_ratio, name)
            for name, peer in self.peers.items()
            if peer.precision == "int8" and not peer.collapsed and peer.time_ratio is not None
        ]
        return self.peers[max(timed)[1]] if timed else None


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
    return tuple(_model(each) for each in data["models"])


def _model(value: Mapping[str, Any]) -> KnownModel:
    converted = {name: each for name, each in value["precisions"].items() if not each["failed"]}
    return KnownModel(
        name=value["name"],
        family=value["family"],
        input_size=(value["input_size"][0], value["input_size"][1]),
        parameters=value["parameters"],
        macs=value["macs"],
        speedups={name: each["speedup"] for name, each in converted.items() if each["speedup"]},
        megabytes={name: each["megabytes"] for name, each in converted.items()},
        failed={name: each["failed"] for name, each in value["precisions"].items() if each["failed"]},
        sqnr_db={name: each["sqnr_db"] for name, each in value["against_pytorch"].items()},
        agreement={name: each["agreement"] for name, each in value["against_pytorch"].items()},
        peers={name: _peer(each) for name, each in value["peers"].items()},
        processor=value["processor"],
        date=value["date"],
    )


def _peer(value: Mapping[str, Any]) -> ModelPeer:
    ends = value["time_ratio_range"]
    return ModelPeer(**{**value, "time_ratio_range": None if ends is None else (ends[0], ends[1])})
