"""The classifier: images in, ranked labels out, safely."""

from __future__ import annotations

import shutil
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from vitedge.bundle.accuracy_records import ConfidenceRecord, ThresholdsRecord
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.errors import EngineError, FrameSourceError, UsageError
from vitedge.metrics import sigmoid, softmax
from vitedge.runtime import classifier as classifier_module
from vitedge.runtime import load as load_module
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.open import ENGINES
from vitedge.runtime.load import load
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.base import Frame as SourceFrame
from vitedge.runtime.stream.stream import WORKERS_PAY_FROM
from vitedge.testing import FakeEngine

COLOURS = ("red", "green", "blue")
SMALL = Preprocessing(input_size=(2, 2), resize_size=(2, 2))
PIXEL = np.zeros((2, 2, 3), dtype=np.uint8)

Frame = NDArray[np.uint8]
ColourFrame = Callable[..., Frame]


def answering(logits: object, labels: int = 3) -> Classifier:
    engine = FakeEngine(lambda _: logits, input_size=(2, 2))  # type: ignore[arg-type,return-value]
    return Classifier(engine, SMALL, [f"class {index}" for index in range(labels)])


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("size", [(32, 32), (48, 64), (720, 1280)])
def test_it_names_the_colour_of_a_frame_of_any_size(
    tiny_bundle: Bundle, colour_frame: ColourFrame, colour: str, size: tuple[int, int]
) -> None:
    with load(tiny_bundle) as classifier:
        prediction = classifier.classify(colour_frame(colour, height=size[0], width=size[1]))
    assert prediction.label == COLOURS[prediction.index] == colour
    assert prediction.score > 0.9
    assert sorted(each.label for each in prediction.topk) == sorted(COLOURS)


@pytest.mark.parametrize("colour", COLOURS)
def test_an_array_is_bgr_and_a_pillow_image_is_what_it_says(
    tiny_bundle: Bundle, colour_frame: ColourFrame, colour: str
) -> None:
    frame = colour_frame(colour)
    picture = Image.fromarray(frame[..., ::-1].copy())
    with load(str(tiny_bundle.path)) as classifier:
        assert classifier.classify(picture).label == colour
        assert np.array_equal(classifier.logits(picture), classifier.logits(frame))
        assert classifier.classify(picture.convert("RGBA")).label == colour


def test_pillow_images_of_other_modes_convert(tiny_bundle: Bundle) -> None:
    with load(tiny_bundle) as classifier:
        for mode in ("L", "P", "1", "CMYK"):
            assert len(classifier.classify(Image.new(mode, (40, 40))).topk) == 3


def test_the_two_engines_agree(tiny_bundle: Bundle, colour_frame: ColourFrame) -> None:
    frame = colour_frame("green", height=50, width=70)
    with load(tiny_bundle) as one, load(tiny_bundle, engine="onnxruntime", threads=1) as other:
        assert np.allclose(one.logits(frame), other.logits(frame), atol=1e-5)
        assert (one.info.name, other.info.name) == ("openvino", "onnxruntime")


def test_the_stages_one_by_one_give_what_classify_gives(tiny_bundle: Bundle, colour_frame: ColourFrame) -> None:
    frame = colour_frame("blue", height=40, width=60)
    with load(tiny_bundle) as classifier:
        logits = classifier.infer(classifier.prepare(frame))
        assert np.array_equal(logits, classifier.logits(frame))
        assert classifier.rank(logits, 5) == classifier.classify(frame).topk
        reversed_frame = np.ascontiguousarray(frame[..., ::-1])
        assert np.array_equal(classifier.infer(classifier.prepare(reversed_frame, order="RGB")), logits)


def test_the_network_s_own_channel_order_is_respected(
    make_bundle: Callable[..., Bundle], tmp_path: Path, colour_frame: ColourFrame
) -> None:
    """The same graph, declared as one that reads BGR, sees blue where it would have seen red."""
    preprocessing = Preprocessing(input_size=(32, 32), resize_size=(32, 32), channel_order="BGR")
    bundle = make_bundle(tmp_path / "bgr.bundle", preprocessing=preprocessing)
    with load(bundle) as classifier:
        assert classifier.classify(colour_frame("blue")).label == "red"


def test_times_are_of_this_call(tiny_bundle: Bundle, colour_frame: ColourFrame) -> None:
    with load(tiny_bundle) as classifier:
        prediction = classifier.classify(colour_frame("red"))
    stages = prediction.stages_ms
    assert min(stages.preprocess, stages.infer, stages.postprocess) > 0
    assert prediction.age_ms >= stages.total
    assert prediction.frame == prediction.dropped == 0


