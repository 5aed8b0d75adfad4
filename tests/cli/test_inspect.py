from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import file_records, rewrite_manifest

from vitedge.audit import Audit, AuditedLayer
from vitedge.bundle.accuracy_records import ConfidenceRecord
from vitedge.bundle.bundle import MODEL_ONNX, Bundle
from vitedge.bundle.precision_records import AgainstFp16Record
from vitedge.cli import EXIT_ERROR, EXIT_USAGE, main
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


def test_what_runs_in_which_precision(
    make_bundle: Callable[..., Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fell = AuditedLayer("attn.qkv", "MatMul", True, "bf16", "brgemm_bf16", "of a roll")
    audit = Audit("openvino 2026.4", "some CPU", (fell,), microseconds=12.0, runs=5)
    bundle = make_bundle(tmp_path / "some.bundle")
    rewrite_manifest(bundle.path, replace(bundle.manifest, audit=audit))
    text = inspected(bundle, capsys)
    assert "ran          on that host, openvino 2026.4: 0 of 1 int8 layer runs in int8; 1 fell back to bf16" in text
    assert "all operators 12 µs, each the mean of 5 runs" in text
    document = json.loads(inspected(bundle, capsys, "--json"))
    assert document["manifest"]["audit"]["layers"][0]["reason"] == "of a roll"


def test_whether_int8_paid(
    make_bundle: Callable[..., Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "some.bundle")
    assert "against fp16" not in inspected(bundle, capsys)
    record = AgainstFp16Record(1.28, 1.25, 1.31, turns=25, sqnr_db=32.0, fp16_sqnr_db=38.5, images=8)
    rewrite_manifest(bundle.path, replace(bundle.manifest, against_fp16=record))
    assert "\nagainst fp16 int8 does not pay on that host: it takes 1.28 times as long as fp16 (95 %" in inspected(
        bundle, capsys
    )
    assert json.loads(inspected(bundle, capsys, "--json"))["manifest"]["against_fp16"]["time_ratio"] == 1.28


def test_a_graph_of_somebody_else(
    make_bundle: Callable[..., Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = make_bundle(tmp_path / "some.bundle", precision="int8").path / MODEL_ONNX
    assert main(["inspect", str(graph)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{graph}, compiled by openvino 20")
    assert "of 2 int8 layers" in text
    assert main(["inspect", str(graph), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["audit"]["layers"]) == 2


def test_a_graph_has_no_signature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.xml").write_text("<net/>", encoding="utf-8")
    assert main(["inspect", str(tmp_path / "model.xml"), "--trust", "keys"]) == EXIT_USAGE
    assert "--trust is for bundles" in capsys.readouterr().err


def test_threads_are_for_graphs(
    make_bundle: Callable[..., Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "some.bundle", precision="int8")
    assert main(["inspect", str(bundle.path), "--threads", "1"]) == EXIT_USAGE
    assert "--threads is for graphs" in capsys.readouterr().err
    assert main(["inspect", str(bundle.path / MODEL_ONNX), "--threads", "0"]) == EXIT_USAGE
    assert "threads is 0" in capsys.readouterr().err
    assert main(["inspect", str(bundle.path / MODEL_ONNX), "--threads", "1"]) == 0
    assert "of 2 int8 layers" in capsys.readouterr().out
