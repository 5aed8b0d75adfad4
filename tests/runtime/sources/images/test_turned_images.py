"""One rule for turned images and videos, whichever way they come to a classifier."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.data.video import VideoFrames
from vitedge.calib.evaluation.accuracy import predict
from vitedge.progress import Silent
from vitedge.runtime.classifier import Classifier
from vitedge.testing import FakeEngine
from vitedge.verbs.evaluate import measure

pytest.importorskip("av")
pillow = pytest.importorskip("PIL.Image")

import clips  # noqa: E402 - needs OpenCV

pytestmark = pytest.mark.timeout(60)
SIZE = (6, 6)
LABELS = ("top", "right", "bottom", "left")


def bright_side(frame):
    """Logits by the mean of each side, so that the class says which side is bright."""
    return [frame[0].mean(), frame[:, -1].mean(), frame[-1].mean(), frame[:, 0].mean()]


def classifier_that(*, turns: bool) -> Classifier:
    preprocessing = Preprocessing(SIZE, SIZE, "squash", "nearest", exif_orientation=turns)
    return Classifier(FakeEngine(bright_side, input_size=SIZE), preprocessing, LABELS)


TURNED, STORED = "right", "top"
"""A picture that is stored with a bright top, and shown turned clockwise by 90 degrees."""
BOTH = pytest.mark.parametrize(("turns", "expected"), [(True, TURNED), (False, STORED)])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.zeros((12, 18, 3), np.uint8)
    pixels[:2] = 255
    exif = pillow.Exif()
    exif[0x0112] = 6
    pillow.fromarray(pixels).save(folder / "a.png", exif=exif)
    return folder


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video whose matrix asks for a clockwise turn by 90 degrees."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:12] = 255
    path = clips.write_pictures(tmp_path / "a.mp4", [frame] * 3, fps=10.0, codec="mp4v", height=48, width=64)
    return clips.with_matrix(path, struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30))


@BOTH
def test_images_turn_as_the_model_asks_by_every_way(turns: bool, expected: str, photos: Path) -> None:
    with classifier_that(turns=turns) as classifier:
        with pillow.open(photos / "a.png") as image:
            assert classifier.classify(image).label == expected
        for source in (photos, photos / "a.png"):
            with classifier.stream(source) as stream:
                (prediction,) = stream
            assert prediction.label == expected
            assert prediction.image is not None
            assert prediction.image.shape[:2] == ((18, 12) if turns else (12, 18))
            assert stream.notices == (classifier.orientation_notice(1, str(source)),)
        images = ImageFolder.open(photos)
        (predictions,) = predict([classifier], images)
        assert LABELS[predictions.indices[0, 0]] == expected
        (frame,) = images.load(classifier.preprocessing).frames
        assert LABELS[int(np.argmax(bright_side(frame)))] == expected


@BOTH
@pytest.mark.parametrize("policy", ["latest", "every"])
def test_videos_turn_as_the_model_asks_by_every_way(turns: bool, expected: str, policy: str, clip: Path) -> None:
    with classifier_that(turns=turns) as classifier:
        with classifier.stream(clip, policy=policy) as stream:  # type: ignore[arg-type]
            predictions = list(stream)
        assert {each.label for each in predictions} == {expected}
        assert stream.notices == (classifier.orientation_notice(3, str(clip)),)
        video = VideoFrames.open(clip)
        (evaluated,) = predict([classifier], video)
        assert {LABELS[index] for index in evaluated.indices[:, 0]} == {expected}
        assert all(
            LABELS[int(np.argmax(bright_side(each)))] == expected
            for each in video.load(classifier.preprocessing).frames
        )


def test_two_models_of_one_evaluation_may_differ(photos: Path) -> None:
    with classifier_that(turns=True) as turning, classifier_that(turns=False) as storing:
        ours, theirs = predict([turning, storing], ImageFolder.open(photos))
    assert LABELS[ours.indices[0, 0]] == TURNED
    assert LABELS[theirs.indices[0, 0]] == STORED


def test_an_image_that_states_no_orientation_gives_no_notice(tmp_path: Path) -> None:
    pillow.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    with classifier_that(turns=True) as classifier, classifier.stream(tmp_path) as stream:
        list(stream)
    assert stream.notices == ()


class Steps(Silent):
    """Remembers the steps."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def step(self, text: str) -> None:
        self.texts.append(text)


def test_an_evaluation_tells_what_it_turned_and_what_it_did_not_read(photos: Path) -> None:
    (photos / "notes.txt").write_text("no image")
    progress, images = Steps(), ImageFolder.open(photos)
    with classifier_that(turns=True) as turning, classifier_that(turns=False) as storing:
        measure("ours", turning, images, progress, ("theirs", storing))
        expected = [each.orientation_notice(1, str(photos)) for each in (turning, storing)]
    assert [text for text in progress.texts if text.startswith(f"note: {photos}: ")] == [
        f"note: {photos}: 1 file is no image and was not read: 1 .txt",
        *(f"note: {text}" for text in expected),
    ]
    progress.texts.clear()
    images.load(turning.preprocessing, progress)
    assert f"note: {expected[0]}" in progress.texts
    assert f"note: {photos}: 1 file is no image and was not read: 1 .txt" in progress.texts