@pytest.mark.parametrize(
    "image",
    [
        None,
        "frame.jpg",
        [[0, 0, 0]],
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((10, 0, 3), np.uint8),
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 1), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((1, 10, 10, 3), np.uint8),
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["classify", "logits", "prepare"])
def test_what_is_no_colour_image_is_refused_before_it_reaches_the_engine(image: object, verb: str) -> None:
    classifier = answering([1, 2, 3])
    with pytest.raises(FrameSourceError) as caught:
        getattr(classifier, verb)(image)
    assert caught.value.expected
    assert classifier._engine.calls == []  # type: ignore[union-attr]


@pytest.mark.parametrize("turns", [False, True])
def test_a_file_its_bytes_and_a_folder_give_the_same_logits(turns: bool, tmp_path: Path) -> None:
    """So does an evaluation, which reads files as a folder's source does."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(pixels).save(path, exif=exif)
    engine = FakeEngine(lambda frame: frame[:, :, 0].astype(np.float32).ravel()[:3], input_size=(2, 2))
    with Classifier(engine, replace(SMALL, exif_orientation=turns), COLOURS) as classifier:
        expected = classifier.logits(Image.open(path))
        for image in (path, str(path), path.read_bytes(), bytearray(path.read_bytes())):
            np.testing.assert_array_equal(classifier.logits(image), expected)
            np.testing.assert_array_equal(classifier.infer(classifier.prepare(image)), expected)
        (streamed,) = classifier.stream(tmp_path, topk=3)
        assert streamed.topk == classifier.classify(path, topk=3).topk
        upright = np.asarray(Image.open(path))
        upright = np.rot90(upright, 3) if turns else upright
        np.testing.assert_array_equal(classifier.logits(upright, order="RGB"), expected)


def test_decoding_a_file_counts_as_preprocessing_and_keeps_no_thread_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXEL).save(path)
    classifier = answering([1, 2, 3])
    decoding, go_on = threading.Event(), threading.Event()
    read = classifier_module.stored_image

    def slowly(image: Any) -> Any:
        if image is path:
            decoding.set()
            assert go_on.wait(30)
            time.sleep(0.01)
        return read(image)

    monkeypatch.setattr(classifier_module, "stored_image", slowly)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(classifier.classify(path)))
    thread.start()
    assert decoding.wait(30)
    assert classifier.classify(PIXEL).label == "class 2"
    go_on.set()
    thread.join()
    assert found[0].age_ms >= found[0].stages_ms.total >= found[0].stages_ms.preprocess >= 10


def test_a_module_that_another_thread_is_importing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python enters a module into sys.modules before it has run."""
    monkeypatch.setitem(sys.modules, "PIL.Image", ModuleType("PIL.Image"))
    monkeypatch.setitem(sys.modules, "PIL", ModuleType("PIL"))
    classifier = answering([1, 2, 3])
    assert classifier.classify(PIXEL).label == "class 2"
    with pytest.raises(FrameSourceError):
        classifier.classify(None)  # type: ignore[arg-type]


