"""``manifest.json``: everything about a bundle that is not a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitedge.audit import Audit
from vitedge.bundle.accuracy_records import AccuracyRecord, ConfidenceRecord, LabelAccuracyRecord, ThresholdsRecord
from vitedge.bundle.model_card import LABEL_THRESHOLD, ModelCard
from vitedge.bundle.precision_records import AgainstFp16Record, AutoRecord, CalibrationRecord, PrecisionRecord
from vitedge.bundle.verification_records import GoldenRecord, StageRecord, VerificationRecord, WorkaroundRecord
from vitedge.counts import counted
from vitedge.errors import BundleSchemaError, UsageError
from vitedge.records import decode, encode, json_schema
from vitedge.safety import escape
from vitedge.safety.files import parse_json
from vitedge.safety.limits import MANIFEST_BYTES

SCHEMA_VERSION = 3
"""Version that this vitedge writes. It increases when an older runtime that ignores a new key would predict wrongly:
version 2 added ``confidence``, version 3 ``model.activation`` and ``model.preprocessing.exif_orientation``. The keys of
the 16-bit companion needed no new version, because a runtime without them has no TensorRT."""

READ_VERSIONS = (1, 2, 3)


@dataclass(frozen=True)
class FileRecord:
    """Hash and size of one file of the bundle."""

    sha256: str
    bytes: int


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
        """Return the score that each label must reach in a multi-label model; None for one class an image."""
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
            fix="convert the model again",
        )
    if thresholds is not None and (not model.is_multilabel or len(thresholds.thresholds) != model.num_classes):
        raise BundleSchemaError(
            f"{where}.thresholds has {counted(len(thresholds.thresholds), 'threshold')} for "
            f"{counted(model.num_classes, 'label')} with the activation {model.activation}",
            expected="one for each label of a model with the activation sigmoid, or null",
            fix="convert the model again",
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
