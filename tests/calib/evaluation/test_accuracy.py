"""Accuracy and agreement, compared with predictions made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

import photos

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.evaluation.accuracy import Proportion, compare, evaluate, predict, score
from vitedge.errors import CalibrationError, EngineError, UsageError
from vitedge.metrics import kl_divergence, softmax, wilson_interval
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.load import load
from vitedge.runtime.preprocess.preprocessor import Preprocessor
from vitedge.runtime.sources.images.reading import read_image
from vitedge.testing import FakeEngine

SMALL = Preprocessing(input_size=(8, 8), resize_size=(8, 8))
SEVEN = ("red", "green", "blue", "cyan", "magenta", "yellow", "black")

Logits = Mapping[str, Sequence[float]]
RIGHT: Logits = {
    "red/0.png": [9, 1, 2, 3, 4, 5, 6],
    "red/1.png": [9, 1, 2, 3, 4, 5, 6],
    "green/0.png": [0, 9, 2, 3, 4, 5, 6],
    "green/1.png": [0, 9, 2, 3, 4, 5, 6],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Two images of red, two of green."""
    return ImageFolder.open(photos.write_photos(tmp_path_factory.mktemp("photos") / "two", ("red", "green")))


def classifier(
    images: ImageFolder, logits: Logits, labels: Sequence[str] = SEVEN, temperature: float = 1.0
) -> Classifier:
    """Return a classifier that gives these logits for the image of each name."""
    preprocess = Preprocessor(SMALL)
    table = {preprocess(read_image(images.folder / name), order="RGB").tobytes(): row for name, row in logits.items()}
    assert len(table) == len(logits)
    return Classifier(FakeEngine(table, input_size=SMALL.input_size), SMALL, labels, temperature=temperature)


def test_all_right(images: ImageFolder) -> None:
    evaluation = evaluate(classifier(images, RIGHT), images)
    assert (evaluation.top1, evaluation.top5, evaluation.images, evaluation.k) == (100.0, 100.0, 4, 5)


def test_top_1_and_top_5_by_hand(images: ImageFolder) -> None:
    logits = {
        "red/0.png": [9, 1, 2, 3, 4, 5, 6],  # best
        "red/1.png": [3, 1, 2, 9, 6, 5, 4],  # fifth
        "green/0.png": [9, 4, 1, 2, 7, 6, 5],  # fifth
        "green/1.png": [9, 3, 4, 5, 6, 7, 2],  # sixth
    }
    evaluation = evaluate(classifier(images, logits), images)
    assert evaluation.top1_proportion == Proportion(1, 4)
    assert evaluation.topk_proportion == Proportion(3, 4)
    assert (evaluation.top1, evaluation.top5) == (25.0, 75.0)


def test_with_fewer_than_five_classes_all_are_among_the_top(images: ImageFolder) -> None:
    wrong = {name: [0, 0, 9] for name in RIGHT}
    evaluation = evaluate(classifier(images, wrong, ("red", "green", "blue")), images)
    assert (evaluation.k, evaluation.top1, evaluation.top5) == (3, 0.0, 100.0)


def test_labels_decide_which_logit_is_right(images: ImageFolder) -> None:
    swapped = ("Green", "RED", *SEVEN[2:])
    assert evaluate(classifier(images, RIGHT, swapped), images).top1 == 0.0


def test_predictions_are_image_by_image_in_order(images: ImageFolder) -> None:
    (predictions,) = predict([classifier(images, RIGHT)], images)
    assert [prediction.file for prediction in predictions] == list(images.files)
    assert (predictions.labels, predictions.skipped, len(predictions)) == (SEVEN, (), 4)
    assert predictions.sha256 == images.load(SMALL).sha256
    for prediction in predictions:
        assert len(prediction.topk) == 5
        assert prediction.best.label == prediction.file.class_name
        logits = np.array(RIGHT[prediction.file.name], dtype=np.float32)
        assert prediction.best.score == pytest.approx(float(softmax(logits).max()))


def test_each_image_runs_once_through_each_classifier(images: ImageFolder) -> None:
    engines = [FakeEngine(lambda _: [1, 0, 0], input_size=(8, 8)) for _ in range(2)]
    predict([Classifier(engine, SMALL, SEVEN[:3]) for engine in engines], images)
    assert [len(engine.calls) for engine in engines] == [4, 4]
    frames = images.load(SMALL).frames
    assert all(np.array_equal(frames, np.stack(engine.calls)) for engine in engines)


