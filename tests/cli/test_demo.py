from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
from pathlib import Path

import clips
import numpy as np
import pytest
from browsers import check_layout

from vitedge.bundle.bundle import Bundle
from vitedge.calib.quantization import ptq
from vitedge.calib.quantization.search_budget import SMALLEST
from vitedge.cli import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, main
from vitedge.cli.demo import as_text
from vitedge.demo import clip, larger, measure
from vitedge.demo import demo as whole_demo
from vitedge.demo.clip import write_video
from vitedge.demo.demo import BundleResult, Result, run_demo
from vitedge.demo.larger import LargerResult, LargerRow
from vitedge.demo.measure import Accuracy, ClassifyLatency
from vitedge.demo.page import small_video, to_html
from vitedge.errors import VitedgeError
from vitedge.progress import Silent

pytestmark = pytest.mark.slow


def latency(p50: float) -> ClassifyLatency:
    return ClassifyLatency(p50_ms=p50, p99_ms=2 * p50, infer_p50_ms=p50 / 2, fps=1000 / p50, calls=2000)


def row(precision: str, runs_as: str, *, top1: float, p50: float) -> BundleResult:
    return BundleResult(
        precision=precision,  # type: ignore[arg-type]
        runs_as=runs_as,
        accuracy=Accuracy(top1=top1, agreement=99.5, images=450),
        clip_top1=top1 + 0.5,
        clip_fps=400.0,
        latency=latency(p50),
        size_bytes=2_140_000,
    )


RESULT = Result(
    frames=360,
    digits=30,
    device="AMD EPYC",
    rows=(row("fp32", "fp32", top1=98.4, p50=0.9), row("int8", "int8 + bf16", top1=98.2, p50=0.7)),
    larger=LargerResult(
        "<deit>",
        (
            LargerRow("fp32", "fp32", latency(9.0), 46_600_000),
            LargerRow("fp16", "bf16", latency(6.0), 24_000_000),
            LargerRow("int8", "int8 + bf16", latency(4.0), 14_700_000),
        ),
    ),
)


def test_the_report_has_every_number() -> None:
    printed = as_text(RESULT, Path("somewhere"))
    assert "360 frames of 30 digits" in printed
    assert "98.7 % of the frames in int8, 98.9 % in fp32" in printed
    assert "400 frames per second" in printed
    assert "p50 0.70 ms, p99 1.40 ms" in printed
    assert re.search(r"^fp32 +fp32 +98\.40 +99\.50 +0\.90 +1\.80 +0\.45 +1111 +2\.14$", printed, re.MULTILINE)
    assert re.search(r"^int8 +int8 \+ bf16 +98\.20 +99\.50 +0\.70 +1\.40 +0\.35 +1429 +2\.14$", printed, re.MULTILINE)
    assert "<deit> with random weights: fp32 takes 2.25 times as long as int8" in printed
    assert re.search(r"^int8 +int8 \+ bf16 +4\.00 +8\.00 +2\.00 +250 +14\.70$", printed, re.MULTILINE)


def test_the_report_says_what_to_do_next() -> None:
    printed = as_text(RESULT, Path("somewhere"))
    for command in (
        "somewhere/index.html",
        "somewhere/annotated.mp4",
        "vitedge run somewhere/int8.bundle",
        "--against somewhere/fp32.bundle",
    ):
        assert command in printed


@pytest.mark.timeout(200)
def test_a_browser_shows_the_page_and_plays_its_video(tmp_path: Path) -> None:
    write_video(tmp_path / "annotated.mp4", [np.full((480, 984, 3), 200, dtype=np.uint8)] * 24)
    video = small_video(tmp_path / "annotated.mp4", tmp_path / "small.mp4")
    text = to_html(RESULT, video, [("go <on>", "vitedge run 'a & b'")])
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    for layout in check_layout(tmp_path / "index.html"):
        assert layout.seconds == pytest.approx(1.0, abs=0.01)
    assert clips.read_clip(tmp_path / "small.mp4")[0].shape == (320, 656, 3)
    assert "<strong>98.2 %</strong> of 450 photos" in text
    assert "fp32 <strong>2.2 times</strong> as long" in text
    assert "go &lt;on&gt;<code><span>vitedge</span> <span>run</span> <span>&#x27;a</span> <span>&amp;</span>" in text
    assert "&lt;deit&gt;" in text
    assert not re.search(r"https?://|<script|<link|<deit>", text)


