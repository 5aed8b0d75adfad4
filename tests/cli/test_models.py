"""``vitedge models`` shows the matrix that the package carries."""

from __future__ import annotations

import json

import pytest

from vitedge.cli import main
from vitedge.verbs.models import models


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["models", *arguments]) == 0
    return capsys.readouterr().out


def test_a_line_for_each_under_its_family(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).splitlines()
    for model in models():
        position = next(number for number, line in enumerate(lines) if line.split()[:1] == [model.name])
        headings = [line for line in lines[:position] if line and not line.startswith(" ")]
        assert headings[-1] == model.family


def test_models_that_people_ask_for_are_there() -> None:
    names = {model.name for model in models()}
    assert {"deit_tiny_patch16_224", "cswin_tiny_224", "swin_tiny_patch4_window7_224", "mobilevit_s"} <= names


def test_a_filter_is_part_of_a_name_or_a_family(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "mobilevit", "--json"))
    assert found["version"] == 1
    assert found["models"]
    assert all("mobilevit" in f"{each['name']} {each['family']}".lower() for each in found["models"])
    for each in found["models"]:  # measured in all precisions, or not yet at all
        assert set(each["speedups"]) | set(each["failed"]) in ({"fp32", "fp16", "int8"}, set())


def test_a_filter_that_matches_nothing_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "mobilevit_xl"]) == 1
    assert "no model of the list matches 'mobilevit_xl'" in capsys.readouterr().err
