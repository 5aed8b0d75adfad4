"""The panel fits, is legible, shows the score, and leaves the frame alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.runtime.outputs import overlay
from vitedge.runtime.outputs.overlay import BAR, MUTED, TEXT, RateMeter, annotate, layout_for

pytest.importorskip("PIL.Image")

SIZES = [(480, 640), (720, 1280), (2160, 3840), (1920, 1080), (240, 320), (100, 2000), (2000, 100), (32, 32), (1, 1)]


def prediction(*scores: float, label: str = "tulips") -> Prediction:
    topk = tuple(ClassScore(label, index, score) for index, score in enumerate(scores))
    return Prediction(topk, frame=0, captured_at=0.0, age_ms=12.4, stages_ms=StageTimes(1, 2, 3))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_labels_below_their_thresholds_have_muted_bars():
    shown = prediction(0.9, 0.8, 0.7)
    image = np.zeros((480, 640, 3), np.uint8)

    def bars(accepted: tuple[ClassScore, ...], *, abstained: bool = False) -> tuple[int, int]:
        drawn = annotate(replace(shown, accepted=accepted, abstained=abstained), image).astype(int)
        rows = {colour: (drawn == colour).all(axis=2).any(axis=1) for colour in (BAR, MUTED)}
        return tuple(int(np.diff(each.astype(int)).clip(0).sum()) for each in rows.values())  # type: ignore[return-value]

    all_bars, _ = bars(shown.topk)
    some_bars, _ = bars(shown.topk[:2])
    no_bars, _ = bars((), abstained=True)
    assert (all_bars, some_bars, no_bars) == (3, 2, 0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_fits_any_frame_and_leaves_it_alone(height: int, width: int):
    image = noise(height, width)
    before = image.copy()
    drawn = annotate(prediction(0.7, 0.2, 0.1), image, fps=29.97)
    assert np.array_equal(image, before)
    assert drawn.dtype == np.uint8
    assert drawn.flags.c_contiguous
    factor = drawn.shape[0] // height
    assert drawn.shape == (height * factor, width * factor, 3)
    assert min(drawn.shape[:2]) >= min(overlay.SMALLEST_SIDE, 240)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (720, 1280), (1920, 1080), (32, 32)])
def test_the_rest_of_the_frame_is_untouched(height: int, width: int):
    image = noise(height, width)
    drawn = annotate(prediction(0.7, 0.2, 0.1), image)
    layout = layout_for(*drawn.shape[:2], rows=2)
    factor = drawn.shape[0] // height
    enlarged = image.repeat(factor, axis=0).repeat(factor, axis=1)
    assert np.array_equal(drawn[layout.height :], enlarged[layout.height :])
    assert np.array_equal(drawn[:, layout.width :], enlarged[:, layout.width :])
    assert layout.height * layout.width < 0.5 * drawn.shape[0] * drawn.shape[1]


@pytest.mark.parametrize("background", [0, 255])
def test_text_is_legible_on_any_background(background: int):
    drawn = annotate(prediction(0.7), np.full((480, 640, 3), background, dtype=np.uint8))
    layout = layout_for(480, 640, rows=0)
    panel = drawn[: layout.height, : layout.width].astype(int)
    text = (panel == TEXT).all(axis=2)
    assert text.sum() > 200
    assert np.median(panel[~text]) < 90


@pytest.mark.parametrize("score", [0.0, 0.25, 1.0])
def test_the_bar_is_as_long_as_the_score(score: float):
    drawn = annotate(prediction(score), noise(480, 640))
    layout = layout_for(480, 640, rows=0)
    bar = (drawn == BAR).all(axis=2).any(axis=0).sum()
    assert bar == pytest.approx(score * (layout.width - 2 * layout.padding), abs=2)


def test_one_that_abstains_is_marked_as_unsure_in_muted_colours():
    sure = prediction(0.4, 0.3)
    drawn = [annotate(each, np.zeros((480, 640, 3), np.uint8)) for each in (sure, replace(sure, abstained=True))]
    heading = slice(0, layout_for(480, 640, rows=1).heading)
    bars = [(each[heading] == BAR).all(axis=2).any() for each in drawn]
    texts = [(each[heading] == TEXT).all(axis=2).any() for each in drawn]
    assert (bars, texts) == ([True, False], [True, False])
    assert (drawn[1][heading] == MUTED).all(axis=2).any()
    below = slice(heading.stop + layout_for(480, 640, rows=1).padding, None)
    assert np.array_equal(drawn[0][below], drawn[1][below])


def test_three_classes_are_shown_at_most():
    rows = [annotate(prediction(*[0.1] * count), np.zeros((480, 640, 3), np.uint8)) for count in (1, 2, 3, 4)]
    differs = [not np.array_equal(one, other) for one, other in itertools.pairwise(rows)]
    assert differs == [True, True, False]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "label",
    [
        "",
        "a" * 500,
        "Gänseblümchen",
        "日本",
        "\n\t",
        "a\nb\n" * 100,
        "\x1b[2J\0",
        "\udcff",
        "a" * 2_000_000,
        "\ufdfa" * 500,
    ],
)
def test_any_label_can_be_drawn(label: str):
    drawn = annotate(prediction(0.5, 0.5, label=label), noise(480, 640))
    layout = layout_for(480, 640, rows=1)
    assert np.array_equal(drawn[:, layout.width :], noise(480, 640)[:, layout.width :])


def test_a_line_break_in_a_label_is_shown_and_not_followed():
    drawn = [annotate(prediction(0.7, label=label), np.zeros((480, 640, 3), np.uint8)) for label in ("a\nb", r"a\nb")]
    assert np.array_equal(*drawn)


class TestRateMeter:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        now = [0]
        monkeypatch.setattr(overlay.time, "perf_counter_ns", lambda: now[0])
        return now

    def test_n_ticks_are_n_minus_one_intervals(self, clock: list[int]):
        meter = RateMeter()
        assert meter.tick() is None
        for _ in range(5):
            clock[0] += 100_000_000
            assert meter.tick() == pytest.approx(10.0)

    def test_only_the_last_ticks_count(self, clock: list[int]):
        meter = RateMeter()
        for milliseconds in (1000, *[20] * overlay.RATE_WINDOW):
            clock[0] += milliseconds * 1_000_000
            rate = meter.tick()
        assert rate == pytest.approx(50.0)
