"""Predictions on all processors: the same as on one, in order, with a bounded number of images in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

import photos

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.dataset import DecodedImage, ImageFile
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.evaluation import workers
from vitedge.calib.evaluation.accuracy import predict
from vitedge.calib.evaluation.workers import PREFETCH, WorkerPool
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.load import load
from vitedge.testing import FakeEngine

SMALL = Preprocessing(input_size=(8, 8), resize_size=(8, 8))
LABELS = ("red", "green", "blue")


def test_workers_predict_as_one_engine_does(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos.write_photos(tmp_path / "photos", each=10)
    (folder / "red" / "broken.png").write_bytes(b"no image")
    images = ImageFolder.open(folder)
    with load(tiny_bundle, threads=2) as ours, load(tiny_bundle, engine="onnxruntime") as theirs:
        serial = predict([ours, theirs], images, keep_logits=True)
        monkeypatch.setattr(workers, "WORKERS_PAY_FROM", 1)
        assert WorkerPool([ours, theirs], 1).count == len(ours.workers()) == 3
        parallel = predict([ours, theirs], images, keep_logits=True)
    for one, other in zip(serial, parallel, strict=True):
        for name in ("indices", "scores", "divergences", "logits"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.files, one.skipped, one.sha256) == (other.files, other.skipped, other.sha256)
    assert serial[0].skipped == ("red/broken.png",)


def test_few_images_open_no_workers(tiny_bundle: Bundle) -> None:
    with load(tiny_bundle, threads=2) as classifier:
        assert WorkerPool([classifier], workers.WORKERS_PAY_FROM - 1).count == 1


def test_images_are_decoded_as_they_are_classified() -> None:
    taken = 0

    def decoded() -> Iterator[DecodedImage]:
        nonlocal taken
        for number in range(50):
            taken += 1
            yield DecodedImage(
                ImageFile(Path(), str(number), ""), np.full((8, 8, 3), number, np.uint8), f"{number:064x}"
            )

    classifier = Classifier(FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(8, 8)), SMALL, LABELS)
    for number, result in enumerate(WorkerPool([classifier], 1).predict_all(decoded())):
        assert int(result.sha256, 16) == number
        assert taken <= number + 1 + PREFETCH
    assert taken == 50
