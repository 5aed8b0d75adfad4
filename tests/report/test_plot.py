from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitedge.report.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, plot


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
