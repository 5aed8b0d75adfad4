"""The range that is chosen: the one that the outputs are closest with, whatever the tensor alone suggests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import layers as graphs
from layers import WIDTH, weights

from vitedge.calib.quantization.affine import Scheme, activation_quantizer
from vitedge.calib.quantization.layerwise import LayerwiseRun
from vitedge.calib.quantization.range_estimators import Histogram, Range, min_max
from vitedge.calib.quantization.range_search import (
    CLOSE,
    Unseen,
    best_by_outputs,
    best_quantizer,
    candidates,
    half_furthest,
)
from vitedge.calib.quantization.search_budget import SearchBudget


def advanced(graph: Any) -> tuple[LayerwiseRun, Histogram]:
    """A run that stands before the reader of ``wide``, and the histogram of that tensor."""
    model = ir.from_proto(graph)
    run, histogram = LayerwiseRun(model, graphs.frames(8)), Histogram()
    reader = next(node for node in model.graph if node.inputs[-1].name == "head")
    run.advance(reader)
    for values in run.values:
        histogram.add(values["wide"])
    reader.replace_input_with(0, ir.val("wide_read"))
    return run, histogram


def searched(outlier_weight: float) -> tuple[float, float]:
    """Scales of the quantizer found, and of that of the whole range, for a tensor with one channel of outliers.

    Args:
        outlier_weight: what the outputs make of that channel.
    """
    sizes, head = np.ones(WIDTH), weights(WIDTH, 5)
    sizes[3], head[3] = 40.0, outlier_weight
    graph = graphs.model("wide = Mul(x, sizes) logits = MatMul(wide, head)", sizes=sizes, head=head)
    run, histogram = advanced(graph)
    found = best_quantizer(run, "wide", "wide_read", histogram, SearchBudget(2, 8), Scheme.ASYMMETRIC)
    whole = min_max(histogram)
    return found.scale, activation_quantizer(whole.low, whole.high, Scheme.ASYMMETRIC).scale


def test_outliers_that_do_not_matter_are_clipped_and_those_that_do_are_kept() -> None:
    clipped, whole = searched(outlier_weight=0.0)
    assert clipped < 0.6 * whole
    kept, whole = searched(outlier_weight=1.0)
    assert kept > 0.9 * whole


def test_all_candidates_lie_within_the_whole_range_which_comes_first() -> None:
    histogram = Histogram()
    histogram.add(np.random.default_rng(0).gamma(1, 1, 5000).astype(np.float32) - 0.17)
    whole, *others = candidates(histogram, Scheme.ASYMMETRIC)
    assert whole == min_max(histogram)
    assert len(others) > 10
    assert all(whole.low <= each.low <= 0 <= each.high <= whole.high for each in others)
    assert all(each.low == whole.low for each in others[-5:])  # the short side is not clipped for the sake of the long


def test_a_tensor_that_is_always_zero_has_one_candidate() -> None:
    histogram = Histogram()
    histogram.add(np.zeros(10, np.float32))
    assert all(len(candidates(histogram, scheme)) == 1 for scheme in Scheme)


def test_float8_clips_nothing_and_tries_one_octave() -> None:
    histogram = Histogram()
    histogram.add(np.random.default_rng(0).standard_normal(5000).astype(np.float32))
    whole = min_max(histogram)
    quantizers = [
        activation_quantizer(each.low, each.high, Scheme.FLOAT8) for each in candidates(histogram, Scheme.FLOAT8)
    ]
    reach = np.array([448 * each.scale for each in quantizers]) / max(-whole.low, whole.high)
    assert len(reach) == 8
    assert reach[0] == reach.max() == pytest.approx(4, rel=0.01)
    assert 2 < reach.min() < 2.3


class CountedRun:
    """A run whose outputs are made up: choice ``c`` changes the outputs of image ``i`` by ``errors[c, i]``.

    The decisions before changed the outputs of each image by ``noise``. Behind the first of two parts, choices have the
    distances ``halfway``; without them there is one part.
    """

    results = ("outputs",)

    def __init__(
        self, errors: NDArray[np.float64], noise: float = 0.0, halfway: NDArray[np.float64] | None = None
    ) -> None:
        self.errors, self.tried, self.halfway = errors, list[tuple[int, int]](), halfway
        self.float_outputs = [np.array([noise])] * errors.shape[1]
        self.parts = ("first", "second") if halfway is not None else ("only",)

    def rest(self, source: str, read: str) -> CountedRun:
        return self

    def begin(self, change: Callable[[Any], Any], image: int) -> dict[str, Any]:
        choice, seen = change(None), np.ones(1)
        if choice is not None and self.halfway is not None:
            seen = seen + self.halfway[choice]
        return {"choice": choice, "image": image, "seen": seen} if choice is not None else {"seen": seen}

    def finish(self, values: dict[str, Any]) -> NDArray[np.float64]:
        if "choice" not in values:
            return np.zeros(1)
        pair = values["choice"], values["image"]
        self.tried.append(pair)
        return np.array([self.errors[pair]])


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(8))
def test_choices_are_given_up_only_when_they_cannot_win(seed: int, spread: float) -> None:
    random, few, many = np.random.default_rng(seed), [3, 0, 7, 5], [*range(12)]
    sizes = np.exp(spread * random.standard_normal((24, 1)) + 0.5 * random.standard_normal((24, 12)))
    run = CountedRun(sizes)
    choices = [lambda _, choice=choice: choice for choice in range(24)]  # type: ignore[misc]
    found = best_by_outputs(run, "x", "x", choices, few, many)  # type: ignore[arg-type]
    close = np.argsort(np.square(sizes)[:, few].sum(axis=1))[:CLOSE]
    assert found == min(close, key=lambda choice: np.square(sizes)[choice, many].sum())
    assert len(run.tried) == len(set(run.tried))
    assert spread < 1 or len(run.tried) < 24 * len(few)


@pytest.mark.parametrize("seed", range(8))
def test_a_choice_that_lost_is_not_tried_on_another_image(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if it led on the first image."""
    monkeypatch.setattr("vitedge.calib.quantization.range_search.thread_count", lambda: 1)
    sizes, images = np.exp(np.random.default_rng(seed).standard_normal((24, 8))), [5, 2, 7, 0]
    run = CountedRun(sizes)
    choices = [lambda _, choice=choice: choice for choice in range(24)]  # type: ignore[misc]
    best = best_by_outputs(run, "x", "x", choices, images, images)  # type: ignore[arg-type]
    bound = np.sort(np.square(sizes)[:, images].sum(axis=1))[CLOSE - 1]
    assert np.square(sizes)[best, images].sum() <= bound
    for choice in range(24):
        tried = [image for tried, image in run.tried if tried == choice]
        assert np.square(sizes)[choice, tried[:-1]].sum() <= bound


