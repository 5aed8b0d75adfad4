"""``vitedge convert`` as people use it: one clear error or one whole bundle, and nothing of the libraries' talk."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from PIL import Image

from vitedge.audit import Audit, AuditedLayer, Overhead
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.precision_records import AgainstFp16Record
from vitedge.cli import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, main
from vitedge.cli.convert import input_size, summary
from vitedge.report.next_steps import watch_command

COMMON = ["--target", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "shapes_vit")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vitedge", "convert", *arguments, *COMMON]


def test_a_whole_bundle_and_nothing_else_on_the_terminal(folder: Path, tmp_path: Path, here: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    generator = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8)).save(images / f"{number}.png")
    done = subprocess.run(
        command(str(folder), "--precision", "int8", "--calib", "images"),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("[") and " s] " in line for line in done.stderr.splitlines()), done.stderr
    for step in ("exporting to ONNX", "calibrating on 6 images", "publishing shapes_vit-int8.bundle"):
        assert step in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("shapes_vit-int8.bundle  0.")
    watch = watch_command(Path("shapes_vit-int8.bundle"))
    assert lines[-3:-1] == [f"  {watch}", "  vitedge bench shapes_vit-int8.bundle"]
    assert "fp32 graph against the source: SQNR 1" in done.stdout
    assert Bundle.open("shapes_vit-int8.bundle").manifest.precision.asked == "int8"
    assert {path.name for path in here.iterdir()} == {"images", "shapes_vit-int8.bundle"}


def test_layers_that_fall_back_and_what_costs_time_are_named(tiny_bundle: Bundle) -> None:
    fell = AuditedLayer("attn.qkv", "MatMul", True, "bf16", "brgemm_bf16", "of a roll")
    costly = Overhead("reference kernel", "Split", "ref_bf16", "bf16", ("split",), 20.0)
    cheap = Overhead("layout change", "Reorder", "jit_uni", "bf16", ("reorder",), 1.0)
    audit = Audit("openvino 2026.4", "some CPU", (fell,), (costly, cheap), microseconds=100.0, runs=5)
    text = summary(replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, audit=audit)))
    assert "warning: 0 of 1 int8 layer runs in int8; 1 fell back to bf16: attn.qkv, because of a roll" in text
    assert "reference kernel: 1 Split" in text
    assert "layout change" not in text
    assert "int8 layer" not in summary(tiny_bundle)


def test_whether_int8_pays(tiny_bundle: Bundle) -> None:
    slower = AgainstFp16Record(1.28, 1.25, 1.31, turns=25, sqnr_db=32.0, fp16_sqnr_db=38.5, images=8)
    faster = replace(slower, time_ratio=0.7, low=0.69)
    texts = [
        summary(replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, against_fp16=each)))
        for each in (slower, faster)
    ]
    assert "  warning: int8 does not pay on this machine: it takes 1.28 times as long as fp16 (95 %" in texts[0]
    assert "\n  int8 on this machine takes 0.70 times as long as fp16 (95 %" in texts[1]
    assert "fp16" not in summary(tiny_bundle)


def test_ctrl_c_leaves_nothing(folder: Path, here: Path) -> None:
    arguments = command(str(folder), "--precision", "fp32")
    deadline = time.monotonic() + 100
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not any(here.iterdir()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == EXIT_INTERRUPTED
    assert errors.endswith("interrupted; nothing half-written was left\n")
    assert "Traceback" not in errors
    assert not list(here.iterdir())


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["convert", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.count("  vitedge convert ") >= 4
    for option in (
        "--weights",
        "--random-weights",
        "--calib",
        "--eval",
        "--labels",
        "--output",
        "--preprocessing",
        "--num-classes",
        "--input-size",
    ):
        assert option in text


@pytest.mark.parametrize("missing", ["--target", "--precision"])
def test_what_is_required(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"--target": "cpu", "--precision": "fp32"}
    del arguments[missing]
    with pytest.raises(SystemExit) as caught:
        main(["convert", "deit_tiny_patch16_224", *[word for pair in arguments.items() for word in pair]])
    assert caught.value.code == EXIT_USAGE
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["deit_tinny_patch16_224", "--precision", "fp32"], EXIT_USAGE, "deit_tiny_patch16_224"),
        (["./nowhere", "--precision", "fp32"], EXIT_USAGE, "no file or folder at './nowhere'"),
        (["nowhere.onnx", "--precision", "fp32"], EXIT_USAGE, "no file at nowhere.onnx"),
        (["tim:deit_tiny_patch16_224", "--precision", "fp32"], EXIT_USAGE, "did you mean timm?"),
        (["cswin_tinny_224", "--precision", "fp32"], EXIT_USAGE, "did you mean cswin_tiny_224"),
        (["timm:pvt_tiny", "--precision", "fp32"], EXIT_USAGE, "vitedge does: write pvt_tiny, without timm:"),
        (
            ["deit_tiny_patch16_224", "--precision", "fp32", "--num-classes", "5"],
            EXIT_ERROR,
            "has a classifier of 1000 classes",
        ),
        (["hf:a/b/c", "--precision", "fp32"], EXIT_USAGE, "'a/b/c' is not a name of the hub"),
        (
            ["deit_tiny_patch16_224", "--precision", "fp8"],
            EXIT_USAGE,
            "target cpu has no fp8: openvino does not compute in 8-bit floating point",
        ),
        (["deit_tiny_patch16_224", "--precision", "int8"], EXIT_USAGE, "int8 needs images to calibrate with"),
        (["deit_tiny_patch16_224", "--precision", "int8", "--calib", "nowhere"], EXIT_ERROR, "nowhere"),
        (["deit_tiny_patch16_224", "--precision", "fp32", "--eval", "nowhere"], EXIT_ERROR, "nowhere"),
        (
            ["deit_tiny_patch16_224", "--precision", "fp32", "-o", "nowhere/x.bundle"],
            EXIT_USAGE,
            "the folder nowhere does not",
        ),
        (
            ["deit_tiny_patch16_224", "--precision", "fp32", "--weights", "none.pth"],
            EXIT_ERROR,
            "none.pth does not exist",
        ),
    ],
)
def test_one_clear_error(
    arguments: list[str], code: int, problem: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", *arguments, *COMMON]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("error: ") == 1
    assert problem in captured.err
    assert "Traceback" not in captured.err
    assert not list(here.iterdir())


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("256x320", (256, 320)), ("96X64", (96, 64))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert input_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "224x", "2.5", "-1", "1x2x3", "large"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no size: expected HxW"):
        input_size(text)


def test_an_unknown_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "deit_tiny_patch16_224", "--target", "cpv", "--precision", "fp32"]) == EXIT_USAGE
    assert "did you mean cpu?" in capsys.readouterr().err


def test_an_existing_output_is_known_before_the_work(
    folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "old.bundle").mkdir()
    assert main(["convert", str(folder), "--precision", "fp32", "-o", "old.bundle", *COMMON]) == EXIT_USAGE
    assert capsys.readouterr().err.startswith("error: old.bundle exists already")
    assert [path.name for path in here.iterdir()] == ["old.bundle"]
