"""Bias correction: every layer gets a bias, and the graph computes the same; means over images, by channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import TOKENS, WIDTH, answers, weights

from vitedge.calib.quantization.bias_correction import add_missing_biases, mean_output
from vitedge.calib.quantization.layerwise import LayerwiseRun


def test_every_layer_has_a_bias_and_the_graph_computes_the_same() -> None:
    graph = graphs.block()
    model = ir.from_proto(graph)
    layers = add_missing_biases(model)
    assert all(layer.has_bias for layer in layers)
    assert [layer.output.name for layer in layers][-2:] == ["hidden", "logits"]  # results keep their names
    (before,), (after,) = (answers(each, graphs.frames()) for each in (graph, ir.to_proto(model)))
    np.testing.assert_allclose(after, before, rtol=1e-5)
    assert add_missing_biases(model) == layers


def test_a_bias_may_become_zero_and_stays_one() -> None:
    model = ir.from_proto(graphs.model("a = MatMul(x, w) logits = MatMul(a, w)", w=weights(WIDTH, WIDTH)))
    layer = add_missing_biases(model)[-1]
    layer.replace_bias(model, np.ones(WIDTH))
    layer.replace_bias(model, np.zeros(WIDTH))
    assert layer.has_bias
    assert not layer.bias.any()


@pytest.mark.parametrize(("name", "axes"), [("pixels", (0, 2, 3)), ("hidden", (0, 1))])
def test_means_are_of_all_images_by_channel(name: str, axes: tuple[int, ...]) -> None:
    graph, images = graphs.block(), graphs.frames(5)
    model = ir.from_proto(graph)
    (layer,) = [each for each in add_missing_biases(model) if each.output.name == name]
    run = LayerwiseRun(model, images)
    run.advance(layer.node)
    found = mean_output(model, layer, run.values, str(layer.data.name))
    (expected,) = answers(graph, images, [name])
    np.testing.assert_allclose(found, expected.mean(axis=axes), rtol=1e-4, atol=1e-6)
    assert TOKENS * WIDTH > WIDTH
