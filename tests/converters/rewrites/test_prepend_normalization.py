from __future__ import annotations

import graphs
import pytest
from graphs import PHOTOS, classifier, noise

from vitedge.converters.rewrites import prepend_normalization
from vitedge.converters.rewrites.apply import REWRITES, apply_rewrites
from vitedge.errors import ConversionError

PREPEND = next(rewrite for rewrite in REWRITES if rewrite.rewrite is prepend_normalization.rewrite)
STEMS = {
    "another operator": "r = Relu(x) maps = Conv(r, w)",
    "two convolutions": "one = Conv(x, w) two = Conv(x, v) maps = Mul(one, two)",
    "a grouped convolution": "maps = Conv<group = 3>(x, g)",
    "patches": "maps = SpaceToDepth<blocksize = 2>(x)",
}


@pytest.mark.parametrize("stem", STEMS)
def test_what_no_convolution_can_take_in_is_computed(stem: str) -> None:
    weights = {"w": graphs.random(4, 3, 3, 3), "v": graphs.random(4, 3, 3, 3, seed=1), "g": graphs.random(6, 1, 3, 3)}
    graph = classifier(STEMS[stem], **weights)
    result = apply_rewrites(graph, noise(), PHOTOS)
    assert [*result.applied] == ["tidy", "prepend normalization"]
    before = ["Cast", "Reshape", "Sub", "Mul", "Reshape", "Transpose"]
    assert [node.op_type for node in result.graph.graph.node][: len(before)] == before


def test_frames_are_taken_already() -> None:
    graph = classifier(STEMS["patches"])
    result = apply_rewrites(graph, noise(), PHOTOS, (PREPEND, PREPEND))
    assert result.refused == {"prepend normalization": "the graph takes uint8 frames already"}


def test_a_wrong_mean_ends_the_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_input = prepend_normalization.replace_input
    monkeypatch.setattr(
        prepend_normalization,
        "replace_input",
        lambda model, size, steps: replace_input(model, size, [("Add", *steps[0][1:]), *steps[1:]]),
    )
    with pytest.raises(ConversionError, match="'prepend normalization' changed the outputs"):
        apply_rewrites(classifier(STEMS["patches"]), noise(), PHOTOS)
