"""Export a model to its FP32 graph, rewrite the graph, and prove it against the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from vitedge.converters.onnx_export import export
from vitedge.converters.reference import module_logits
from vitedge.converters.rewrites.apply import Rewrite, Rewritten, apply_rewrites
from vitedge.converters.sources.labels import check_label_count
from vitedge.converters.sources.onnx.models import OnnxModel
from vitedge.converters.sources.torch_export.programs import ExportedProgramModel
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.stages.datasets import Probes
from vitedge.converters.stages.loading import Model
from vitedge.converters.verify import Frames, Logits, check_source
from vitedge.metrics import Parity
from vitedge.progress import Progress


@dataclass(frozen=True)
class FullGraph:
    """The FP32 graph that every precision is made from.

    Attributes:
        graph: uint8 ``frame`` in, ``logits`` out.
        against_source: the graph compared with PyTorch on the golden frames; None for ONNX sources.
    """

    graph: onnx.ModelProto
    against_source: Parity | None


def full_graph(model: Model, probes: Probes, rewrites: Sequence[Rewrite], progress: Progress) -> FullGraph:
    """Export the model where it is not a graph already, and apply the exact rewrites.

    Raises:
        ConversionError: the model cannot be exported, or the graph does not compute what the model computes.
        CheckpointError: labels and logits differ in number.
    """
    if isinstance(model, OnnxModel):
        progress.step("rewriting the graph")
        rewritten = apply_rewrites(model.graph, probes.golden, model.card.preprocessing, rewrites)
        progress.step(_summary(rewritten))
        return FullGraph(rewritten.graph, against_source=None)
    progress.step("exporting to ONNX")
    exported, expected = _exported(model, probes.golden)
    progress.step("rewriting the graph, and comparing it with PyTorch")
    rewritten = apply_rewrites(exported, probes.golden, model.card.preprocessing, rewrites)
    progress.step(_summary(rewritten))
    check_label_count(model.card.labels, rewritten.logits.shape[1], where=model.card.name)
    return FullGraph(rewritten.graph, check_source(expected, rewritten.logits))


def _exported(model: TorchModel | ExportedProgramModel, frames: Frames) -> tuple[onnx.ModelProto, Logits]:
    """Return the model's graph, and the logits that PyTorch computes."""
    if isinstance(model, ExportedProgramModel):
        return model.export(frames)
    preprocessing = model.card.preprocessing
    return export(model.module, preprocessing.input_size), module_logits(model.module, frames, preprocessing)


def _summary(rewritten: Rewritten) -> str:
    """List the rewrites that applied, each with the number of places if there are several."""
    applied = (
        name if places.changed == 1 else f"{name} ({places.changed} places)"
        for name, places in rewritten.applied.items()
    )
    left_out = (
        f"; left out {name}, which changed the outputs: {change}" for name, change in rewritten.unproved.items()
    )
    return f"rewritten: {', '.join(applied)}{''.join(left_out)}"
