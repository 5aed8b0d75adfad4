"""The workers of a classifier: opened once, of the same bundle, closed with it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.errors import EngineError
from vitedge.runtime import load as load_module
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.engines.open import ENGINES
from vitedge.runtime.load import load
from vitedge.runtime.stream.stream import WORKERS_PAY_FROM
from vitedge.testing import FakeEngine

COLOURS = ("red", "green", "blue")
SMALL = Preprocessing(input_size=(2, 2), resize_size=(2, 2))
PIXEL = np.zeros((2, 2, 3), dtype=np.uint8)
Frame = NDArray[np.uint8]
ColourFrame = Callable[..., Frame]


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
        engine = FakeEngine(lambda _: [1, 2, 3], input_size=(2, 2))
        assert Classifier(engine, SMALL, COLOURS).workers() == ()

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
