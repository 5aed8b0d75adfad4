from __future__ import annotations

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from vitedge.graph import bounds
from vitedge.graph.bounds import everything, needs
from vitedge.graph.regions import Region, extent

SHAPE = (2, 3, 4)
MATRIX = (6, 4)
OPERATORS = {
    "Tanh": ("y = Tanh(x)", SHAPE),
    "Add": ("y = Add(x, row)", SHAPE),
    "Add, widened": ("y = Mul(x, column)", (2, 1, 4)),
    "Softmax": ("y = Softmax<axis = 1>(x)", SHAPE),
    "LayerNormalization": ("y = LayerNormalization(x, row)", SHAPE),
    "MatMul": ("y = MatMul(x, w)", SHAPE),
    "MatMul, of two": ("t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(x, t)", SHAPE),
    "MatMul, widened": ("y = MatMul(stack, x)", (3, 4)),
    "Gemm": ("y = Gemm<transB = 1>(x, v, bias)", MATRIX),
    "Gemm, transposed": ("y = Gemm<transA = 1>(x, z)", MATRIX),
    "Transpose": ("y = Transpose<perm = [2, 0, 1]>(x)", SHAPE),
    "Reshape": ("y = Reshape(x, sizes)", SHAPE),
    "Flatten": ("y = Flatten(x)", SHAPE),
    "Concat": ("y = Concat<axis = 1>(stack, x, stack)", (2, 3, 3)),
    "Slice": ("y = Slice(x, minus, far, last)", SHAPE),
    "Gather": ("y = Gather<axis = 1>(x, two)", SHAPE),
    "Gather, a run": ("y = Gather<axis = 2>(x, run)", SHAPE),
    "Split": ("other, y = Split<axis = 1>(x, parts)", SHAPE),
}
CONSTANTS = {
    "row": graphs.random(4), "column": graphs.random(2, 3, 1), "stack": graphs.random(2, 3, 3),
    "w": graphs.random(4, 5), "v": graphs.random(5, 4), "z": graphs.random(6, 3), "bias": graphs.random(5),
    "sizes": np.array([4, 6]), "minus": np.array([-3]), "far": np.array([9]), "last": np.array([-1]),
    "two": np.array(2), "run": np.array([1, 2]), "parts": np.array([1, 2]),
}  # fmt: skip


def region_of(data: st.DataObject, shape: list[int]) -> Region:
    first = [data.draw(st.integers(0, size - 1)) for size in shape]
    return tuple((start, data.draw(st.integers(start + 1, size))) for start, size in zip(first, shape, strict=True))


def part(values: NDArray[np.generic], region: Region) -> NDArray[np.generic]:
    return values[tuple(slice(*span) for span in region)]


@pytest.mark.parametrize("name", OPERATORS)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_region_is_computed_from_the_regions_of_the_inputs_alone(name: str, data: st.DataObject) -> None:
    body, shape = OPERATORS[name]
    graph = graphs.model(shape, body, **CONSTANTS)
    (output,) = graph.graph.outputs
    node = output.producer()
    assert needs(output, everything(output)) is not None
    region = region_of(data, bounds.static_shape(output))
    needed = needs(output, region)
    if needed is None:
        return
    inputs = {str(value.name): values_of(graph, value) for value in node.inputs}
    spoiled = {each: values if values.dtype == np.int64 else np.full_like(values, 7) for each, values in inputs.items()}
    for index, span in needed.items():
        each = str(node.inputs[index].name)
        part(spoiled[each], span)[...] = part(inputs[each], span)
    before, after = (dict(zip(node.outputs, run(node, each), strict=True))[output] for each in (inputs, spoiled))
    assert part(before, region).shape == tuple(extent(region))
    np.testing.assert_array_equal(part(before, region), part(after, region))


def values_of(graph: ir.Model, value: ir.Value) -> NDArray[np.generic]:
    if value.const_value is not None:
        return np.array(value.const_value.numpy())
    return graphs.random(*bounds.static_shape(value), seed=len(graph.graph))


def run(node: ir.Node, inputs: dict[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    proto: onnx.NodeProto = ir.to_proto(node)
    return ReferenceEvaluator(proto).run(None, inputs)


def test_an_operator_without_a_rule() -> None:
    graph = graphs.model(SHAPE, "y = CumSum(x, axis)", axis=np.array(1))
    (output,) = graph.graph.outputs
    assert needs(output, everything(output)) is None
