"""Export a model to its FP32 graph, rewrite the graph, and prove it against the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from vitedge.bundle.model_card import Activation
from vitedge.converters.onnx_export import export
from vitedge.converters.reference import graph_logits, module_logits
from vitedge.converters.rewrites.apply import Rewrite, Rewritten, apply_rewrites
from vitedge.converters.sources.labels import check_label_count
from vitedge.converters.sources.onnx.models import OnnxModel
from vitedge.converters.sources.torch_export.programs import ExportedProgramModel
from vitedge.converters.stages.datasets import Probes
from vitedge.converters.stages.heads import read_head
from vitedge.converters.stages.loading import Model
from vitedge.converters.verify import Frames, Logits, check_source
from vitedge.metrics import Parity
from vitedge.progress import Progress


@dataclass(frozen=True)
class FullGraph:
    """The FP32 graph that every precision is made from.

    Attributes:
        graph: uint8 ``frame`` in, ``logits`` out.
        against_source: the graph compared, on the golden frames, with PyTorch, or with an ONNX file as given in ONNX
            Runtime.
        activation: makes scores of the logits.
    """

    graph: onnx.ModelProto
    against_source: Parity
    activation: Activation


def full_graph(
    model: Model,
    probes: Probes,
    rewrites: Sequence[Rewrite],
    progress: Progress,
    *,
    activation: Activation | None = None,
) -> FullGraph:
    """Export the model where it is not a graph already, bring it to logits, and apply the exact rewrites.

    Args:
        model: the source.
        probes: inputs to compare on.
        rewrites: which, in which order.
        progress: receives the steps.
        activation: of the head, as the user named it; None if they named none.

    Raises:
        UsageError: the activation contradicts the checkpoint, or nothing says what the outputs mean.
        ConversionError: the model cannot be exported, or the graph does not compute what the model computes.
        CheckpointError: labels and logits differ in number.
    """
    head = read_head(model, *_exported(model, probes.golden, progress), probes.golden, activation)
    progress.step(f"rewriting the graph, and comparing it with {_framework(model)}")
    rewritten = apply_rewrites(head.graph, probes.golden, model.card.preprocessing, rewrites, reference=head.reference)
    progress.step(_summary(rewritten))
    check_label_count(model.card.labels, rewritten.logits.shape[1], where=model.card.name)
    return FullGraph(rewritten.graph, check_source(head.reference, rewritten.logits), head.activation)


def _exported(model: Model, frames: Frames, progress: Progress) -> tuple[onnx.ModelProto, Logits]:
    """Return the model's graph, and the reference: the logits of the model as it was given."""
    if isinstance(model, OnnxModel):
        return model.graph, graph_logits(model.graph, frames, model.card.preprocessing)
    progress.step("exporting to ONNX")
    if isinstance(model, ExportedProgramModel):
        return model.export(frames)
    preprocessing = model.card.preprocessing
    return export(model.module, preprocessing.input_size), module_logits(model.module, frames, preprocessing)


def _framework(model: Model) -> str:
    return "the file as given" if isinstance(model, OnnxModel) else "PyTorch"


def _summary(rewritten: Rewritten) -> str:
    """List the rewrites that applied, each with the number of places if there are several."""
    applied = (
        name if places.changed == 1 else f"{name} ({places.changed} places)"
        for name, places in rewritten.applied.items()
    )
    left_out = (f"; left out {name}: {reason}" for name, reason in rewritten.unproved.items())
    return f"rewritten: {', '.join(applied)}{''.join(left_out)}"
