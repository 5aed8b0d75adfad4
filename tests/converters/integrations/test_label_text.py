from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.converters.integrations.label_text import label_text
from vitedge.errors import UsageError


@pytest.mark.parametrize("separator", [";", "\n"])
@given(
    labels=st.lists(st.text() | st.sampled_from(["a;b", "", "\r", "a\u2028b", "🌷 tulip", "x, y", '"q"']), min_size=1)
)
def test_labels_come_back_exactly_or_are_refused(separator: str, labels: list[str]) -> None:
    try:
        written = label_text(labels, separator=separator, tool="a tool")
    except UsageError:
        return
    assert written.encode().decode().removesuffix("\n").split(separator) == labels
    assert len(written.splitlines()) == (len(labels) if separator == "\n" else 1)


def test_ordinary_labels_are_written() -> None:
    assert label_text(["x, y", "🌷 tulip", '"q"', "雛菊"], separator=";", tool="a tool") == 'x, y;🌷 tulip;"q";雛菊\n'


def test_a_few_of_the_labels_are_named() -> None:
    with pytest.raises(UsageError, match=r"for a tool: 0 'a;0', 1 'a;1', 2 'a;2', 3 'a;3' and 2 more"):
        label_text([f"a;{index}" for index in range(6)], separator=";", tool="a tool")
