"""Channels brought closer together: exact without a quantizer, finer with one, and judged on images of their own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import WIDTH, weights

from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.layerwise import LayerwiseRun
from vitedge.calib.quantization.observers import ChannelMinMax
from vitedge.calib.quantization.search_budget import SearchBudget
from vitedge.calib.quantization.smoothquant import MARGINS, RATIOS, Smoothing, best_smoothing

TENSORS = arrays.arrays(np.float32, (7, 5), elements=st.floats(-100, 100, width=32))


@given(TENSORS, st.sampled_from(RATIOS))
def test_factors_lie_between_one_and_the_ratio_and_no_channel_overtakes_the_largest(
    values: NDArray[np.float32], ratio: float
) -> None:
    found_range = ChannelMinMax.of(values, -1)
    factors = Smoothing(ratio, 1.0).factors(found_range)
    assert factors.dtype == np.float32
    assert np.all((factors >= 1 - 1e-6) & (factors <= ratio * (1 + 1e-6)))
    assert np.all(found_range.largest * factors <= found_range.largest.max() * (1 + 1e-6))


@given(TENSORS, st.sampled_from(RATIOS), st.sampled_from([Scheme.ASYMMETRIC, Scheme.SYMMETRIC, Scheme.SHIFTED]))
def test_what_lies_within_the_range_is_off_by_half_a_step_of_its_channel(
    values: NDArray[np.float32], ratio: float, scheme: Scheme
) -> None:
    found = Smoothing(ratio, 1.0).quantizer(ChannelMinMax.of(values, -1), scheme)
    step = found.quantizer.scale / found.factors
    assert np.all(np.abs(found(values) - values) <= step * 1.01 + 1e-6)


def test_the_ratio_of_one_scales_nothing_and_a_tensor_of_zeros_has_no_factors() -> None:
    values = np.array([[1.0, -4.0, 0.0]], np.float32)
    np.testing.assert_array_equal(Smoothing(1.0, 1.0).factors(ChannelMinMax.of(values, -1)), [1, 1, 1])
    np.testing.assert_array_equal(Smoothing(5.0, 1.0).factors(ChannelMinMax.of(values, -1)), [4, 1, 5])
    np.testing.assert_array_equal(Smoothing(5.0, 1.0).factors(ChannelMinMax.of(0 * values, -1)), [1, 1, 1])


def test_the_margin_is_of_the_range() -> None:
    found_range = ChannelMinMax.of(np.array([[-1.0, 3.0], [1.0, 2.0]], np.float32), -1)
    whole, half = (Smoothing(1.0, margin).quantizer(found_range, Scheme.ASYMMETRIC) for margin in (1.0, 0.5))
    assert half.quantizer.scale == pytest.approx(whole.quantizer.scale / 2)
    assert half(np.array([[0.0, 3.0]], np.float32))[0, 1] == pytest.approx(1.5, abs=half.quantizer.scale)


def choice(unseen: float) -> Smoothing:
    """What is chosen for a tensor with a large and many small channels, all of which matter.

    Args:
        unseen: how much larger the small channels are in one of the images that are tried than in those that the
            range comes from.
    """
    sizes, head = np.ones(WIDTH), weights(WIDTH, 5)
    sizes[3] = 12.0
    head[3] /= 12.0
    graph = graphs.model("wide = Mul(x, sizes) logits = MatMul(wide, head)", sizes=sizes, head=head)
    model = ir.from_proto(graph)
    images = graphs.frames(16)
    run = LayerwiseRun(model, images)
    reader = next(node for node in model.graph if node.inputs[-1].name == "head")
    run.advance(reader)
    reader.replace_input_with(0, ir.val("wide_read"))
    others = ChannelMinMax.of(np.concatenate([values["wide"] for values in run.values[8:]]), -1)
    larger = np.where(np.arange(WIDTH) == 3, 1.0, unseen).astype(np.float32)
    run.values[6]["wide"] = run.values[6]["wide"] * larger
    return best_smoothing(run, "wide", "wide_read", others, 8, SearchBudget(2, 4), Scheme.ASYMMETRIC)


def test_what_the_range_has_not_seen_decides() -> None:
    """One image of eight, and not among the first four: it is found because it lies the furthest beyond."""
    assert choice(unseen=1.0).ratio == max(RATIOS)
    assert choice(unseen=6.0).ratio < max(RATIOS)


def test_all_choices_are_distinct_and_the_plain_one_comes_first() -> None:
    assert (RATIOS[0], MARGINS[0]) == (1.0, 1.0)
    assert min(RATIOS) == 1.0
    assert len(set(RATIOS)) == len(RATIOS)
    assert len(set(MARGINS)) == len(MARGINS)
