"""The list of models."""

from __future__ import annotations

from typing import Any

import pytest

from vitedge.converters.sources.transformers.families import families


def test_each_name_is_listed_once_and_families_of_the_design_are_there(every_model: Any) -> None:
    names = [each.name for each in every_model]
    assert len(names) == len(set(names))
    assert {"Swin", "CSWin", "PVT v1", "TNT", "CrossViT", "MobileViT"} <= {each.family for each in every_model}


def test_every_family_of_transformers_has_a_row(every_model: Any) -> None:
    pytest.importorskip("transformers")
    assert {each.name for each in every_model if each.transformers} == set(families())
