from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from vitedge.converters.precision import half_weights
from vitedge.converters.reference import graph_logits
from vitedge.converters.rewrites.apply import Rewritten
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.metrics import sqnr_db


@pytest.fixture(scope="module")
def halved(small_graph: Rewritten) -> onnx.ModelProto:
    return half_weights(small_graph.graph)


def stored(graph: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}


def test_matrices_are_halved_and_vectors_are_not(halved: onnx.ModelProto) -> None:
    floats = {name: value for name, value in stored(halved).items() if value.dtype.kind == "f"}
    assert {value.dtype for value in floats.values() if value.ndim >= 2} == {np.dtype(np.float16)}
    assert {value.dtype for value in floats.values() if value.ndim < 2} == {np.dtype(np.float32)}
    onnx.checker.check_model(halved, full_check=True)


def test_the_file_is_about_half(small_graph: Rewritten, halved: onnx.ModelProto) -> None:
    weights = sum(value.nbytes for value in stored(small_graph.graph).values())
    assert sum(value.nbytes for value in stored(halved).values()) < 0.6 * weights


def test_outputs_are_those_of_the_rounded_weights(
    small_graph: Rewritten, halved: onnx.ModelProto, small_model: TorchModel, frames: NDArray[np.uint8]
) -> None:
    logits = graph_logits(halved, frames, small_model.card.preprocessing)
    assert 50 < sqnr_db(small_graph.logits, logits) < 90


def test_the_graph_given_is_not_changed(small_graph: Rewritten) -> None:
    before = small_graph.graph.SerializeToString(deterministic=True)
    half_weights(small_graph.graph)
    assert small_graph.graph.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("scale", [1e6, 1e-7], ids=["too large", "too small"])
def test_a_matrix_that_half_precision_cannot_hold_stays(small_graph: Rewritten, scale: float) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(small_graph.graph)
    (head,) = (each for each in graph.graph.initializer if each.name == "head.weight")
    values = numpy_helper.to_array(head) * np.float32(scale)
    head.CopyFrom(numpy_helper.from_array(values, head.name))
    kept = stored(half_weights(graph))["head.weight"]
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, values)
