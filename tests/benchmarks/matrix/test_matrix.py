"""The script: rows survive interrupts and failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def matrix(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("matrix")


def test_a_process_that_dies_leaves_a_row(
    every_model: Any, matrix: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = every_model[0]
    monkeypatch.setattr(matrix, "__file__", "/nowhere.py")
    found = matrix.prepare(listed, Path(), 1, tmp_path)
    assert {each.failed for each in found.conversions.values()} == {"the process ended with 2"}
    assert matrix.timed_alone(found, Path(), 1, tmp_path) == found


def test_a_peer_that_ends_the_process_takes_no_conversion_away(
    every_model: Any, matrix: Any, row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child(*_: Any, **__: Any) -> Any:
        (tmp_path / row.name / "converted.json").write_text(json.dumps(asdict(replace(row, comparison=None))))
        raise matrix.ChildFailedError("the process ended with -11")

    monkeypatch.setattr(matrix, "run_in_child", child)
    listed = next(each for each in every_model if each.name == row.name)
    found = matrix.prepare(listed, Path(), 1, tmp_path)
    assert found.conversions == row.conversions
    assert found.comparison.refused == "the process ended with -11, as a peer was made"
    assert matrix.timed_alone(found, Path(), 1, tmp_path).comparison.refused


def test_a_prepared_model_is_not_prepared_again(
    every_model: Any, matrix: Any, row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def child(*_: Any, **given: Any) -> Any:
        calls.append(given["options"])
        return json.loads(json.dumps(asdict(row)))

    monkeypatch.setattr(matrix, "run_in_child", child)
    listed = next(each for each in every_model if each.name == row.name)
    assert matrix.prepare(listed, Path(), 1, tmp_path) == matrix.prepare(listed, Path(), 1, tmp_path) == row
    assert calls == [("--prepare", "--work", str(tmp_path))]


def test_a_model_stays_prepared_until_its_times_count(
    matrix: Any, row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / row.name
    kept.mkdir()
    refused = replace(row, comparison=replace(row.comparison, refused="9 rounds had a load above 3.0"))
    for found, stays in ((refused, True), (row, False)):
        monkeypatch.setattr(matrix, "run_in_child", lambda *_, found=found, **__: asdict(found))
        assert matrix.timed_alone(row, Path(), 1, tmp_path) == found
        assert kept.is_dir() is stays
