"""An engine that answers from a table: the public test double, for tests of applications as well as our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitedge.errors import EngineError
from vitedge.runtime.engines.base import EngineInfo

Answer = Callable[[NDArray[np.uint8]], ArrayLike]

INFO = EngineInfo(
    name="fake",
    version="1",
    device="none",
    effective_precision="fp32",
    rest_precision="fp32",
)


class FakeEngine:
    """Answers without computing.

        engine = FakeEngine({red.tobytes(): [4, 0, 0], blue.tobytes(): [0, 0, 4]}, input_size=(32, 32))
        engine = FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(32, 32))
        Classifier(engine, preprocessing, labels)

    Attributes:
        calls: a copy of every frame that was run, in order.
        error: what the next ``run`` raises, and each after it, until it is None again.
        closed: whether ``close`` was called.

    Args:
        answers: logits by ``frame.tobytes()``, or a function from the frame to its logits.
        input_size: (height, width) of ``frame`` in pixels.
    """

    def __init__(self, answers: Mapping[bytes, ArrayLike] | Answer, *, input_size: tuple[int, int]) -> None:
        self.info = INFO
        self.frame: NDArray[np.uint8] = np.zeros((*input_size, 3), dtype=np.uint8)
        self.calls: list[NDArray[np.uint8]] = []
        self.error: BaseException | None = None
        self.closed = False
        self._answer = answers if callable(answers) else _looked_up(answers)

    def run(self) -> NDArray[np.float32]:
        """The answer to what is in ``frame``; ``(classes,)`` float32, owned by the caller.

        Raises:
            EngineError: the table has no answer, or the engine is closed; or what ``error`` holds.
        """
        if self.closed:
            raise EngineError("this fake engine is closed")
        frame = self.frame.copy()
        self.calls.append(frame)
        if self.error is not None:
            raise self.error
        return np.array(self._answer(frame), dtype=np.float32)

    def close(self) -> None:
        """Remember that it was closed; a second call does nothing."""
        self.closed = True


def _looked_up(table: Mapping[bytes, ArrayLike]) -> Answer:
    def answer(frame: NDArray[np.uint8]) -> Any:
        if frame.tobytes() not in table:
            raise EngineError(
                f"the fake engine has no logits for a frame of mean {frame.mean():.1f}",
                expected=f"one of the {len(table)} frames it was given",
            )
        return table[frame.tobytes()]

    return answer
