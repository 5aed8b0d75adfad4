"""The test double: it answers as told, and only as told."""

from __future__ import annotations

import numpy as np
import pytest

from vitedge.errors import EngineError
from vitedge.runtime.engines.base import Engine
from vitedge.testing import FakeEngine

DARK = np.zeros((2, 2, 3), dtype=np.uint8)
BRIGHT = np.full((2, 2, 3), 255, dtype=np.uint8)


def test_it_answers_by_the_content_of_the_frame() -> None:
    engine: Engine = FakeEngine({DARK.tobytes(): [1, 0], BRIGHT.tobytes(): [0, 1]}, input_size=(2, 2))
    answers = []
    for frame in (BRIGHT, DARK):
        engine.frame[...] = frame
        answers.append(engine.run())
    assert [answer.tolist() for answer in answers] == [[0, 1], [1, 0]]
    assert all(answer.dtype == np.float32 for answer in answers)


def test_it_answers_with_a_function() -> None:
    engine = FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(2, 2))
    engine.frame[...] = BRIGHT
    assert engine.run().tolist() == [255, 255, 255]


def test_the_caller_owns_the_answer() -> None:
    answer = np.array([1, 2], dtype=np.float32)
    engine = FakeEngine(lambda _: answer, input_size=(2, 2))
    engine.run()[0] = 9
    assert answer.tolist() == [1, 2]


def test_a_frame_without_an_answer_is_an_error() -> None:
    engine = FakeEngine({DARK.tobytes(): [1, 0]}, input_size=(2, 2))
    engine.frame[...] = BRIGHT
    with pytest.raises(EngineError, match="no logits"):
        engine.run()


def test_it_remembers_copies_of_what_it_was_asked() -> None:
    engine = FakeEngine(lambda _: [0.0], input_size=(2, 2))
    for frame in (DARK, BRIGHT):
        engine.frame[...] = frame
        engine.run()
    assert [call.max() for call in engine.calls] == [0, 255]


def test_it_raises_what_it_is_told_to_until_told_otherwise() -> None:
    engine = FakeEngine(lambda _: [0.0], input_size=(2, 2))
    engine.error = EngineError("told to")
    for _ in range(2):
        with pytest.raises(EngineError, match="told to"):
            engine.run()
    engine.error = None
    assert engine.run().tolist() == [0.0]


def test_it_refuses_when_closed() -> None:
    engine = FakeEngine(lambda _: [0.0], input_size=(2, 2))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run()
