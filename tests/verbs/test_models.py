from __future__ import annotations

import pytest

import vitedge


def test_measured_models_say_where_and_when_they_were_measured() -> None:
    found = vitedge.models()
    assert len(found) > 50
    measured = [each for each in found if each.megabytes]  # times of a busy machine are refused, and sizes stay
    assert len(measured) > 50
    assert all(each.processor and each.date for each in measured)
    assert not any(each.processor or each.date for each in found if not each.megabytes and not each.failed)


def test_a_text_is_part_of_a_name_or_family() -> None:
    found = vitedge.models("MobileViT")
    assert found
    assert all("mobilevit" in f"{each.name} {each.family}".lower() for each in found)


def test_a_text_that_matches_nothing() -> None:
    with pytest.raises(vitedge.UsageError, match="no model of the list matches 'no_such_model'"):
        vitedge.models("no_such_model")
