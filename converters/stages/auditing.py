"""Find out what runs: which layers of the quantized graph the compiled engine computes in 8 bits."""

from __future__ import annotations

from dataclasses import replace

from vitedge.audit import Audit
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.manifest import Manifest
from vitedge.converters.graph_summary import weight_layers
from vitedge.converters.stages.drafting import Draft
from vitedge.errors import EngineError
from vitedge.progress import Progress


def audited(bundle: Bundle, draft: Draft, progress: Progress) -> Manifest:
    """Add the audit of the engine to the manifest of an 8-bit bundle, and warn if a layer falls back.

    An engine that cannot be profiled is a warning: it was compared with its graph already.
    """
    if draft.precision not in ("int8", "fp8"):
        return bundle.manifest
    progress.step(f"looking up how the engine runs the {draft.precision} layers")
    try:
        found = draft.backend.audit(bundle)
    except EngineError as error:
        progress.step(f"warning: the layers are not found: {error.problem}")
        return bundle.manifest
    if found is None:
        found = Audit("", "", weight_layers(draft.reduced.graph.graph), asked=draft.precision)
    warned = bool(found.fallbacks) or bool(found.engine and found.unknown)
    progress.step(f"{'warning: ' if warned else ''}{found.summary}")
    return replace(bundle.manifest, audit=found)
