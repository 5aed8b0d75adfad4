"""Every image classifier of Transformers, small: exported, rewritten, still what PyTorch computes.

One network of each way to mix tokens or channels is in the default suite, the others are ``long``. All of them give
Transformers' logits in ``test_families.py``, where nothing is exported.
"""

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

EACH_KIND = {
    "bit",  # convolutions whose weights are standardized in the graph
    "clip",  # the image tower of a larger model
    "cvt",  # convolutions make queries, keys and values
    "dinov2",  # a position embedding that is resized in the graph
    "focalnet",  # focal modulation in place of attention
    "hiera",  # attention within units, and maximum pooling of queries
    "poolformer",  # pooling in place of attention
    "segformer",  # keys and values of fewer tokens
    "swin",  # shifted windows
    "timm wrapper",  # a network of timm
}


@pytest.mark.parametrize(
    "name", [name if name in EACH_KIND else pytest.param(name, marks=pytest.mark.long) for name in checkpoints.SMALL]
)
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