def test_the_whole_way_with_a_real_engine(tiny_bundle: Bundle, tmp_path: Path) -> None:
    images = ImageFolder.open(photos.write_photos(tmp_path / "colours"))
    with load(tiny_bundle) as loaded:
        assert evaluate(loaded, images).top1 == 100.0


def test_labels_are_checked_before_anything_runs(images: ImageFolder) -> None:
    engine = FakeEngine({}, input_size=(8, 8))
    with pytest.raises(CalibrationError, match="are no labels of the model"):
        evaluate(Classifier(engine, SMALL, ["cat", "dog"]), images)
    assert engine.calls == []


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    folder = photos.write_photos(tmp_path / "two", ("red", "green"))
    (folder / "red" / "2.png").write_bytes(b"no image")
    images = ImageFolder.open(folder)
    evaluation = evaluate(classifier(images, RIGHT), images)
    assert (evaluation.images, evaluation.top1) == (4, 100.0)
    assert evaluation.predictions.skipped == ("red/2.png",)


def test_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "0.png").write_bytes(b"no image")
    engine = FakeEngine({}, input_size=(8, 8))
    with pytest.raises(CalibrationError, match=r"no image can be read: 'red/0\.png'"):
        evaluate(Classifier(engine, SMALL, SEVEN[:1]), ImageFolder.open(tmp_path))


@pytest.mark.parametrize("error", [EngineError("broken"), KeyboardInterrupt()])
def test_an_engine_that_fails_and_ctrl_c_pass(images: ImageFolder, error: BaseException) -> None:
    engine = FakeEngine(lambda _: [1, 0], input_size=(8, 8))
    engine.error = error
    with pytest.raises(type(error)):
        evaluate(Classifier(engine, SMALL, ["red", "green"]), images)


def test_agreement_and_flips(images: ImageFolder) -> None:
    other = RIGHT | {"green/0.png": [9, 1, 0, 0, 0, 0, 0], "red/1.png": [9, 8, 8, 8, 8, 8, 8]}
    ours, theirs = predict([classifier(images, other), classifier(images, RIGHT)], images)
    comparison = compare(ours, theirs)
    assert comparison.agreement == Proportion(3, 4)
    assert comparison.agreement.percent == 75.0
    (flip,) = comparison.flips
    assert (flip.file.name, flip.ours.label, flip.theirs.label) == ("green/0.png", "red", "green")
    expected = [float(softmax(np.array(row["green/0.png"], np.float32)).max()) for row in (other, RIGHT)]
    assert [flip.ours.score, flip.theirs.score] == pytest.approx(expected)


@pytest.mark.parametrize(("logits", "near"), [([8.9, 9, 0, 0, 0, 0, 0], True), ([7, 9, 0, 0, 0, 0, 0], False)])
def test_the_margin_of_a_flip_is_how_much_the_second_one_preferred_its_class(
    images: ImageFolder, logits: list[float], near: bool
) -> None:
    chooses_red = RIGHT | {"green/0.png": [9, 1, 0, 0, 0, 0, 0]}
    reference = classifier(images, RIGHT | {"green/0.png": logits})
    (flip,) = compare(*predict([classifier(images, chooses_red), reference], images)).flips
    scores = softmax(np.array(logits, np.float32))
    assert flip.margin == pytest.approx(scores[1] - scores[0], abs=1e-6)
    assert flip.near_tie is near


def test_the_margin_over_a_class_beyond_the_best_five_is_over_the_fifth(images: ImageFolder) -> None:
    (flip,) = compare(
        *predict(
            [classifier(images, RIGHT | {"green/0.png": [9, 1, 0, 0, 0, 0, 0]}), classifier(images, RIGHT)], images
        )
    ).flips
    scores = np.sort(softmax(np.array(RIGHT["green/0.png"], np.float32)))[::-1]
    assert flip.margin == pytest.approx(scores[0] - scores[4], abs=1e-6)


