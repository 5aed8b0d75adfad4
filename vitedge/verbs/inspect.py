"""``vitedge.inspect``: the contents of a bundle; ``vitedge.inspect_graph``: the layers of any graph, as they run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.bundle.bundle import MODEL_ONNX, Bundle
from vitedge.bundle.signatures import read_signatures
from vitedge.records import encode
from vitedge.safety.files import expanded
from vitedge.verbs.engine_state import EngineState, engine_state

if TYPE_CHECKING:
    from vitedge.audit import Audit
    from vitedge.bundle.signatures import Trust
    from vitedge.converters.graph_summary import GraphSummary


@dataclass(frozen=True)
class Inspection:
    """The contents of a bundle whose hashes were checked.

    Attributes:
        bundle: the bundle, with its manifest.
        signed_by: ids of the keys that signed it; ``bundle.signed_by`` is the trusted key that was verified.
        graph: the operators of its graph; None for a slim bundle, and if the onnx package is not installed.
        engine: its TensorRT engine; None for other backends.
    """

    bundle: Bundle
    signed_by: tuple[str, ...]
    graph: GraphSummary | None
    engine: EngineState | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for scripts; keys are added, never renamed."""
        return {
            "version": 1,
            "path": str(self.bundle.path),
            "bytes": self.bundle.size_bytes,
            "hashes_ok": True,
            "signed_by": list(self.signed_by),
            "verified_by": self.bundle.signed_by,
            "manifest": encode(self.bundle.manifest),
            "graph": encode(self.graph),
            "engine": encode(self.engine),
        }


@dataclass(frozen=True)
class GraphInspection:
    """The layers of a graph that is no bundle.

    Attributes:
        path: of the graph.
        audit: its layers, as OpenVINO runs them on this machine.
    """

    path: Path
    audit: Audit

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for scripts; keys are added, never renamed."""
        return {"version": 1, "path": str(self.path), "audit": encode(self.audit)}


def inspect(bundle: Bundle | str | Path, *, trust: Trust | None = None) -> Inspection:
    """Check the hashes of a bundle, and describe its contents.

    Args:
        bundle: a bundle, or the path of one.
        trust: public keys, one of which must have signed the bundle; as in ``vitedge.load``.

    Raises:
        BundleError: the bundle cannot be read, a file of it was altered, or no trusted key has signed it.
        UsageError: ``trust`` is not a key.
        MissingExtraError: the package that checks signatures is not installed.
    """
    opened = Bundle.open(bundle.path if isinstance(bundle, Bundle) else bundle, trust=trust)
    signers = tuple(each.key for each in read_signatures(opened.path))
    return Inspection(opened, signers, _summary(opened), engine_state(opened))


def inspect_graph(path: str | Path, *, threads: int | None = None) -> GraphInspection:
    """Compile a graph with OpenVINO for this machine, and find which of its int8 layers run in int8.

    The graph may come from anybody; it is compiled in a sandbox.

    Args:
        path: an OpenVINO IR, ``model.xml`` with ``model.bin`` beside it, or an ONNX file.
        threads: number of CPU threads; by default OpenVINO decides.

    Raises:
        UsageError: it is no file of these kinds, or ``threads`` is not 1…1024.
        MissingExtraError: OpenVINO is not installed.
        EngineError: OpenVINO cannot read, compile or run the graph.
        CheckpointError: it takes more memory or time than its size justifies.
    """
    from vitedge.converters.openvino.audit_file import audit_file

    given = expanded(path)
    return GraphInspection(given, audit_file(given, threads=threads))


def _summary(bundle: Bundle) -> GraphSummary | None:
    """Count the operators of the graph; None for a slim bundle, and without the onnx package."""
    if bundle.manifest.slim_of is not None or importlib.util.find_spec("onnx") is None:
        return None
    from vitedge.converters.graph_summary import summarize

    return summarize(bundle.file(MODEL_ONNX))
