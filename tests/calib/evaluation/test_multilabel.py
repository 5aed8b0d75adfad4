"""Multi-label models: decisions a label, their metrics, and the differences between two models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.dataset import ImageFile
from vitedge.calib.data.label_file import read_label_file
from vitedge.calib.data.open import open_dataset
from vitedge.calib.evaluation.accuracy import compare, predict, score
from vitedge.calib.evaluation.label_thresholds import fit_f1_threshold, fit_label_thresholds
from vitedge.calib.evaluation.multilabel import compare_labels, label_targets, score_labels
from vitedge.calib.evaluation.predictions import Predictions
from vitedge.calib.evaluation.resume_log import ResumeLog
from vitedge.errors import CalibrationError, UsageError
from vitedge.metrics import binary_kl_divergence, f1_score, sigmoid
from vitedge.report.evaluation_text import EvaluatedBundle, EvaluationReport, to_text
from vitedge.runtime.classifier import Classifier
from vitedge.testing import FakeEngine

LABELS = ("sea", "person", "dog")
SMALL = Preprocessing(input_size=(8, 8), resize_size=(8, 8))


def predictions_of(
    logits: NDArray[np.float32], labels: list[tuple[str, ...]], thresholds: tuple[float, ...] = (0.5, 0.5, 0.5)
) -> Predictions:
    order = np.argsort(-logits, axis=1, kind="stable")
    files = tuple(ImageFile(Path(f"{at}.png"), f"{at}.png", "", labels=each) for at, each in enumerate(labels))
    scores = np.take_along_axis(sigmoid(logits), order, axis=1)
    zeros = np.zeros(len(logits))
    return Predictions(
        LABELS, files, order.astype(np.int32), scores, zeros, (), "5ha", logits=logits, thresholds=thresholds
    )


def test_figures_that_were_computed_by_hand() -> None:
    """Three images: one is right, one misses a label, one gets a label too many."""
    logits = np.array([[2, -2, -3], [3, -1, -4], [-1, 4, 1]], np.float32)
    found = score_labels(predictions_of(logits, [("sea",), ("person", "sea"), ("person",)]))
    sea, person, dog = found.labels
    assert (sea.precision, sea.recall, sea.f1, sea.average_precision, sea.images) == (100, 100, 100, 100, 2)
    assert (person.precision, person.recall, person.average_precision) == (100, 50, 100)
    assert person.f1 == pytest.approx(200 / 3)
    assert (dog.precision, dog.recall, dog.f1, dog.average_precision, dog.images) == (0, None, 0, None, 0)
    assert found.micro_f1 == pytest.approx(100 * 2 * 3 / (4 + 4))
    assert found.macro_f1 == pytest.approx((100 + 200 / 3) / 2)
    assert found.mean_average_precision == 100
    assert found.exact_match == pytest.approx(100 / 3)
    assert [each.label for each in found.known_labels] == ["sea", "person"]


cases = st.integers(1, 12).flatmap(
    lambda count: st.tuples(
        st.lists(st.lists(st.floats(-6, 6, width=32), min_size=3, max_size=3), min_size=count, max_size=count),
        st.lists(st.sets(st.sampled_from(LABELS)), min_size=count, max_size=count),
        st.lists(st.floats(0, 1), min_size=3, max_size=3),
    )
)


@given(cases)
def test_the_figures_are_those_of_the_decisions(
    case: tuple[list[list[float]], list[set[str]], list[float]],
) -> None:
    rows, sets, thresholds = case
    sets[0] |= {"dog"}
    predictions = predictions_of(np.array(rows, np.float32), [tuple(sorted(each)) for each in sets], tuple(thresholds))
    found = score_labels(predictions)
    given_labels = [{each.label for each in predictions.accepted_labels(at)} for at in range(len(rows))]
    assert found.exact_proportion.hits == sum(ours == theirs for ours, theirs in zip(given_labels, sets, strict=True))
    for label in found.labels:
        hits = sum(
            label.label in ours and label.label in theirs for ours, theirs in zip(given_labels, sets, strict=True)
        )
        predicted, present = (sum(label.label in each for each in group) for group in (given_labels, sets))
        assert label.images == present
        assert label.precision == (100 * hits / predicted if predicted else None)
        assert label.recall == (100 * hits / present if present else None)
        assert label.f1 == f1_score(hits, predicted, present)
    assert 0 <= found.mean_average_precision <= 100


def test_two_models_are_compared_by_their_decisions() -> None:
    ours = predictions_of(np.array([[2, -2, -3], [3, -1, -4], [-1, 4, 1]], np.float32), [()] * 3)
    theirs = predictions_of(np.array([[2, -2, -3], [3, 1, -4], [-1, 4, -1]], np.float32), [()] * 3)
    found = compare_labels(replace(ours, divergences=np.array([0.0, 2.0, 1.0])), theirs)
    assert (found.agreement.hits, found.decisions.hits, found.decisions.images) == (1, 7, 9)
    assert found.label_flips == {"person": 1, "dog": 1}
    assert [flip.file.name for flip in found.flips] == ["1.png", "2.png"]
    assert [[each.label for each in flip.ours] for flip in found.flips] == [["sea"], ["person", "dog"]]
    assert [[each.label for each in flip.theirs] for flip in found.flips] == [["sea", "person"], ["person"]]
    assert (found.kl_mean, found.flipped.hits) == (1.0, 2)


@pytest.mark.parametrize("thresholds", [None, (0.5, 0.5, 0.02)])
def test_thresholds_that_differ_are_told(thresholds: tuple[float, ...] | None) -> None:
    rows, labels = np.array([[2, -2, -3], [3, -1, -4]], np.float32), [(), ()]
    theirs = predictions_of(rows, labels)
    ours = replace(theirs, thresholds=thresholds or theirs.thresholds, divergences=np.zeros(2))
    report = EvaluationReport(
        "photos.jsonl",
        EvaluatedBundle("a", ours, None),
        EvaluatedBundle("b", theirs, None),
        compare_labels(ours, theirs),
    )
    assert ("different thresholds" in to_text(report)) == (thresholds is not None)


def test_figures_of_one_class_an_image_are_refused_for_a_multilabel_model(tmp_path: Path) -> None:
    found = predictions_of(np.zeros((1, 3), np.float32), [("sea",)])
    with pytest.raises(UsageError, match="has no top-1 accuracy"):
        score(found, read_label_file(label_file(tmp_path, [("sea",)])))
    with pytest.raises(UsageError, match="compared by compare_labels"):
        compare(found, found)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ([ImageFile(Path("a"), "a", "sea")], "folders name one class"),
        ([ImageFile(Path("a"), "a", "", labels=("Sea", "cat"))], "2 labels of the images are no labels of the model"),
        ([ImageFile(Path("a"), "a", "", labels=())], "no image has a label"),
    ],
)
def test_images_without_known_labels_are_refused(files: list[ImageFile], problem: str) -> None:
    with pytest.raises(CalibrationError, match=problem):
        label_targets(files, LABELS)


def label_file(folder: Path, labels: list[tuple[str, ...]]) -> Path:
    """Write images of a colour each, and their labels."""
    lines = []
    for at, each in enumerate(labels):
        shade = (60 + 180 * ("sea" in each), 60 + 180 * ("person" in each), 60 + 180 * ("dog" in each))
        Image.new("RGB", (8, 8), shade).save(folder / f"{at}.png")
        lines.append(json.dumps({"file": f"{at}.png", "labels": list(each)}))
    (folder / "labels.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return folder / "labels.jsonl"


def seeing(scale: float = 0.05, **options: object) -> Classifier:
    engine = FakeEngine(lambda frame: (frame.mean(axis=(0, 1)) - 128) * scale, input_size=(8, 8))
    return Classifier(engine, SMALL, LABELS, activation="sigmoid", **options)  # type: ignore[arg-type]


def test_a_label_file_is_evaluated(tmp_path: Path) -> None:
    images = open_dataset(label_file(tmp_path, [("sea",), (), ("sea", "dog"), ("person", "dog")]))
    with seeing() as one, seeing(0.025) as other:
        ours, theirs = predict([one, other], images)
    assert score_labels(ours).exact_match == 100
    assert ours.accepted.sum() == 3
    assert ours.logits is not None
    assert theirs.logits is not None
    assert ours.divergences == pytest.approx(binary_kl_divergence(theirs.logits, ours.logits))
    assert theirs.divergences.tolist() == [0.0] * 4
    assert compare_labels(ours, theirs).agreement.percent == 100


def test_a_model_of_one_class_is_not_compared_with_a_multilabel_model(tmp_path: Path) -> None:
    images = open_dataset(label_file(tmp_path, [("sea",)]))
    single = Classifier(FakeEngine(lambda _: [1, 0, 0], input_size=(8, 8)), SMALL, LABELS)
    with seeing() as multi, single, pytest.raises(UsageError, match="one of the two models gives one class"):
        predict([multi, single], images)


def test_a_resume_log_holds_no_logits(tmp_path: Path) -> None:
    images = open_dataset(label_file(tmp_path, [("sea",)]))
    with seeing() as classifier, pytest.raises(UsageError, match="resume= keeps no logits"):
        predict([classifier], images, resume_log=ResumeLog(tmp_path / "log", "key"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0.png sea", "line 2 of .* is not JSON"),
        ('["0.png", "sea"]', "line 2 of .* is "),
        ('{"file": "0.png"}', "line 2 of .* is "),
        ('{"file": "0.png", "labels": "sea"}', "line 2 of .* is "),
        ('{"file": "0.png", "labels": [1]}', "line 2 of .* is "),
        ('{"file": "", "labels": []}', "line 2 of .* is "),
        ('{"file": "gone.png", "labels": []}', "line 2 of .*: there is no file .*gone.png"),
        ('{"file": ".", "labels": []}', "line 2 of .*: there is no file"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = label_file(tmp_path, [("sea",)])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(CalibrationError, match=problem):
        read_label_file(path)


def test_an_image_that_a_label_file_repeats_is_read_once_and_must_have_the_same_labels(tmp_path: Path) -> None:
    path = label_file(tmp_path, [("sea",), ("dog",)])
    lines = path.read_text(encoding="utf-8")
    path.write_text(lines * 3, encoding="utf-8")
    assert len(read_label_file(path)) == 2
    path.write_text(lines + lines.replace("sea", "cat"), encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"line 3 of .* gives 0\.png other labels than a line before it"):
        read_label_file(path)


def test_a_label_file_without_images_and_a_wrong_limit(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n", encoding="utf-8")
    with pytest.raises(CalibrationError, match="names no images"):
        read_label_file(tmp_path / "empty.jsonl")
    with pytest.raises(UsageError, match="0 images were asked for"):
        read_label_file(label_file(tmp_path, [("sea",)]), limit=0)
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_label_file(tmp_path / "gone.jsonl")


def test_a_label_file_is_read_in_an_order_of_its_names_and_an_image_with_one_label_has_a_class(tmp_path: Path) -> None:
    path = label_file(tmp_path, [("sea",), ("sea", "sea"), ("dog", "sea"), ()])
    images = read_label_file(path)
    assert images.path == path
    by_name = {file.name: (file.labels, file.class_name) for file in images.files}
    assert by_name == {
        "0.png": (("sea",), "sea"),
        "1.png": (("sea",), "sea"),
        "2.png": (("dog", "sea"), ""),
        "3.png": ((), ""),
    }
    assert read_label_file(path, limit=2).files == images.files[:2]


@given(st.data(), st.integers(1, 25))
def test_the_fitted_threshold_has_the_highest_f1(data: st.DataObject, count: int) -> None:
    scores = np.array(data.draw(st.lists(st.integers(0, 20), min_size=count, max_size=count)), np.float32) / 20
    targets = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    targets[0] = True

    def f1_at(threshold: float) -> float:
        accepted = scores >= threshold
        return f1_score(int((accepted & targets).sum()), int(accepted.sum()), int(targets.sum())) or 0.0

    fitted = fit_f1_threshold(scores, targets)
    assert f1_at(fitted) == pytest.approx(max(f1_at(float(each)) for each in scores))
    assert fitted == 0.0 or fitted not in scores.tolist()


def fittable(error: Callable[[int], bool] = lambda _: False) -> Predictions:
    """120 images whose score for the sea tells the sea from 0.2 on, and for a person only in most images."""
    at = np.arange(120)
    sea = np.where(at % 2 == 0, -1.0, -3.0)
    person = np.where(at % 3 == 0, 1.0, -1.0)
    labels = [
        tuple(name for name, has in (("sea", each % 2 == 0), ("person", (each % 3 == 0) != error(each))) if has)
        for each in at.tolist()
    ]
    logits = np.stack([sea, person, np.full(120, -2.0)], axis=1) + at[:, None] * 1e-4
    return predictions_of(logits.astype(np.float32), labels)


def test_thresholds_are_fitted_to_the_highest_f1() -> None:
    record = fit_label_thresholds(score_labels(fittable()))
    sea, person, dog = record.thresholds
    assert 0.06 < sea < 0.26
    assert 0.28 < person < 0.73
    assert dog == 0.5
    assert (record.fitted, record.images, record.abstain_error) == (2, 120, None)
    assert (record.macro_f1_before, record.macro_f1_after) == (50.0, 100.0)


def test_thresholds_keep_the_share_of_wrong_images() -> None:
    record = fit_label_thresholds(score_labels(fittable(lambda at: at in (3, 6))), 0.05)
    predictions = replace(fittable(lambda at: at in (3, 6)), thresholds=record.thresholds)
    for label in score_labels(predictions).known_labels:
        assert label.precision is not None
        assert label.precision >= 95
    with pytest.raises(CalibrationError, match="label 'person': no threshold keeps"):
        fit_label_thresholds(score_labels(fittable(lambda at: at % 2 == 1)), 0.05)


def test_few_images_fit_no_threshold() -> None:
    with pytest.raises(CalibrationError, match="too few"):
        fit_label_thresholds(score_labels(predictions_of(np.zeros((2, 3), np.float32), [("sea",), ()])))
