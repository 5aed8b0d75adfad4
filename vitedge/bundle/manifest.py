"""``manifest.json``: everything about a bundle that is not a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.targets import Precision
from vitedge.errors import BundleSchemaError, UsageError
from vitedge.metrics import Parity
from vitedge.records import decode, encode, json_schema
from vitedge.safety import escape
from vitedge.safety.files import parse_json
from vitedge.safety.limits import MANIFEST_BYTES

SCHEMA_VERSION = 2
"""Written by this vitedge. A version is raised where an older runtime that ignores a new key would answer wrongly:
2 brought ``confidence``. What is said of a 16-bit twin came without: a runtime that ignores it knows no TensorRT."""

READ_VERSIONS = (1, 2)

LEAST_SQNR_DB = 5.0
"""Least that a bundle may demand of an engine. Zeros reach 0 dB; what is converted from random weights demands 5."""
TEMPERATURES = (1e-3, 1e3)
"""Beyond them, logits over the temperature are 0 or infinite in float32."""
CONVERT_AGAIN = "convert the model again"


@dataclass(frozen=True)
class PrecisionRecord:
    """Precision asked for and what the converting host ran.

    Attributes:
        asked: what ``--precision`` said; with ``auto``, what was chosen: ``Manifest.auto`` is there then.
        effective: what the compiled engine computes its matrix products in on the host that converted
            (``fp32``, ``bf16``, ``fp16``, ``int8``); ``bench`` reports the same of the device it runs on. Where the
            host cannot compile for the target, it is what ONNX Runtime computed the graph in there, with every
            value rounded as the graph says.
        rest: precision of everything that is not int8 in an int8 bundle; else equal to ``effective``.
    """

    asked: Precision
    effective: str
    rest: str


@dataclass(frozen=True)
class CalibrationRecord:
    """The images that ranges were taken from, and the recipe.

    Attributes:
        images: how many were used.
        skipped: files that could not be read.
        sha256: hash over the names and contents of the images used, in order.
        recipe: name of the quantizer and its settings.
    """

    images: int
    skipped: tuple[str, ...]
    sha256: str
    recipe: str


@dataclass(frozen=True)
class GoldenRecord:
    """How golden vectors were made, and what an engine must reach on them.

    Attributes:
        inputs: ``images`` if they are preprocessed photos, ``synthetic`` if no photos were given.
        count: number of vectors.
        min_sqnr_db: an engine whose logits are worse than this against the golden ones refuses to serve.
        fp16_min_sqnr_db: the same of an engine of ``model.fp16.onnx`` against the twin's own golden logits; None where
            the bundle has none.
    """

    inputs: Literal["images", "synthetic"]
    count: int
    min_sqnr_db: float
    fp16_min_sqnr_db: float | None = None

    def check(self, where: Path) -> None:
        """Refuse a demand that every engine meets.

        Args:
            where: path of the manifest, for errors.

        Raises:
            BundleSchemaError: there are no vectors, or less is demanded than of any bundle.
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
class VerificationRecord:
    """Measured at conversion, on the golden inputs and, where given, the calibration images.

    Attributes:
        fp32_against_source: the FP32 graph against the framework's own forward pass; None for ONNX sources.
        precision_against_fp32: the bundle's engine against the FP32 graph.
        fp16_against_fp32: the 16-bit twin against the FP32 graph, on the golden inputs; None where there is no twin.
    """

    fp32_against_source: Parity | None
    precision_against_fp32: Parity
    fp16_against_fp32: Parity | None = None


@dataclass(frozen=True)
class AccuracyRecord:
    """Measured on the labelled images given to ``--eval``.

    Attributes:
        top1: percent.
        top5: percent.
        images: how many were evaluated.
        sha256: hash over the names and contents of the images, in order.
        calibration_images: how many of them calibration used as well.
    """

    top1: float
    top5: float
    images: int
    sha256: str
    calibration_images: int = 0


