"""The gate: what fp32's own noise explains passes, what it does not explain is refused, and images decide which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vitedge.bundle.targets import Precision
from vitedge.bundle.verification_records import GateInputs
from vitedge.converters.precision_gate import (
    HOPELESS_DB,
    LEAST_AGREEING_DB,
    LogitComparison,
    Reference,
    compare,
    judge,
    noisy_frames,
)
from vitedge.errors import ConversionError

Logits = NDArray[np.float32]
IMAGES, CLASSES = 64, 10
ALL_INPUTS: tuple[GateInputs, ...] = ("held_out", "calibration", "synthetic")


def logits_of(seed: int = 0) -> Logits:
    return np.random.default_rng(seed).normal(0, 3, (IMAGES, CLASSES)).astype(np.float32)


def with_sqnr(logits: Logits, decibels: float, seed: int = 1) -> Logits:
    """Logits with noise that far below them."""
    noise = np.random.default_rng(seed).standard_normal(logits.shape)
    noise *= np.sqrt(np.square(logits).sum() / np.square(noise).sum() / 10 ** (decibels / 10))
    return (logits + noise).astype(np.float32)


def clear(margin: float = 5.0) -> Logits:
    """Logits whose best class, number ``i`` modulo the classes for image ``i``, leads the next one by ``margin``."""
    logits, images = np.clip(logits_of() / 3, -2, 1.5), np.arange(IMAGES)
    logits[images, images % CLASSES] = 2 + margin
    logits[images, (images + 1) % CLASSES] = 2
    return logits.astype(np.float32)


def flipped(logits: Logits, count: int) -> Logits:
    """The same logits; the best and the second class change places for the first ``count`` images."""
    changed = logits.copy()
    order = logits.argsort(axis=1)
    for image in range(count):
        best, second = order[image, -1], order[image, -2]
        changed[image, [best, second]] = logits[image, [second, best]]
    return changed


def reference(logits: Logits, noise_db: float = 40, activation: Any = "softmax") -> Reference:
    return Reference(logits, with_sqnr(logits, noise_db, seed=7), activation)


def judged(
    of: Reference,
    reduced: Logits,
    *,
    precision: Precision = "int8",
    inputs: GateInputs = "held_out",
    random_weights: bool = False,
) -> tuple[LogitComparison, str | None]:
    return judge(of, reduced, precision, inputs, random_weights=random_weights)


@pytest.mark.parametrize("inputs", ALL_INPUTS)
@pytest.mark.parametrize("random_weights", [False, True])
def test_a_healthy_precision_passes_without_a_warning(inputs: GateInputs, random_weights: bool) -> None:
    logits = clear()
    found, warning = judged(reference(logits), with_sqnr(logits, 25), inputs=inputs, random_weights=random_weights)
    assert warning is None
    assert found.parity.sqnr_db == pytest.approx(25, abs=0.1)
    assert (found.agreement, found.flips, found.parity.images) == (100.0, 0, IMAGES)
    assert found.noise_sqnr_db == pytest.approx(40, abs=0.1)


class TestSqnr:
    @pytest.mark.parametrize("inputs", ALL_INPUTS)
    @pytest.mark.parametrize("random_weights", [False, True])
    @pytest.mark.parametrize(("noise_db", "sqnr_db"), [(45, 19), (41, -1.7), (38, 17)])
    def test_what_the_noise_does_not_explain_is_refused(
        self, noise_db: float, sqnr_db: float, inputs: GateInputs, random_weights: bool
    ) -> None:
        logits = clear()
        with pytest.raises(ConversionError, match="int8 differs from the fp32 graph: SQNR") as caught:
            judged(
                reference(logits, noise_db), with_sqnr(logits, sqnr_db), inputs=inputs, random_weights=random_weights
            )
        assert f"leaves fp32 itself {noise_db:.1f} dB" in caught.value.expected
        assert "precision='fp16'" in caught.value.fix

    def test_what_the_noise_explains_is_warned_of(self) -> None:
        logits = clear()
        _, warning = judged(reference(logits, 30), with_sqnr(logits, 15))
        assert warning is not None
        assert "SQNR 15.0 dB" in warning
        assert "images that calibration has not used" in warning
        assert "leaves fp32 itself 30.0 dB" in warning

    @pytest.mark.parametrize("noise_db", [-10, 3, 15])
    def test_no_noise_explains_zeros(self, noise_db: float) -> None:
        for wrong in (np.zeros_like(clear()), -clear(), with_sqnr(clear(), HOPELESS_DB - 1)):
            with pytest.raises(ConversionError, match="int8 differs"):
                judged(reference(clear(), noise_db), wrong, random_weights=True)

    def test_scaled_logits_are_refused_although_the_classes_agree(self) -> None:
        with pytest.raises(ConversionError, match="int8 differs"):
            judged(reference(clear()), 3 * clear())


class TestAnswers:
    def test_clear_answers_that_change_are_refused(self) -> None:
        logits = clear(margin=0.2)
        changed = flipped(logits, IMAGES // 4)
        with pytest.raises(ConversionError, match="another answer on 16 of 64 images that calibration") as caught:
            judged(reference(logits, 45), changed)
        assert "on 16 of them fp32 decides clearly" in caught.value.problem
        assert "90 %" in caught.value.expected

    def test_near_ties_that_change_are_warned_of(self) -> None:
        ties = clear(margin=0.01)
        found, warning = judged(reference(ties, 30), flipped(ties, 16))
        assert (found.flips, found.unexplained_flips) == (16, 0)
        assert warning is not None
        assert "another answer on 16 of 64" in warning

    def test_equal_classes_are_a_tie_without_any_noise(self) -> None:
        logits = np.repeat(logits_of()[:, :5], 2, axis=1)
        changed = logits + np.tile(np.array([0, 1e-6], np.float32), 5)
        found = compare(Reference(logits, logits, "softmax"), changed)
        assert (found.flips, found.unexplained_flips) == (IMAGES, 0)

    def test_a_few_images_that_change_by_chance_do_not_refuse(self) -> None:
        logits = clear(margin=0.2)
        few = Reference(logits[:8], with_sqnr(logits, 45)[:8], "softmax")
        found, warning = judged(few, flipped(logits, 1)[:8])
        assert (found.flips, found.unexplained_flips) == (1, 1)
        assert warning is not None
        with pytest.raises(ConversionError, match="fp32 decides clearly"):
            judged(few, flipped(logits, 4)[:8])

    @pytest.mark.parametrize(("inputs", "random_weights"), [("synthetic", False), ("held_out", True)])
    def test_answers_that_mean_nothing_are_not_judged(self, inputs: GateInputs, random_weights: bool) -> None:
        logits = clear(margin=0.2)
        _, warning = judged(
            reference(logits, 45), flipped(logits, IMAGES), inputs=inputs, random_weights=random_weights
        )
        assert warning is None

    def test_labels_of_a_multilabel_model_are_its_answers(self) -> None:
        logits = np.where(logits_of() > 0, 3, -3).astype(np.float32) + 0.1 * logits_of(1)
        found, warning = judged(reference(logits, activation="sigmoid"), with_sqnr(logits, 25))
        assert (found.flips, warning) == (0, None)
        lost = logits.copy()
        lost[:20, 0] = -logits[:20, 0]
        assert compare(reference(logits, activation="sigmoid"), lost).unexplained_flips == 20
        unsure = logits.copy()
        unsure[:, 0] = 1e-3
        below = unsure.copy()
        below[:, 0] = -1e-3
        found = compare(reference(unsure, activation="sigmoid"), below)
        assert (found.flips, found.unexplained_flips) == (IMAGES, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_logit_that_is_not_finite_is_refused(value: float) -> None:
    logits = clear()
    changed = logits.copy()
    changed[0, 0] = value
    with pytest.raises(ConversionError, match="fp16 gives NaN or infinite logits") as caught:
        judged(reference(logits), changed, precision="fp16", random_weights=True)
    assert "precision='fp32'" in caught.value.fix
    with pytest.raises(ConversionError, match="fp32 graph gives NaN"):
        Reference(changed, logits, "softmax")
    with pytest.raises(ConversionError, match="one level, gives NaN"):
        Reference(logits, changed, "softmax")


def test_noise_moves_every_value_by_one_level_within_its_range() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    frames[0, :8], frames[0, 8:16] = 0, 255
    noisy = noisy_frames(frames)
    change = noisy.astype(int) - frames
    assert set(np.unique(change[1:])) <= {-1, 0, 1}
    inner = (frames > 0) & (frames < 255)
    assert set(np.unique(change[inner])) == {-1, 1}
    assert abs(change[inner].mean()) < 0.05
    np.testing.assert_array_equal(noisy, noisy_frames(frames))


def test_the_noise_never_asks_for_more_than_the_warning_does() -> None:
    logits = clear()
    for noise_db in (-20, 5, 20, 33, 41, 80):
        explained = compare(reference(logits, noise_db), logits).explained_sqnr_db
        assert HOPELESS_DB <= explained <= LEAST_AGREEING_DB
