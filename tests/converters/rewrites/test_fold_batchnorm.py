from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds, rewritten

from vitedge.converters.rewrites import fold_batchnorm
from vitedge.converters.rewrites.apply import is_exact
from vitedge.graph.layers import Layer


def normalized(body: str, channels: int = 3, **constants: graphs.Array) -> graphs.ir.Model:
    """A graph on ``(1, 3, 8, 8)``, with parameters ``g``, ``b``, ``m`` and ``v`` of a BatchNormalization."""
    parameters = {name: graphs.random(channels, seed=seed) for seed, name in enumerate("gbm")}
    parameters["v"] = 0.5 + np.abs(graphs.random(channels, seed=3))
    return graphs.model((1, 3, 8, 8), body, **{**parameters, **constants})


@pytest.mark.parametrize(
    ("body", "channels", "weight"),
    [
        ("c = Conv<pads = [1,1,1,1]>(x, w) y = BatchNormalization(c, g, b, m, v)", 6, (6, 3, 3, 3)),
        ("c = Conv(x, w, k) y = BatchNormalization<epsilon = 0.5>(c, g, b, m, v)", 6, (6, 3, 1, 1)),
        ("n = BatchNormalization(x, g, b, m, v) y = Conv(n, w)", 3, (4, 3, 1, 1)),
        ("n = BatchNormalization(x, g, b, m, v) y = Conv<group = 3>(n, w)", 3, (6, 1, 2, 2)),
        ("n = BatchNormalization(x, g, b, m, v) p = GlobalAveragePool(n) f = Flatten(p) y = Gemm<transB = 1>(f, w)",
         3, (4, 3)),
    ],
)  # fmt: skip
def test_a_layer_beside_it_takes_it_in(body: str, channels: int, weight: tuple[int, ...]) -> None:
    graph = normalized(body, channels, w=graphs.random(*weight), k=graphs.random(6))
    before = len(graph.graph)
    assert fold_batchnorm.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(fold_batchnorm, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert len(graph.graph) == before - 1
    assert fold_batchnorm.check(graph, PREPROCESSING) == "there is no BatchNormalization"


def test_through_the_mean_into_both_heads() -> None:
    body = """n = BatchNormalization(x, g, b, m, v) p = GlobalAveragePool(n) f = Flatten(p)
        one = Gemm<transB = 1>(f, w) two = Gemm<transB = 1>(f, k) y = Add(one, two)"""
    graph = normalized(body, w=graphs.random(4, 3), k=graphs.random(4, 3, seed=1))
    places, difference = rewritten(fold_batchnorm, graph)
    assert is_exact(difference)
    assert places.changed == 1
    assert "BatchNormalization" not in kinds(graph)


PADDED = "n = BatchNormalization(x, g, b, m, v) y = Conv<pads = [1,1,1,1]>(n, w)"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (PADDED, fold_batchnorm.NO_LAYER),
        ("n = BatchNormalization(x, g, b, m, v) r = Relu(n) y = Conv(r, w)", fold_batchnorm.NO_LAYER),
        ("n = BatchNormalization(x, g, b, m, v) c = Conv(n, w) r = Relu(n) y = Concat<axis = 1>(c, r)",
         fold_batchnorm.NO_LAYER),
        ("c = Conv(x, s) n = BatchNormalization(c, g, b, m, v) y = Add(c, n)", fold_batchnorm.NO_LAYER),
        ("f = ReduceMean<keepdims = 0>(x, axes) n = BatchNormalization(x, f, b, m, v) y = Conv(n, w)",
         fold_batchnorm.COMPUTED),
        ("y = Conv(x, w)", "there is no BatchNormalization"),
    ],
)  # fmt: skip
def test_refusals(body: str, reason: str) -> None:
    graph = normalized(
        body, w=graphs.random(4, 3, 1, 1), s=graphs.random(3, 3, 1, 1), axes=np.array([0, 2, 3], np.int64)
    )
    assert fold_batchnorm.check(graph, PREPROCESSING) == reason
    places, difference = rewritten(fold_batchnorm, graph)
    assert places.changed == 0
    assert difference.max_abs_error == 0


def test_without_its_guard_the_fold_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = normalized(PADDED, w=graphs.random(4, 3, 1, 1))
    monkeypatch.setattr(Layer, "pads", lambda layer: False)
    places, difference = rewritten(fold_batchnorm, graph)
    assert places.changed == 1
    assert not is_exact(difference)