def planes(height: int, width: int) -> YuvPlanes:
    chroma = np.full((height // 2, width // 2), 128, np.uint8)
    return YuvPlanes(np.full((height, width), 100, np.uint8), chroma, chroma)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("pixels", [np.zeros((1080, 1920, 3), np.uint8), planes(1080, 1920)], ids=["pixels", "planes"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_a_frame_is_copied_and_converted_only_for_somebody_who_looks(
    pixels: Frame | YuvPlanes, order: Any, orientation: int
) -> None:
    engine = FakeEngine(lambda _: [1, 2, 3], input_size=(224, 224))
    preprocessing = Preprocessing(input_size=(224, 224), resize_size=(256, 256))
    frames = [SourceFrame(pixels, index, order=order, orientation=orientation) for index in range(4)]
    whole = 1080 * 1920
    with Classifier(engine, preprocessing, COLOURS) as classifier, classifier.stream(frames) as stream:
        first = next(stream)  # the first frame of a size makes plans
        classifier.classify(pixels, order=order)
        tracemalloc.start()
        try:
            for prediction in stream:
                assert prediction.picture is not None
            classifier.classify(pixels, order=order)
            assert tracemalloc.get_traced_memory()[1] < whole / 4
            tracemalloc.reset_peak()
            image = first.image
            assert image is not None
            converted = order == "RGB" or isinstance(pixels, YuvPlanes)
            assert (tracemalloc.get_traced_memory()[1] > 3 * whole) == converted
        finally:
            tracemalloc.stop()
    assert image.shape == (1080, 1920, 3)
    assert first.image is image


logits_of_some_length = arrays(np.float32, st.integers(1, 40), elements=st.floats(-50, 50, width=32))
with_ties = arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-1.0, 0.0, 0.0, 2.0]))


@given(logits_of_some_length | with_ties, st.integers(1, 50))
def test_ranking_is_a_stable_sort_of_the_softmax(logits: NDArray[np.float32], topk: int) -> None:
    ranked = answering(logits, labels=len(logits)).rank(logits, topk)
    order = sorted(range(len(logits)), key=lambda index: (-logits[index], index))[:topk]
    assert [each.index for each in ranked] == order
    assert [each.label for each in ranked] == [f"class {index}" for index in order]
    assert np.allclose([each.score for each in ranked], softmax(logits)[order], rtol=1e-4, atol=1e-7)
    assert order[0] == int(logits.argmax())


@given(logits_of_some_length, st.sampled_from([0.25, 1.0, 3.0]))
def test_scores_are_those_of_the_logits_over_the_temperature(logits: NDArray[np.float32], temperature: float) -> None:
    plain = answering(logits, labels=len(logits))
    tempered = Classifier(FakeEngine(lambda _: logits, input_size=(2, 2)), SMALL, plain.labels, temperature=temperature)
    ranked = tempered.rank(logits, 5)
    assert [each.index for each in ranked] == [each.index for each in plain.rank(logits, 5)]
    expected = softmax(logits / np.float32(temperature))[[each.index for each in ranked]]
    assert np.allclose([each.score for each in ranked], expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("threshold", "abstained"), [(0.0, False), (0.49, False), (0.5, False), (0.51, True)])
def test_a_score_below_the_threshold_abstains(threshold: float, abstained: bool) -> None:
    engine = FakeEngine(lambda _: [1.0, 1.0], input_size=(2, 2))
    prediction = Classifier(engine, SMALL, "ab", threshold=threshold).classify(PIXEL)
    assert (prediction.score, prediction.abstained) == (0.5, abstained)
    assert prediction.to_json()["abstained"] is abstained


def multilabel(logits: object, labels: int = 3, thresholds: tuple[float, ...] | None = None) -> Classifier:
    engine = FakeEngine(lambda _: logits, input_size=(2, 2))  # type: ignore[arg-type,return-value]
    names = [f"label {index}" for index in range(labels)]
    return Classifier(engine, SMALL, names, activation="sigmoid", thresholds=thresholds)


@given(logits_of_some_length | with_ties, st.integers(1, 50))
def test_the_scores_of_a_multilabel_classifier_are_the_sigmoid_of_each_logit(
    logits: NDArray[np.float32], topk: int
) -> None:
    ranked = multilabel(logits, labels=len(logits)).rank(logits, topk)
    order = sorted(range(len(logits)), key=lambda index: (-logits[index], index))[:topk]
    assert [each.index for each in ranked] == order
    expected = 1.0 / (1.0 + np.exp(-logits[order].astype(np.float64)))
    assert np.allclose([each.score for each in ranked], expected, rtol=1e-6, atol=1e-12)


@given(logits_of_some_length, st.data())
def test_a_multilabel_classifier_accepts_every_label_that_reaches_its_threshold(
    logits: NDArray[np.float32], data: st.DataObject
) -> None:
    scores = st.lists(st.floats(0, 1), min_size=len(logits), max_size=len(logits))
    thresholds = tuple(data.draw(scores))
    prediction = multilabel(logits, len(logits), thresholds).classify(PIXEL, topk=1)
    assert prediction.accepted is not None
    expected = {index for index, logit in enumerate(sigmoid(logits)) if float(logit) >= thresholds[index]}
    assert {each.index for each in prediction.accepted} == expected
    found = [each.score for each in prediction.accepted]
    assert found == sorted(found, reverse=True)
    assert prediction.abstained == (not expected)
    assert len(prediction.topk) == 1


def test_the_labels_of_a_multilabel_prediction_reach_json_and_the_stream() -> None:
    with multilabel([2.0, -2.0, 0.0]) as classifier:
        (prediction,) = classifier.stream([PIXEL], topk=1)
    assert (prediction.label, prediction.labels, prediction.abstained) == ("label 0", ("label 0", "label 2"), False)
    line = prediction.to_json()
    assert line["labels"] == ["label 0", "label 2"]
    assert [(each["index"], round(each["score"], 3)) for each in line["accepted"]] == [(0, 0.881), (2, 0.5)]
    assert line["score"] == pytest.approx(0.8808, abs=1e-4)


def test_a_frame_without_labels_abstains() -> None:
    with multilabel([-1.0, -3.0, -2.0]) as classifier:
        prediction = classifier.classify(PIXEL)
    assert (prediction.labels, prediction.accepted, prediction.abstained) == ((), (), True)
    assert prediction.label == "label 0"
    assert prediction.to_json()["labels"] == []


def test_a_prediction_of_one_class_has_one_label_or_none() -> None:
    engine = FakeEngine(lambda _: [1.0, 1.0], input_size=(2, 2))
    with Classifier(engine, SMALL, "ab", threshold=0.5) as classifier:
        prediction = classifier.classify(PIXEL)
    assert (prediction.labels, prediction.accepted) == (("a",), None)
    assert replace(prediction, abstained=True).labels == ()
    assert "labels" not in prediction.to_json()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"activation": "relu"}, "the activation is 'relu'"),
        ({"thresholds": (0.5, 0.5, 0.5)}, "thresholds= is for activation='sigmoid'"),
        ({"activation": "sigmoid", "thresholds": (0.5,)}, "1 threshold"),
        ({"activation": "sigmoid", "temperature": 2.0}, "temperature= and threshold= are for activation='softmax'"),
        ({"activation": "sigmoid", "threshold": 0.2}, "temperature= and threshold= are for activation='softmax'"),
    ],
)
def test_options_of_another_activation_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        Classifier(FakeEngine(lambda _: [0.0] * 3, input_size=(2, 2)), SMALL, COLOURS, **options)
    assert caught.value.problem == problem


