"""The benchmark of quantizers: each of its targets is noticed when it is missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitedge.metrics import Parity


@pytest.fixture(scope="module")
def quantization(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("quantization")


def rows(module: Any, *, top1: float = 77.0, agreement: float = 99.0, sqnr: float = 30.0, theirs: float = 1.0) -> Any:
    """Ours with these figures; fp32 at 77 %, NNCF's recipes at 98 % and 25 dB, one of them better and slower."""

    def row(name: str, top1: float, agreement: float, sqnr: float, ratio: float) -> Any:
        return module.Outcome(name, top1, Parity(0.1, 0.1, sqnr, agreement, 300), 5.0, ratio)

    others = [row(name, 76.0, 98.0, 25.0, 0.5) for name in module.ALPHAS]
    others[2] = row(others[2].name, 76.0, 98.5, 26.0, theirs)
    return [row(module.FULL, 77.0, 100.0, 200.0, 2.0), row(module.OURS, top1, agreement, sqnr, 1.0), *others]


@pytest.mark.parametrize(
    ("changes", "target", "noted"),
    [
        ({}, {}, []),
        ({"top1": 76.75}, {}, []),
        ({"top1": 76.65}, {}, ["top-1 falls by 0.35 points"]),
        ({"top1": 76.65}, {"drop": 0.4}, []),
        ({"agreement": 98.4}, {}, ["agreement 98.40 %"]),
        ({"agreement": 98.5}, {}, []),
        ({"agreement": 98.2}, {"agreement": 90.0}, []),
        ({"agreement": 98.1}, {"agreement": 90.0}, ["agreement 98.10 %"]),
        ({}, {"agreement": 99.5}, ["agreement 99.00 %"]),
        ({"sqnr": 26.0}, {}, ["logit SQNR 26.0 dB"]),
        ({}, {"sqnr_db": 31.0}, ["logit SQNR 30.0 dB"]),
        ({"theirs": 0.985}, {}, []),
        ({"theirs": 0.97}, {}, ["takes 1.03 of the time of NNCF, SmoothQuant 0.15"]),
        ({"top1": 70.0, "sqnr": 5.0}, {}, ["logit SQNR", "top-1"]),
    ],
)
def test_every_target_that_is_missed_is_noted(
    quantization: Any, changes: dict[str, float], target: dict[str, float], noted: list[str]
) -> None:
    found = list(quantization.missed(rows(quantization, **changes), quantization.AccuracyTarget(**target)))
    assert len(found) == len(noted), found
    for note, beginning in zip(found, noted, strict=True):
        assert note.startswith(beginning)


def test_the_demos_model_and_all_trained_ones_are_measured(quantization: Any) -> None:
    assert set(quantization.TARGETS) == {
        "vit_flowers",
        "mobilevit_xxs_flowers",
        "deit_tiny_imagenet",
        "swin_flowers",
        "efficientvit_b0_flowers",
        "mobilevitv2_050_flowers",
        "digits_vit",
    }
    assert quantization.TARGETS["deit_tiny_imagenet"] == quantization.AccuracyTarget(agreement=96.5, sqnr_db=31.8)


def test_without_a_latency_its_columns_are_left_out_and_its_target_is_not_missed(quantization: Any) -> None:
    logits = np.eye(4, 5, dtype=np.float32)
    measured = quantization.row(quantization.OURS, logits, logits, None, {})
    assert (measured.p50_ms, measured.ratio) == (None, None)
    with_latency, without = (quantization.table(found) for found in (rows(quantization), [measured]))
    assert ("p50 ms" in with_latency, "p50 ms" in without) == (True, False)
    assert len({line.count("|") for line in with_latency.splitlines()}) == 1
    assert len({line.count("|") for line in without.splitlines()}) == 1
    unmeasured = [replace(each, p50_ms=None, ratio=None) for each in rows(quantization, theirs=0.5)]
    assert not list(quantization.missed(unmeasured, quantization.AccuracyTarget()))


def test_a_way_that_fails_has_a_row_and_decides_nothing(quantization: Any, tmp_path: Path) -> None:
    broken = quantization.attempted("NNCF default", broken_way, "no kernel | for it")
    assert broken == "no kernel | for it"
    failed = quantization.Outcome("NNCF default", None, None, None, None, failed=broken)
    found = [*(each for each in rows(quantization) if each.name != failed.name), failed]
    assert not list(quantization.missed(found, quantization.AccuracyTarget()))
    alone = [each for each in found if each.name in (quantization.FULL, quantization.OURS)]
    assert not list(quantization.missed(alone, quantization.AccuracyTarget()))
    *_, line = quantization.table(found).splitlines()
    assert line == "| NNCF default |  | failed: no kernel \\| for it |  |  |  |"
    results = {"vit_flowers": result(quantization, rows=tuple(found))}
    quantization.write_results(tmp_path / "found.json", results)
    assert quantization.read_results(tmp_path / "found.json") == results


def test_a_file_that_openvino_cannot_compile_is_noticed_in_another_process(quantization: Any, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "torn.onnx").write_bytes(b"no graph")
    with pytest.raises(RuntimeError, match="OpenVINO cannot compile it: its process ended with exit code 1"):
        quantization.check_compiles(tmp_path / "torn.onnx")


def broken_way(reason: str) -> None:
    raise ValueError(reason)


def result(module: Any, **changes: Any) -> Any:
    taken = module.Taken(changes.pop("date", "2026-01-02"), "some", 2, "3.11.7")
    given = {"versions": module.versions(module.PACKAGES), "rounds": 10, "rows": tuple(rows(module)), **changes}
    return module.Result(taken=taken, **given)


def test_results_come_back_from_json_as_they_were(quantization: Any, tmp_path: Path) -> None:
    results = {"vit_flowers": result(quantization), "swin_flowers": result(quantization, rounds=0)}
    quantization.write_results(tmp_path / "found.json", results)
    assert quantization.read_results(tmp_path / "found.json") == results


@pytest.mark.parametrize(
    ("changes", "again"), [({}, []), ({"rounds": 0}, ["vit_flowers"]), ({"versions": {}}, ["vit_flowers"])]
)
def test_a_model_with_the_same_versions_and_rounds_is_not_measured_again(
    quantization: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], again: list[str]
) -> None:
    file = tmp_path / "found.json"
    quantization.write_results(file, {"vit_flowers": result(quantization, **changes)})
    calls = []

    def measured(model: str, *_: Any) -> Any:
        calls.append(model)
        return result(quantization)

    monkeypatch.setattr(quantization, "measured", measured)
    monkeypatch.setattr("sys.argv", ["quantization.py", "--model", "vit_flowers", "--json", str(file)])
    assert quantization.main() == 0
    assert calls == again
    assert quantization.read_results(file) == {"vit_flowers": result(quantization)}


def test_the_page_says_when_and_where_each_model_was_measured(quantization: Any) -> None:
    results = {
        "vit_flowers": result(quantization),
        "swin_flowers": result(quantization, date="2026-01-03"),
        "digits_vit": result(quantization, rows=tuple(rows(quantization, agreement=97.0))),
    }
    text = quantization.page_text(results)
    assert "- Taken 2026-01-02 on some, 2 CPUs; vitedge" in text
    assert text.count("- Taken ") == 2
    assert "- Target missed: digits_vit: agreement 97.00 %" in text
    assert text.count("Target missed") == 1
