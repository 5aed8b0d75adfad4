"""The peers on the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest


@pytest.fixture(scope="module")
def peer_page(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.matrix.peer_page")


def test_the_reason_names_what_the_peer_does_not_pay(comparison: Any, peer_page: Any, compared: Any) -> None:
    assert peer_page.reason(compared, comparison.NNCF_UNSMOOTHED) == (
        "2 of 48 int8 layers fall back (a, b: why); 46 layers in int8, the peer 48; "
        "reference kernel 200 µs, the peer 10 µs; all operators 1000 µs, the peer 700 µs"
    )
    assert peer_page.reason(compared, comparison.OPENVINO) == "not audited"


def test_a_page_without_peers_says_so(peer_page: Any) -> None:
    assert peer_page.table({"some": None}, "") == ["## Beside OpenVINO and NNCF", "", "Not measured yet.", ""]
    assert peer_page.geometric_means({"some": None}) == []


def test_the_table_marks_faster_peers_and_names_what_is_missing(peer_page: Any, compared: Any) -> None:
    refused = replace(
        compared,
        contenders={name: replace(each, rounds=()) for name, each in compared.contenders.items()},
        refused="9 rounds had a load above 3.0",
    )
    text = "\n".join(peer_page.table({"one": compared, "two": refused, "three": None}, "images/models.svg"))
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert set(lines) == {"one", "two"}
    columns = dict(zip(peer_page.HEADINGS, (each.strip() for each in lines["one"].strip("|").split("|")), strict=True))
    assert columns["int8 ÷ NNCF default"] == "0.50 (0.50-1.00)"
    assert columns["int8 ÷ fp16"] == "0.91 (0.45-1.82)"
    assert "at 0.85 or less, for 0 of 1 models" in text
    assert columns["NNCF default"] == "7.3 dB, 98 %, collapsed"
    assert columns["int8"] == "33.0 dB, 98 %"
    assert columns["faster peer, and why"].startswith("**NNCF, SmoothQuant off**: 2 of 48 int8 layers fall back")
    assert "A peer that did not collapse is faster for 1 of 1 models." in text
    assert "6 rounds with a load above 1.5 times the threads were thrown away" in text
    assert "- Times of `two` refused: 9 rounds had a load above 3.0." in text
    assert "- Not measured yet: `three`." in text
    assert "(images/models.svg)" in text


def test_geometric_means_leave_out_what_collapsed_from_the_fastest(
    comparison: Any, peer_page: Any, compared: Any
) -> None:
    slower = replace(compared.contenders[comparison.NNCF_UNSMOOTHED], rounds=(2.0, 4.0, 8.0))
    other = replace(compared, contenders={**compared.contenders, comparison.NNCF_UNSMOOTHED: slower})
    text = "\n".join(peer_page.geometric_means({"one": compared, "two": other, "three": None}))
    assert "| int8 ÷ the fastest NNCF that did not collapse | 2 | 1.00 | 0.50-2.00 |" in text
    assert "| int8 ÷ NNCF default | 2 | 0.50 | 0.50-0.50 |" in text