def test_only_a_multilabel_classifier_accepts_labels() -> None:
    with answering([1, 2, 3]) as classifier, pytest.raises(UsageError, match="one class an image"):
        classifier.accept(np.zeros(3, np.float32))


def test_a_multilabel_bundle_brings_its_activation_and_thresholds(
    make_bundle: Callable[..., Bundle], tmp_path: Path, colour_frame: ColourFrame
) -> None:
    """Every classifier of the bundle, its workers among them, gives the sigmoid and its thresholds."""
    record = ThresholdsRecord((1.0, 0.0, 0.5), None, 3, 50.0, 60.0, 100, "")
    bundle = make_bundle(tmp_path / "labels.bundle", activation="sigmoid", thresholds=record)
    with load(bundle) as classifier:
        frame = colour_frame("red")
        expected = dict(enumerate(sigmoid(classifier.logits(frame)).tolist()))
        for each in (classifier, *classifier.workers()):
            prediction = each.classify(frame)
            assert {one.index: one.score for one in prediction.topk} == pytest.approx(expected)
            assert prediction.labels == ("green",)


def test_a_bundle_brings_its_temperature_and_threshold(
    make_bundle: Callable[..., Bundle], tmp_path: Path, colour_frame: ColourFrame
) -> None:
    record = ConfidenceRecord(8.0, 0.9, 0.05, 90.0, 96.0, 5.0, 1.0, 100, "")
    frame = colour_frame("red")
    with load(make_bundle(tmp_path / "fitted.bundle", confidence=record), threads=2) as classifier:
        expected = softmax(classifier.logits(frame) / np.float32(8.0)).max()
        for each in (classifier, *classifier.workers()):
            prediction = each.classify(frame)
            assert prediction.label == "red"
            assert prediction.score == pytest.approx(float(expected))
            assert prediction.abstained
        assert [each.abstained for each in classifier.stream([frame] * 2)] == [True, True]
        assert len(classifier.workers()) == 3


def test_all_scores_sum_to_one_and_are_plain_numbers() -> None:
    prediction = answering([3.0, 1.0, 2.0]).classify(PIXEL)
    assert sum(each.score for each in prediction.topk) == pytest.approx(1)
    assert {type(each.score) for each in prediction.topk} == {float}
    assert {type(each.index) for each in prediction.topk} == {int}


