"""Observers: all images by channel, in memory that does not grow, and what is not finite by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import TOKENS, WIDTH, answers

from vitedge.calib.quantization.observers import FirstImages, observe
from vitedge.errors import CalibrationError
from vitedge.progress import Silent


def test_minimum_and_maximum_are_of_all_images_and_by_channel_and_of_those_that_are_tried_apart() -> None:
    graph, images = graphs.block(), graphs.frames(5)
    seen = observe(graph, {"gelu0": -1, "pixels": 1}, images, FirstImages(2), Silent()).tensors
    gelu, pixels = answers(graph, images, ["gelu0", "pixels"])
    assert seen["gelu0"].shape == (1, TOKENS, 2 * WIDTH)
    for found, expected in (
        (seen["gelu0"].tried, gelu[:2]),
        (seen["gelu0"].others, gelu[2:]),
        (seen["gelu0"].min_max, gelu),
    ):
        np.testing.assert_allclose(found.low, expected.min(axis=(0, 1)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.high, expected.max(axis=(0, 1)), rtol=1e-4)
        np.testing.assert_allclose(found.largest, np.abs(expected).max(axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(seen["pixels"].min_max.high, pixels.max(axis=(0, 2, 3)), rtol=1e-4)
    histogram = seen["gelu0"].histogram
    assert histogram.counts.sum() == gelu.size
    assert histogram.high == pytest.approx(gelu.max(), rel=1e-4)


def test_memory_is_flat_in_the_number_of_images() -> None:
    def held(observed: Any) -> int:
        min_max = [each for seen in observed.values() for each in (seen.tried, seen.others)]
        counts = [seen.histogram.counts for seen in observed.values()]
        return sum(each.low.nbytes + each.high.nbytes for each in min_max) + sum(each.nbytes for each in counts)

    graph = graphs.block()
    axes, first = {"gelu0": -1, "x": -1}, FirstImages(outputs=1)
    found = [observe(graph, axes, graphs.frames(count), first, Silent()) for count in (1, 40)]
    assert len({held(each.tensors) for each in found}) == len({len(each.outputs) for each in found}) == 1


def test_the_outputs_of_the_first_images_are_kept() -> None:
    graph, images = graphs.block(), graphs.frames(4)
    for count in (0, 3, 9):
        found = observe(graph, {"gelu0": -1}, images, FirstImages(2, count), Silent()).outputs
        expected = answers(graph, images)[0].reshape(4, -1)[:count]
        np.testing.assert_allclose(np.reshape(found, expected.shape), expected, rtol=1e-4)


def test_the_output_itself_can_be_observed() -> None:
    graph, images = graphs.block(), graphs.frames(2)
    seen = observe(graph, {"logits": -1}, images, FirstImages(2), Silent()).tensors
    assert seen["logits"].histogram.high == pytest.approx(answers(graph, images)[0].max(), rel=1e-4)


def test_a_tensor_that_is_not_finite_though_the_outputs_are() -> None:
    body = "logarithm = Log(x) capped = Clip(logarithm, least, most) logits = MatMul(capped, head)"
    graph = graphs.model(body, least=np.array(-1.0), most=np.array(1.0), head=graphs.weights(WIDTH, 5))
    (layer,) = [node.name for node in graph.graph.node if node.op_type == "Log"]
    with pytest.raises(CalibrationError, match="calibration image 1 is not finite") as caught:
        observe(graph, {"logarithm": -1}, graphs.frames(2), FirstImages(1), Silent())
    assert repr(layer) in caught.value.problem
