"""Chains that only change the order of pixels."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import PREPROCESSING, kinds

from vitedge.converters.rewrites import gather_pixels

SIZES = {
    "none": np.asarray([0]), "one": np.asarray([1]), "three": np.asarray([3]), "end": np.asarray([99]),
    "first": np.asarray([1]), "second": np.asarray([2]),
    "cut": np.asarray([2, 2, 3, 2, 4]), "windows": np.asarray([4, 6, 4]), "rows": np.asarray([2, 3, 2, 2, 4]),
    "map": np.asarray([1, 4, 6, 4]), "nothing": np.zeros(8, np.int64), "border": np.asarray([0, 0, 1, 0, 0, 0, 0, 0]),
}  # fmt: skip
ROLL = """h = Slice({}, one, end, first) g = Slice({}, none, one, first) v = Concat<axis = 1>(h, g)
    w = Slice(v, three, end, second) u = Slice(v, none, three, second) rolled = Concat<axis = 2>(w, u) """
PARTITION = """padded = Pad(rolled, nothing) c = Reshape(padded, cut) t = Transpose<perm = [0, 2, 1, 3, 4]>(c)
    moved = Reshape(t, windows) """
UNFOLD = """lined = Gather<axis = 2>(r, lines) apart = Reshape(lined, table) columns = Gather<axis = 4>(apart, steps)
    six = Reshape(columns, whole) t = Transpose<perm = [0, 1, 2, 4, 3, 5]>(six) moved = Reshape(t, patches) """


def shifted(body: str) -> graphs.ir.Model:
    """A graph on 4x6 tokens of 4 channels."""
    return graphs.model((1, 4, 6, 4), body, **SIZES)


def shifted_windows(*, behind: str = "y = Sigmoid(moved)") -> graphs.ir.Model:
    """Swin's: a roll by one and three, then four windows."""
    return shifted(f"r = Relu(x) {ROLL.format('r', 'r')} {PARTITION} {behind}")


def unfolded() -> graphs.ir.Model:
    """MobileViTv2's, of 6 channels and 8x8 pixels in patches of 2x2."""
    strided = np.concatenate([np.arange(0, 8, 2), np.arange(1, 8, 2)])
    sizes = {
        "lines": strided, "steps": strided, "table": np.asarray([1, 6, 2, 4, 8]),
        "whole": np.asarray([1, 6, 2, 4, 2, 4]), "patches": np.asarray([1, 6, 4, 16]),
    }  # fmt: skip
    return graphs.model((1, 6, 8, 8), f"r = Relu(x) {UNFOLD} y = Sigmoid(moved)", **sizes)


def changed(graph: graphs.ir.Model) -> list[str]:
    """The operators after the rewrite of one chain, which moves values and computes none: bit for bit."""
    assert gather_pixels.check(graph, PREPROCESSING) == ""
    before = graphs.outputs(graph)
    places = gather_pixels.rewrite(graph, PREPROCESSING)
    np.testing.assert_array_equal(graphs.outputs(graph), before)
    assert (places.changed, dict(places.left)) == (1, {})
    assert gather_pixels.check(graph, PREPROCESSING) != ""
    return kinds(graph)


def test_shifted_windows_are_one_gather() -> None:
    assert changed(shifted_windows()) == ["Relu", "Reshape", "Gather", "Reshape", "Sigmoid"]


def test_windows_that_go_back_are_one_gather() -> None:
    body = f"""t0 = Relu(x) c = Reshape(t0, rows) t = Transpose<perm = [0, 2, 1, 3, 4]>(c) r = Reshape(t, map)
        {ROLL.format("r", "r")} y = Sigmoid(rolled)"""
    graph = graphs.model((4, 6, 4), body, **{**SIZES, "rows": np.asarray([2, 2, 3, 2, 4])})
    assert changed(graph) == ["Relu", "Reshape", "Gather", "Reshape", "Sigmoid"]


def test_patches_of_a_map_move_as_whole_pixels() -> None:
    assert changed(unfolded()) == ["Relu", "Transpose", "Reshape", "Gather", "Reshape", "Transpose", "Sigmoid"]


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_a_shuffle_of_patches_moves_pixels(mode: str) -> None:
    graph = graphs.model(
        (1, 3, 4, 16),
        f'r = Relu(x) m = Reshape(r, deep) s = DepthToSpace<blocksize = 2, mode = "{mode}">(m) y = Sigmoid(s)',
        deep=np.asarray([1, 12, 4, 4]),
    )
    if mode == "CRD":
        assert changed(graph) == ["Relu", "Transpose", "Reshape", "Gather", "Reshape", "Transpose", "Sigmoid"]
    else:
        assert gather_pixels.check(graph, PREPROCESSING) == gather_pixels.NO_PIXELS


def test_the_source_may_be_read_elsewhere() -> None:
    graph = shifted_windows(behind="k = Reshape(r, windows) z = Sigmoid(moved) y = Add(k, z)")
    assert changed(graph).count("Gather") == 1


def test_the_source_may_be_a_changed_layout_that_is_read_elsewhere() -> None:
    """SwinV2's residual sum, which is added to what attention makes of its windows."""
    body = f"""t0 = Relu(x) r = Reshape(t0, map) {ROLL.format("r", "r")} {PARTITION} z = Sigmoid(moved)
        k = Sigmoid(r) l = Reshape(k, windows) y = Add(l, z)"""
    operators = changed(graphs.model((1, 24, 4), body, **SIZES))
    assert (operators.count("Gather"), operators.count("Concat")) == (1, 0)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (shifted_windows(behind="s = Sigmoid(moved) m = ReduceMax(h) y = Add(s, m)"), gather_pixels.READ_BETWEEN),
        (shifted(f"r = Relu(x) {ROLL.format('r', 'r')} p = Pad(rolled, border) y = Relu(p)"),
         gather_pixels.NO_PIXELS),
        (shifted(f"r = Relu(x) q = Sigmoid(x) {ROLL.format('r', 'q')} y = Relu(rolled)"),
         gather_pixels.NO_PIXELS),
        (graphs.model((1, 4, 6, 4), "r = Relu(x) t = Transpose<perm = [0, 2, 1, 3]>(r) y = Sigmoid(t)"),
         "no operator copies pixels of one value to another order"),
    ],
)  # fmt: skip
def test_what_stays(graph: graphs.ir.Model, reason: str) -> None:
    assert gather_pixels.check(graph, PREPROCESSING) == reason


def test_a_value_of_unknown_shape_stays() -> None:
    graph = shifted_windows()
    graphs.forget_shape(graph, "r")
    assert gather_pixels.check(graph, PREPROCESSING) == "no operator copies pixels of one value to another order"