@dataclass(frozen=True)
class ConfidenceRecord:
    """How scores are made to mean what they say, fitted on labelled images (``calib.evaluation.score_calibration``).

    Attributes:
        temperature: the runtime divides logits by it before the softmax; 1 leaves them as they are.
        threshold: the runtime abstains from a prediction with a lower score, 0…1; at 0 it never does.
        abstain_error: the share of wrong answers among the accepted ones that the threshold was chosen for, 0…1;
            None where none was asked for.
        accepted: percent of the images whose score reaches the threshold.
        accepted_top1: percent of those whose best class is right.
        ece_before: expected calibration error of the scores without the temperature, in percent.
        ece_after: with it.
        images: how many it was fitted on.
        sha256: hash over the names and contents of the images, in order.
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
class ContractRecord:
    """What ``--precision auto`` was held to, and on which images.

    Attributes:
        max_drop: largest loss that is allowed.
        max_p99_ms: largest p99 of a classification, in milliseconds; None for any.
        loss: what is lost against fp32: ``top1_drop`` in points, or ``flip_rate`` in percent where the images have no
            classes.
        images: how many it was measured on.
        sha256: hash over their names and contents, in order.
        calibration_images: how many of them calibration used as well.
    """

    max_drop: float
    max_p99_ms: float | None
    loss: Literal["top1_drop", "flip_rate"]
    images: int
    sha256: str
    calibration_images: int

    @property
    def loss_name(self) -> str:
        """What is lost, in words."""
        return "drop in top-1" if self.loss == "top1_drop" else "flip rate"

    @property
    def unit(self) -> str:
        """Of the loss."""
        return "points" if self.loss == "top1_drop" else "%"


@dataclass(frozen=True)
class CandidateRecord:
    """What ``--precision auto`` tried, measured on the host that converted.

    Attributes:
        name: for people.
        precision: of its graph.
        float_layers: layers that its int8 graph leaves in floating point, by name.
        p50_ms: median time of a classification.
        p99_ms: 99th percentile.
        loss: as in ``ContractRecord``; None where it was not measured, because a faster candidate was chosen or p99 is
            too long.
    """

    name: str
    precision: Precision
    float_layers: tuple[str, ...]
    p50_ms: float
    p99_ms: float
    loss: float | None


@dataclass(frozen=True)
class AutoRecord:
    """How ``--precision auto`` chose.

    Attributes:
        contract: what it was held to.
        chosen: name of the candidate that the bundle is.
        candidates: from the fastest on.
    """

    contract: ContractRecord
    chosen: str
    candidates: tuple[CandidateRecord, ...]

    @property
    def summary(self) -> str:
        """What was chosen, and held to what, as a phrase."""
        contract, chosen = self.contract, {each.name: each for each in self.candidates}.get(self.chosen)
        if chosen is None or chosen.loss is None:
            return self.chosen
        p99 = "" if contract.max_p99_ms is None else f" of {contract.max_p99_ms:g}"
        shared = f", {contract.calibration_images} of them used in calibration" if contract.calibration_images else ""
        return (
            f"{chosen.name}: {contract.loss_name} {chosen.loss:.2f} of {contract.max_drop:g} {contract.unit} on "
            f"{contract.images} images{shared}; p50 {chosen.p50_ms:.2f} ms, p99 {chosen.p99_ms:.2f}{p99} ms"
        )


@dataclass(frozen=True)
class FileRecord:
    """Hash and size of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The whole manifest.

    Attributes:
        schema_version: version of this layout; those in ``READ_VERSIONS`` are read.
        vitedge_version: what wrote it.
        created_at: ISO 8601, UTC.
        model: identity, labels, preprocessing.
        precision: asked for and effective.
        target: name of the target.
        calibration: None if nothing was calibrated.
        golden: how the golden vectors were made.
        verification: parity measured at conversion.
        accuracy: None if not measured.
        tools: versions of the packages that made the bundle, by name.
        host: processor of the machine that converted.
        files: every file of the bundle but the manifest, by its path relative to the bundle, with ``/``.
        confidence: None if it was not fitted.
        auto: None unless the precision was chosen by ``--precision auto``.
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


def manifest_schema() -> dict[str, Any]:
    """The JSON schema that ``vitedge/bundle/manifest.schema.json`` publishes."""
    schema = json_schema(Manifest)
    schema["properties"]["schema_version"] = {"enum": list(READ_VERSIONS)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vitedge bundle manifest",
        **schema,
    }


def dump_manifest(manifest: Manifest) -> str:
    """The manifest as indented JSON text, in ASCII.

    Raises:
        UsageError: it is larger than any manifest that is read.
    """
    text = escape.json(encode(manifest), indent=1) + "\n"
    if len(text) > MANIFEST_BYTES:
        raise UsageError(
            f"the manifest takes {len(text)} bytes, most of them for {manifest.model.num_classes} labels",
            expected=f"at most {MANIFEST_BYTES} bytes",
            fix="give shorter labels with --labels",
        )
    return text


def parse_manifest(text: str, *, where: str) -> Manifest:
    """Read a manifest.

    Args:
        text: contents of ``manifest.json``.
        where: path for errors.

    Raises:
        BundleSchemaError: not JSON, from a newer vitedge, or a key is missing or wrong.
    """
    try:
        value = parse_json(text)
    except ValueError as error:
        raise BundleSchemaError(
            f"{where} is not JSON: {error}", fix="copy the bundle again, or convert again"
        ) from error
    if isinstance(value, dict):
        _check_version(value.get("schema_version"), where)
    return decode(Manifest, value, where=where)


def _check_version(version: object, where: str) -> None:
    """Before anything else is read: the other keys of another version may mean something else."""
    if not isinstance(version, (int, float)) or isinstance(version, bool) or version in READ_VERSIONS:
        return
    newer = version > SCHEMA_VERSION
    raise BundleSchemaError(
        f"{where} has schema version {version}",
        expected=f"{READ_VERSIONS[0]} to {SCHEMA_VERSION}, which this vitedge reads",
        fix="upgrade vitedge on this machine: pip install --upgrade vitedge" if newer else "convert the model again",
    )