def test_choices_that_overflow_are_never_best() -> None:
    errors = np.full((6, 4), np.inf)
    errors[4] = 1e3
    choices = [lambda _, choice=choice: choice for choice in range(6)]  # type: ignore[misc]
    assert best_by_outputs(CountedRun(errors), "x", "x", choices, [0, 1], range(4)) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_the_half_that_is_closer_behind_the_first_part_is_tried_to_the_end(seed: int) -> None:
    random = np.random.default_rng(seed)
    halfway = random.permutation(24).astype(np.float64)
    run = CountedRun(1 + random.random((24, 4)), halfway=halfway)
    choices = [lambda _, choice=choice: choice for choice in range(24)]  # type: ignore[misc]
    best = best_by_outputs(run, "x", "x", choices, [0], range(4))  # type: ignore[arg-type]
    assert {choice for choice, _ in run.tried} == {0, *np.flatnonzero(halfway < 12)}
    assert len(run.tried) == len(set(run.tried))
    assert best == 0 or halfway[best] < 12
    run.tried.clear()
    best_by_outputs(run, "x", "x", choices, [0, 1], range(4))  # type: ignore[arg-type]
    assert {choice for choice, _ in run.tried} == set(range(24))


def test_a_choice_that_overflows_behind_the_first_part_is_not_in_the_closer_half() -> None:
    halfway = np.array([np.nan, np.inf, 2.0, 1.0])
    run = CountedRun(np.zeros((4, 2)), halfway=halfway)
    choices = [lambda _, choice=choice: choice for choice in range(4)]  # type: ignore[misc]
    best_by_outputs(run, "x", "x", choices, [0], [0])  # type: ignore[arg-type]
    assert {choice for choice, _ in run.tried} == {0, 2, 3}


