"""Counting quantizers and changes of precision."""

from __future__ import annotations

import onnx
import vits

from vitedge.converters.tensorrt.casts import counts


def test_of_a_float16_network() -> None:
    found = counts(vits.vit("fp16", blocks=2))
    assert (found.attentions, found.quantizers, found.weights) == (2, 0, 0)
    assert found.casts == 1  # the logits


def test_of_an_int8_network() -> None:
    found = counts(vits.vit("int8", blocks=2))
    assert (
        found.quantizers
        == sum(node.op_type == "QuantizeLinear" for node in vits.vit("int8", blocks=2).graph.node) - found.weights
    )
    assert found.weights > 0
    assert found.per_block(found.quantizers) == found.quantizers / 2


def test_weights_may_be_stored_as_levels() -> None:
    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[1,2] x) => (float[1,2] y) '
        "<int8[2,2] w = {1, 2, 3, 4}, float s = {0.5}, int8 z = {0}> "
        "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear(w, s, z) y = MatMul(d, v) }"
    )
    found = counts(graph)
    assert (found.quantizers, found.weights, found.products, found.casts) == (1, 1, 1, 0)
