"""``tensorrt/build.json``: which graphs were built on this device, for what, and how each performed."""

from __future__ import annotations

from dataclasses import dataclass

from vitedge.errors import BundleSchemaError
from vitedge.records import decode, encode
from vitedge.runtime.engines.tensorrt.fingerprint import Fingerprint
from vitedge.runtime.engines.tensorrt.layers import AttentionBlock
from vitedge.safety import escape
from vitedge.safety.files import parse_json

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class InferenceLatency:
    """Latency of single inferences after a build, in milliseconds, including both copies.

    Attributes:
        median: median over all runs.
        low: 10th percentile.
        high: 90th percentile.
        runs: number of inferences that were timed.
    """

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class BuildCandidate:
    """One graph of the bundle that was built.

    Attributes:
        graph: name of the graph in the bundle.
        seconds: duration of the build.
        bytes: size of the plan.
        precision: precision of its matrix products; ``unavailable`` if TensorRT does not report it.
        sqnr_db: SQNR of its logits against the golden ones; None if it was not tested.
        latency: None if it was not timed.
        refusal: why it cannot be used; empty if it can.
    """

    graph: str
    seconds: float
    bytes: int
    precision: str
    sqnr_db: float | None
    latency: InferenceLatency | None
    refusal: str


@dataclass(frozen=True)
class BuildRecord:
    """The contents of ``build.json``.

    Attributes:
        schema_version: version of this layout.
        vitedge_version: version of vitedge that wrote it.
        created_at: ISO 8601, UTC.
        fingerprint: everything that the plan depends on.
        kept: the graph whose plan was kept.
        plan_sha256: SHA-256 of ``model.plan``.
        plan_bytes: size of ``model.plan``.
        workspace_bytes: scratch memory limit of a layer.
        candidates: every graph that was tried; the graph in the requested precision comes first.
        attention: attention blocks of the plan; empty if TensorRT does not describe its layers.
    """

    schema_version: int
    vitedge_version: str
    created_at: str
    fingerprint: Fingerprint
    kept: str
    plan_sha256: str
    plan_bytes: int
    workspace_bytes: int
    candidates: tuple[BuildCandidate, ...]
    attention: tuple[AttentionBlock, ...]

    @property
    def chosen(self) -> BuildCandidate:
        """Return the candidate that was kept."""
        (found,) = (each for each in self.candidates if each.graph == self.kept)
        return found


def dump_record(record: BuildRecord) -> str:
    """Serialize the record as indented JSON text."""
    return escape.json(encode(record), indent=1) + "\n"


def parse_record(text: str, *, where: str) -> BuildRecord:
    """Read a record.

    Args:
        text: contents of ``build.json``.
        where: path for errors.

    Raises:
        BundleSchemaError: the text is not JSON or has another version, or a key is missing or wrong.
    """
    try:
        value = parse_json(text)
    except ValueError as error:
        raise BundleSchemaError(f"{where} is not JSON: {error}", fix="build it again with overwrite=True") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleSchemaError(
            f"{where} has schema version {version}",
            expected=str(SCHEMA_VERSION),
            fix="build it again with overwrite=True",
        )
    record = decode(BuildRecord, value, where=where)
    if record.kept not in {each.graph for each in record.candidates}:
        raise BundleSchemaError(f"{where} keeps {record.kept!r}, which is not one of its candidates")
    return record
