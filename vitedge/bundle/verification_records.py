"""What was proved of an engine at conversion, and what a device must reach: records of the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from vitedge.errors import BundleSchemaError
from vitedge.metrics import Parity

LEAST_DEMANDED_DB = 5.0
"""Lowest SQNR that a bundle may demand of an engine. Zeros reach 0 dB; a bundle with random weights demands 5 dB."""
GateInputs: TypeAlias = Literal["held_out", "calibration", "synthetic"]
GATE_INPUTS: Mapping[GateInputs, str] = {
    "held_out": "images that calibration has not used",
    "calibration": "images of the calibration",
    "synthetic": "synthetic frames",
}
"""The origins of the images that a bundle was compared with fp32 on, in words."""


@dataclass(frozen=True)
class GoldenRecord:
    """Origin of the golden vectors, and the SQNR that an engine must reach on them.

    Attributes:
        inputs: ``images`` for preprocessed photos, ``synthetic`` if no photos were given.
        count: number of vectors.
        min_sqnr_db: lowest SQNR of an engine's logits against the golden logits; below it, the engine refuses to serve.
        fp16_min_sqnr_db: the same for an engine of ``model.fp16.onnx``, against the twin's golden logits; None if the
            bundle has no twin.
    """

    inputs: Literal["images", "synthetic"]
    count: int
    min_sqnr_db: float
    fp16_min_sqnr_db: float | None = None

    def check(self, where: Path) -> None:
        """Refuse a demand that every engine would meet.

        Args:
            where: path of the manifest, for errors.

        Raises:
            BundleSchemaError: there are no vectors, or the demand is below ``LEAST_DEMANDED_DB``.
        """
        if self.count < 1:
            raise BundleSchemaError(
                f"{where}: golden.count is {self.count}", expected="1 or more", fix="convert the model again"
            )
        for name in ("min_sqnr_db", "fp16_min_sqnr_db"):
            demanded = getattr(self, name)
            if demanded is not None and not demanded >= LEAST_DEMANDED_DB:
                raise BundleSchemaError(
                    f"{where}: golden.{name} is {demanded}: an engine that computes something else would pass",
                    expected=f"{LEAST_DEMANDED_DB:g} or more, as vitedge convert writes even for random weights",
                    fix="convert the model again",
                )


@dataclass(frozen=True)
class GateRecord:
    """What decided that the bundle may be published, beside ``VerificationRecord.precision_against_fp32``.

    Attributes:
        inputs: ``held_out`` for images that calibration has not used; ``calibration`` for images of the calibration,
            where there were too few to hold some out; ``synthetic`` where there were no images. Synthetic frames are
            judged by their SQNR alone.
        noise_sqnr_db: SQNR of the FP32 graph's logits, in dB, if every pixel of the images is one level off.
        flips: number of images with another answer than from the FP32 graph: another best class, or other labels of a
            multi-label model.
        unexplained_flips: number of these images on which the FP32 graph's own answer is no near tie.
    """

    inputs: GateInputs
    noise_sqnr_db: float
    flips: int
    unexplained_flips: int


@dataclass(frozen=True)
class VerificationRecord:
    """Parity measured at conversion.

    Attributes:
        fp32_against_source: FP32 graph against the model as given, on the golden inputs: PyTorch's forward pass, or the
            ONNX file in ONNX Runtime; None in bundles of older versions from ONNX files.
        precision_against_fp32: the bundle's engine against the FP32 graph, on the images that ``gate`` names.
        fp16_against_fp32: 16-bit twin against the FP32 graph, on the first of these images; None if there is no twin.
        gate: the comparison that the bundle was published on; None in bundles of older versions, which compared images
            of the calibration.
    """

    fp32_against_source: Parity | None
    precision_against_fp32: Parity
    fp16_against_fp32: Parity | None = None
    gate: GateRecord | None = None


@dataclass(frozen=True)
class StageRecord:
    """A value within the network, which tells a device that fails the self-test where it first differs.

    Attributes:
        value: name in the graph and in the IR.
        place: where it is in the checkpoint.
        samples: some of its numbers for the first golden frame, of ``model.onnx`` in ONNX Runtime, evenly spread.
        sqnr_db: SQNR of these numbers in the engine of the converting host, in dB.
    """

    value: str
    place: str
    samples: tuple[float, ...]
    sqnr_db: float


@dataclass(frozen=True)
class WorkaroundRecord:
    """An operator that the engine computed wrongly on the converting host, and the exact form that it computes rightly.

    Attributes:
        engine: name and version of the engine.
        precision: type in which it computed, in the engine's words: ``f32``, ``bf16`` or ``f16``.
        operator: what was wrong.
        place: where it is in the checkpoint.
        places: number of operators that were changed: those with the same shapes were changed too.
        fault: what the engine does wrong.
        form: the form that the graph has now.
        sqnr_before_db: SQNR of the engine's logits against ONNX Runtime's before, in dB.
        sqnr_after_db: the same afterwards.
    """

    engine: str
    precision: str
    operator: str
    place: str
    places: int
    fault: str
    form: str
    sqnr_before_db: float
    sqnr_after_db: float

    @property
    def summary(self) -> str:
        """Describe the fault and the replacement in a phrase."""
        places = "" if self.places == 1 else f" (the first of {self.places} places)"
        return (
            f"{self.engine} computes {self.operator} wrongly in {self.precision} {self.place}{places}. "
            f"Fault: {self.fault}. Replaced by: {self.form}. "
            f"SQNR {self.sqnr_before_db:.1f} → {self.sqnr_after_db:.1f} dB"
        )
