"""Comparisons of outputs: they must fail on what is wrong, not only pass on what is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from vitedge.metrics import (
    SQNR_CAP_DB,
    Parity,
    average_precision,
    binary_kl_divergence,
    expected_calibration_error,
    f1_score,
    kl_divergence,
    log_sigmoid,
    log_softmax,
    parity,
    reach,
    sigmoid,
    softmax,
    sqnr_db,
    wilson_interval,
)

Compare: TypeAlias = Callable[[NDArray[Any], NDArray[Any]], Any]

REFERENCE = np.random.default_rng(0).normal(0, 3, (8, 10)).astype(np.float32)

finite = st.floats(-1e4, 1e4, width=32)
logits = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(2, 6)), elements=finite)


def test_parity_passes_equal_logits() -> None:
    same = parity(REFERENCE, REFERENCE.copy())
    assert same.max_abs_error == same.relative_error == 0.0
    assert same.sqnr_db == SQNR_CAP_DB
    assert same.agreement == 100.0
    assert same.images == 8


def test_parity_fails_doubled_logits_although_the_classes_agree() -> None:
    doubled = parity(REFERENCE, 2 * REFERENCE)
    assert doubled.agreement == 100.0
    assert doubled.sqnr_db == pytest.approx(0.0, abs=1e-6)
    assert doubled.max_abs_error == pytest.approx(np.abs(REFERENCE).max())
    assert doubled.relative_error > 0.4


def test_parity_fails_zero_logits() -> None:
    zero = parity(REFERENCE, np.zeros_like(REFERENCE))
    assert zero.sqnr_db == pytest.approx(0.0, abs=1e-6)
    assert zero.max_abs_error == pytest.approx(np.abs(REFERENCE).max())
    assert zero.agreement < 50


def test_parity_fails_shifted_logits_although_softmax_cannot_tell() -> None:
    shifted = parity(REFERENCE, REFERENCE + 5)
    assert shifted.agreement == 100.0
    assert shifted.max_abs_error == pytest.approx(5, rel=1e-5)
    assert shifted.sqnr_db < 0


def test_parity_fails_one_image_out_of_place() -> None:
    swapped = REFERENCE[[1, 0, *range(2, 8)]]
    assert parity(REFERENCE, swapped).sqnr_db < 10


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_one_logit_that_is_no_number_fails_everything(poison: float) -> None:
    broken = REFERENCE.copy()
    broken[3, 4] = poison
    assert sqnr_db(REFERENCE, broken) == -SQNR_CAP_DB
    compared = parity(REFERENCE, broken)
    assert compared.sqnr_db == -SQNR_CAP_DB
    assert not math.isfinite(compared.max_abs_error)


@pytest.mark.parametrize(
    ("reference", "actual"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros((2, 3)), np.zeros((1, 3))),
        (np.zeros(3), np.zeros(3)),
        (np.zeros((0, 3)), np.zeros((0, 3))),
    ],
)
def test_parity_refuses_shapes_that_broadcast(reference: NDArray[np.float64], actual: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="logits of shape"):
        parity(reference, actual)


def test_sqnr_of_known_noise() -> None:
    reference = np.array([[3.0, 4.0]])
    assert sqnr_db(reference, np.array([[3.5, 4.0]])) == pytest.approx(20.0)


def test_sqnr_of_a_silent_reference() -> None:
    assert sqnr_db(np.zeros((1, 3)), np.zeros((1, 3))) == -SQNR_CAP_DB
    assert sqnr_db(np.zeros((1, 3)), np.ones((1, 3))) == -SQNR_CAP_DB


@given(logits, st.floats(1.1, 100))
def test_sqnr_falls_by_the_square_of_the_noise(reference: NDArray[np.float32], factor: float) -> None:
    signal = reference.astype(np.float64) + 1e5
    little, more = sqnr_db(signal, signal + 0.125), sqnr_db(signal, signal + 0.125 * factor)
    assert little - more == pytest.approx(20 * math.log10(factor), abs=1e-3)


@given(logits, logits)
def test_sqnr_is_within_its_cap_and_blind_to_the_sign(
    reference: NDArray[np.float32], other: NDArray[np.float32]
) -> None:
    if reference.shape != other.shape:
        other = np.resize(other, reference.shape)
    value = sqnr_db(reference, other)
    assert -SQNR_CAP_DB <= value <= SQNR_CAP_DB
    assert value == sqnr_db(-reference, -other)


@given(logits)
def test_softmax_is_a_distribution_in_the_order_of_the_logits(values: NDArray[np.float32]) -> None:
    scores = softmax(values)
    assert scores.dtype == np.float32
    assert scores.shape == values.shape
    assert np.all(scores >= 0)
    assert np.allclose(scores.sum(axis=-1), 1, atol=1e-5)
    best = values.argmax(axis=-1)[:, np.newaxis]
    assert np.all(np.take_along_axis(scores, best, axis=-1) == scores.max(axis=-1, keepdims=True))


@given(logits, st.floats(-1000, 1000, width=32))
def test_softmax_does_not_see_a_shift(values: NDArray[np.float32], shift: float) -> None:
    assert np.allclose(softmax(values), softmax(values + np.float32(shift)), atol=2e-3)


def test_softmax_survives_large_logits() -> None:
    assert softmax(np.array([[1e30, 0.0]], dtype=np.float32)).tolist() == [[1.0, 0.0]]


def test_kl_divergence_by_hand() -> None:
    """p = (0.75, 0.25) against q = (0.5, 0.5) and the other way about: the two directions differ."""
    skewed, even = np.log([[0.75, 0.25]]), np.zeros((1, 2))
    assert kl_divergence(skewed, even) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert kl_divergence(even, skewed) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))


def test_kl_divergence_sees_doubled_and_zero_logits_in_every_row_and_no_shift() -> None:
    assert np.all(kl_divergence(REFERENCE, 2 * REFERENCE) > 0.01)
    assert np.all(kl_divergence(REFERENCE, np.zeros_like(REFERENCE)) > 0.1)
    assert kl_divergence(REFERENCE, REFERENCE + 5) == pytest.approx(np.zeros(8), abs=1e-6)
    assert kl_divergence(REFERENCE, REFERENCE.copy()).tolist() == [0.0] * 8


def test_kl_divergence_survives_large_logits_and_refuses_other_shapes() -> None:
    far = kl_divergence(np.array([1000.0, 0.0]), np.array([0.0, 1000.0], dtype=np.float32))
    assert far == pytest.approx(1000.0)
    with pytest.raises(ValueError, match="logits of shape"):
        kl_divergence(np.zeros((2, 3)), np.zeros(3))


@given(logits)
def test_kl_divergence_is_never_negative(values: NDArray[np.float32]) -> None:
    assert np.all(kl_divergence(values, values[:, ::-1]) >= 0)


def test_calibration_error_by_hand() -> None:
    """Bins of 1/15: 0.62 and 0.66 share one, 0.95 and 1.0 another; 0.65·2 against 1 right, 1.95 against 2 right."""
    scores = np.array([0.62, 0.66, 0.95, 1.0], dtype=np.float32)
    error = expected_calibration_error(scores, np.array([True, False, True, True]))
    assert error == pytest.approx(100 * (abs(0.62 + 0.66 - 1) + abs(0.95 + 1.0 - 2)) / 4, abs=1e-4)


def test_calibration_error_of_scores_that_say_what_they_mean_and_of_those_that_do_not() -> None:
    generator = np.random.default_rng(1)
    scores = generator.uniform(0.2, 1.0, 20_000)
    assert expected_calibration_error(scores, generator.random(20_000) < scores) < 2
    assert expected_calibration_error(np.ones(10), np.zeros(10, dtype=bool)) == 100.0
    assert expected_calibration_error(np.zeros(10), np.zeros(10, dtype=bool)) == 0.0


def test_calibration_error_needs_as_many_scores_as_answers() -> None:
    for scores, right in ((np.ones(3), np.ones(2, dtype=bool)), (np.ones(0), np.ones(0, dtype=bool))):
        with pytest.raises(ValueError, match="scores of shape"):
            expected_calibration_error(scores, right)


counts = st.integers(1, 5000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


@given(counts)
def test_wilson_holds_the_share_and_stays_within_0_and_100(count: tuple[int, int]) -> None:
    successes, trials = count
    interval = wilson_interval(successes, trials)
    assert 0 <= interval.low <= 100 * successes / trials + 1e-9
    assert 100 * successes / trials - 1e-9 <= interval.high <= 100
    assert interval.low < interval.high


@given(counts)
def test_wilson_mirrors(count: tuple[int, int]) -> None:
    successes, trials = count
    interval, mirrored = wilson_interval(successes, trials), wilson_interval(trials - successes, trials)
    assert interval.low == pytest.approx(100 - mirrored.high, abs=1e-9)


@given(counts)
def test_wilson_narrows_with_more_trials(count: tuple[int, int]) -> None:
    successes, trials = count
    few, many = wilson_interval(successes, trials), wilson_interval(4 * successes, 4 * trials)
    assert many.high - many.low < few.high - few.low


@given(counts)
def test_wilson_bounds_are_where_the_score_test_turns(count: tuple[int, int]) -> None:
    """The interval is the set of shares p with |p̂ − p| ≤ z·√(p(1−p)/n); its inner bounds meet that with equality."""
    successes, trials = count
    interval = wilson_interval(successes, trials, z=2.0)
    for bound in (interval.low / 100, interval.high / 100):
        if 0 < bound < 1:
            squared = (successes / trials - bound) ** 2
            assert squared == pytest.approx(4.0 * bound * (1 - bound) / trials, rel=1e-6)


def test_wilson_of_a_published_example() -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263 is 0.2553 to 0.3662."""
    interval = wilson_interval(81, 263)
    assert interval.low == pytest.approx(25.53, abs=0.005)
    assert interval.high == pytest.approx(36.62, abs=0.005)


