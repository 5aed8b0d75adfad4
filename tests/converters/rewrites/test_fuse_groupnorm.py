"""GroupNorm of one group, as exporters spell it."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds, random, rewritten

from vitedge.converters.rewrites import fuse_groupnorm
from vitedge.converters.rewrites.apply import is_exact

SHAPE = (1, 6, 4, 3)
SPELLED = """row = Reshape(x, one_row) normal = InstanceNormalization<epsilon = 0.001>(row, scale, shift)
    whole = Reshape(normal, map) scaled = Mul(whole, factors) y = Add(scaled, offsets)"""


def spelled_out(
    *, row: tuple[int, ...] = (1, 1, -1), back: tuple[int, ...] = SHAPE, scale: float = 1.0, shift: float = 0.0
) -> graphs.ir.Model:
    groups = row[1]
    constants = {
        "one_row": np.asarray(row, np.int64),
        "map": np.asarray(back, np.int64),
        "scale": np.full(groups, scale),
        "shift": np.full(groups, shift),
        "factors": random(6, 1, 1),
        "offsets": random(6, 1, 1, seed=1),
    }
    return graphs.model(SHAPE, SPELLED, **constants)


@pytest.mark.parametrize("row", [(1, 1, -1), (1, 1, 24, 3)])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.5, 0.25)])
def test_one_normalization_of_the_map(row: tuple[int, ...], scale: float, shift: float) -> None:
    graph = spelled_out(row=row, scale=scale, shift=shift)
    assert fuse_groupnorm.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(fuse_groupnorm, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert kinds(graph) == ["LayerNormalization", "Mul", "Add"]
    assert next(iter(graph.graph)).attributes.get_int("axis") == 1
    assert fuse_groupnorm.check(graph, PREPROCESSING) == "no GroupNorm is spelled out"


def test_several_groups_stay() -> None:
    assert fuse_groupnorm.check(spelled_out(row=(1, 2, -1)), PREPROCESSING) == fuse_groupnorm.SEVERAL_GROUPS


def test_a_result_of_another_shape_stays() -> None:
    graph = spelled_out(back=(1, 6, 2, 6))
    assert fuse_groupnorm.check(graph, PREPROCESSING) == fuse_groupnorm.RESHAPED


def test_a_normalization_of_single_channels_stays() -> None:
    body = "y = InstanceNormalization(x, scale, shift)"
    graph = graphs.model(SHAPE, body, scale=np.ones(6), shift=np.zeros(6))
    assert fuse_groupnorm.check(graph, PREPROCESSING) == fuse_groupnorm.RESHAPED


def test_a_row_that_something_else_reads_stays() -> None:
    graph = graphs.model(
        SHAPE,
        "row = Reshape(x, s) n = InstanceNormalization(row, one, zero) m = Reshape(n, t) r = Relu(n) "
        "k = Reshape(r, t) y = Add(m, k)",
        s=np.asarray([1, 1, -1]), t=np.asarray(SHAPE), one=np.ones(1), zero=np.zeros(1),
    )  # fmt: skip
    assert fuse_groupnorm.check(graph, PREPROCESSING) == fuse_groupnorm.RESHAPED