def test_the_page_begins_with_the_verdict_and_marks_the_fastest() -> None:
    text = to_html(RESULT, b"", [])
    assert text.index('class="verdict"') < text.index("<video")
    digits, deit = text.split('<div class="bars">')[1:]
    assert re.findall(r"<span>(\w+)</span><div class=\"best\">", digits) == ["int8"]
    assert re.findall(r"width:([\d.]+)%", deit) == ["70.0", "46.7", "31.1"]
    assert "In int8, inference of this one takes 0.67 times as long as in fp16" in text


def test_an_existing_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "note").write_text("keep")
    assert main(["demo", "-o", str(folder)]) == EXIT_USAGE
    printed = capsys.readouterr().err
    assert f"{folder} exists" in printed
    assert "fix: " in printed
    assert (folder / "note").read_text() == "keep"


@pytest.mark.parametrize("package", ["av", "cv2", "PIL", "sklearn"])
def test_a_missing_package_is_named_before_anything_is_done(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imported = importlib.import_module

    def missing(name: str, anchor: str | None = None) -> object:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, anchor)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert main(["demo", "-o", str(tmp_path / "demo")]) == EXIT_ERROR
    assert f'vitedge demo needs {package}, which is not installed\n  fix: pip install "vitedge[demo]"' in (
        capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [VitedgeError("no room"), KeyboardInterrupt()])
def test_a_demo_that_is_cut_short_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, *_: object) -> None:
        path.touch()
        raise error

    monkeypatch.setattr(whole_demo, "write_clip", failing)
    with pytest.raises(type(error)):
        run_demo(tmp_path / "demo", Silent())
    assert list(tmp_path.iterdir()) == []


def test_interrupting_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(whole_demo, "write_clip", interrupted)
    assert main(["demo", "-o", str(tmp_path / "demo")]) == EXIT_INTERRUPTED
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(900)
def test_the_whole_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything for real, with a shorter clip, fewer calibration photos, a shorter search and shorter measurements."""
    monkeypatch.setattr(clip, "DIGITS_PER_CLASS", 1)
    monkeypatch.setattr(whole_demo, "CALIBRATION_IMAGES", 100)
    monkeypatch.setattr(ptq, "budget_for", lambda _: SMALLEST)
    monkeypatch.setattr(larger, "MODEL", "test_vit")
    monkeypatch.setattr(measure, "WARM_UP_SECONDS", 0.1)
    monkeypatch.setattr(measure, "TURN_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "demo\udcff"  # a name that is not UTF-8
    assert main(["demo", "-o", folder.name]) == 0

    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    result = json.loads((folder / "result.json").read_text())
    assert [each["precision"] for each in result["rows"]] == ["fp32", "fp16", "int8"]
    assert [Bundle.open(folder / f"{each['precision']}.bundle").size_bytes for each in result["rows"]] == [
        each["size_bytes"] for each in result["rows"]
    ]
    for each in result["rows"]:
        assert each["accuracy"]["top1"] >= 97.0
        assert each["accuracy"]["agreement"] >= 98.0
        assert each["accuracy"]["images"] == 450
        assert each["clip_top1"] >= 90.0
    assert "int8" in result["rows"][2]["runs_as"]

    assert len(clips.read_clip(folder / "annotated.mp4")) == result["frames"] == 10 * clip.FRAMES_PER_DIGIT
    printed = capsys.readouterr()
    assert "converting the checkpoint to int8" in printed.err
    assert r"demo\udcff/annotated.mp4" in printed.out
    assert [each["precision"] for each in result["larger"]["rows"]] == ["fp32", "fp16", "int8"]
    assert "data:video/mp4" in (folder / "index.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "calibration",
        "fp16.bundle",
        "fp32.bundle",
        "held-out",
        "int8.bundle",
    ]
    commands = re.findall(r"^    (vitedge .*)$", printed.out, re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["run", "eval", "convert"]
    for command in commands:
        program, *arguments = words_of(command.replace("vit_tiny_patch16_224", "test_vit"))
        assert (program, main(arguments)) == ("vitedge", 0)


def words_of(command: str) -> list[str]:
    """The arguments that a shell makes of a command."""
    listed = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True).stdout
    return [os.fsdecode(word) for word in listed.split(b"\0")[:-1]]


def test_nothing_that_was_held_out_calibrates(tmp_path: Path) -> None:
    from vitedge.demo.digits import load_split
    from vitedge.demo.photos import sample

    split = load_split()
    calibration = sample(split.training, whole_demo.CALIBRATION_IMAGES, seed=whole_demo.CALIBRATION_SEED)
    assert not {scan.tobytes() for scan in calibration.scans} & {scan.tobytes() for scan in split.held_out.scans}
