"""The picture fits a telephone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def picture(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.matrix.picture")


def test_the_picture_has_a_dot_for_each_way_and_fits_a_telephone(picture: Any, compared: Any) -> None:
    drawn = list(picture.dots({"one": compared, "two": compared, "three": None}, frozenset({"two"})))
    root = ElementTree.fromstring(picture.picture_of(drawn))
    circles = root.findall(f"{SVG}circle")
    assert len(drawn) == 2 * len(picture.SERIES)
    assert len(circles) == len(drawn) + len(picture.SERIES)  # and the legend
    assert int(root.attrib["width"]) <= 390
    assert all(0 < float(each.attrib["cx"]) < 390 for each in circles)
    assert [each.attrib["r"] for each in circles[-5:]] == ["6"] * 5
