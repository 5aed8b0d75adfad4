"""What a search may cost: products are counted as they are, and larger networks are searched on fewer images."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx")

import layers as graphs
from layers import TOKENS, WIDTH, weights

from vitedge.calib.quantization.search_budget import (
    LARGEST,
    SMALL,
    SMALLEST,
    budget_for,
    multiply_accumulates,
)
from vitedge.graph.layers import linear_layers

STEM = TOKENS * WIDTH * 3


def counted(body: str, shapes: dict[str, tuple[int, ...]], **constants: np.ndarray) -> int:
    """Of all layers but the stem."""
    layers = linear_layers(ir.from_proto(graphs.model(body, **constants)).graph)
    return multiply_accumulates(layers, {"moved": (1, 3, 4, 4), "x": (1, TOKENS, WIDTH), **shapes}) - STEM


def test_products_count_once_for_every_row() -> None:
    assert counted("logits = MatMul(x, head)", {}, head=weights(WIDTH, 5)) == TOKENS * WIDTH * 5


@pytest.mark.parametrize(
    ("attributes", "kernel", "places"),
    [("strides=[2,2],pads=[1,1,1,1]", (7, WIDTH, 3, 3), 2 * 2), ("group=12,pads=[1,1,1,1]", (WIDTH, 1, 3, 3), 4 * 4)],
)
def test_convolutions_count_by_stride_and_groups(attributes: str, kernel: tuple[int, ...], places: int) -> None:
    body = f"logits = Conv<{attributes}>(pixels, kernel)"
    assert counted(body, {"pixels": (1, WIDTH, 4, 4)}, kernel=weights(*kernel)) == places * np.prod(kernel)


def test_small_networks_are_searched_on_all_images_and_huge_ones_on_the_fewest() -> None:
    assert budget_for(0) == budget_for(int(SMALL)) == LARGEST
    assert budget_for(10**12) == SMALLEST


@given(macs=st.integers(0, 10**11), more=st.integers(0, 10**11))
def test_more_products_never_mean_more_images(macs: int, more: int) -> None:
    less, least = budget_for(macs), budget_for(macs + more)
    assert least.first <= less.first <= less.images
    assert least.images <= less.images
