"""Which precision a bundle has, how it was calibrated and chosen, and what it gains: records of the manifest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vitedge.bundle.targets import Precision
from vitedge.counts import counted, dropped
from vitedge.errors import UsageError
from vitedge.metrics import SQNR_CAP_DB

PAYS_BELOW = 0.85
"""Share of fp16's time below which int8 pays. Int8 costs accuracy and a calibration, and fp16 costs neither; a gain of
less than a sixth also shrinks beside preprocessing and the camera."""
WORSE_DB = 3.0
"""Fp16 is no alternative where its logits are less accurate than int8's by more than this: twice the noise."""


@dataclass(frozen=True)
class PrecisionRecord:
    """Requested precision, and the precision that the converting host ran.

    Attributes:
        asked: requested precision; with ``auto``, the chosen precision, which ``Manifest.auto`` explains.
        effective: precision of the matrix products in the compiled engine on the converting host (``fp32``, ``bf16``,
            ``fp16``, ``int8``); ``bench`` reports the same for the device it runs on. If the host cannot compile for
            the target, it is the precision in which ONNX Runtime computed the graph, with every value rounded as the
            graph says.
        rest: in an int8 bundle, the precision of everything else; otherwise equal to ``effective``.
    """

    asked: Precision
    effective: str
    rest: str


@dataclass(frozen=True)
class CalibrationRecord:
    """Calibration images, and the recipe of the quantizer.

    Attributes:
        images: number of images that were used.
        skipped: names of files that could not be read.
        sha256: hash of the names and contents of the used images, in order.
        recipe: name of the quantizer and its settings.
        float_layers: names of the layers that are in 16 bits, because 8 bits would lose too much there.
        gap_db: SQNR of the logits with all layers in bfloat16, less the SQNR of the quantized graph, before weights of
            single rows became int8, which adds 0.4 dB at most; None where ``auto`` chose layers afterwards, and in
            bundles of older versions.
    """

    images: int
    skipped: tuple[str, ...]
    sha256: str
    recipe: str
    float_layers: tuple[str, ...] = ()
    gap_db: float | None = None


@dataclass(frozen=True)
class ContractRecord:
    """Limits for the automatic choice of precision, and the images on which the loss was measured.

    Attributes:
        max_drop: greatest loss that is allowed.
        max_p99_ms: greatest p99 of a classification, in milliseconds; None allows any.
        loss: measure of the loss against fp32: ``top1_drop`` in points, or ``flip_rate`` in percent for images without
            classes.
        images: number of images.
        sha256: hash of their names and contents, in order.
        calibration_images: number of images that calibration also used.
    """

    max_drop: float
    max_p99_ms: float | None
    loss: Literal["top1_drop", "flip_rate"]
    images: int
    sha256: str
    calibration_images: int

    @property
    def loss_name(self) -> str:
        """Name the measure of the loss, in words."""
        return "drop in top-1" if self.loss == "top1_drop" else "flip rate"

    def lost(self, loss: float) -> str:
        """Describe a measured loss; top-1 may have risen."""
        return f"top-1 {dropped(loss)}" if self.loss == "top1_drop" else f"flip rate {loss:.2f} %"

    @property
    def unit(self) -> str:
        """Return the unit of the loss."""
        return "points" if self.loss == "top1_drop" else "%"


@dataclass(frozen=True)
class CandidateRecord:
    """A candidate of the automatic choice of precision, measured on the converting host.

    Attributes:
        name: name for people.
        precision: precision of its graph.
        float_layers: names of the layers that its int8 graph keeps in floating point.
        p50_ms: median time of a classification, in milliseconds.
        p99_ms: 99th percentile of the time of a classification, in milliseconds.
        loss: as in ``ContractRecord``; None if it was not measured, because a faster candidate was chosen or p99 is too
            long.
        loss_bound: the loss on other such images is at most this, with 95 % confidence; None if it was not measured.
        int8_layers: number of layers that its graph makes int8; None in bundles of older versions.
        int8_executed: number of these layers that the engine computed in int8; None if the engine does not tell it.
    """

    name: str
    precision: Precision
    float_layers: tuple[str, ...]
    p50_ms: float
    p99_ms: float
    loss: float | None
    loss_bound: float | None = None
    int8_layers: int | None = None
    int8_executed: int | None = None

    @property
    def int8_counts(self) -> str:
        """Say how many int8 layers ran in int8, as ``43 of 48``; empty if that is not known."""
        known = self.int8_layers is not None and self.int8_executed is not None
        return f"{self.int8_executed} of {self.int8_layers}" if known else ""


