from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import clips
import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.calib.quantization import ptq
from vitedge.calib.quantization.search_budget import SMALLEST
from vitedge.cli import EXIT_ERROR, EXIT_INTERRUPTED, main
from vitedge.cli.demo import as_text
from vitedge.demo import clip, measure
from vitedge.demo import demo as whole_demo
from vitedge.demo.demo import BundleResult, Result, run_demo
from vitedge.demo.measure import Accuracy, ClassifyLatency
from vitedge.errors import VitedgeError
from vitedge.progress import Silent

pytestmark = pytest.mark.slow


def row(precision: str, runs_as: str, *, top1: float, p50: float) -> BundleResult:
    return BundleResult(
        precision=precision,  # type: ignore[arg-type]
        runs_as=runs_as,
        accuracy=Accuracy(top1=top1, agreement=99.5, images=450),
        clip_top1=top1 + 0.5,
        clip_fps=400.0,
        latency=ClassifyLatency(p50_ms=p50, p99_ms=2 * p50, infer_p50_ms=p50 / 2, fps=1000 / p50, calls=2000),
        size_bytes=2_140_000,
    )


RESULT = Result(
    frames=360,
    digits=30,
    device="AMD EPYC",
    rows=(row("fp32", "fp32", top1=98.4, p50=0.9), row("int8", "int8 + bf16", top1=98.2, p50=0.7)),
)


def test_the_report_has_every_number() -> None:
    printed = as_text(RESULT, Path("somewhere"))
    assert "360 frames of 30 digits" in printed
    assert "98.7 % of the frames in int8, 98.9 % in fp32" in printed
    assert "400 frames per second" in printed
    assert "p50 0.70 ms, p99 1.40 ms" in printed
    assert re.search(r"^fp32 +fp32 +98\.40 +99\.50 +0\.90 +1\.80 +0\.45 +1111 +2\.14$", printed, re.MULTILINE)
    assert re.search(r"^int8 +int8 \+ bf16 +98\.20 +99\.50 +0\.70 +1\.40 +0\.35 +1429 +2\.14$", printed, re.MULTILINE)


def test_the_report_says_what_to_do_next() -> None:
    printed = as_text(RESULT, Path("somewhere"))
    for command in ("somewhere/annotated.mp4", "vitedge run somewhere/int8.bundle", "--against somewhere/fp32.bundle"):
        assert command in printed


def test_an_existing_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "note").write_text("keep")
    assert main(["demo", "-o", str(folder)]) == EXIT_ERROR
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


def test_the_whole_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything for real, with a shorter clip, fewer calibration photos, a shorter search and shorter measurements."""
    monkeypatch.setattr(clip, "DIGITS_PER_CLASS", 1)
    monkeypatch.setattr(whole_demo, "CALIBRATION_IMAGES", 100)
    monkeypatch.setattr(ptq, "budget_for", lambda _: SMALLEST)
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


def test_nothing_that_was_held_out_calibrates(tmp_path: Path) -> None:
    from vitedge.demo.digits import load_split
    from vitedge.demo.photos import sample

    split = load_split()
    calibration = sample(split.training, whole_demo.CALIBRATION_IMAGES, seed=whole_demo.CALIBRATION_SEED)
    assert not {scan.tobytes() for scan in calibration.scans} & {scan.tobytes() for scan in split.held_out.scans}
