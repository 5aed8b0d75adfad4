from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vitedge
from vitedge.bundle.accuracy_records import ConfidenceRecord
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.dataset import ImageFile
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.data.video import VideoFrames
from vitedge.calib.evaluation import score_calibration
from vitedge.errors import CalibrationError, UsageError
from vitedge.progress import Silent
from vitedge.runtime.classifier import Classifier
from vitedge.testing import FakeEngine
from vitedge.verbs import evaluate as module
from vitedge.verbs.evaluate import measure

LABELS = ("cat", "dog", "newt")
SMALL = Preprocessing(input_size=(8, 8), resize_size=(8, 8))


class Steps(Silent):
    """Fails at the first step: nothing may be classified before the labels are checked."""

    def step(self, text: str) -> None:
        raise AssertionError(text)


def classifier(labels: tuple[str, ...]) -> Classifier:
    return Classifier(FakeEngine(lambda _: range(len(labels)), input_size=(8, 8)), SMALL, labels)


def image_folder(class_name: str) -> ImageFolder:
    return ImageFolder(Path("val"), (ImageFile(Path("val", class_name, "0.png"), f"{class_name}/0.png", class_name),))


def test_labels_are_checked_before_images_are_read() -> None:
    with pytest.raises(CalibrationError, match="'unicorn'"):
        measure("a", classifier(LABELS), image_folder("unicorn"), Steps())


def test_folders_that_are_no_labels_are_told_with_what_is_measured_without_labels() -> None:
    with pytest.raises(CalibrationError, match="'dandelion'") as caught:
        measure("a", classifier(("lion", "sea lion")), image_folder("dandelion"), Steps())
    assert "against=BUNDLE" in caught.value.fix
    assert "'lion', 'sea lion'" in caught.value.expected
    assert "close to" not in caught.value.fix


def test_frames_of_a_video_are_told_once_what_is_measured_without_labels() -> None:
    frames = VideoFrames(Path("clip.mp4"), (ImageFile(Path("clip.mp4"), "frame 0", ""),))
    with pytest.raises(CalibrationError, match="have no classes") as caught:
        measure("a", classifier(("lion", "sea lion")), frames, Steps())
    assert caught.value.fix.count("against=BUNDLE") == 1


def test_folders_named_by_the_ids_of_classes(make_bundle: Callable[..., Bundle], colours: Path, tmp_path: Path) -> None:
    import bundles

    made, ids = make_bundle(tmp_path / "ids.bundle"), ("n01", "n02", "n03")
    bundles.rewrite_manifest(made.path, replace(made.manifest, model=replace(made.manifest.model, class_ids=ids)))
    bundle = Bundle.open(made.path)
    for label, class_id in zip(bundle.manifest.model.labels, ids, strict=True):
        (colours / label).rename(colours / class_id)
    report = vitedge.evaluate(bundle, colours)
    assert report.ours.evaluation is not None
    assert report.ours.evaluation.top1 == 100.0


def test_models_of_different_classes_are_refused_before_images_are_read() -> None:
    other = ("b", classifier(LABELS[::-1]))
    with pytest.raises(UsageError, match="class 0 is 'cat' in one and 'newt' in the other"):
        measure("a", classifier(LABELS), image_folder("cat"), Steps(), other)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"abstain_error": 0.05}, "abstain_error= is for fit_confidence=True"),
        ({"layers": True}, "layers= needs the model in fp32"),
        ({"fit_confidence": True, "scheduler": "tcp://127.0.0.1:1"}, "fit_confidence= runs on this machine alone"),
        ({"fit_confidence": True, "resume": "log"}, "resume= keeps no logits"),
    ],
)
def test_arguments_that_contradict_each_other(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        vitedge.evaluate("never.opened", "never.listed", **options)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Four images each of red, green and blue."""
    pytest.importorskip("PIL")
    import photos

    return photos.write_photos(tmp_path / "colours", each=4)


def test_a_bundle_or_its_path_a_folder_or_its_images(tiny_bundle: Bundle, colours: Path) -> None:
    report = vitedge.evaluate(tiny_bundle.path, str(colours))
    assert report.to_json() == vitedge.evaluate(tiny_bundle, ImageFolder.open(colours)).to_json()
    assert report.ours.evaluation is not None
    assert (report.ours.evaluation.top1, report.theirs, report.layers, report.confidence) == (100.0, None, None, None)
    assert report.to_json()["top1"] == 100.0
    assert "top-1 100.00 %" in report.to_text()


def test_a_comparison(tiny_bundle: Bundle, colours: Path) -> None:
    report = vitedge.evaluate(tiny_bundle, colours, against=tiny_bundle.path, limit=6)
    assert report.comparison is not None
    assert (report.comparison.agreement.percent, len(report.ours.predictions)) == (100.0, 6)


def test_confidence_is_fitted_and_written(
    make_bundle: Callable[..., Bundle], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "some.bundle")
    fitted = ConfidenceRecord(2.0, 0.0, None, 100.0, 100.0, 5.0, 1.0, 12, "")
    monkeypatch.setattr(score_calibration, "MIN_IMAGES", 2)
    monkeypatch.setattr(module, "calibrate_scores", lambda evaluation, abstain_error: fitted)
    report = vitedge.evaluate(bundle, colours, fit_confidence=True)
    assert report.confidence == fitted
    assert Bundle.open(bundle.path).manifest.confidence == fitted


def test_an_interrupted_evaluation_continues(
    tiny_bundle: Bundle, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "resume.log"
    first = vitedge.evaluate(tiny_bundle, colours, resume=log)
    assert log.stat().st_size > 0
    monkeypatch.setattr(Classifier, "infer", lambda *_: pytest.fail("every prediction is in the log"))
    assert vitedge.evaluate(tiny_bundle, colours, resume=log).to_json() == first.to_json()
