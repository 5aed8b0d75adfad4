"""Every image classifier of Transformers, small: exported, rewritten, still what PyTorch computes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

import transformers_checkpoints as checkpoints

from vitedge.converters.onnx_export import export
from vitedge.converters.reference import module_logits
from vitedge.converters.rewrites.apply import apply_rewrites
from vitedge.converters.sources.parse import HubFolder
from vitedge.converters.sources.transformers.models import load_transformers
from vitedge.converters.verify import check_source, synthetic_frames

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", checkpoints.SMALL)
def test_the_rewritten_graph_is_the_module(tmp_path: Path, name: str) -> None:
    folder = checkpoints.write_checkpoint(tmp_path / "checkpoint", name)
    model = load_transformers(HubFolder(folder), labels=None)
    preprocessing = model.card.preprocessing
    frames = synthetic_frames(preprocessing.input_size)
    graph = export(model.module, preprocessing.input_size)
    assert [(each.name, len(each.type.tensor_type.shape.dim)) for each in graph.graph.output] == [("logits", 2)]
    rewritten = apply_rewrites(graph, frames, preprocessing)
    check_source(module_logits(model.module, frames, preprocessing), rewritten.logits)
    assert {node.op_type for node in rewritten.graph.graph.node}.isdisjoint({"If", "Loop", "NonZero", "RandomNormal"})
