"""Several images at once give what each gives alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.errors import EngineError, FrameSourceError, UsageError
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines import openvino_batch
from vitedge.runtime.load import load
from vitedge.testing import FakeEngine

COLOURS = ("red", "green", "blue")
SMALL = Preprocessing(input_size=(2, 2), resize_size=(2, 2))
COLOURED = {name: np.full((2, 2, 3), np.roll((0, 0, 255), -place), np.uint8) for place, name in enumerate(COLOURS)}


class BatchOf3(FakeEngine):
    """A fake engine that takes three frames at once."""

    def __init__(self, logits: Callable[[np.ndarray], list[float]]) -> None:
        super().__init__(logits, input_size=(2, 2))
        self.frames = np.zeros((3, 2, 2, 3), np.uint8)
        self.logits_of = logits

    def run_batch(self) -> np.ndarray:
        if self.error is not None:
            raise self.error
        return np.array([self.logits_of(frame) for frame in self.frames], np.float32)


def means(frame: np.ndarray) -> list[float]:
    return list(frame.mean(axis=(0, 1)))


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(BatchOf3(means), SMALL, COLOURS)


def test_each_image_has_its_own_prediction(classifier: Classifier) -> None:
    assert classifier.batch == 3
    found = classifier.classify_batch([(COLOURED[name], "BGR") for name in ("blue", "red", "green")], topk=2)
    for name, each in zip(("blue", "red", "green"), found, strict=True):
        assert not isinstance(each, Exception)
        alone = classifier.classify(COLOURED[name], topk=2)
        same = {"age_ms": 0.0, "stages_ms": None, "captured_at": 0.0, "captured_ns": 0}
        assert replace(each, **same) == replace(alone, **same)
        assert each.label == name


def test_orders_of_channels_are_kept_apart(classifier: Classifier) -> None:
    found = classifier.classify_batch([(COLOURED["red"], "BGR"), (COLOURED["red"], "RGB")])
    assert [each.label for each in found if not isinstance(each, Exception)] == ["red", "blue"]


def test_an_image_that_is_refused_leaves_the_others_alone(classifier: Classifier) -> None:
    grey = np.zeros((2, 2), np.uint8)
    red, refused, blue = classifier.classify_batch([(COLOURED["red"], "BGR"), (grey, "BGR"), (COLOURED["blue"], "BGR")])
    assert isinstance(refused, FrameSourceError)
    assert not isinstance(red, Exception)
    assert not isinstance(blue, Exception)
    assert (red.label, blue.label) == ("red", "blue")


def test_logits_that_are_not_finite_are_an_error_of_their_image() -> None:
    classifier = Classifier(BatchOf3(lambda frame: [float("nan") if frame[0, 0, 0] else 1.0, 2.0, 3.0]), SMALL, COLOURS)
    red, blue = classifier.classify_batch([(COLOURED["red"], "BGR"), (COLOURED["blue"], "BGR")])
    assert isinstance(red, EngineError)
    assert not isinstance(blue, Exception)


def test_mistakes_are_those_of_classify(classifier: Classifier) -> None:
    (found,) = classifier.classify_batch([(COLOURED["red"], "BGR")], topk=0)
    assert isinstance(found, UsageError)
    classifier.close()
    with pytest.raises(EngineError, match="classifier is closed"):
        classifier.classify_batch([(COLOURED["red"], "BGR")])


def test_an_engine_of_one_frame_takes_no_batch() -> None:
    classifier = Classifier(FakeEngine(means, input_size=(2, 2)), SMALL, COLOURS)
    assert classifier.batch == 1
    with pytest.raises(EngineError, match="one image at a time"):
        classifier.classify_batch([(COLOURED["red"], "BGR")])


class TestWorkers:
    def test_leave_a_single_image_to_the_classifier_that_opened_them(self) -> None:
        engine, batching = FakeEngine(means, input_size=(2, 2)), BatchOf3(means)
        with Classifier(engine, SMALL, COLOURS, open_workers=lambda _: [batching]) as classifier:
            (worker,) = classifier.workers(batches=True)
            assert worker.classify(COLOURED["green"]).label == "green"
            assert np.array_equal(worker.infer(COLOURED["blue"]), means(COLOURED["blue"]))
            assert (len(engine.calls), len(batching.calls)) == (2, 0)
            found = worker.classify_batch([(COLOURED[name], "BGR") for name in COLOURS])
            assert [each.label for each in found if not isinstance(each, Exception)] == list(COLOURS)
            assert len(engine.calls) == 2
        with pytest.raises(EngineError, match="classifier is closed"):
            worker.classify(COLOURED["red"])

    def test_of_both_kinds_are_opened_once_and_closed(self) -> None:
        kinds: dict[bool, FakeEngine] = {}

        def open_workers(batches: bool) -> list[FakeEngine]:
            assert batches not in kinds
            kinds[batches] = BatchOf3(means) if batches else FakeEngine(means, input_size=(2, 2))
            return [kinds[batches]]

        with Classifier(FakeEngine(means, input_size=(2, 2)), SMALL, COLOURS, open_workers=open_workers) as classifier:
            for batches, size in ((True, 3), (False, 1)):
                (worker,) = classifier.workers(batches=batches)
                assert worker.batch == size
                assert classifier.workers(batches=batches) == (worker,)
        assert [engine.closed for engine in kinds.values()] == [True, True]

    def test_without_batches_serve_both_kinds(self) -> None:
        opened: list[bool] = []

        def open_workers(batches: bool) -> list[FakeEngine]:
            opened.append(batches)
            return [FakeEngine(means, input_size=(2, 2))]

        with Classifier(FakeEngine(means, input_size=(2, 2)), SMALL, COLOURS, open_workers=open_workers) as classifier:
            assert classifier.workers(batches=True) is classifier.workers()
        assert opened == [True]


def test_workers_of_a_bundle_give_the_predictions_of_the_classifier(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino_batch, "_share_of_time", lambda *_: 0.5)
    images = list(np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8))
    with load(tiny_bundle, engine="openvino", threads=2) as classifier:
        worker = classifier.workers(batches=True)[0]
        assert worker.batch == 4
        for image, each in zip(images, worker.classify_batch([(image, "BGR") for image in images]), strict=True):
            assert not isinstance(each, Exception)
            assert each.topk == worker.classify(image).topk
