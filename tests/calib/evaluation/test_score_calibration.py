"""Temperature and threshold: found where they were planted, and stored where the runtime reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from vitedge.bundle.bundle import MANIFEST, Bundle
from vitedge.calib.data.dataset import ImageFile
from vitedge.calib.evaluation.accuracy import Evaluation, Proportion
from vitedge.calib.evaluation.predictions import Predictions
from vitedge.calib.evaluation.score_calibration import (
    BLOCK,
    MIN_IMAGES,
    calibrate_scores,
    check_abstain_error,
    fit_temperature,
    fit_threshold,
    negative_log_likelihood,
    write_confidence,
    write_manifest,
)
from vitedge.errors import BundleIntegrityError, CalibrationError, UsageError
from vitedge.metrics import softmax
from vitedge.runtime.load import load

Logits = NDArray[np.float32]
Indices = NDArray[np.intp]


def drawn(images: int, temperature: float, classes: int = 6, seed: int = 0) -> tuple[Logits, Indices]:
    """Logits, and classes drawn from the softmax of the logits over the temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (images, classes)).astype(np.float32)
    cumulated = softmax((logits / temperature).astype(np.float32)).cumsum(axis=1)
    return logits, (generator.random((images, 1)) > cumulated).sum(axis=1).clip(max=classes - 1)


def evaluation_of(logits: Logits, targets: Indices) -> Evaluation:
    indices = logits.argmax(axis=1).astype(np.int32)[:, np.newaxis]
    scores = softmax(logits).max(axis=1, keepdims=True)
    files = tuple(ImageFile(Path(f"{number}.png"), f"{number}.png", "") for number in range(len(logits)))
    predictions = Predictions(("a",), files, indices, scores, np.zeros(len(logits)), (), "5ha", logits=logits)
    first = Proportion(int((indices[:, 0] == targets).sum()), len(targets))
    return Evaluation(predictions, targets, first, first, 1)


class TestTemperature:
    @pytest.mark.parametrize("planted", [0.4, 1.0, 2.5])
    def test_the_planted_one_is_found(self, planted: float) -> None:
        assert fit_temperature(*drawn(8000, planted)) == pytest.approx(planted, rel=0.05)

    def test_two_classes_by_hand(self) -> None:
        """Of 4 images with logits (2, 0) three are of class 0: 1/(1+e^(−2/T)) = 3/4, so T = 2/ln 3."""
        logits = np.array([[2, 0]] * 4, dtype=np.float32)
        assert fit_temperature(logits, np.array([0, 0, 0, 1])) == pytest.approx(2 / np.log(3), rel=1e-4)

    @pytest.mark.parametrize("factor", [0.5, 4.0])
    def test_it_grows_with_the_logits(self, factor: float) -> None:
        logits, targets = drawn(500, 1.5)
        scaled = fit_temperature(np.float32(factor) * logits, targets)
        assert scaled == pytest.approx(factor * fit_temperature(logits, targets), rel=1e-3)

    def test_it_is_the_least_and_always_the_same(self) -> None:
        logits, targets = drawn(BLOCK + 300, 1.7)
        found = fit_temperature(logits, targets)
        assert found == fit_temperature(logits, targets)
        least = negative_log_likelihood(logits, targets, found)
        for other in (0.1, 0.98 * found, 1.02 * found, 10.0):
            assert least < negative_log_likelihood(logits, targets, other)

    def test_the_likelihood_by_hand(self) -> None:
        logits = np.array([[2, 0], [0, 2]], dtype=np.float32)
        expected = (np.log1p(np.exp(-1.0)) + np.log1p(np.exp(1.0))) / 2
        assert negative_log_likelihood(logits, np.array([0, 0]), 2.0) == pytest.approx(expected)

    def test_images_that_are_all_right_tell_none(self) -> None:
        logits, _ = drawn(200, 1.0)
        assert fit_temperature(logits, logits.argmax(axis=1)) == 1.0

    def test_logits_that_know_nothing_tell_none(self) -> None:
        logits, _ = drawn(600, 1.0)
        assert fit_temperature(logits, logits.argmin(axis=1)) == 1.0


class TestThreshold:
    def test_by_hand(self) -> None:
        scores = np.array([0.5, 0.9, 0.8, 0.6, 0.7])
        right = np.array([False, True, True, True, False])  # descending: right, right, wrong, right, wrong
        assert fit_threshold(scores, right, 0.0) == pytest.approx(0.75)
        assert fit_threshold(scores, right, 0.24) == pytest.approx(0.75)
        assert fit_threshold(scores, right, 0.25) == pytest.approx(0.55)
        assert fit_threshold(scores, right, 0.4) == 0.0

    def test_equal_scores_are_accepted_together(self) -> None:
        scores, right = np.array([0.9, 0.7, 0.7, 0.7]), np.array([True, True, True, False])
        assert fit_threshold(scores, right, 0.1) == pytest.approx(0.8)

    def test_there_may_be_none(self) -> None:
        with pytest.raises(CalibrationError, match=r"within 10 %: the lowest is 50\.00 %") as caught:
            fit_threshold(np.array([0.9, 0.8]), np.array([False, True]), 0.1)
        assert "abstain_error=" in caught.value.fix

    @given(arrays(np.float32, 30, elements=st.floats(0, 1, width=32)), arrays(np.bool_, 30), st.floats(0, 0.99))
    def test_it_keeps_the_share_and_no_smaller_one_would(
        self, scores: NDArray[np.float32], right: NDArray[np.bool_], error: float
    ) -> None:
        shares = {float(at): float(np.mean(~right[scores >= at])) for at in scores}
        kept = [at for at, share in shares.items() if share <= error]
        if not kept:
            with pytest.raises(CalibrationError):
                fit_threshold(scores, right, error)
            return
        accepted = scores >= fit_threshold(scores, right, error)
        assert np.mean(~right[accepted]) <= error
        assert np.array_equal(accepted, scores >= min(kept))


