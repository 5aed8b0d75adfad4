"""The matrix: rows survive interrupts and failures, ratios are what they say, and pages come from rows alone."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitedge.converters.sources.parse import HubFolder
from vitedge.converters.sources.transformers.families import families
from vitedge.converters.sources.transformers.models import load_transformers

ROOT = Path(__file__).resolve().parents[2]
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}


@pytest.fixture(scope="module")
def matrix() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("matrix")


@pytest.fixture
def row(matrix: Any) -> Any:
    """A model that converted but for int8."""
    full = matrix.Conversion("", 5.0, 22.8, "fp32", 120.4, 118.2, 100.0, 8.1, 1.3, (1.2, 1.4))
    half = matrix.Conversion("", 5.0, 11.5, "bf16", 120.4, 38.2, 99.0, 5.1, 2.1, (2.0, 2.2))
    failed = matrix.Conversion(failed="a | b cannot be quantized")
    conversions = {"fp32": full, "fp16": half, "int8": failed}
    peers = importlib.import_module("common.peers")
    timed = {
        name: peers.Contender("", 38.2, 99.0, (5.0, 5.2), peers.Kernels(0, 0)) for name in ("fp16", peers.OPENVINO)
    }
    failing = peers.Contender("no operator")
    compared = peers.Comparison({**timed, peers.NNCF: failing, peers.NNCF_UNSMOOTHED: failing}, 64)
    return matrix.Row(
        "deit_tiny_patch16_224",
        "DeiT",
        False,
        (224, 224),
        5_717_416,
        1_253_686_656,
        conversions,
        {"torch": "2"},
        compared,
        matrix.Taken("2026-01-02", "Some CPU", 2, "3.11.7"),
    )


def without_peers(text: str) -> str:
    return text.partition("## Beside OpenVINO and NNCF")[0]


def test_each_name_is_listed_once_and_families_of_the_design_are_there(matrix: Any) -> None:
    names = [each.name for each in matrix.FAMILIES]
    assert len(names) == len(set(names))
    assert {"Swin", "CSWin", "PVT v1", "TNT", "CrossViT", "MobileViT"} <= {each.family for each in matrix.FAMILIES}


def test_every_family_of_transformers_has_a_row(matrix: Any) -> None:
    pytest.importorskip("transformers")
    assert {each.name for each in matrix.FAMILIES if each.transformers} == set(families())


@pytest.mark.parametrize("model_type", ["mobilenet_v1", "timm_wrapper", "clip"])
def test_a_model_of_transformers_is_written_once(matrix: Any, tmp_path: Path, model_type: str) -> None:
    pytest.importorskip("transformers")
    listed = next(each for each in matrix.FAMILIES if each.name == model_type)
    options = {"clip": {"vision_config": TINY}, "timm_wrapper": {"architecture": "resnet18"}}.get(model_type, {})
    small = replace(listed, input_size=32, options=options)
    arguments = matrix.conversion_arguments(small, Path(), tmp_path)
    written = (arguments["source"] / "config.json").stat().st_mtime_ns
    model = load_transformers(HubFolder(arguments["source"]), labels=None)
    assert model.card.preprocessing.input_size == (32, 32)
    assert model.card.architecture == families()[model_type].classifiers[0]
    assert matrix.conversion_arguments(small, Path(), tmp_path) == arguments
    assert (arguments["source"] / "config.json").stat().st_mtime_ns == written


def test_rows_come_back_from_json_as_they_were(matrix: Any, row: Any, tmp_path: Path) -> None:
    matrix.write_rows(tmp_path / "new" / "matrix.json", [row], 16)
    assert matrix.read_rows(tmp_path / "new" / "matrix.json") == [row]
    assert matrix.read_rows(tmp_path / "nothing.json") == []


def test_what_is_done_with_these_versions_is_not_done_again(matrix: Any, row: Any) -> None:
    deit = next(each for each in matrix.FAMILIES if each.name == row.name)
    others = [each for each in matrix.FAMILIES if each.name != row.name]
    assert matrix.remaining([deit, *others], [row], {"torch": "2"}) == others
    assert deit in matrix.remaining([deit, *others], [row], {"torch": "3"})


def test_what_was_not_timed_beside_the_peers_is_done_again(matrix: Any, row: Any) -> None:
    deit = next(each for each in matrix.FAMILIES if each.name == row.name)
    refused = replace(row, comparison=replace(row.comparison, refused="9 rounds had a load above 3.0"))
    for without in (replace(row, comparison=None), refused):
        assert matrix.remaining([deit], [without], {"torch": "2"}) == [deit]
    failed = matrix.failed_row(deit, "it died")
    assert matrix.remaining([deit], [failed], failed.versions) == []  # nothing to time


def test_a_row_keeps_when_and_where_it_was_measured(matrix: Any, row: Any, tmp_path: Path) -> None:
    path = tmp_path / "matrix.json"
    earlier = replace(row, name="vit_flowers", family="trained", trained=True, comparison=None, taken=None)
    matrix.write_rows(path, [earlier, row, replace(row, name="deit_small_patch16_224")], 16)
    report = json.loads(path.read_text())
    report |= {"date": "2025-12-31", "processor": "Old CPU", "python": "3.10.0"}
    del report["rows"][0]["comparison"], report["rows"][0]["taken"]  # as earlier versions wrote it
    text = matrix.page(report)
    assert "\n2026-01-02 · Some CPU, 2 CPUs · Python 3.11.7, torch 2\n" in text
    (old,) = [line for line in text.splitlines() if line.startswith("2025-12-31 · Old CPU")]
    assert old.endswith(" · `vit_flowers`")
    assert "- Not measured yet: `vit_flowers`." in text
    assert {each["processor"] for each in matrix.packaged(report)["models"]} == {"Some CPU", ""}


def test_times_that_were_refused_are_not_printed(matrix: Any, row: Any) -> None:
    assert matrix.speed((), ()) == {}
    untimed = replace(row.conversions["fp32"], p50_ms=0.0, speedup=0.0, speedup_range=(0.0, 0.0))
    assert matrix.faster(untimed) == ""


def test_a_row_of_another_quantizer_is_named_and_done_again(matrix: Any, row: Any) -> None:
    deit = next(each for each in matrix.FAMILIES if each.name == row.name)
    ours, theirs = (replace(row.conversions["fp32"], quantizer=name) for name in (matrix.QUANTIZER, "NNCF 3.4.0"))
    current, old = (replace(row, conversions={**row.conversions, "int8": each}) for each in (ours, theirs))
    assert matrix.remaining([deit], [current], {"torch": "2"}) == []
    assert matrix.remaining([deit], [old], {"torch": "2"}) == [deit]
    assert matrix.other_quantizers([current]) == ""
    assert f"(NNCF 3.4.0): `{row.name}`." in matrix.other_quantizers([current, old])


def test_a_new_row_takes_the_place_of_its_old_one_in_the_order_of_the_list(matrix: Any, row: Any) -> None:
    swin = replace(row, name="swin_tiny_patch4_window7_224", family="Swin")
    again = replace(row, parameters=1)
    assert matrix.with_row([row, swin], again) == [again, swin]
    assert matrix.with_row([swin], row) == [row, swin]


def test_the_speedup_is_the_median_of_the_ratios_of_each_round(matrix: Any) -> None:
    found = matrix.speed([1.0, 2.0, 4.0], [2.0, 2.0, 16.0])
    assert found == {"p50_ms": 2.0, "speedup": 2.0, "speedup_range": (1.0, 4.0)}


def test_a_model_that_fails_keeps_its_row_with_the_reason(matrix: Any, row: Any, tmp_path: Path) -> None:
    matrix.write_rows(tmp_path / "matrix.json", [row], 16)
    text = matrix.page(json.loads((tmp_path / "matrix.json").read_text()))
    (line,) = [each for each in without_peers(text).splitlines() if "deit_tiny_patch16_224" in each]
    columns = [each.strip() for each in line.replace("\\|", "/").strip("|").split("|")]
    assert len(columns) == len(matrix.HEADINGS)
    assert columns[6] == "failed"
    assert columns[-1] == "int8: a / b cannot be quantized"
    assert "2 of 3 conversions succeeded. Not run yet: `vit_flowers`" in text


def test_the_gap_is_a_column_and_layers_in_16_bits_are_named(matrix: Any, row: Any, tmp_path: Path) -> None:
    behind = replace(row.conversions["fp16"], sqnr_db=27.9, float_layers=("blocks.0.mlp.fc1", "blocks.3.mlp.fc2"))
    quantized = replace(row, conversions={**row.conversions, "int8": behind})
    matrix.write_rows(tmp_path / "matrix.json", [quantized], 16)
    assert matrix.read_rows(tmp_path / "matrix.json") == [quantized]
    text = matrix.page(json.loads((tmp_path / "matrix.json").read_text()))
    (line,) = [each for each in without_peers(text).splitlines() if each.startswith(f"| `{row.name}`")]
    columns = dict(zip(matrix.HEADINGS, (each.strip() for each in line.strip("|").split("|")), strict=True))
    assert columns["gap, dB"] == "10.3"
    assert columns["16-bit layers"] == "2"
    assert f"Gaps above 10 dB: `{row.name}` 10.3." in text
    assert f"- `{row.name}`: blocks.0.mlp.fc1, blocks.3.mlp.fc2" in text
    near = replace(quantized, conversions={**quantized.conversions, "int8": replace(behind, sqnr_db=28.3)})
    assert matrix.wide_gaps([near, row]) == "No gap is above 10 dB."
    assert matrix.gap_db(row) is None
    assert matrix.kept_layers([row]) == []


def test_a_process_that_dies_leaves_a_row(matrix: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = matrix.FAMILIES[0]
    monkeypatch.setattr(matrix, "__file__", "/nowhere.py")
    found = matrix.prepare(listed, Path(), 1, tmp_path)
    assert {each.failed for each in found.conversions.values()} == {"the process ended with 2"}
    assert matrix.timed_alone(found, Path(), 1, tmp_path) == found


def test_a_prepared_model_is_not_prepared_again(
    matrix: Any, row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def child(*_: Any, **given: Any) -> Any:
        calls.append(given["options"])
        return json.loads(json.dumps(matrix.asdict(row)))

    monkeypatch.setattr(matrix, "run_in_child", child)
    listed = next(each for each in matrix.FAMILIES if each.name == row.name)
    assert matrix.prepare(listed, Path(), 1, tmp_path) == matrix.prepare(listed, Path(), 1, tmp_path) == row
    assert calls == [("--prepare", "--work", str(tmp_path))]


def test_a_model_stays_prepared_until_its_times_count(
    matrix: Any, row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / row.name
    kept.mkdir()
    refused = replace(row, comparison=replace(row.comparison, refused="9 rounds had a load above 3.0"))
    for found, stays in ((refused, True), (row, False)):
        monkeypatch.setattr(matrix, "run_in_child", lambda *_, found=found, **__: matrix.asdict(found))
        assert matrix.timed_alone(row, Path(), 1, tmp_path) == found
        assert kept.is_dir() is stays


def test_a_row_with_nothing_to_time_stays_as_it_is(matrix: Any, row: Any, tmp_path: Path) -> None:
    for found in (replace(row, comparison=None), replace(row, comparison=replace(row.comparison, refused="why"))):
        assert matrix.timed_row(found, tmp_path) is found


def test_the_packaged_data_is_that_of_the_page(matrix: Any, row: Any, tmp_path: Path) -> None:
    trained = replace(row, name="vit_flowers", family="trained", trained=True)
    matrix.write_rows(tmp_path / "matrix.json", [trained, row], 16)
    found = matrix.packaged(json.loads((tmp_path / "matrix.json").read_text()))
    by_name = {each["name"]: each for each in found["models"]}
    assert set(by_name) == {each.name for each in matrix.FAMILIES if not each.trained}
    assert by_name["deit_tiny_patch16_224"]["precisions"]["int8"]["failed"] == "a | b cannot be quantized"
    assert by_name["swin_tiny_patch4_window7_224"]["precisions"] == {}
    assert by_name["deit_tiny_patch16_224"]["against_pytorch"] == {"fp16": {"sqnr_db": 38.2, "agreement": 99.0}}
    (peer,) = by_name["deit_tiny_patch16_224"]["peers"].items()
    assert peer[0] == "OpenVINO 16-bit"
    assert peer[1]["time_ratio"] == 1.0


def test_the_command_reads_what_the_matrix_packages(
    matrix: Any, row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = replace(row.conversions["fp16"], p50_ms=0.0, speedup=0.0)
    matrix.write_rows(tmp_path / "matrix.json", [replace(row, conversions={**row.conversions, "fp16": refused})], 16)
    packaged = matrix.packaged(json.loads((tmp_path / "matrix.json").read_text()))
    (tmp_path / "models.json").write_text(json.dumps(packaged), encoding="utf-8")
    reader = importlib.import_module("vitedge.verbs.models")
    monkeypatch.setattr(reader, "files", lambda _: tmp_path)
    (found,) = reader.models("deit_tiny_patch16")
    assert (found.date, found.processor) == ("2026-01-02", "Some CPU")
    assert set(found.speedups) == {"fp32"}  # fp16 has no times, int8 failed
    assert found.sqnr_db == {"fp16": 38.2}
    assert found.peers["OpenVINO 16-bit"].time_ratio_range == (1.0, 1.0)
    assert found.fastest_int8_peer is None
