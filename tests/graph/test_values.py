"""What a node reads: its inputs, and what the bodies of If and Loop capture from outside."""

from __future__ import annotations

from collections.abc import Callable

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from vitedge.graph.channels import traced_layer
from vitedge.graph.edit import drop_unused, order_initializers
from vitedge.graph.layers import linear_layers
from vitedge.graph.values import bodies, comes_from, is_read_once, leads_to, producer_of, values_read

BRANCHES = (
    "p = MatMul(x, w)\ncount = ReduceSum<keepdims = 0>(p)\nyes = Cast<to = 9>(count)\n"
    "y = If (yes) <then_branch = one () => (float[1,5,8] t) "
    "{{ inner = Neg(p) t = {then} }}, else_branch = two () => (float[1,5,8] e) {{ e = Add(x, b) }}>"
)


def branching(then: str = "Identity(inner)") -> ir.Graph:
    constants = {"w": graphs.random(8, 8), "b": graphs.random(8)}
    return graphs.model((1, 5, 8), BRANCHES.format(then=then), **constants).graph


def names(node: ir.Node) -> list[str | None]:
    return [value.name for value in values_read(node)]


def test_captures_are_read_and_what_a_body_computes_itself_is_not() -> None:
    graph = branching()
    assert names(graph[-1]) == ["yes", "p", "x", "b"]
    assert len(list(bodies(graph[-1]))) == 2
    assert names(graph[0]) == ["x", "w"]
    assert not list(bodies(graph[0]))


def test_captures_of_bodies_within_bodies_are_read_by_the_outermost_node() -> None:
    graph = branching(
        "If (yes) <then_branch = three () => (float[1,5,8] u) { u = Mul(inner, b) }, "
        "else_branch = four () => (float[1,5,8] z) { z = Identity(x) }>"
    )
    assert set(names(graph[-1])) == {"yes", "p", "x", "b"}


def test_a_capture_counts_as_a_reader() -> None:
    graph = branching()
    product = graph[0].outputs[0]
    assert not is_read_once(product)
    (layer,) = linear_layers(graph)
    assert sorted(reading.reader for reading in traced_layer(graph, layer)) == ["Neg", "ReduceSum"]


def test_constants_that_bodies_read_are_kept() -> None:
    constants = {"w": graphs.random(8, 8), "b": graphs.random(8)}
    model = graphs.model((1, 5, 8), BRANCHES.format(then="Identity(inner)"), **constants)
    drop_unused(model, model.graph.initializers["b"])
    order_initializers(model.graph)
    assert list(model.graph.initializers) == ["w", "b"]


def test_initializers_come_in_the_order_of_reading_and_unread_ones_go() -> None:
    body = "a = MatMul(x, w2)\nc = Add(a, w0)\ny = MatMul(c, w1)"
    constants = {"w0": graphs.random(8), "w1": graphs.random(8, 8), "w2": graphs.random(8, 8)}
    model = graphs.model((1, 5, 8), body, **constants)
    added = ir.val("unread", const_value=ir.tensor(np.zeros(3), name="unread"))
    model.graph.register_initializer(added)
    order_initializers(model.graph)
    assert list(model.graph.initializers) == ["w2", "w0", "w1"]


@pytest.mark.parametrize(("domain", "found"), [("", True), ("com.example", False)])
def test_a_producer_is_a_standard_operator_of_the_type(domain: str, found: bool) -> None:
    graph = graphs.model((1, 5, 8), "a = Neg(x)\ny = Abs(a)").graph
    graph[0].domain = domain
    assert (producer_of(graph[1].inputs[0], "Exp", "Neg") is graph[0]) == found
    assert producer_of(graph[1].inputs[0], "Exp") is None
    assert producer_of(graph.inputs[0], "Neg") is producer_of(None, "Neg") is None


def test_operators_are_found_before_and_behind_a_value() -> None:
    graph = graphs.model((1, 5, 8), "s = Sigmoid(x) m = Mul(x, s) n = Neg(m) y = Relu(n)").graph
    values = {value.name: value for node in graph for value in node.outputs}

    def is_a(*kinds: str) -> Callable[[ir.Node], bool]:
        return lambda node: node.op_type in kinds

    assert comes_from(values["n"], is_a("Neg"), through=is_a())
    assert comes_from(values["n"], is_a("Sigmoid"), through=is_a("Neg", "Mul"))
    assert not comes_from(values["n"], is_a("Sigmoid"), through=is_a("Neg"))
    assert not comes_from(values["n"], is_a("Relu"), through=is_a("Neg", "Mul", "Sigmoid"))
    assert leads_to(values["m"], is_a("Neg"), through=is_a())
    assert leads_to(values["s"], is_a("Relu"), through=is_a("Mul", "Neg"))
    assert not leads_to(values["s"], is_a("Relu"), through=is_a("Mul"))
    assert not leads_to(values["m"], is_a("Sigmoid"), through=is_a("Mul", "Neg", "Relu"))
