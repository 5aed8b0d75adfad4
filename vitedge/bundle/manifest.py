"""``manifest.json``: everything about a bundle that is not a tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vitedge.audit import Audit
from vitedge.bundle.model_card import LABEL_THRESHOLD, ModelCard
from vitedge.bundle.targets import Precision
from vitedge.counts import counted, dropped
from vitedge.errors import BundleSchemaError, UsageError
from vitedge.metrics import SQNR_CAP_DB, Parity
from vitedge.records import decode, encode, json_schema
from vitedge.safety import escape
from vitedge.safety.files import parse_json
from vitedge.safety.limits import MANIFEST_BYTES

SCHEMA_VERSION = 3
"""Version that this vitedge writes. It increases when an older runtime that ignores a new key would predict wrongly:
version 2 added ``confidence``, version 3 ``model.activation`` and ``model.preprocessing.exif_orientation``. The keys of
the 16-bit companion needed no new version, because a runtime without them has no TensorRT."""

READ_VERSIONS = (1, 2, 3)

LEAST_SQNR_DB = 5.0
"""Lowest SQNR that a bundle may demand of an engine. Zeros reach 0 dB; a bundle with random weights demands 5 dB."""
TEMPERATURES = (1e-3, 1e3)
"""Outside this range, logits divided by the temperature are 0 or infinite in float32."""
CONVERT_AGAIN = "convert the model again"

PAYS_BELOW = 0.85
"""Share of fp16's time below which int8 pays. Int8 costs accuracy and a calibration, and fp16 costs neither; a gain of
less than a sixth also shrinks beside preprocessing and the camera."""
WORSE_DB = 3.0
"""Fp16 is no alternative where its logits are less accurate than int8's by more than this: twice the noise."""

GateInputs: TypeAlias = Literal["held_out", "calibration", "synthetic"]
GATE_INPUTS: Mapping[GateInputs, str] = {
    "held_out": "images that calibration has not used",
    "calibration": "images of the calibration",
    "synthetic": "synthetic frames",
}
"""The origins of the images that a bundle was compared with fp32 on, in words."""


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
        gap_db: SQNR of the logits with all layers in bfloat16, less the SQNR of the quantized graph; None where
            ``auto`` chose layers afterwards, and in bundles of older versions.
    """

    images: int
    skipped: tuple[str, ...]
    sha256: str
    recipe: str
    float_layers: tuple[str, ...] = ()
    gap_db: float | None = None


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
            BundleSchemaError: there are no vectors, or the demand is below ``LEAST_SQNR_DB``.
        """
        if self.count < 1:
            raise BundleSchemaError(f"{where}: golden.count is {self.count}", expected="1 or more", fix=CONVERT_AGAIN)
        for name in ("min_sqnr_db", "fp16_min_sqnr_db"):
            demanded = getattr(self, name)
            if demanded is not None and not demanded >= LEAST_SQNR_DB:
                raise BundleSchemaError(
                    f"{where}: golden.{name} is {demanded}: an engine that computes something else would pass",
                    expected=f"{LEAST_SQNR_DB:g} or more, as vitedge convert writes even for random weights",
                    fix=CONVERT_AGAIN,
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
class AccuracyRecord:
    """Accuracy measured on labelled images at conversion.

    Attributes:
        top1: top-1 accuracy, in percent.
        top5: top-5 accuracy, in percent.
        images: number of evaluated images.
        sha256: hash of the names and contents of the images, in order.
        calibration_images: number of evaluated images that calibration also used.
    """

    top1: float
    top5: float
    images: int
    sha256: str
    calibration_images: int = 0


@dataclass(frozen=True)
class ConfidenceRecord:
    """Calibration of scores, fitted on labelled images (``vitedge.calib.evaluation.score_calibration``).

    Attributes:
        temperature: the runtime divides logits by it before the softmax; 1 changes nothing.
        threshold: the runtime abstains from a prediction with a lower score, 0…1; at 0 it never abstains.
        abstain_error: error rate among the accepted predictions that the threshold was fitted to, 0…1; None if no error
            rate was requested.
        accepted: percent of the images whose score reaches the threshold.
        accepted_top1: percent of the accepted images whose best class is correct.
        ece_before: expected calibration error of the scores without the temperature, in percent.
        ece_after: expected calibration error with the temperature, in percent.
        images: number of images that it was fitted on.
        sha256: hash of the names and contents of the images, in order.
    """

    temperature: float
    threshold: float
    abstain_error: float | None
    accepted: float
    accepted_top1: float
    ece_before: float
    ece_after: float
    images: int
    sha256: str

    def __post_init__(self) -> None:
        low, high = TEMPERATURES
        if not low <= self.temperature <= high:
            raise UsageError(f"the temperature is {self.temperature}", expected=f"{low:g} to {high:g}")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"the threshold is {self.threshold}", expected="a score, 0…1")


