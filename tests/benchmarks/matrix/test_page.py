"""The page comes from rows alone: gaps, failures, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def page(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.matrix.page")


@pytest.fixture(scope="module")
def packaged(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.matrix.packaged")


def without_peers(text: str) -> str:
    return text.partition("## Beside OpenVINO and NNCF")[0]


def test_a_row_keeps_when_and_where_it_was_measured(
    rows: Any, page: Any, packaged: Any, row: Any, tmp_path: Path
) -> None:
    path = tmp_path / "matrix.json"
    earlier = replace(row, name="vit_flowers", family="trained", trained=True, comparison=None, taken=None)
    rows.write_rows(path, [earlier, row, replace(row, name="deit_small_patch16_224")], 16)
    report = json.loads(path.read_text())
    report |= {"date": "2025-12-31", "processor": "Old CPU", "python": "3.10.0"}
    del report["rows"][0]["comparison"], report["rows"][0]["taken"]  # as earlier versions wrote it
    text = page.page_text(report)
    assert "\n2026-01-02 · Some CPU, 2 CPUs · Python 3.11.7, torch 2\n" in text
    (old,) = [line for line in text.splitlines() if line.startswith("2025-12-31 · Old CPU")]
    assert old.endswith(" · `vit_flowers`")
    assert "- Not measured yet: `vit_flowers`." in text
    assert {each["processor"] for each in packaged.packaged_models(report)["models"]} == {"Some CPU", ""}


def test_a_row_of_another_quantizer_is_named_and_done_again(every_model: Any, rows: Any, page: Any, row: Any) -> None:
    deit = next(each for each in every_model if each.name == row.name)
    ours, theirs = (replace(row.conversions["fp32"], quantizer=name) for name in (rows.QUANTIZER, "NNCF 3.4.0"))
    current, old = (replace(row, conversions={**row.conversions, "int8": each}) for each in (ours, theirs))
    assert rows.remaining([deit], [current], {"torch": "2"}) == []
    assert rows.remaining([deit], [old], {"torch": "2"}) == [deit]
    assert page.other_quantizers([current]) == ""
    assert f"(NNCF 3.4.0): `{row.name}`." in page.other_quantizers([current, old])


def test_a_model_that_fails_keeps_its_row_with_the_reason(rows: Any, page: Any, row: Any, tmp_path: Path) -> None:
    rows.write_rows(tmp_path / "matrix.json", [row], 16)
    text = page.page_text(json.loads((tmp_path / "matrix.json").read_text()))
    (line,) = [each for each in without_peers(text).splitlines() if "deit_tiny_patch16_224" in each]
    columns = [each.strip() for each in line.replace("\\|", "/").strip("|").split("|")]
    assert len(columns) == len(page.HEADINGS)
    assert columns[6] == "failed"
    assert columns[-1] == "int8: a / b cannot be quantized"
    assert "2 of 3 conversions succeeded. Not run yet: `vit_flowers`" in text


def test_the_gap_is_a_column_and_layers_in_16_bits_are_named(rows: Any, page: Any, row: Any, tmp_path: Path) -> None:
    behind = replace(row.conversions["fp16"], sqnr_db=27.9, float_layers=("blocks.0.mlp.fc1", "blocks.3.mlp.fc2"))
    quantized = replace(row, conversions={**row.conversions, "int8": behind})
    rows.write_rows(tmp_path / "matrix.json", [quantized], 16)
    assert rows.read_rows(tmp_path / "matrix.json") == [quantized]
    text = page.page_text(json.loads((tmp_path / "matrix.json").read_text()))
    (line,) = [each for each in without_peers(text).splitlines() if each.startswith(f"| `{row.name}`")]
    columns = dict(zip(page.HEADINGS, (each.strip() for each in line.strip("|").split("|")), strict=True))
    assert columns["gap, dB"] == "10.3"
    assert columns["16-bit layers"] == "2"
    assert f"Gaps above 10 dB: `{row.name}` 10.3." in text
    assert f"- `{row.name}`: blocks.0.mlp.fc1, blocks.3.mlp.fc2" in text
    near = replace(quantized, conversions={**quantized.conversions, "int8": replace(behind, sqnr_db=28.3)})
    assert page.wide_gaps([near, row]) == "No gap is above 10 dB."
    assert page.gap_db(row) is None
    assert page.kept_layers([row]) == []
