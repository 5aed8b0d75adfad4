from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphs import PHOTOS, classifier, noise
from hypothesis import given, settings
from hypothesis import strategies as st

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.reference import graph_logits
from vitedge.converters.rewrites import fold_normalization
from vitedge.converters.rewrites.apply import Rewrite, apply_rewrites, is_exact
from vitedge.graph.layers import Layer
from vitedge.metrics import parity

FOLD = Rewrite("fold", fold_normalization.check, fold_normalization.rewrite)
channel = st.tuples(*[st.floats(0, 1, width=32)] * 3)
spread = st.tuples(*[st.floats(0.0625, 2, width=32)] * 3)
padding = st.one_of(
    st.tuples(*[st.integers(0, 2)] * 4).map(lambda pads: f", pads = {[*pads]}"),
    st.sampled_from(["VALID", "SAME_UPPER", "SAME_LOWER"]).map(lambda kind: f', auto_pad = "{kind}"'),
    st.just(""),
)


def normalized(mean: tuple[float, ...], std: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Preprocessing:
    return Preprocessing(input_size=PHOTOS.input_size, resize_size=PHOTOS.input_size, mean=mean, std=std)


@settings(deadline=None, max_examples=60)
@given(
    mean=channel,
    std=spread,
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pads=padding,
    with_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_folding_is_exact_for_any_convolution(
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    kernel: int,
    stride: int,
    dilation: int,
    pads: str,
    with_bias: bool,
    seed: int,
) -> None:
    apart = 1 if "auto_pad" in pads else dilation
    attributes = f"strides = {[stride] * 2}, dilations = {[apart] * 2}{pads}"
    weights = {"w": graphs.random(4, 3, kernel, kernel, seed=seed), "b": graphs.random(4, seed=seed)}
    graph = classifier(f"maps = Conv<{attributes}>(x, w{', b' if with_bias else ''})", **weights)
    preprocessing = normalized(mean, std)
    result = apply_rewrites(graph, noise(), preprocessing, (FOLD,))
    assert result.applied["fold"].changed == 1
    assert is_exact(parity(graph_logits(graph, noise(), preprocessing), result.logits))


@pytest.mark.parametrize(
    ("mean", "pads", "expected"),
    [
        (0.5, 0, ["Cast", "Transpose", "Conv"]),
        (0.5, 1, ["Cast", "Reshape", "Sub", "Reshape", "Transpose", "Conv"]),
        (0.0, 0, ["Cast", "Transpose", "Conv"]),
        (0.0, 1, ["Cast", "Transpose", "Conv"]),
    ],
)
def test_no_more_operators_than_needed(mean: float, pads: int, expected: list[str]) -> None:
    graph = classifier(f"maps = Conv<pads = {[pads] * 4}>(x, w)", w=graphs.random(4, 3, 3, 3))
    result = apply_rewrites(graph, noise(), normalized((mean,) * 3), (FOLD,))
    assert [node.op_type for node in result.graph.graph.node][: len(expected)] == expected


@pytest.mark.parametrize(
    ("stem", "reason"),
    [
        ("r = Relu(x) maps = Conv(r, w)", "the input feeds Relu, not one Conv"),
        ("one = Conv(x, w) two = Conv(x, v) maps = Mul(one, two)", "the input feeds Conv, Conv, not one Conv"),
        ("maps = Conv<group = 3>(x, g)", "the first Conv is grouped"),
        ("peak = ReduceMax(w) product = Mul(w, peak) maps = Conv(x, product)",
         "the weights of the first Conv are not constant"),
    ],
)  # fmt: skip
def test_refusals(stem: str, reason: str) -> None:
    weights = {"w": graphs.random(4, 3, 3, 3), "v": graphs.random(4, 3, 3, 3, seed=1), "g": graphs.random(6, 1, 3, 3)}
    graph = classifier(stem, **weights)
    assert fold_normalization.check(ir.from_proto(graph), PHOTOS) == reason


def test_frames_are_taken_already() -> None:
    graph = classifier("maps = Conv(x, w)", w=graphs.random(4, 3, 3, 3))
    result = apply_rewrites(graph, noise(), PHOTOS, (FOLD, FOLD))
    assert result.refused["fold"] == "the graph takes uint8 frames already"


def test_the_mean_beside_the_padding_is_caught_where_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = classifier("maps = Conv<pads = [1, 1, 1, 1]>(x, w)", w=np.ones((4, 3, 3, 3)))
    monkeypatch.setattr(Layer, "pads", lambda layer: False)
    assert list(apply_rewrites(graph, noise(), PHOTOS, (FOLD,)).unproved) == ["fold"]
