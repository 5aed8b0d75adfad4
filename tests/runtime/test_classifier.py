"""The classifier: images in, ranked labels out, safely."""

from __future__ import annotations

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
from numpy.typing import NDArray
from PIL import Image

from vitedge.bundle.accuracy_records import ConfidenceRecord, ThresholdsRecord
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.errors import EngineError, FrameSourceError, UsageError
from vitedge.metrics import sigmoid, softmax
from vitedge.runtime import classifier as classifier_module
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.load import load
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.base import Frame as SourceFrame
from vitedge.testing import FakeEngine

COLOURS = ("red", "green", "blue")
SMALL = Preprocessing(input_size=(2, 2), resize_size=(2, 2))
PIXEL = np.zeros((2, 2, 3), dtype=np.uint8)
Frame = NDArray[np.uint8]
ColourFrame = Callable[..., Frame]


def answering(logits: object) -> Classifier:
    engine = FakeEngine(lambda _: logits, input_size=(2, 2))  # type: ignore[arg-type,return-value]
    return Classifier(engine, SMALL, COLOURS)


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
    assert classifier.classify(PIXEL).label == "blue"
    go_on.set()
    thread.join()
    assert found[0].age_ms >= found[0].stages_ms.total >= found[0].stages_ms.preprocess >= 10


def test_a_module_that_another_thread_is_importing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python enters a module into sys.modules before it has run."""
    monkeypatch.setitem(sys.modules, "PIL.Image", ModuleType("PIL.Image"))
    monkeypatch.setitem(sys.modules, "PIL", ModuleType("PIL"))
    classifier = answering([1, 2, 3])
    assert classifier.classify(PIXEL).label == "blue"
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


@pytest.mark.parametrize(("threshold", "abstained"), [(0.0, False), (0.49, False), (0.5, False), (0.51, True)])
def test_a_score_below_the_threshold_abstains(threshold: float, abstained: bool) -> None:
    engine = FakeEngine(lambda _: [1.0, 1.0], input_size=(2, 2))
    prediction = Classifier(engine, SMALL, "ab", threshold=threshold).classify(PIXEL)
    assert (prediction.score, prediction.abstained) == (0.5, abstained)
    assert prediction.to_json()["abstained"] is abstained


def multilabel(logits: object) -> Classifier:
    engine = FakeEngine(lambda _: logits, input_size=(2, 2))  # type: ignore[arg-type,return-value]
    return Classifier(engine, SMALL, ["label 0", "label 1", "label 2"], activation="sigmoid")


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


@pytest.mark.parametrize(
    ("logits", "topk", "error", "reason"),
    [
        ([1.0, 2.0, 3.0], 0, UsageError, "topk is 0"),
        ([1.0, float("nan"), 3.0], 1, EngineError, "not finite"),
        ([1.0, 2.0], 1, EngineError, "2 logits"),
    ],
)
def test_classify_refuses_logits_that_give_no_ranking(
    logits: list[float], topk: int, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        answering(logits).classify(np.zeros((4, 4, 3), np.uint8), topk=topk)


def test_all_scores_sum_to_one_and_are_plain_numbers() -> None:
    prediction = answering([3.0, 1.0, 2.0]).classify(PIXEL)
    assert sum(each.score for each in prediction.topk) == pytest.approx(1)
    assert {type(each.score) for each in prediction.topk} == {float}
    assert {type(each.index) for each in prediction.topk} == {int}


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
