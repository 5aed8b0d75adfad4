from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitedge.report.plot import BOTTOM, HEIGHT, LEFT, LETTER, LINE, RIGHT, TOP, WIDTH, Axis, Label, labelled, plot


@given(st.floats(1e-3, 1e4), st.floats(1.0001, 1e4))
def test_ticks_are_round_few_and_within_the_axis(low: float, factor: float) -> None:
    for logarithmic in (True, False):
        axis = Axis(low, low * factor, 0, 100, logarithmic=logarithmic)
        ticks = axis.ticks()
        assert 2 <= len(ticks) <= 24
        assert ticks == sorted(set(ticks))
        assert all(low <= tick <= low * factor for tick in ticks)
        assert np.all((axis(np.array(ticks)) >= 0) & (axis(np.array(ticks)) <= 100))


def test_units_are_text() -> None:
    axes = Axis(0.0, 1.0, LEFT, WIDTH - RIGHT), Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    texts = [each.text for each in ET.fromstring(plot(*axes, "", units=("</svg><b>", "\x1b &"))).iter("text")]
    assert texts.count("</svg><b>") == 1
    assert texts.count(r"\x1b &") == 1


inside = st.tuples(st.floats(LEFT, WIDTH - RIGHT), st.floats(TOP, HEIGHT - BOTTOM))


@given(st.lists(inside, min_size=1, max_size=12))
def test_labels_cover_neither_each_other_nor_a_point_nor_the_edge(points: list[tuple[float, float]]) -> None:
    labels = [Label(x, y, str(number), "") for number, (x, y) in enumerate(points, 1)]
    drawn = re.findall(
        r'<text class="mark-name " x="([\d.]+)" y="([\d.]+)"[^>]*>(\d+)</text>', labelled(labels, points, 4.0)
    )
    assert drawn
    places = [(float(x), float(y), LETTER * len(text)) for x, y, text in drawn]
    for x, y, width in places:
        assert LEFT - 0.1 <= x - width / 2 <= x + width / 2 <= WIDTH - RIGHT + 0.1
        for at_x, at_y in points:
            assert abs(x - at_x) > width / 2 + 3.8 or abs(y - at_y) > LINE / 2 + 3.8
    for (x, y, width), (other_x, other_y, other_width) in itertools.combinations(places, 2):
        assert abs(x - other_x) > (width + other_width) / 2 - 0.2 or abs(y - other_y) > LINE - 0.2


def test_a_label_that_moved_away_has_a_line_to_its_point() -> None:
    crowd = [(300.0 + dx, 100.0 + dy) for dx in (-16, 0, 16) for dy in (-16, 0, 16)]
    assert "leader" in labelled([Label(300.0, 100.0, "1", "")], crowd, 4.0)
    assert "leader" not in labelled([Label(300.0, 100.0, "1", "")], crowd[4:5], 4.0)


def test_ticks_that_would_cover_each_other_have_no_numbers() -> None:
    axes = Axis(0.001, 900.0, LEFT, WIDTH - RIGHT, logarithmic=True), Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    drawing = plot(*axes, "", units=("ms", "%"))
    across = [each for each in ET.fromstring(drawing).iter("text") if each.get("text-anchor") == "middle"]
    assert 5 <= len(across) < len(axes[0].ticks())
    for one, other in itertools.pairwise(across):
        room = LETTER * (len(one.text or "") + len(other.text or "")) / 2
        assert float(other.attrib["x"]) - float(one.attrib["x"]) > room