def test_divergences_are_those_of_the_whole_softmax_from_the_last_one(images: ImageFolder) -> None:
    other = RIGHT | {"green/0.png": [9, 1, 0, 0, 0, 0, 0], "red/1.png": [9, 8, 8, 8, 8, 8, 8]}
    ours, theirs = predict([classifier(images, other), classifier(images, RIGHT)], images)
    rows = [[np.array(table[file.name], np.float32) for file in images.files] for table in (RIGHT, other)]
    expected = kl_divergence(np.stack(rows[0]), np.stack(rows[1]))
    assert ours.divergences == pytest.approx(expected)
    assert np.count_nonzero(ours.divergences) == 2
    assert not theirs.divergences.any()
    comparison = compare(ours, theirs)
    assert (comparison.kl_mean, comparison.kl_p99) == pytest.approx((expected.mean(), np.percentile(expected, 99)))
    assert comparison.flips[0].divergence == pytest.approx(max(expected))
    assert comparison.flipped == Proportion(1, 4)


def test_divergences_are_those_of_the_scores_that_each_bundle_gives(images: ImageFolder) -> None:
    warm, cold = classifier(images, RIGHT, temperature=2.0), classifier(images, RIGHT)
    ours, _ = predict([warm, cold], images)
    rows = np.stack([np.array(RIGHT[file.name], np.float32) for file in images.files])
    assert ours.divergences == pytest.approx(kl_divergence(rows, rows / 2))
    assert ours.divergences.min() > 0


def test_all_the_same_and_all_different(images: ImageFolder) -> None:
    upside_down = {name: [-value for value in row] for name, row in RIGHT.items()}
    same, right, wrong = predict([classifier(images, each) for each in (RIGHT, RIGHT, upside_down)], images)
    assert compare(same, right).agreement == Proportion(4, 4)
    assert compare(same, right).flips == ()
    assert compare(wrong, right).agreement == Proportion(0, 4)
    assert [flip.file for flip in compare(wrong, right).flips] == list(images.files)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(("red", "green", "blue"), "7 and 3"), (("red", "verde", *SEVEN[2:]), "class 1 is 'verde' in one and 'green'")],
)
def test_different_classes_cannot_be_compared(images: ImageFolder, labels: tuple[str, ...], message: str) -> None:
    table = {name: row[: len(labels)] for name, row in RIGHT.items()}
    other, right = classifier(images, table, labels), classifier(images, RIGHT)
    first, second = (right, other) if len(labels) == 3 else (other, right)
    with pytest.raises(UsageError, match=message):
        predict([first, second], images)
    with pytest.raises(UsageError, match=message):
        compare(*(predict([each], images)[0] for each in (first, second)))


def test_predictions_for_different_images_cannot_be_compared(images: ImageFolder) -> None:
    right = classifier(images, RIGHT)
    (whole,) = predict([right], images)
    (part,) = predict([right], ImageFolder(images.folder, images.files[:3]))
    with pytest.raises(UsageError, match="different images"):
        compare(whole, part)


def test_scores_need_labels(images: ImageFolder) -> None:
    (predictions,) = predict([classifier(images, RIGHT, tuple("abcdefg"))], images)
    with pytest.raises(CalibrationError):
        score(predictions, images)


def test_a_proportion_has_wilsons_interval() -> None:
    assert Proportion(3, 4).ci95 == wilson_interval(3, 4)
    # by hand: p = 0.9, n = 10, z² = 3.8415
    assert (Proportion(9, 10).ci95.low, Proportion(9, 10).ci95.high) == pytest.approx((59.585, 98.212), abs=1e-3)


@pytest.mark.parametrize(("hits", "of"), [(0, 0), (-1, 4), (5, 4), (float("nan"), 4), (1, -1)])
def test_a_proportion_of_nothing_is_refused(hits: int, of: int) -> None:
    with pytest.raises(ValueError, match="images"):
        Proportion(hits, of)


@pytest.mark.parametrize("apart", [np.nan, np.inf])
def test_a_divergence_that_is_not_finite_is_infinite(images: ImageFolder, apart: float) -> None:
    ours, theirs = predict([classifier(images, each) for each in (RIGHT, RIGHT)], images)
    ours.divergences[1] = apart
    comparison = compare(ours, theirs)
    assert (comparison.kl_mean, comparison.kl_p99) == (np.inf, np.inf)


def test_logits_that_are_not_finite_are_an_engines_error(images: ImageFolder) -> None:
    broken = {name: [np.nan] * 7 for name in RIGHT}
    with pytest.raises(EngineError):
        evaluate(classifier(images, broken), images)
