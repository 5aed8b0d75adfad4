"""The list and the page of the engines built for TensorRT."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from vitedge.converters.tensorrt.casts import Counts


@pytest.fixture(scope="module")
def matrix(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("tensorrt_matrix")


@pytest.fixture
def row(matrix: Any) -> Any:
    """A model whose int8 graph did not build."""
    made = matrix.Build("", Counts(12, 73, 48, 49, 1), 27.5, 5.9, 8.6, 1.5, "int8", 12, 12)
    builds = {"fp16": made, "int8": matrix.Build(failed="no | kernel")}
    return matrix.EngineRow("vit_tiny_patch16_224", "ViT", False, builds, {"onnx": "1"})


def test_one_model_of_each_family_and_every_trained_one(matrix: Any) -> None:
    listed = matrix.chosen(everything=False)
    assert {each.family for each in listed} == {each.family for each in matrix.FAMILIES}
    assert {each.name for each in matrix.FAMILIES if each.trained} <= {each.name for each in listed}
    untrained = [each.family for each in listed if not each.trained]
    assert len(untrained) == len(set(untrained))
    assert "vit_tiny_patch16_224" in {each.name for each in listed}  # larger ones of the family come later
    assert matrix.chosen(everything=True) == list(matrix.FAMILIES)


def test_rows_survive_json(matrix: Any, row: Any) -> None:
    assert matrix.row_from(json.loads(json.dumps(asdict(row)))) == row


def test_the_page_shows_numbers_and_reasons(matrix: Any, row: Any, tmp_path: Path) -> None:
    matrix.write_rows(tmp_path / "rows.json", [row], images=8)
    text = matrix.page_text(matrix.read_report(tmp_path / "rows.json"))
    assert "1 of 2 graphs built" in text
    assert "| ViT | `vit_tiny_patch16_224` | fp16 | int8 | 27.5 | 4.0 | 0.1 | 12 of 12 | 5.9 | 8.6 | 1.5 |  |" in text
    assert "no \\| kernel" in text
    assert "`vit_flowers`" in text  # not run yet
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_the_page_has_its_places(matrix: Any) -> None:
    text = matrix.TENSORRT_PAGE.read_text(encoding="utf-8")
    for name in ("engines", "accuracy"):
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1
