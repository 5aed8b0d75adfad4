"""What is refused of a graph before anything of it is expanded, allocated or run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from vitedge.converters.sources.onnx.graph_check import BITS, GraphError, GraphSize, check_graph, nodes_of, tensors_of
from vitedge.safety.limits import GRAPH_DEPTH, GRAPH_NODES, TENSOR_DIMENSIONS

pytestmark = pytest.mark.timeout(60)

OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]


def value(name: str, *shape: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(
    *nodes: NodeProto, weights: list[TensorProto] | None = None, functions: list[FunctionProto] | None = None
) -> ModelProto:
    made = list(nodes) or [helper.make_node("Neg", ["x"], ["y"])]
    graph = helper.make_graph(made, "g", [value("x", 1, 3)], [value("y", 1, 3)], weights or [])
    return helper.make_model(graph, opset_imports=OPSETS, functions=functions or [])


def function(name: str, *calls: str) -> FunctionProto:
    """A function that calls others of its domain, one after the other."""
    nodes = [
        helper.make_node(each, [f"t{index}"], [f"t{index + 1}"], domain="mine") for index, each in enumerate(calls)
    ]
    nodes = nodes or [helper.make_node("Neg", ["t0"], ["t1"])]
    return helper.make_function("mine", name, ["t0"], [f"t{len(nodes)}"], nodes, OPSETS)


def branch(*nodes: NodeProto) -> GraphProto:
    return helper.make_graph(list(nodes) or [helper.make_node("Neg", ["x"], ["b"])], "b", [], [value("b", 1, 3)])


def chosen(then: GraphProto, otherwise: GraphProto | None = None, output: str = "y") -> NodeProto:
    return helper.make_node("If", ["c"], [output], then_branch=then, else_branch=otherwise or branch())


def test_a_good_graph() -> None:
    weights = [numpy_helper.from_array(np.ones((2, 3), np.float32), "w")]
    assert check_graph(model(weights=weights)) == GraphSize(nodes=1, outside=0)
    assert check_graph(model(chosen(branch(helper.make_node("Abs", ["x"], ["b"]))))).nodes == 3
    assert check_graph(model(functions=[function("A", "B", "B"), function("B")])).nodes == 4


def test_nodes_are_counted() -> None:
    nodes = [helper.make_node("Neg", [f"v{index}"], [f"v{index + 1}"]) for index in range(GRAPH_NODES)]
    graph = model(*nodes)
    check_graph(graph)
    graph.graph.node.add(op_type="Neg", input=["x"], output=["more"])
    with pytest.raises(GraphError, match=f"more than {GRAPH_NODES} nodes"):
        check_graph(graph)


@pytest.mark.parametrize("calls", [2, 3])
def test_functions_that_grow_without_end(calls: int) -> None:
    functions = [function(f"F{level}", *[f"F{level + 1}"] * calls) for level in range(25)]
    graph = model(helper.make_node("F0", ["x"], ["y"], domain="mine"), functions=[*functions, function("F25")])
    with pytest.raises(GraphError, match=f"more than {GRAPH_NODES} nodes"):
        check_graph(graph)


def test_functions_that_grow_in_branches() -> None:
    def body(level: int) -> FunctionProto:
        call = helper.make_node(f"F{level + 1}", ["t0"], ["b"], domain="mine")
        nodes = [chosen(branch(call), branch(call), "t1")]
        return helper.make_function("mine", f"F{level}", ["t0", "c"], ["t1"], nodes, OPSETS)

    functions = [*(body(level) for level in range(20)), function("F20")]
    with pytest.raises(GraphError, match=r"more than .* nodes|deep within each other"):
        check_graph(model(helper.make_node("F0", ["x"], ["y"], domain="mine"), functions=functions))


@pytest.mark.parametrize("names", [["A"], ["A", "B"], ["A", "B", "C"]])
@pytest.mark.parametrize("called", [True, False])
def test_functions_that_call_themselves(names: list[str], called: bool) -> None:
    functions = [function(name, names[(index + 1) % len(names)]) for index, name in enumerate(names)]
    nodes = [helper.make_node("A", ["x"], ["y"], domain="mine")] if called else []
    with pytest.raises(GraphError, match="calls itself"):
        check_graph(model(*nodes, functions=functions))


def test_a_function_in_place_of_an_operator_that_calls_it() -> None:
    """ONNX knows its own domain by two names."""
    itself = helper.make_function("ai.onnx", "Neg", ["t0"], ["t1"], [helper.make_node("Neg", ["t0"], ["t1"])], OPSETS)
    with pytest.raises(GraphError, match="Neg calls itself"):
        check_graph(model(functions=[itself]))


def test_functions_within_functions() -> None:
    functions = [function(f"F{level}", f"F{level + 1}") for level in range(GRAPH_DEPTH + 2)]
    for order in (functions, functions[::-1]):
        graph = model(functions=[*order, function(f"F{GRAPH_DEPTH + 2}")])
        with pytest.raises(GraphError, match="deep within each other"):
            check_graph(graph)


def test_two_functions_of_one_name() -> None:
    with pytest.raises(GraphError, match="one name"):
        check_graph(model(functions=[function("A"), function("A")]))


@pytest.mark.parametrize("kind", ["Loop", "Scan", "SequenceMap"])
def test_loops(kind: str) -> None:
    loop = helper.make_node(kind, ["x"], ["y"], body=branch())
    wrapped = helper.make_function("mine", "A", ["x"], ["y"], [loop], OPSETS)
    for graph in (model(loop), model(chosen(branch(loop))), model(functions=[wrapped])):
        with pytest.raises(GraphError, match=f"'?y'? is a {kind}: a loop"):
            check_graph(graph)


def test_training_steps() -> None:
    graph = model()
    graph.training_info.add()
    with pytest.raises(GraphError, match="training steps"):
        check_graph(graph)


def test_sparse_tensors() -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.zeros(1, np.int64)), [1 << 40]
    )
    graph = model()
    graph.graph.sparse_initializer.append(sparse)
    constant = model(helper.make_node("Constant", [], ["y"], sparse_value=sparse))
    for each in (graph, constant):
        with pytest.raises(GraphError, match="sparse tensors"):
            check_graph(each)


def raw(
    dims: tuple[int, ...], kind: int = TensorProto.FLOAT, data: bytes = b"\0\0\0\0", name: str = "w"
) -> TensorProto:
    return TensorProto(name=name, dims=dims, data_type=kind, raw_data=data)


@pytest.mark.parametrize("place", ["weight", "attribute", "branch", "function"])
@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (raw((1 << 30, 5)), "takes 21474836480 bytes, and has 4"),
        (raw((1 << 40, 1 << 40)), "takes .* bytes"),
        (raw((2,)), "takes 8 bytes, and has 4"),
        (raw((0,)), "takes 0 bytes, and has 4"),
        (raw((-1,)), "has the shape"),
        (raw((1,) * (TENSOR_DIMENSIONS + 1)), "has the shape"),
        (raw((1,) * 100_000), "has the shape"),
        (raw((1,), TensorProto.STRING), "of the type STRING"),
        (raw((1,), TensorProto.COMPLEX64), "of the type COMPLEX64"),
        (raw((1,), TensorProto.UNDEFINED), "of the type UNDEFINED"),
        (raw((1,), 99), "of the type 99"),
        (raw((1,), -1), "of the type -1"),
        (TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, float_data=[1, 2]), "takes 16 bytes, and has 8"),
        (TensorProto(name="w", dims=[4], data_type=TensorProto.INT64, int64_data=[1]), "takes 32 bytes, and has 8"),
        (TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT), "takes 16 bytes, and has 0"),
        (TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT, int32_data=[1]), "takes 4 bytes, and has 0"),
    ],
)
def test_tensors_that_say_more_than_they_have(place: str, tensor: TensorProto, problem: str) -> None:
    constant = helper.make_node("Constant", [], ["b"])
    constant.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor))
    places: dict[str, Callable[[], ModelProto]] = {
        "weight": lambda: model(weights=[tensor]),
        "attribute": lambda: model(constant),
        "branch": lambda: model(chosen(branch(constant))),
        "function": lambda: model(functions=[helper.make_function("mine", "A", [], ["b"], [constant], OPSETS)]),
    }
    with pytest.raises(GraphError, match=problem):
        check_graph(places[place]())


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("is_raw", [True, False])
def test_every_type_is_measured_as_onnx_writes_it(kind: int, is_raw: bool) -> None:
    kinds = {TensorProto.INT4: np.zeros((3, 3), np.int8), TensorProto.UINT4: np.zeros((3, 3), np.uint8)}
    values = kinds.get(kind, np.zeros((3, 3), np.float32))
    if is_raw:
        typed = helper.tensor_dtype_to_np_dtype(kind)
        tensor = numpy_helper.from_array(values.astype(typed), "w")
    else:
        tensor = helper.make_tensor("w", kind, (3, 3), values.flatten())
    assert tensor.data_type == kind
    assert check_graph(model(weights=[tensor])).outside == 0


def test_constants_of_functions_are_counted_as_often_as_they_are_used() -> None:
    constant = helper.make_node("Constant", [], ["t1"], value=numpy_helper.from_array(np.zeros(1 << 18, np.float32)))
    last = helper.make_function("mine", "F12", ["t0"], ["t1"], [constant], OPSETS)
    functions = [function(f"F{level}", f"F{level + 1}", f"F{level + 1}", f"F{level + 1}") for level in range(12)]
    call = helper.make_node("F0", ["x"], ["y"], domain="mine")
    graph = model(call, functions=[*functions[3:], last])
    graph.graph.node[0].op_type = "F3"
    with pytest.raises(GraphError, match="tensors have more than"):
        check_graph(graph)


def test_weights_outside_are_summed() -> None:
    outside = TensorProto(name="w", dims=[3, 5], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    constant = helper.make_node("Constant", [], ["y"])
    constant.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=outside))
    graph = model(constant, weights=[outside])
    assert check_graph(graph).outside == 120
    assert [tensor.name for tensor in tensors_of(graph)] == ["w", "w"]


def test_numbers_inside_and_a_file_too() -> None:
    tensor = raw((1,))
    tensor.external_data.add(key="location", value="*/_ORT_MEM_ADDR_/*")
    with pytest.raises(GraphError, match="names a file"):
        check_graph(model(weights=[tensor]))


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "a\0b", "a\u202eb", "a\u200bb", "a" * 5_000])
@pytest.mark.parametrize(
    "place", ["node", "operator", "domain", "input", "output", "weight", "value", "function", "graph"]
)
def test_names(place: str, name: str) -> None:
    graph = model(weights=[raw((1,))], functions=[function("A")])
    node = graph.graph.node[0]
    match place:
        case "node":
            node.name = name
        case "operator":
            node.op_type = name
        case "domain":
            node.domain = name
        case "input":
            node.input[0] = name
        case "output":
            node.output[0] = name
        case "weight":
            graph.graph.initializer[0].name = name
        case "value":
            graph.graph.output[0].name = name
        case "function":
            graph.functions[0].name = name
        case "graph":
            graph.graph.name = name
    with pytest.raises(GraphError, match=r"control characters|characters; the limit is 4096"):
        check_graph(graph)


def test_names_that_are_no_text() -> None:
    content = model().SerializeToString().replace(b"Neg", b"\xff\xfe\xfd")
    with pytest.raises(GraphError, match=r"the name b'\\xff\\xfe\\xfd' of it is no text"):
        check_graph(ModelProto.FromString(content))


@pytest.mark.parametrize(
    "name", ["τ/Größe:0", "StatefulPartitionedCall/model/Add__12", "blocks.0.attn.qkv.weight", "图"]
)
def test_names_of_other_exporters(name: str) -> None:
    assert check_graph(model(helper.make_node("Neg", ["x"], ["y"], name=name))).nodes == 1


def test_nodes_without_operator_or_output() -> None:
    for node in (
        NodeProto(input=["x"], output=["y"]),
        NodeProto(op_type="Neg", input=["x"]),
        NodeProto(op_type="Neg", output=[""]),
    ):
        with pytest.raises(GraphError, match="no operator, or no output"):
            check_graph(model(node))


def test_values_without_names_or_of_many_dimensions() -> None:
    graph = model()
    graph.graph.input[0].name = ""
    with pytest.raises(GraphError, match="has no name"):
        check_graph(graph)
    graph = model(weights=[raw((1,), name="")])
    with pytest.raises(GraphError, match="has no name"):
        check_graph(graph)
    graph = model()
    graph.graph.value_info.append(value("v", *[1] * 20))
    with pytest.raises(GraphError, match="v of it has 20 dimensions"):
        check_graph(graph)


def test_nodes_of_branches_are_nodes() -> None:
    graph = model(chosen(branch(helper.make_node("Abs", ["x"], ["b"]))))
    assert sorted(node.op_type for node in nodes_of(graph.graph)) == ["Abs", "If", "Neg"]