@dataclass(frozen=True)
class LabelAccuracyRecord:
    """Accuracy of a multi-label model, measured on labelled images at conversion.

    Attributes:
        mean_average_precision: mean of the average precision of all labels that an image has, in percent.
        micro_f1: F1 of all decisions together, in percent.
        macro_f1: mean F1 of the labels that an image has, in percent.
        exact_match: percent of the images whose labels are all right.
        images: number of evaluated images.
        sha256: hash of the names and contents of the images, in order.
        calibration_images: number of evaluated images that calibration also used.
    """

    mean_average_precision: float
    micro_f1: float
    macro_f1: float
    exact_match: float
    images: int
    sha256: str
    calibration_images: int = 0


@dataclass(frozen=True)
class ThresholdsRecord:
    """Thresholds of a multi-label model, fitted on labelled images (``vitedge.calib.evaluation.label_thresholds``).

    Attributes:
        thresholds: one for each label; the runtime gives an image every label whose score reaches its threshold, 0…1.
        abstain_error: share of wrong images among the images that get a label, which each threshold was fitted to, 0…1;
            None if each threshold was fitted to the highest F1.
        fitted: number of labels that an image has; the others keep ``LABEL_THRESHOLD``.
        macro_f1_before: mean F1 of these labels with ``LABEL_THRESHOLD``, in percent.
        macro_f1_after: mean F1 of these labels with the thresholds, in percent.
        images: number of images that they were fitted on.
        sha256: hash of the names and contents of the images, in order.
    """

    thresholds: tuple[float, ...]
    abstain_error: float | None
    fitted: int
    macro_f1_before: float
    macro_f1_after: float
    images: int
    sha256: str

    def __post_init__(self) -> None:
        for threshold in self.thresholds:
            if not 0 <= threshold <= 1:
                raise UsageError(f"a threshold is {threshold}", expected="a score, 0…1")


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
        """The measure of the loss, in words."""
        return "drop in top-1" if self.loss == "top1_drop" else "flip rate"

    def lost(self, loss: float) -> str:
        """Describe a measured loss; top-1 may have risen."""
        return f"top-1 {dropped(loss)}" if self.loss == "top1_drop" else f"flip rate {loss:.2f} %"

    @property
    def unit(self) -> str:
        """The unit of the loss."""
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
        """How many of its int8 layers ran in int8, as ``43 of 48``; empty if that is not known."""
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
        """The chosen candidate and the limits, as a phrase."""
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
class FileRecord:
    """Hash and size of one file of the bundle."""

    sha256: str
    bytes: int


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
        """The fault and the form, as a phrase."""
        places = "" if self.places == 1 else f" (the first of {self.places} places)"
        return (
            f"{self.engine} computes {self.operator} wrongly in {self.precision} {self.place}{places}. "
            f"Fault: {self.fault}. Replaced by: {self.form}. "
            f"SQNR {self.sqnr_before_db:.1f} → {self.sqnr_after_db:.1f} dB"
        )


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
        """Whether int8 may be worth its price: False if fp16 is an alternative, and int8 surely gains too little."""
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


