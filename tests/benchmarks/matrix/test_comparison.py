"""What counts as faster and as collapsed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest


def with_sqnr(comparison: Any, compared: Any, ours: float, theirs: float) -> Any:
    changed = {"int8": ours, comparison.NNCF: theirs}
    contenders = {name: replace(compared.contenders[name], sqnr_db=value) for name, value in changed.items()}
    return replace(compared, contenders={**compared.contenders, **contenders})


def test_ratios_are_taken_within_each_round(comparison: Any, compared: Any) -> None:
    assert compared.ratios(comparison.NNCF) == [0.5, 1.0, 0.5]
    assert compared.ratios(comparison.NNCF_UNSMOOTHED) == [2.0, 1.25, 2.0]
    assert compared.ratios(comparison.OPENVINO) == pytest.approx([1.1, 1.1, 1.1])


@pytest.mark.parametrize(
    ("ours", "theirs", "collapsed"),
    [(33.0, 14.9, True), (33.0, 15.1, False), (10.0, 7.1, False), (10.0, 6.9, True), (8.0, 14.0, False)],
)
def test_a_peer_collapsed_if_it_is_bad_and_far_behind_ours(
    comparison: Any, compared: Any, ours: float, theirs: float, collapsed: bool
) -> None:
    assert with_sqnr(comparison, compared, ours, theirs).collapsed(comparison.NNCF) is collapsed


def test_sixteen_bits_never_collapse(comparison: Any, compared: Any) -> None:
    low = replace(compared.contenders[comparison.OPENVINO], sqnr_db=1.0)
    assert not replace(compared, contenders={**compared.contenders, comparison.OPENVINO: low}).collapsed(
        comparison.OPENVINO
    )


def test_a_peer_that_collapsed_is_neither_the_fastest_nor_faster(comparison: Any, compared: Any) -> None:
    assert compared.fastest_int8() == comparison.NNCF_UNSMOOTHED
    assert compared.faster_peers() == (comparison.NNCF_UNSMOOTHED, comparison.OPENVINO)
    rounds = (0.1, 0.1, 0.1)
    fast = replace(compared.contenders[comparison.NNCF], rounds=rounds)
    faster = replace(compared, contenders={**compared.contenders, comparison.NNCF: fast})
    assert faster.fastest_int8() == comparison.NNCF_UNSMOOTHED
    assert comparison.NNCF not in faster.faster_peers()
    kept = with_sqnr(comparison, faster, 33.0, 20.0)
    assert kept.fastest_int8() == comparison.NNCF
    assert comparison.NNCF in kept.faster_peers()