@given(st.integers(1, 10**6))
def test_wilson_reaches_0_and_100_exactly(trials: int) -> None:
    assert wilson_interval(0, trials).low == 0.0
    assert wilson_interval(trials, trials).high == 100.0


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_counts_that_cannot_be(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes of"):
        wilson_interval(successes, trials)


COMPARISONS = (sqnr_db, parity, kl_divergence)

poisons = st.sampled_from([np.nan, np.inf, -np.inf])
strangers = st.sampled_from(
    [
        np.complex64([[1, 2], [3, 4]]),
        np.array([["1", "2"], ["3", "4"]]),
        np.array([[b"1", b"2"], [b"3", b"4"]]),
        np.array([[1, 2], [3, None]], dtype=object),
        np.array([[1, 2], [3, 4]], dtype="datetime64[s]"),
        np.array([[1, 2], [3, 4]], dtype="timedelta64[s]"),
        np.ones((2, 2), dtype=bool),
        np.zeros((2, 2), dtype=[("x", "f4")]),
    ]
)
PLAIN = np.array([[1.0, 2.0], [4.0, 3.0]])


def is_good(value: object) -> bool:
    """Whether the result of a comparison says that the two are alike, even a little."""
    if isinstance(value, Parity):
        return value.sqnr_db > 0.0 or value.agreement > 0.0 or value.relative_error < 0.1
    if isinstance(value, float):
        return value > 0.0
    return bool(np.any(np.asarray(value) < math.inf))


@given(logits.filter(np.any), poisons, st.data())
def test_nothing_that_is_not_finite_compares_well(
    values: NDArray[np.float32], poison: float, data: st.DataObject
) -> None:
    """Not even a reference with itself, which is what a stranger's golden logits would be."""
    rows = data.draw(st.sampled_from(["one", "all"]))
    spoiled = values.copy()
    spoiled[:] = poison if rows == "all" else spoiled
    spoiled[:, data.draw(st.integers(0, values.shape[1] - 1))] = poison
    for compare in COMPARISONS:
        for reference, actual in ((spoiled, values), (values, spoiled), (spoiled, spoiled.copy())):
            assert not is_good(compare(reference, actual))


@pytest.mark.parametrize("compare", COMPARISONS)
@given(strangers)
def test_what_is_no_array_of_real_numbers_is_refused(compare: Compare, stranger: NDArray[np.generic]) -> None:
    for reference, actual in ((stranger, PLAIN), (PLAIN, stranger), (stranger, stranger.copy())):
        with pytest.raises(ValueError, match="expected real numbers"):
            compare(reference, actual)


@pytest.mark.parametrize("compare", COMPARISONS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_at_all_is_refused(compare: Compare, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="of shape"):
        compare(np.zeros(shape), np.zeros(shape))


@pytest.mark.parametrize("compare", [sqnr_db, parity])
@given(logits)
def test_zeros_compare_well_with_nothing(compare: Compare, values: NDArray[np.float32]) -> None:
    zeros = np.zeros_like(values)
    for reference, actual in ((zeros, zeros), (zeros, values), (values, zeros)):
        assert not is_good(compare(reference, actual))


def test_zeros_diverge_from_zeros() -> None:
    assert kl_divergence(np.zeros((2, 3)), np.zeros((2, 3))).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("classes", [1, 3])
def test_an_engine_that_prefers_no_class_agrees_with_none(classes: int) -> None:
    """``argmax`` of equal numbers is 0, which is often right."""
    reference = np.full((4, classes), 2.0)
    reference[:, 0] = 7.0
    assert parity(reference, reference).agreement == 100.0
    assert parity(reference, np.zeros_like(reference)).agreement == 0.0
    if classes > 1:
        assert parity(reference, np.full_like(reference, 7.0)).agreement == 0.0


@given(st.sampled_from([1e-300, 1e-160, 1e150, 1e200, 1.7e308]), logits.filter(lambda values: np.ptp(values) > 1.0))
def test_numbers_whose_squares_do_not_fit_a_double_compare_as_others_do(
    scale: float, values: NDArray[np.float32]
) -> None:
    reference = values.astype(np.float64) / np.abs(values).max() * scale
    assert sqnr_db(reference, reference) == SQNR_CAP_DB
    assert sqnr_db(reference, reference / 2) == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert sqnr_db(reference, -reference) == pytest.approx(-20 * math.log10(2), abs=1e-3)


def test_numbers_that_do_not_fit_a_double_are_not_finite() -> None:
    huge = np.full((1, 2), np.finfo(np.longdouble).max, dtype=np.longdouble)
    assert sqnr_db(huge, huge) == -SQNR_CAP_DB


@given(logits, poisons)
def test_probabilities_of_what_is_not_finite_are_none(values: NDArray[np.float32], poison: float) -> None:
    values = values.copy()
    values[0, -1] = poison
    for probabilities in (softmax(values), log_softmax(values)):
        assert np.all(np.isnan(probabilities[0]))
        assert np.all(np.isfinite(probabilities[1:]))


@pytest.mark.parametrize("transform", [softmax, log_softmax])
@given(strangers)
def test_probabilities_of_what_is_no_number_are_refused(
    transform: Callable[[NDArray[Any]], NDArray[Any]], stranger: NDArray[np.generic]
) -> None:
    with pytest.raises(ValueError, match="expected real numbers"):
        transform(stranger)
    with pytest.raises(ValueError, match="expected real numbers"):
        transform(np.zeros((3, 0), dtype=np.float32))


@pytest.mark.parametrize("score", [np.nan, np.inf, -0.1, 1.1])
def test_scores_that_are_no_probabilities_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        expected_calibration_error(np.array([0.5, score]), np.array([True, True]))


@given(strangers)
def test_scores_and_answers_of_other_types_are_refused(stranger: NDArray[np.generic]) -> None:
    flat = stranger.ravel()
    with pytest.raises(ValueError, match="expected real numbers"):
        expected_calibration_error(flat, np.ones(len(flat), dtype=bool))
    for right in (flat.astype(np.float64) if flat.dtype.kind == "b" else flat, np.ones(len(flat))):
        with pytest.raises(ValueError, match="not bool"):
            expected_calibration_error(np.full(len(flat), 0.5), right)


@pytest.mark.parametrize(
    ("successes", "trials"), [(np.nan, 5), (5, np.nan), (3.0, 5), (3, np.inf), (1j, 5), ("3", 5), (None, 5)]
)
def test_wilson_refuses_what_is_no_count(successes: Any, trials: Any) -> None:
    with pytest.raises(ValueError, match="successes of"):
        wilson_interval(successes, trials)


@given(logits)
def test_sigmoid_is_the_softmax_of_two_logits(values: NDArray[np.float32]) -> None:
    pairs = np.stack([np.zeros_like(values), values], axis=-1)
    assert np.allclose(sigmoid(values), softmax(pairs)[..., 1], atol=1e-6)
    assert np.allclose(sigmoid(values) + sigmoid(-values), 1.0, atol=1e-6)
    assert np.allclose(log_sigmoid(values), log_softmax(pairs)[..., 1], atol=1e-6)


def test_sigmoid_neither_overflows_nor_hides_what_is_not_finite() -> None:
    values = np.array([-1e38, 1e38, np.nan, np.inf, -np.inf], np.float32)
    assert sigmoid(values)[:2].tolist() == [0.0, 1.0]
    assert np.isnan(sigmoid(values)[2:]).all()
    with pytest.raises(ValueError, match="real numbers"):
        sigmoid(np.array(["a"]))  # type: ignore[arg-type]


@given(logits)
def test_binary_divergence_is_0_for_equal_logits_and_positive_for_others(values: NDArray[np.float32]) -> None:
    bounded = np.clip(values, -20, 20)
    assert np.array_equal(binary_kl_divergence(bounded, bounded), np.zeros(len(values)))
    assert np.all(binary_kl_divergence(bounded, bounded + 1) > 0)


@given(st.floats(-15, 15), st.floats(-15, 15))
def test_binary_divergence_of_one_label_is_the_divergence_of_its_two_answers(ours: float, theirs: float) -> None:
    pairs = [np.array([[0.0, each]]) for each in (ours, theirs)]
    single = binary_kl_divergence(np.array([[ours]]), np.array([[theirs]]))
    if ours or theirs:  # two zeros say nothing to ``kl_divergence``
        assert single == pytest.approx(kl_divergence(*pairs), abs=1e-9)


def test_binary_divergence_adds_up_over_labels_and_differs_from_that_of_the_softmax() -> None:
    ours, theirs = np.array([[1.0, -2.0, 3.0]]), np.array([[0.5, -2.5, 2.5]])
    labels = [binary_kl_divergence(ours[:, [at]], theirs[:, [at]]) for at in range(3)]
    assert binary_kl_divergence(ours, theirs) == pytest.approx(sum(labels))
    assert kl_divergence(ours, theirs) == pytest.approx([0.0], abs=1e-9)  # a shift, which a softmax does not show
    assert binary_kl_divergence(ours, theirs)[0] > 0.01


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_binary_divergence_of_logits_that_are_not_finite_is_infinite(wrong: float) -> None:
    assert binary_kl_divergence(np.array([0.0, 1.0]), np.array([0.0, wrong])) == math.inf
    with pytest.raises(ValueError, match="shape"):
        binary_kl_divergence(np.zeros(2), np.zeros(3))


def test_average_precision_of_rankings_that_were_computed_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert average_precision(scores, np.array([True, True, False, False])) == 100.0
    assert average_precision(scores, np.array([False, True, False, True])) == pytest.approx(50.0)
    assert average_precision(scores, np.array([False, False, False, True])) == pytest.approx(25.0)
    assert average_precision(np.full(4, 0.5), np.array([True, False, False, False])) == pytest.approx(25.0)


@given(st.data(), st.integers(1, 30))
def test_average_precision_is_the_mean_precision_at_each_image_with_the_label(data: st.DataObject, count: int) -> None:
    """Without equal scores, it is the mean over the images with the label of the precision down to that image."""
    order = data.draw(st.permutations(range(count)))
    targets = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    targets[data.draw(st.integers(0, count - 1))] = True
    scores = np.array(order, np.float64)
    ranked = targets[np.argsort(-scores)]
    expected = np.mean([ranked[: place + 1].mean() for place in np.flatnonzero(ranked)])
    assert average_precision(scores, targets) == pytest.approx(100 * expected)


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        (np.zeros(2), np.zeros(2, np.bool_)),
        (np.zeros(2), np.ones(3, np.bool_)),
        (np.zeros(2), np.ones(2)),
        (np.array([0.0, np.nan]), np.ones(2, np.bool_)),
    ],
)
def test_average_precision_refuses_what_has_none(scores: Any, targets: Any) -> None:
    with pytest.raises(ValueError, match=r"^(scores|no image)"):
        average_precision(scores, targets)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(hits: int, wrong: int, missed: int) -> None:
    found = f1_score(hits, hits + wrong, hits + missed)
    if not hits + wrong + missed:
        assert found is None
    elif not hits:
        assert found == 0.0
    else:
        precision, recall = hits / (hits + wrong), hits / (hits + missed)
        assert found == pytest.approx(100 * 2 * precision * recall / (precision + recall))


def test_f1_refuses_more_hits_than_there_can_be() -> None:
    with pytest.raises(ValueError, match="3 hits of 2"):
        f1_score(3, 2, 5)


def test_a_score_reaches_a_threshold_from_the_threshold_on() -> None:
    scores = np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)
    assert reach(scores, (0.5, 0.75)).tolist() == [[True, False], [False, True]]