@dataclass(frozen=True)
class Manifest:
    """The whole manifest.

    Attributes:
        schema_version: version of the schema; this vitedge reads ``READ_VERSIONS``.
        vitedge_version: version of vitedge that wrote the manifest.
        created_at: ISO 8601, UTC.
        model: identity, labels, preprocessing.
        precision: requested and effective precision.
        target: name of the target.
        calibration: None if nothing was calibrated.
        golden: origin of the golden vectors.
        verification: parity measured at conversion.
        accuracy: None if not measured.
        tools: versions of the packages that made the bundle, by name.
        host: processor of the machine that converted.
        files: every file of the bundle except the manifest, by its path relative to the bundle, with ``/``.
        confidence: None if scores were not calibrated.
        auto: None unless the precision was chosen automatically.
        label_accuracy: accuracy of a multi-label model; None if not measured.
        thresholds: thresholds of a multi-label model; None if they were not fitted.
        workarounds: operators that have another form than in the checkpoint, because the engine computes them wrongly.
        stages: values within the network, in order; none where this host cannot run the engine.
        audit: the layers of the graph as the engine of the converting host ran them; where the device compiles the
            graph, its layers alone. None in bundles of older versions, and of other precisions than 8 bits.
        against_fp16: time and accuracy of an int8 bundle against fp16; None in bundles of older versions, with ``auto``
            (which times fp16 itself), and where the converting host has no fast int8 or compiles for another device.
        slim_of: hex SHA-256 of the manifest of the full bundle that a slim bundle was made from; None in a full bundle.
    """

    schema_version: int
    vitedge_version: str
    created_at: str
    model: ModelCard
    precision: PrecisionRecord
    target: str
    calibration: CalibrationRecord | None
    golden: GoldenRecord
    verification: VerificationRecord
    accuracy: AccuracyRecord | None
    tools: dict[str, str]
    host: str
    files: dict[str, FileRecord]
    confidence: ConfidenceRecord | None = None
    auto: AutoRecord | None = None
    label_accuracy: LabelAccuracyRecord | None = None
    thresholds: ThresholdsRecord | None = None
    workarounds: tuple[WorkaroundRecord, ...] = ()
    stages: tuple[StageRecord, ...] = ()
    audit: Audit | None = None
    against_fp16: AgainstFp16Record | None = None
    slim_of: str | None = None

    @property
    def label_thresholds(self) -> tuple[float, ...] | None:
        """Scores that the labels of a multi-label model must reach, one a label; None for one class an image."""
        if not self.model.is_multilabel:
            return None
        return (LABEL_THRESHOLD,) * self.model.num_classes if self.thresholds is None else self.thresholds.thresholds


def manifest_schema() -> dict[str, Any]:
    """Return the JSON schema that ``vitedge/bundle/manifest.schema.json`` publishes."""
    schema = json_schema(Manifest)
    schema["properties"]["schema_version"] = {"enum": list(READ_VERSIONS)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vitedge bundle manifest",
        **schema,
    }


def dump_manifest(manifest: Manifest) -> str:
    """Write a manifest as indented JSON text, in ASCII.

    Raises:
        UsageError: the text exceeds ``MANIFEST_BYTES``.
    """
    text = escape.json(encode(manifest), indent=1) + "\n"
    if len(text) > MANIFEST_BYTES:
        raise UsageError(
            f"the manifest takes {len(text)} bytes, most of them for {counted(manifest.model.num_classes, 'label')}",
            expected=f"at most {MANIFEST_BYTES} bytes",
            fix="give shorter labels: labels=FILE",
        )
    return text


def parse_manifest(text: str, *, where: str) -> Manifest:
    """Read a manifest.

    Args:
        text: contents of ``manifest.json``.
        where: path of the manifest, for errors.

    Raises:
        BundleSchemaError: the text is not JSON or comes from a newer vitedge, or a key is missing or wrong.
    """
    try:
        value = parse_json(text)
    except ValueError as error:
        raise BundleSchemaError(
            f"{where} is not JSON: {error}", fix="copy the bundle again, or convert again"
        ) from error
    if isinstance(value, dict):
        _check_version(value.get("schema_version"), where)
    manifest = decode(Manifest, value, where=where)
    _check_activation(manifest, where)
    return manifest


def _check_activation(manifest: Manifest, where: str) -> None:
    """Refuse records that do not fit the activation: a runtime would have to ignore them."""
    model, thresholds = manifest.model, manifest.thresholds
    if model.is_multilabel and manifest.confidence is not None:
        raise BundleSchemaError(
            f"{where}.confidence is for models of one class an image, and the activation is {model.activation}",
            expected="thresholds, one for each label, or null",
            fix=CONVERT_AGAIN,
        )
    if thresholds is not None and (not model.is_multilabel or len(thresholds.thresholds) != model.num_classes):
        raise BundleSchemaError(
            f"{where}.thresholds has {counted(len(thresholds.thresholds), 'threshold')} for "
            f"{counted(model.num_classes, 'label')} with the activation {model.activation}",
            expected="one for each label of a model with the activation sigmoid, or null",
            fix=CONVERT_AGAIN,
        )


def _check_version(version: object, where: str) -> None:
    """Refuse another version before other keys are read, because they may have another meaning there."""
    if not isinstance(version, (int, float)) or isinstance(version, bool) or version in READ_VERSIONS:
        return
    newer = version > SCHEMA_VERSION
    raise BundleSchemaError(
        f"{where} has schema version {version}",
        expected=f"{READ_VERSIONS[0]} to {SCHEMA_VERSION}, which this vitedge reads",
        fix="upgrade vitedge on this machine: pip install --upgrade vitedge" if newer else "convert the model again",
    )
