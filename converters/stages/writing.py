"""Write the files of a bundle, all but its manifest."""

from __future__ import annotations

from pathlib import Path

from vitedge.bundle.bundle import GOLDEN, LABELS, MODEL_FP16_ONNX, MODEL_ONNX, Golden
from vitedge.converters.backends import Reduced
from vitedge.converters.reference import Logits, graph_logits
from vitedge.converters.stages.drafting import Draft
from vitedge.graph.files import write_graph
from vitedge.report.precision_search import write as write_search_report
from vitedge.safety.escape import terminal_lines


def write_files(folder: Path, draft: Draft) -> Golden:
    """Write graphs, engine, labels, golden vectors and the report of the precision search; return the golden vectors.

    Raises:
        ConversionError: the engine's library cannot read the graph, or ONNX Runtime cannot run it.
    """
    card, reduced, half = draft.card, draft.reduced, draft.reduced.fp16
    write_graph(folder / MODEL_ONNX, reduced.graph)
    if half is not None:
        write_graph(folder / MODEL_FP16_ONNX, half.graph)
    draft.backend.write(folder, card, draft.precision)
    (folder / LABELS).write_text(terminal_lines(card.labels), encoding="utf-8")
    golden = Golden(
        frames=draft.probes.golden,
        logits=_golden_logits(draft, reduced),
        fp16_logits=None if half is None else _golden_logits(draft, half),
    )
    golden.write(folder / GOLDEN)
    if draft.choice is not None:
        write_search_report(folder, card.name, draft.choice.record, draft.choice.sensitivity)
    return golden


def _golden_logits(draft: Draft, reduced: Reduced) -> Logits:
    return graph_logits(draft.backend.computed(reduced.graph), draft.probes.golden, draft.card.preprocessing)
