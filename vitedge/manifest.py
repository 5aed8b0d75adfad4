"""``manifest.json``: everything about a bundle that is not a tensor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from vitedge.errors import BundleSchemaError
from vitedge.metrics import Parity
from vitedge.model_card import ModelCard
from vitedge.records import decode, encode, json_schema
from vitedge.targets import Precision

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class PrecisionRecord:
    """Precision asked for and what the converting host ran.

    Attributes:
        asked: what ``--precision`` said.
        effective: what the compiled engine computes its matrix products in on the host that converted
            (``fp32``, ``bf16``, ``fp16``, ``int8``); ``bench`` reports the same of the device it runs on.
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
    """

    inputs: Literal["images", "synthetic"]
    count: int
    min_sqnr_db: float


@dataclass(frozen=True)
class VerificationRecord:
    """Measured at conversion, on the golden inputs and, where given, the calibration images.

    Attributes:
        fp32_against_source: the FP32 graph against the framework's own forward pass; None for ONNX sources.
        precision_against_fp32: the bundle's engine against the FP32 graph.
    """

    fp32_against_source: Parity | None
    precision_against_fp32: Parity


@dataclass(frozen=True)
class AccuracyRecord:
    """Measured on the labelled images given to ``--eval``.

    Attributes:
        top1: percent.
        top5: percent.
        images: how many were evaluated.
        sha256: hash over the names and contents of the images, in order.
    """

    top1: float
    top5: float
    images: int
    sha256: str


@dataclass(frozen=True)
class FileRecord:
    """Hash and size of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The whole manifest.

    Attributes:
        schema_version: version of this layout; newer ones are refused.
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


def manifest_schema() -> dict[str, Any]:
    """The JSON schema that ``vitedge/manifest.schema.json`` publishes."""
    schema = json_schema(Manifest)
    schema["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vitedge bundle manifest",
        **schema,
    }


def dump_manifest(manifest: Manifest) -> str:
    """The manifest as indented JSON text."""
    return json.dumps(encode(manifest), indent=1, ensure_ascii=False) + "\n"


def parse_manifest(text: str, *, where: str) -> Manifest:
    """Read a manifest.

    Args:
        text: contents of ``manifest.json``.
        where: path for errors.

    Raises:
        BundleSchemaError: not JSON, from a newer vitedge, or a key is missing or wrong.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleSchemaError(
            f"{where} is not JSON: {error}", fix="copy the bundle again, or convert again"
        ) from error
    if isinstance(value, dict):
        _check_version(value.get("schema_version"), where)
    return decode(Manifest, value, where=where)


def _check_version(version: object, where: str) -> None:
    """Before anything else is read: the other keys of another version may mean something else."""
    if not isinstance(version, (int, float)) or isinstance(version, bool) or version == SCHEMA_VERSION:
        return
    newer = version > SCHEMA_VERSION
    raise BundleSchemaError(
        f"{where} has schema version {version}",
        expected=f"{SCHEMA_VERSION}, which this vitedge reads",
        fix="upgrade vitedge on this machine: pip install --upgrade vitedge" if newer else "convert the model again",
    )