class TestFit:
    def test_scores_come_closer_to_what_they_say_and_the_error_is_kept(self) -> None:
        logits, targets = drawn(4000, 2.0)
        record = calibrate_scores(evaluation_of(logits, targets), 0.1)
        assert record.temperature == pytest.approx(2.0, rel=0.1)
        assert record.ece_after < 3 < 10 < record.ece_before
        assert record.accepted_top1 >= 90.0
        assert 0 < record.threshold < 1
        assert (record.abstain_error, record.images, record.sha256) == (0.1, 4000, "5ha")
        scores = softmax(logits / np.float32(record.temperature)).max(axis=1)
        assert record.accepted == pytest.approx(100 * np.mean(scores >= record.threshold))

    def test_without_a_share_all_is_accepted(self) -> None:
        logits, targets = drawn(300, 1.0)
        record = calibrate_scores(evaluation_of(logits, targets))
        assert (record.threshold, record.abstain_error, record.accepted) == (0.0, None, 100.0)
        assert record.accepted_top1 == pytest.approx(100 * np.mean(logits.argmax(axis=1) == targets))

    def test_few_images_are_refused(self) -> None:
        with pytest.raises(CalibrationError, match=f"{MIN_IMAGES - 1} images are too few"):
            calibrate_scores(evaluation_of(*drawn(MIN_IMAGES - 1, 1.0)))

    @pytest.mark.parametrize("error", [-0.1, 1.0, 5.0, float("nan")])
    def test_what_is_no_share_is_refused(self, error: float) -> None:
        with pytest.raises(UsageError, match="share of wrong predictions"):
            check_abstain_error(error)


@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 299), st.integers(0, 5))
def test_logits_that_are_not_finite_fit_nothing(poison: float, image: int, label: int) -> None:
    logits, targets = drawn(300, 2.0)
    logits[image, label] = poison
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature(logits, targets)
    assert negative_log_likelihood(logits, targets, 1.0) == np.inf


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (np.zeros((0, 3), np.float32), np.zeros(0, np.intp)),
        (np.zeros((2, 3), np.complex64), np.zeros(2, np.intp)),
        (np.zeros((2, 3), np.float32), np.zeros(3, np.intp)),
        (np.zeros((2, 3), np.float32), np.array([0, 3])),
        (np.zeros((2, 3), np.float32), np.array([0, -1])),
        (np.zeros((2, 3), np.float32), np.array([0.0, 1.0])),
    ],
)
def test_a_temperature_of_nothing_is_refused(logits: Logits, targets: Indices) -> None:
    with pytest.raises(ValueError, match="targets"):
        fit_temperature(logits, targets)


@pytest.mark.parametrize(
    ("scores", "right"),
    [
        (np.zeros(0), np.zeros(0, bool)),
        (np.array([0.5, np.nan]), np.ones(2, bool)),
        (np.array([0.5, np.inf]), np.ones(2, bool)),
        (np.array([0.5, 1.5]), np.ones(2, bool)),
        (np.array([0.5, 0.5j]), np.ones(2, bool)),
        (np.array([0.5, 0.6]), np.ones(2)),
        (np.array([0.5, 0.6]), np.ones(3, bool)),
    ],
)
def test_a_threshold_of_what_are_no_scores_is_refused(scores: NDArray[np.floating], right: NDArray[np.bool_]) -> None:
    with pytest.raises(ValueError, match="scores"):
        fit_threshold(scores, right, 0.1)


def test_what_is_stored_is_what_the_runtime_applies(
    tiny_bundle: Bundle, tmp_path: Path, colour_frame: Callable[..., NDArray[np.uint8]]
) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "copy.bundle")
    record = calibrate_scores(evaluation_of(*drawn(300, 2.0)), 0.2)
    stored = write_confidence(Bundle.open(tmp_path / "copy.bundle"), record)
    assert Bundle.open(stored.path) == stored
    assert stored.manifest.confidence == record
    assert stored.digest == Bundle.open(stored.path).digest
    frame = colour_frame("red")
    with load(stored) as classifier:
        expected = softmax(classifier.logits(frame) / np.float32(record.temperature)).max()
        assert classifier.classify(frame).score == pytest.approx(float(expected))
        assert classifier.threshold == record.threshold


def test_a_manifest_that_cannot_be_written_stays(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match="disk full"):
        write_confidence(tiny_bundle, calibrate_scores(evaluation_of(*drawn(300, 2.0))))
    assert Bundle.open(tiny_bundle.path) == tiny_bundle


def test_a_temperature_below_all_allowed_is_an_error() -> None:
    logits, targets = drawn(2000, 1.0)
    assert fit_temperature(logits / 100, targets) == pytest.approx(0.01, rel=0.1)
    with pytest.raises(CalibrationError, match=r"below 0\.001"):
        fit_temperature(logits / 10_000, targets)


def test_a_bundle_that_was_replaced_meanwhile_keeps_its_own_manifest(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = Bundle.open(Path(shutil.copytree(tiny_bundle.path, tmp_path / "a.bundle")))
    other = (bundle.path / MANIFEST).read_text().replace('"vitedge_version": "', '"vitedge_version": "9')
    (bundle.path / MANIFEST).write_text(other)
    with pytest.raises(BundleIntegrityError, match="has changed since the bundle was opened"):
        write_manifest(bundle, bundle.manifest)
    assert (bundle.path / MANIFEST).read_text() == other
