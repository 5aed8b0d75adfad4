"""The package carries the figures of the page, and the command reads them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def packaged(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.matrix.packaged")


def test_the_packaged_data_is_that_of_the_page(
    rows: Any, packaged: Any, every_model: Any, row: Any, tmp_path: Path
) -> None:
    trained = replace(row, name="vit_flowers", family="trained", trained=True)
    rows.write_rows(tmp_path / "matrix.json", [trained, row], 16)
    found = packaged.packaged_models(json.loads((tmp_path / "matrix.json").read_text()))
    by_name = {each["name"]: each for each in found["models"]}
    assert set(by_name) == {each.name for each in every_model if not each.trained}
    assert by_name["deit_tiny_patch16_224"]["precisions"]["int8"]["failed"] == "a | b cannot be quantized"
    assert by_name["swin_tiny_patch4_window7_224"]["precisions"] == {}
    assert by_name["deit_tiny_patch16_224"]["against_pytorch"] == {"fp16": {"sqnr_db": 38.2, "agreement": 99.0}}
    (peer,) = by_name["deit_tiny_patch16_224"]["peers"].items()
    assert peer[0] == "OpenVINO 16-bit"
    assert peer[1]["time_ratio"] == 1.0


def test_the_command_reads_what_the_matrix_packages(
    rows: Any, packaged: Any, row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = replace(row.conversions["fp16"], p50_ms=0.0, speedup=0.0)
    rows.write_rows(tmp_path / "matrix.json", [replace(row, conversions={**row.conversions, "fp16": refused})], 16)
    packaged = packaged.packaged_models(json.loads((tmp_path / "matrix.json").read_text()))
    (tmp_path / "models.json").write_text(json.dumps(packaged), encoding="utf-8")
    reader = importlib.import_module("vitedge.verbs.models")
    monkeypatch.setattr(reader, "files", lambda _: tmp_path)
    (found,) = reader.models("deit_tiny_patch16")
    assert (found.date, found.processor) == ("2026-01-02", "Some CPU")
    assert set(found.speedups) == {"fp32"}  # fp16 has no times, int8 failed
    assert found.sqnr_db == {"fp16": 38.2}
    assert found.peers["OpenVINO 16-bit"].time_ratio_range == (1.0, 1.0)
    assert found.fastest_int8_peer is None
