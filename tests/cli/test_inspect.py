from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import file_records, rewrite_manifest

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.manifest import ConfidenceRecord
from vitedge.cli import EXIT_ERROR, main
from vitedge.records import encode


def inspected(bundle: Bundle, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["inspect", str(bundle.path), *options]) == 0
    return capsys.readouterr().out


def test_what_people_ask(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    text = inspected(tiny_bundle, capsys)
    for fact in (
        "hashes ok",
        "dominant_colour",
        "3: red, green, blue",
        "32x32 RGB; EXIF orientation ignored",
        "fp32",
        "not measured",
        "1 Conv",
    ):
        assert fact in text
    for name, record in tiny_bundle.manifest.files.items():
        assert f"{record.bytes} {name}" in text


def test_json_has_everything(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    value = json.loads(inspected(tiny_bundle, capsys, "--json"))
    assert value["version"] == 1
    assert value["hashes_ok"] is True
    assert value["bytes"] == tiny_bundle.size_bytes
    assert value["manifest"] == json.loads(json.dumps(encode(tiny_bundle.manifest)))
    assert value["graph"]["operators"]["Conv"] == 1
    assert (value["graph"]["weight_layers"], value["graph"]["quantized_layers"]) == (2, 0)


def test_fitted_confidence(
    make_bundle: Callable[..., Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ConfidenceRecord(1.25, 0.5, 0.05, 90.0, 96.0, 5.0, 1.0, 100, "")
    text = inspected(make_bundle(tmp_path / "fitted.bundle", confidence=record), capsys)
    assert "temperature 1.250, calibration error 5.00 → 1.00 % on 100 images; abstains below a score of 0.500" in text
    unasked = make_bundle(tmp_path / "unasked.bundle", confidence=replace(record, abstain_error=None, threshold=0.0))
    assert "abstains" not in inspected(unasked, capsys)


def test_quantized_layers_are_counted(
    make_bundle: Callable[..., Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "int8.bundle", precision="int8")
    assert "2 with weights, 2 of them quantized" in inspected(bundle, capsys)


def test_without_onnx_the_graph_is_unknown(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert json.loads(inspected(tiny_bundle, capsys, "--json"))["graph"] is None
    assert 'pip install "vitedge[convert]"' in inspected(tiny_bundle, capsys)


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(b"altered")])
def test_a_damaged_bundle_is_an_error(
    make_bundle: Callable[..., Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Any
) -> None:
    bundle = make_bundle(tmp_path / "harmed.bundle")
    harm(bundle.path / "model.onnx")
    assert main(["inspect", str(bundle.path)]) == EXIT_ERROR
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "model.onnx" in captured.err


def test_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "nothing")]) == EXIT_ERROR
    assert "is not a bundle" in capsys.readouterr().err


@pytest.mark.timeout(60)
@pytest.mark.parametrize("graph", [b"", b"not a graph", b"\x3a\x02\x0a\x05", b"\x3a\x04\x0a\x02\x22\x00" * 3])
def test_a_damaged_graph_with_a_true_hash_is_one_error(
    make_bundle: Callable[..., Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str], graph: bytes
) -> None:
    bundle = make_bundle(tmp_path / "damaged.bundle")
    (bundle.path / "model.onnx").write_bytes(graph)
    rewrite_manifest(bundle.path, replace(bundle.manifest, files=file_records(bundle.path)))
    assert main(["inspect", str(bundle.path)]) == EXIT_ERROR
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: the graph")
    assert "Traceback" not in captured.err
