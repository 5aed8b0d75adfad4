"""``tensorrt/build.json``: what was built on this device, of what, for what, and how it did."""

from __future__ import annotations

import json
from dataclasses import dataclass

from vitedge.errors import BundleSchemaError
from vitedge.records import decode, encode
from vitedge.runtime.engines.tensorrt.fingerprint import Fingerprint
from vitedge.runtime.engines.tensorrt.layers import AttentionBlock
from vitedge.safety.files import parse_json

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Latency:
    """Of single inferences in a build, in milliseconds, the two copies included.

    Attributes:
        median: over the rounds.
        low: the tenth of them that is fastest is faster.
        high: the tenth that is slowest is slower.
        runs: how many were timed.
    """

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Candidate:
    """One graph of the bundle, built.

    Attributes:
        graph: its name in the bundle.
        seconds: that the build took.
        bytes: size of the plan.
        precision: what the plan multiplies in; ``unavailable`` where TensorRT does not say.
        sqnr_db: of its logits against the golden ones; None if it did not come that far.
        latency: None if it was not timed.
        refusal: why it was not kept, other than that another one is faster; empty if nothing speaks against it.
    """

    graph: str
    seconds: float
    bytes: int
    precision: str
    sqnr_db: float | None
    latency: Latency | None
    refusal: str


@dataclass(frozen=True)
class BuildRecord:
    """The whole of ``build.json``.

    Attributes:
        schema_version: of this layout.
        vitedge_version: what wrote it.
        created_at: ISO 8601, UTC.
        fingerprint: what the plan depends on.
        kept: the graph whose plan was kept.
        plan_sha256: of ``model.plan``.
        plan_bytes: its size.
        workspace_bytes: most scratch memory that a layer was allowed.
        candidates: every graph that was tried, that which was asked for first.
        attention: the attention blocks of the plan; empty where TensorRT does not describe its layers.
    """

    schema_version: int
    vitedge_version: str
    created_at: str
    fingerprint: Fingerprint
    kept: str
    plan_sha256: str
    plan_bytes: int
    workspace_bytes: int
    candidates: tuple[Candidate, ...]
    attention: tuple[AttentionBlock, ...]

    @property
    def chosen(self) -> Candidate:
        """The candidate that was kept."""
        (found,) = (each for each in self.candidates if each.graph == self.kept)
        return found


def dump_record(record: BuildRecord) -> str:
    """The record as indented JSON text."""
    return json.dumps(encode(record), indent=1, ensure_ascii=False) + "\n"


def parse_record(text: str, *, where: str) -> BuildRecord:
    """Read a record.

    Args:
        text: contents of ``build.json``.
        where: path for errors.

    Raises:
        BundleSchemaError: not JSON, of another version, or a key is missing or wrong.
    """
    try:
        value = parse_json(text)
    except ValueError as error:
        raise BundleSchemaError(f"{where} is not JSON: {error}", fix="vitedge build --force") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleSchemaError(
            f"{where} has schema version {version}", expected=str(SCHEMA_VERSION), fix="vitedge build --force"
        )
    record = decode(BuildRecord, value, where=where)
    if record.kept not in {each.graph for each in record.candidates}:
        raise BundleSchemaError(f"{where} keeps {record.kept!r}, which is none of its candidates")
    return record
