"""vitedge's own Python in a stream: what a prediction costs beside preprocessing and inference."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.load import load
from vitedge.testing import FAKE_INFO

INFERENCE_SECONDS = 0.002


class WaitingEngine:
    """An engine that gives the same logits after a while, in which it leaves the processors to others."""

    info = FAKE_INFO

    def __init__(self, input_size: tuple[int, int], classes: int) -> None:
        self.frame = np.zeros((*input_size, 3), dtype=np.uint8)
        self._logits = np.arange(classes, dtype=np.float32)

    def run(self) -> NDArray[np.float32]:
        """Return the logits."""
        time.sleep(INFERENCE_SECONDS)
        return self._logits

    def close(self) -> None:
        """Hold nothing."""


def own_python_ms(bundle: Path, frames: int) -> float:
    """Return the processor time of a prediction in a stream, of all threads, without preprocessing and inference.

    What remains is the queue, the threads that wake each other, the ranking of the classes, and the prediction. As with
    OpenVINO, each worker has an engine of its own, and Python runs in other threads while an engine computes.
    """
    with load(bundle) as classifier:
        size, labels = classifier.preprocessing.input_size, classifier.labels
    engine, *others = [WaitingEngine(size, len(labels)) for _ in range(3)]
    picture = np.zeros((*size, 3), dtype=np.uint8)
    with Classifier(engine, Preprocessing(size, size), labels, open_workers=lambda _: others) as waiting:
        begun = time.process_time()
        for _ in range(frames):
            engine.frame[...] = waiting.prepare(picture)
            engine.run()
        streamed = time.process_time()
        with waiting.stream([picture] * frames) as stream:
            for _ in stream:
                pass
        return (time.process_time() - streamed - (streamed - begun)) * 1e3 / frames
