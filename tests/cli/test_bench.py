"""``vitedge bench`` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import rewrite_manifest

from vitedge import cli
from vitedge.audit import Audit, AuditedLayer
from vitedge.bundle.bundle import Bundle
from vitedge.cli import main
from vitedge.errors import EngineError
from vitedge.runtime.bench import measure as bench_module
from vitedge.runtime.bench import timing


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "VERBS", ("bench",))
    monkeypatch.setattr(timing, "ROUNDS", 6)
    monkeypatch.setattr(timing, "LEAST_CALLS", 3)


BRIEF = ("--seconds", "0.05", "--frame-size", "48x32", "--threads", "1")


def test_a_table_on_stdout_and_progress_on_stderr(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny_bundle.path), *BRIEF]) == 0
    printed = capsys.readouterr()
    assert "dominant_colour" in printed.out
    assert "frames of 48x32, threads: 1" in printed.out
    assert "ratio" not in printed.out
    assert "int8 layers" not in printed.out  # an fp32 bundle has none to find
    step = f"warming up {tiny_bundle.path}"
    assert step not in printed.out
    assert step in printed.err


def test_json_on_standard_output_stands_alone(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "cold_start", lambda *_, **__: None)
    assert main(["bench", str(tiny_bundle.path), "--json", "-", *BRIEF]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1


def test_two_bundles_with_json_and_html(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "cold_start", lambda *_, **__: None)
    reports = [tmp_path / "o.json", tmp_path / "o.html"]
    arguments = ["--against", str(tiny_bundle.path), "--engine", "onnxruntime"]
    files = ["--json", str(reports[0]), "--html", str(reports[1])]
    assert main(["bench", str(tiny_bundle.path), *arguments, *files, *BRIEF]) == 0
    document = json.loads(reports[0].read_text(encoding="utf-8"))
    assert document["version"] == 1
    assert document["engine"] == document["against"]["engine"] == "onnxruntime"
    assert document["cold_start_ms"] is None
    assert document["frame_size"] == {"width": 48, "height": 32}
    assert len(document["ratio"]["rounds"]) == 6
    assert reports[1].read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(tmp_path.iterdir()) == sorted(reports)
    assert "p50 ratio" in capsys.readouterr().out


def test_an_int8_bundle_is_audited_and_compared_with_its_conversion(
    make_bundle: Callable[..., Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_module, "cold_start", lambda *_, **__: None)
    bundle = make_bundle(tmp_path / "some.bundle", precision="int8")
    layers = (AuditedLayer("logits", "MatMul", True, "fp8"), AuditedLayer("patches", "Convolution", True, "fp8"))
    rewrite_manifest(bundle.path, replace(bundle.manifest, audit=Audit("openvino 2020.1", "", layers)))
    assert main(["bench", str(bundle.path), "--json", str(tmp_path / "o.json"), *BRIEF]) == 0
    document = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    assert [layer["name"] for layer in document["audit"]["layers"]] == ["patches", "logits"]
    assert document["audit_differences"]
    told = capsys.readouterr().out
    assert "of 2 int8 layers" in told
    assert "warning: " in told
    assert "ran in fp8 on the converting host" in told


def test_an_audit_that_fails_costs_no_measurement(
    make_bundle: Callable[..., Bundle],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise EngineError("no memory left")

    monkeypatch.setattr(bench_module, "cold_start", lambda *_, **__: None)
    monkeypatch.setattr(bench_module, "audit_engine", fail)
    assert main(["bench", str(make_bundle(tmp_path / "some.bundle", precision="int8").path), *BRIEF]) == 0
    printed = capsys.readouterr()
    assert "warning: the layers are not found: no memory left" in printed.err
    assert "frames/s" in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frame-size", "1280"], "is not a frame size"),
        (["--frame-size", "0x720"], "is not a frame size"),
        (["--frame-size", "1280X720"], "is not a frame size"),
        (["--seconds", "0"], "is not a positive number"),
        (["--seconds", "nan"], "is not a positive number"),
        (["--seconds", "soon"], "is not a positive number"),
        (["--engine", "tensorflow"], "invalid choice"),
        (["--secnds", "3"], "did you mean --seconds?"),
    ],
)
def test_wrong_options_are_usage_errors(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", str(tiny_bundle.path), *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_fewer_than_one_thread_is_one_clear_error(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny_bundle.path), "--threads", "0"]) == 2
    assert "error: threads is 0" in capsys.readouterr().err


def test_a_bundle_that_is_none_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "is not a bundle" in printed.err
    assert "vitedge convert" in printed.err


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_report_that_has_no_place_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["bench", "never.opened", option, str(tmp_path / "no" / "report.json")]) == 2
    assert f"{tmp_path / 'no'} is not a folder" in capsys.readouterr().err


def test_an_interrupted_measurement_writes_nothing(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_module, "warm_up", interrupt)
    assert main(["bench", str(tiny_bundle.path), "--json", str(tmp_path / "o.json"), *BRIEF]) == 130
    assert list(tmp_path.iterdir()) == []
