"""Several threads on one classifier: they never meet in the engine, and one prepares while another infers."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.runtime.classifier import Classifier
from vitedge.testing import FakeEngine

COLOURS = ("red", "green", "blue")
SMALL = Preprocessing(input_size=(2, 2), resize_size=(2, 2))
PIXEL = np.zeros((2, 2, 3), dtype=np.uint8)
Frame = NDArray[np.uint8]


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