@dataclass(frozen=True)
class AutoRecord:
    """Result of the automatic choice of precision.

    Attributes:
        contract: the limits.
        chosen: name of the candidate that the bundle contains.
        candidates: all candidates, the fastest first.
    """

    contract: ContractRecord
    chosen: str
    candidates: tuple[CandidateRecord, ...]

    @property
    def summary(self) -> str:
        """Describe the chosen candidate and the limits in a phrase."""
        contract, chosen = self.contract, {each.name: each for each in self.candidates}.get(self.chosen)
        if chosen is None or chosen.loss is None:
            return self.chosen
        bound = "" if not chosen.loss_bound else f" (at worst {contract.lost(chosen.loss_bound)}, with 95 % confidence)"
        p99 = "" if contract.max_p99_ms is None else f" of {contract.max_p99_ms:g}"
        shared = f", {contract.calibration_images} of them used in calibration" if contract.calibration_images else ""
        int8 = f"; {chosen.int8_counts} int8 layers run in int8" if chosen.int8_counts else ""
        return (
            f"{chosen.name}: {contract.lost(chosen.loss)}{bound}, {contract.max_drop:g} allowed, on "
            f"{counted(contract.images, 'image')}{shared}; p50 {chosen.p50_ms:.2f} ms, p99 {chosen.p99_ms:.2f}{p99} ms"
            f"{int8}"
        )


@dataclass(frozen=True)
class AgainstFp16Record:
    """The int8 engine against an fp16 engine of the same FP32 graph, both on the converting host.

    Attributes:
        time_ratio: time of an inference in int8 over its time in fp16; median over turns of both engines.
        low: lower bound of the confidence interval of ``time_ratio``.
        high: upper bound of this interval.
        turns: number of turns.
        sqnr_db: SQNR of the int8 engine's logits against the FP32 graph, in dB.
        fp16_sqnr_db: SQNR of the fp16 engine's logits on the same images, in dB; −200 if they are not finite.
        images: number of these images, the first that the bundle was compared with fp32 on.
    """

    time_ratio: float
    low: float
    high: float
    turns: int
    sqnr_db: float
    fp16_sqnr_db: float
    images: int

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.time_ratio <= self.high < math.inf:
            raise UsageError(
                f"the time ratio is {self.time_ratio}, between {self.low} and {self.high}",
                expected="a positive ratio within its interval",
            )

    @property
    def pays(self) -> bool:
        """Decide whether int8 may pay: not if fp16 is an alternative, and int8 surely gains too little."""
        return self.low <= PAYS_BELOW or self.fp16_sqnr_db < self.sqnr_db - WORSE_DB

    def verdict(self, machine: str) -> str:
        """Say what int8 gains and loses against fp16.

        Args:
            machine: words for the converting host, such as ``this machine``.
        """
        found = (
            f"takes {self.time_ratio:.2f} times as long as fp16 (95 % interval {self.low:.2f} to {self.high:.2f}), and "
            f"{self._accuracy}"
        )
        return f"int8 on {machine} {found}" if self.pays else f"int8 does not pay on {machine}: it {found}"

    @property
    def _accuracy(self) -> str:
        if self.fp16_sqnr_db <= -SQNR_CAP_DB:
            return "the logits of fp16 are not finite"
        less = self.fp16_sqnr_db - self.sqnr_db
        return f"its logits are {abs(less):.1f} dB {'less' if less >= 0 else 'more'} accurate"
