"""Graphs of 16 bits, of several outputs, and with logits of other shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_files import Frames, copy_of, load, logits_of, write
from onnx_ir.passes.common import NameFixPass

from vitedge.converters.rewrites.apply import Rewritten
from vitedge.converters.sources.onnx.models import load_onnx
from vitedge.errors import CheckpointError, UsageError
from vitedge.metrics import sqnr_db


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("whole", [True, False])
def test_sixteen_bits_become_float32(
    tmp_path: Path, small_export: onnx.ModelProto, small_graph: Rewritten, frames: Frames, kind: int, whole: bool
) -> None:
    graph, narrow = ir.from_proto(small_export), ir.DataType(kind)
    for weight in graph.graph.initializers.values():
        if weight.const_value is not None and weight.const_value.dtype == ir.DataType.FLOAT:
            weight.const_value = ir.tensor(weight.const_value.numpy().astype(narrow.numpy()), name=weight.name)
            weight.dtype = narrow
    for value in (value for node in graph.graph for value in node.outputs):
        value.dtype = narrow if value.dtype == ir.DataType.FLOAT else value.dtype
    (image,), (logits,) = graph.graph.inputs, graph.graph.outputs
    if whole:
        image.dtype = narrow
    else:
        outer = ir.val("outer", ir.DataType.FLOAT, image.shape)
        cast = ir.node("Cast", [outer], {"to": kind})
        ir.convenience.replace_all_uses_with(image, cast.outputs[0])
        graph.graph.insert_before(graph.graph[0], cast)
        back = ir.node("Cast", [logits], {"to": int(ir.DataType.FLOAT)})
        back.outputs[0].type, back.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), logits.shape
        graph.graph.append(back)
        graph.graph.inputs[:], graph.graph.outputs[:] = [outer], [back.outputs[0]]
        NameFixPass()(graph)
    model = load(tmp_path, ir.to_proto(graph))
    least = 50 if kind == TensorProto.FLOAT16 else 30
    assert sqnr_db(small_graph.logits, logits_of(model, frames)) > least


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("shape", [[1, 1, -1], [1, -1, 1, 1], [-1], [1, 1, 1, -1], [-1, 1]])
def test_logits_of_other_shapes_are_flattened(
    tmp_path: Path, small_export: onnx.ModelProto, small_graph: Rewritten, frames: Frames, shape: list[int]
) -> None:
    graph = copy_of(small_export)
    graph.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "shape"))
    graph.graph.node.append(helper.make_node("Reshape", ["logits", "shape"], ["shaped"]))
    sizes = [len(checkpoints.CLASSES) if size == -1 else size for size in shape]
    graph.graph.output[0].CopyFrom(helper.make_tensor_value_info("shaped", TensorProto.FLOAT, sizes))
    assert sqnr_db(small_graph.logits, logits_of(load(tmp_path, graph), frames)) > 100


def with_features(graph: onnx.ModelProto) -> onnx.ModelProto:
    changed = copy_of(graph)
    changed.graph.node.append(helper.make_node("Neg", ["logits"], ["features"]))
    changed.graph.output.insert(0, helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, "K"]))
    return changed


@pytest.mark.usefixtures("in_process")
def test_one_of_several_outputs_is_chosen_by_name(
    tmp_path: Path, small_export: onnx.ModelProto, small_graph: Rewritten, frames: Frames
) -> None:
    source = write(tmp_path, with_features(small_export))
    with pytest.raises(CheckpointError, match=r"2 outputs: features FLOAT \(1,K\), logits FLOAT \(1,\d+\)") as caught:
        load_onnx(source, labels=None)
    assert "logits=NAME" in caught.value.fix
    with pytest.raises(UsageError, match="has no output 'logit'") as misspelled:
        load_onnx(replace(source, logits="logit"), labels=None)
    assert misspelled.value.fix == "did you mean logits?"
    assert "features FLOAT (1,K)" in misspelled.value.expected
    model = load_onnx(replace(source, logits="logits"), labels=None)
    assert sqnr_db(small_graph.logits, logits_of(model, frames)) > 100
    negative = load_onnx(replace(source, logits="features"), labels=None)
    assert sqnr_db(-small_graph.logits, logits_of(negative, frames)) > 100