@pytest.mark.parametrize("topk", [0, -1])
def test_less_than_one_class_is_refused(topk: int) -> None:
    with pytest.raises(UsageError, match=f"topk is {topk}"):
        answering([1, 2, 3]).classify(PIXEL, topk=topk)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_engine_error(poison: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        answering([1, poison, 3]).classify(PIXEL)


@pytest.mark.parametrize("logits", [[1, 2], [1, 2, 3, 4], []])
def test_another_number_of_logits_than_labels_is_an_engine_error(logits: list[float]) -> None:
    with pytest.raises(EngineError, match=f"gave {len(logits)} logits") as caught:
        answering(logits).classify(PIXEL)
    assert "3, one for each label" in caught.value.expected


def test_a_closed_classifier_refuses_and_closes_again() -> None:
    classifier = answering([1, 2, 3])
    engine = classifier._engine
    classifier.close()
    classifier.close()
    assert engine.closed  # type: ignore[union-attr]
    for use in (classifier.classify, classifier.logits, classifier.infer):
        with pytest.raises(EngineError, match="classifier is closed"):
            use(PIXEL)


def test_leaving_the_with_statement_closes_even_after_an_error() -> None:
    engine = FakeEngine(lambda _: [1, 2, 3], input_size=(2, 2))
    engine.error = EngineError("told to")
    with pytest.raises(EngineError, match="told to"), Classifier(engine, SMALL, COLOURS) as classifier:
        classifier.classify(PIXEL)
    assert engine.closed


def test_an_engine_that_fails_once_serves_the_next_frame() -> None:
    classifier = answering([1, 2, 3])
    classifier._engine.error = EngineError("told to")  # type: ignore[union-attr]
    with pytest.raises(EngineError, match="told to"):
        classifier.classify(PIXEL)
    classifier._engine.error = None  # type: ignore[union-attr]
    assert classifier.classify(PIXEL).index == 2


def test_threads_never_meet_in_the_engine() -> None:
    """Each thread classifies its own shade and must get the answer to it; the engine lingers for others to come."""
    inside = threading.Lock()
    never = threading.Event()
    wrong: list[str] = []

    def answer(frame: Frame) -> list[bool]:
        if not inside.acquire(blocking=False):
            wrong.append("two in the engine")
            return [False] * 4
        never.wait(0.001)
        inside.release()
        return [frame[0, 0, 0] == number for number in range(4)]

    classifier = Classifier(FakeEngine(answer, input_size=(2, 2)), SMALL, "abcd")

    def work(shade: int) -> None:
        frame = np.full((2, 2, 3), shade, dtype=np.uint8)
        for _ in range(10):
            answers = (classifier.classify(frame).index, int(classifier.logits(frame).argmax()))
            wrong.extend("another's answer" for found in answers if found != shade)

    threads = [threading.Thread(target=work, args=(shade,)) for shade in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class TestThreads:
    @pytest.mark.timeout(60)
    def test_one_frame_is_preprocessed_while_another_is_inferred(self) -> None:
        """The first inference ends only once the second frame has been preprocessed."""
        inferring, preprocessed = threading.Event(), threading.Event()
        started: list[int] = []

        def answer(_: Frame) -> list[float]:
            started.append(1)
            if len(started) == 1:
                inferring.set()
                assert preprocessed.wait(10)
            return [1, 2, 3]

        classifier = Classifier(FakeEngine(answer, input_size=(2, 2)), SMALL, COLOURS)
        preprocess = classifier._preprocess

        def watched(*arguments: Any, **options: Any) -> Any:
            done = preprocess(*arguments, **options)
            if inferring.is_set():
                preprocessed.set()
            return done

        classifier._preprocess = watched  # type: ignore[assignment]
        first = threading.Thread(target=classifier.classify, args=(PIXEL,))
        first.start()
        assert inferring.wait(10)
        assert classifier.classify(PIXEL).label == "blue"
        first.join()

    @pytest.mark.timeout(60)
    def test_the_time_of_a_stage_does_not_include_waiting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The clock advances only in the engine, so that waiting for another thread's turn would add its time."""
        now = 0

        def answer(_: Frame) -> list[float]:
            nonlocal now
            time.sleep(0.005)  # until the other thread waits for the engine
            now += 7_000_000
            return [1, 2, 3]

        classifier = Classifier(FakeEngine(answer, input_size=(2, 2)), SMALL, COLOURS)
        monkeypatch.setattr(time, "perf_counter_ns", lambda: now)
        times = [each.stages_ms.infer for each in classifier.stream([PIXEL] * 8, policy="every")]
        assert times == [7.0] * 8


class TestWorkers:
    def test_they_are_opened_at_the_first_call_and_once(self) -> None:
        opened: list[FakeEngine] = []

        def open_workers(_: bool) -> list[FakeEngine]:
            opened.extend(FakeEngine(lambda _: [0, 1, 2], input_size=(2, 2)) for _ in range(2))
            return opened

        classifier = Classifier(
            FakeEngine(lambda _: [2, 1, 0], input_size=(2, 2)), SMALL, COLOURS, open_workers=open_workers
        )
        assert classifier.classify(PIXEL).label == "red"
        assert opened == []
        workers = classifier.workers()
        assert [worker.classify(PIXEL).label for worker in workers] == ["blue", "blue"]
        assert classifier.workers() is workers
        assert len(opened) == 2
        classifier.close()
        assert all(engine.closed for engine in opened)
        assert classifier.workers() == ()
        with pytest.raises(EngineError, match="classifier is closed"):
            workers[0].classify(PIXEL)

    def test_a_classifier_has_none_unless_told(self) -> None:
        assert answering([1, 2, 3]).workers() == ()

    def test_the_classifier_answers_while_they_open(self) -> None:
        opening, answered = threading.Event(), threading.Event()

        def open_workers(_: bool) -> list[FakeEngine]:
            opening.set()
            assert answered.wait(10)
            return []

        engine = FakeEngine(lambda _: [1, 2, 3], input_size=(2, 2))
        classifier = Classifier(engine, SMALL, COLOURS, open_workers=open_workers)
        thread = threading.Thread(target=classifier.workers)
        thread.start()
        assert opening.wait(10)
        assert classifier.classify(PIXEL).label == "blue"
        answered.set()
        thread.join()

    @pytest.mark.parametrize("name", [name for name in ENGINES if name != "tensorrt"])
    def test_of_a_bundle_give_the_logits_that_it_gives(
        self, tiny_bundle: Bundle, name: str, colour_frame: ColourFrame
    ) -> None:
        frames = [colour_frame(colour, height=48, width=64, seed=seed) for seed in range(3) for colour in COLOURS]
        with load(tiny_bundle, engine=name, threads=2) as classifier:
            expected = [classifier.logits(frame) for frame in frames]
            for worker in classifier.workers():
                assert all(np.array_equal(worker.logits(f), e) for f, e in zip(frames, expected, strict=True))

    def test_a_stream_in_workers_gives_what_classify_gives_also_beside_it(
        self, tiny_bundle: Bundle, colour_frame: ColourFrame
    ) -> None:
        frames = [colour_frame(COLOURS[seed % 3], height=40, width=50, seed=seed) for seed in range(WORKERS_PAY_FROM)]
        with load(tiny_bundle, threads=2) as classifier:
            predictions = []
            for prediction in classifier.stream(frames):
                predictions.append(prediction)
                beside = classifier.classify(frames[prediction.frame])
                assert beside.topk == prediction.topk
            assert len(classifier.workers()) == 3
        assert [prediction.frame for prediction in predictions] == list(range(WORKERS_PAY_FROM))

    def test_closing_the_classifier_ends_a_stream_in_workers_with_an_error(
        self, tiny_bundle: Bundle, colour_frame: ColourFrame
    ) -> None:
        frame = colour_frame("red")
        classifier = load(tiny_bundle, threads=2)
        predictions = classifier.stream(frame for _ in range(500))
        next(predictions)
        classifier.close()
        with pytest.raises(EngineError, match="classifier is closed"):
            list(predictions)

    def test_that_fail_the_self_test_are_closed_and_the_classifier_goes_on(
        self,
        tiny_bundle: Bundle,
        colour_frame: ColourFrame,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        wrong = [FakeEngine(lambda _: [0, 0, 0], input_size=(32, 32)) for _ in range(2)]
        monkeypatch.setattr(load_module, "open_workers", lambda *_, **__: wrong)
        with load(tiny_bundle) as classifier:
            predictions = list(classifier.stream(colour_frame("green") for _ in range(3)))
        assert [prediction.label for prediction in predictions] == ["green"] * 3
        assert all(engine.closed for engine in wrong)
        assert "go on with one engine, more slowly" in caplog.text
        assert "self-test" in caplog.text

    def test_are_those_of_the_bundle_that_was_loaded(
        self, make_bundle: Callable[..., Bundle], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Somebody puts a newer bundle, with the labels in another order, in the place of the one that runs."""
        bundle = make_bundle(tmp_path / "some.bundle")
        with load(bundle, threads=2) as classifier:
            shutil.rmtree(bundle.path)
            make_bundle(bundle.path, labels=("rouge", "vert", "bleu"))
            assert classifier.workers() == ()
            assert "holds another bundle than when it was loaded" in caplog.text