def test_what_is_infinite_without_any_change_does_not_decide() -> None:
    halfway = np.array([[np.inf, 4.0], [np.inf, 3.0], [np.inf, 2.0], [np.inf, 1.0]])
    run = CountedRun(np.ones((4, 2)), halfway=halfway)
    run.begin = lambda change, image: (
        CountedRun.begin(run, change, image)
        | (  # type: ignore[method-assign]
            {"seen": np.array([np.inf, 1.0])} if change(None) is None else {}
        )
    )
    choices = [lambda _, choice=choice: choice for choice in range(4)]  # type: ignore[misc]
    best_by_outputs(run, "x", "x", choices, [0], [0])  # type: ignore[arg-type]
    assert {choice for choice, _ in run.tried} == {0, 2, 3}


def tried_with(sizes: NDArray[np.float64], negligible: float) -> tuple[int, set[tuple[int, int]]]:
    """The choice for a noise of 100 in each of two images, with what was tried."""
    run = CountedRun(np.sqrt(sizes), noise=10.0)
    choices = [lambda _, choice=choice: choice for choice in range(len(sizes))]  # type: ignore[misc]
    found = best_by_outputs(run, "x", "x", choices, [0, 1], range(4), negligible)  # type: ignore[arg-type]
    return found, set(run.tried)


def test_nothing_is_searched_where_the_first_choice_adds_next_to_nothing_to_the_noise() -> None:
    sizes = np.full((6, 4), 5.0)
    sizes[3] = 1.0
    assert tried_with(sizes, 0.06) == (0, {(0, 0), (0, 1)})
    assert tried_with(sizes, 0.04)[0] == tried_with(sizes, 0.0)[0] == 3


def test_the_closest_choice_is_taken_without_more_images_where_it_adds_next_to_nothing() -> None:
    sizes = np.full((6, 4), 50.0)
    sizes[3], sizes[4, 2:] = 1.0, 0.0
    sizes[4, :2] = 1.1
    found, tried = tried_with(sizes, 0.02)
    assert found == 3
    assert {image for _, image in tried} == {0, 1}
    assert tried_with(sizes, 0.009)[0] == 4


def test_half_of_the_images_are_those_furthest_beyond() -> None:
    assert half_furthest([1, 5, 2, 9, 3, 0], 4) == (3, 1, 0, 2)
    assert half_furthest([1, 5, 2], 16) == (1, 2, 0)
    assert half_furthest([1, 5], 1) == (0,)


def test_a_range_is_judged_as_large_a_part_of_the_other_images_range() -> None:
    whole, others = Range(-2.0, 8.0), Range(-1.0, 6.0)
    unseen = Unseen(2, others, np.full((1, 1), 0.5, np.float32))
    values = np.linspace(-4, 14, 7, dtype=np.float32)[np.newaxis]
    for part in (1.0, 0.5, 1.3):
        judged = unseen.judged(Range(-2.0 * part, 8.0 * part), whole, Scheme.ASYMMETRIC)
        quantizer = activation_quantizer(-1.0 * part, 6.0 * part, Scheme.ASYMMETRIC)
        np.testing.assert_array_equal(judged(values), quantizer(values * 0.5) * 2)
    assert unseen.furthest([values, 2 * values, 3 * values]) == [7, 14]


def test_a_range_is_widened_where_images_exceed_the_range_of_the_others() -> None:
    """All images reach as far; the others would have reached less far than these."""
    graph = graphs.model(
        "wide = Mul(x, two) logits = MatMul(wide, head)", two=np.full(WIDTH, 2.0), head=weights(WIDTH, 5)
    )
    run, histogram = advanced(graph)
    whole = min_max(histogram)
    ones = np.ones(1, np.float32)
    scales = [
        best_quantizer(run, "wide", "wide_read", histogram, SearchBudget(2, 8), Scheme.ASYMMETRIC, unseen).scale
        for unseen in (Unseen(8, whole.widened(0.8), ones), None)
    ]
    assert scales[0] > 1.1 * whole_scale(whole) >= 1.1 * scales[1]


def whole_scale(whole: Range) -> float:
    return activation_quantizer(whole.low, whole.high, Scheme.ASYMMETRIC).scale
