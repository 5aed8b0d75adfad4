"""Build the manifest of a bundle from its draft and its files."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import datetime, timezone
from pathlib import Path

from vitedge.bundle.bundle import Golden
from vitedge.bundle.manifest import SCHEMA_VERSION, Manifest
from vitedge.bundle.precision_records import PrecisionRecord
from vitedge.bundle.verification_records import GoldenRecord, VerificationRecord
from vitedge.converters.publish import file_records
from vitedge.converters.stages.drafting import Draft
from vitedge.metrics import parity
from vitedge.runtime.system.machine import processor_name
from vitedge.version import VERSION

TOOLS = ("torch", "timm", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy")


def draft_manifest(folder: Path, draft: Draft, golden: Golden) -> Manifest:
    """Build the manifest as far as it is known before an engine has run; ``verified`` completes it."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        vitedge_version=VERSION,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=draft.card,
        precision=PrecisionRecord(asked=draft.precision, effective=draft.precision, rest=draft.precision),
        target=draft.request.target.name,
        calibration=draft.reduced.calibration,
        golden=GoldenRecord(inputs=draft.probes.inputs, count=len(golden.frames), min_sqnr_db=0.0),
        verification=VerificationRecord(draft.full.against_source, parity(golden.logits, golden.logits)),
        accuracy=None,
        tools=_tool_versions(),
        host=processor_name(),
        files=file_records(folder),
        auto=None if draft.choice is None else draft.choice.record,
        workarounds=draft.workarounds,
    )


def _tool_versions() -> dict[str, str]:
    installed = {distribution: _version(distribution) for distribution in TOOLS}
    return {"python": platform.python_version(), **{name: version for name, version in installed.items() if version}}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
