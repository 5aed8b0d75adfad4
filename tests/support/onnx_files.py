"""ONNX files of the small network, changed graphs of it, and what a loaded one computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from vitedge.converters.reference import graph_logits
from vitedge.converters.rewrites.apply import apply_rewrites
from vitedge.converters.sources.onnx.models import OnnxModel, load_onnx
from vitedge.converters.sources.parse import OnnxFile
from vitedge.metrics import sqnr_db

Frames = NDArray[np.uint8]


def copy_of(graph: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    return copied


def write(folder: Path, graph: onnx.ModelProto, **config: Any) -> OnnxFile:
    """A graph with the small network's configuration beside it."""
    onnx.save(graph, folder / "net.onnx")
    whole = {**checkpoints.PRETRAINED_CFG, "label_names": list(checkpoints.CLASSES), **config}
    (folder / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    return OnnxFile(folder / "net.onnx")


def load(folder: Path, graph: onnx.ModelProto, **config: Any) -> OnnxModel:
    return load_onnx(write(folder, graph, **config), labels=None)


def logits_of(model: OnnxModel, frames: Frames) -> NDArray[np.float32]:
    (entry,) = model.graph.graph.input
    shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    kind = entry.type.tensor_type.elem_type
    assert (kind, shape) in ((TensorProto.FLOAT, [1, 3, 32, 32]), (TensorProto.UINT8, [1, 32, 32, 3]))
    onnx.checker.check_model(model.graph, full_check=True)
    logits = graph_logits(model.graph, frames, model.card.preprocessing)
    assert logits.shape == (len(frames), len(checkpoints.CLASSES))
    rewritten = apply_rewrites(model.graph, frames, model.card.preprocessing).logits
    assert sqnr_db(logits, rewritten) > 80
    return logits


def after_input(graph: onnx.ModelProto, kind: int, shape: list[int | str], *nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A copy of a graph that computes its input from ``image``."""
    changed = copy_of(graph)
    (entry,) = changed.graph.input
    for node in changed.graph.node:
        node.input[:] = ["x" if name == entry.name else name for name in node.input]
    old = list(changed.graph.node)
    del changed.graph.node[:]
    changed.graph.node.extend([*nodes, *old])
    entry.CopyFrom(helper.make_tensor_value_info("image", kind, shape))
    return changed
