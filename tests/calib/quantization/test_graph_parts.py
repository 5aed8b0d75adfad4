"""Parts of a graph: together they give what the graph gives, and a session is opened again only where it must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import answers

from vitedge.bundle.bundle import INPUT_NAME
from vitedge.calib.quantization import graph_parts
from vitedge.calib.quantization.graph_parts import PARTS, GraphParts, Part, Values
from vitedge.graph.layers import linear_layers


def through(parts: tuple[Part, ...], values: Values) -> Any:
    for part in parts:
        values = part.run(values)
        assert set(values) <= part.alive
    return values["logits"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many nodes each session has that was opened."""
    counts, plain = list[int](), graph_parts.open_part

    def counted(model: ir.Model, nodes: Any, *others: Any, **options: Any) -> Any:
        counts.append(len(nodes))
        return plain(model, nodes, *others, **options)

    monkeypatch.setattr(graph_parts, "open_part", counted)
    return counts


def begun(depth: int = 4) -> tuple[ir.Model, GraphParts, list[ir.Node], Values]:
    graph, images = graphs.block(depth=depth), graphs.frames(1)
    model = ir.from_proto(graph)
    return model, GraphParts(model, list(model.graph)), list(model.graph), {INPUT_NAME: images}


def test_the_parts_together_give_what_the_graph_gives(opened: list[int]) -> None:
    model, parts, nodes, values = begun()
    found = parts.behind(0, values)
    assert len(found) > PARTS // 2
    assert sum(opened) == len(nodes)
    np.testing.assert_allclose(through(found, values), answers(ir.to_proto(model), values[INPUT_NAME])[0], rtol=1e-4)


def test_sessions_behind_the_next_cut_serve_every_position_before_it(opened: list[int]) -> None:
    model, parts, nodes, values = begun()
    first = parts.behind(0, values)
    opened.clear()
    (wide,) = [node for node in nodes if node.outputs[0].name == "wide1"]
    names = ["sum0", "norm1"]
    carried = dict(zip(names, answers(ir.to_proto(model), values[INPUT_NAME], names), strict=True))
    second = parts.behind(nodes.index(wide), carried)
    assert 2 < len(second) < len(first)
    assert [each.session for each in second[1:]] == [each.session for each in first[1 - len(second) :]]
    assert len(opened) == 1
    assert opened[0] <= len(nodes) // PARTS
    np.testing.assert_allclose(through(second, carried), through(first, values), rtol=1e-4)


def test_a_part_is_opened_again_where_a_weight_has_changed(opened: list[int]) -> None:
    model, parts, nodes, values = begun()
    before = through(parts.behind(0, values), values)
    opened.clear()
    *_, layer = linear_layers(model.graph)
    layer.set_weight(model, 2 * layer.weight_matrix)
    after = through(parts.behind(0, values), values)
    np.testing.assert_allclose(after, 2 * before, rtol=1e-5)
    assert len(opened) == 1
    assert opened[0] < len(nodes)


def test_a_part_is_opened_again_where_an_attribute_has_changed(opened: list[int]) -> None:
    _, parts, nodes, values = begun()
    before = through(parts.behind(0, values), values)
    opened.clear()
    gelu = next(node for node in nodes[::-1] if node.op_type == "Gelu")
    gelu.attributes["approximate"] = ir.AttrString("approximate", "tanh")
    after = through(parts.behind(0, values), values)
    assert len(opened) == 1
    assert not np.array_equal(before, after)


def test_a_part_is_opened_again_where_a_node_reads_another_value(opened: list[int]) -> None:
    """The changed value is made before the first part, and a part far behind reads it."""
    _, parts, nodes, values = begun()
    parts.behind(0, values)
    (last,) = [node for node in nodes if node.outputs[0].name == "sum3"]
    changed = np.ones((1, graphs.TOKENS, graphs.WIDTH), np.float32)
    plain = through(parts.behind(0, values), values)
    opened.clear()
    last.replace_input_with(0, ir.val("changed"))
    given = values | {"changed": changed}
    found = parts.behind(0, given)
    assert not np.allclose(through(found, given), plain)
    assert 0 < len(opened) < len(found)
    np.testing.assert_array_equal(through(parts.behind(0, given), given), through(found, given))


def test_behind_the_last_node_there_is_no_part() -> None:
    _, parts, nodes, _ = begun()
    assert parts.behind(len(nodes), {}) == ()


def test_a_value_that_skips_parts_is_carried_through_them() -> None:
    body = "kept = Neg(x) " + "".join(
        f"y{index} = Tanh({'x' if index == 0 else f'y{index - 1}'}) " for index in range(2 * PARTS)
    )
    body += f"both = Add(kept, y{2 * PARTS - 1}) logits = MatMul(both, head)"
    graph, images = graphs.model(body, head=graphs.weights(graphs.WIDTH, 5)), graphs.frames(1)
    model, values = ir.from_proto(graph), {INPUT_NAME: images}
    parts = GraphParts(model, list(model.graph)).behind(0, values)
    assert len(parts) == PARTS
    np.testing.assert_allclose(through(parts, values), answers(graph, images)[0], rtol=1e-4)
