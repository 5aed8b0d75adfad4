"""An evaluation that was interrupted resumes, and gives the same predictions."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

import photos

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.evaluation import predictions
from vitedge.calib.evaluation import resume_log as resume_log_module
from vitedge.calib.evaluation.accuracy import predict
from vitedge.calib.evaluation.predictions import Batch, ImageResult, TopK
from vitedge.calib.evaluation.resume_log import ResumeLog, resume_key
from vitedge.errors import CalibrationError, UsageError
from vitedge.runtime.classifier import Classifier
from vitedge.testing import FakeEngine

SMALL = Preprocessing(input_size=(8, 8), resize_size=(8, 8))
LABELS = ("red", "green", "blue")
ROWS = [
    [
        ImageResult("ab" * 32, (TopK((1, 0), (0.1 + 0.2, 1e-30), 1 / 3), TopK((0, 1), (0.75, 0.25), 0.0))),
        ImageResult("", ()),
    ],
    [ImageResult("cd" * 32, (TopK((0, 1), (0.5, 0.5), 2.0), TopK((0, 1), (0.5, 0.5), 0.0)))],
]


def write(path: Path, key: str = "some") -> ResumeLog:
    resume_log = ResumeLog(path, key)
    for start, rows in zip((0, 2), ROWS, strict=True):
        resume_log.append(Batch(start, ()), rows)
    return resume_log


def read(path: Path, key: str = "some") -> dict[int, list[ImageResult]]:
    return dict(ResumeLog(path, key).read())


def test_what_is_written_is_read_exactly(tmp_path: Path) -> None:
    write(tmp_path / "j")
    assert read(tmp_path / "j") == {0: ROWS[0], 2: ROWS[1]}


def test_another_key_begins_anew(tmp_path: Path) -> None:
    write(tmp_path / "j")
    other = ResumeLog(tmp_path / "j", "other")
    assert dict(other.read()) == {}
    other.append(Batch(0, ()), ROWS[1])
    assert read(tmp_path / "j", "other") == {0: ROWS[1]}
    assert read(tmp_path / "j") == {}


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_line_that_was_cut_off_is_done_again(tmp_path: Path, cut: int) -> None:
    write(tmp_path / "j")
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole[:-cut])
    resume_log = ResumeLog(tmp_path / "j", "some")
    assert dict(resume_log.read()) == {0: ROWS[0]}
    resume_log.append(Batch(2, ()), ROWS[1])
    assert (tmp_path / "j").read_bytes() == whole


def test_what_follows_the_last_whole_line_is_gone(tmp_path: Path) -> None:
    write(tmp_path / "j")
    whole = (tmp_path / "j").read_bytes()
    first_two = b"".join(whole.splitlines(keepends=True)[:2])
    (tmp_path / "j").write_bytes(first_two + b"x" * len(whole) + b"\n")
    resume_log = ResumeLog(tmp_path / "j", "some")
    assert dict(resume_log.read()) == {0: ROWS[0]}
    resume_log.append(Batch(2, ()), ROWS[1])
    assert (tmp_path / "j").read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"\n", b"no json\n", b"{}\n", b"[1]\n", b"\xff\xfe\n"])
def test_another_file_is_no_resume_log(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    assert read(tmp_path / "j") == {}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "sparse"])
def test_a_resume_log_is_a_regular_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "j"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 100 << 30)
    else:
        path.symlink_to(kind)
    with pytest.raises(UsageError, match="cannot be read"):
        read(path)
    with pytest.raises(UsageError, match="cannot be written"):
        ResumeLog(path, "some").append(Batch(0, ()), [])


def test_a_line_without_an_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_log_module, "JSON_BYTES", 1000)
    write(tmp_path / "j")
    with (tmp_path / "j").open("ab") as stream:
        stream.write(b"[" * 10**6)
    assert read(tmp_path / "j") == {0: ROWS[0], 2: ROWS[1]}


VERDICT = [[1, 0], [0.5, 0.5], 0.0]
DIGEST = "ab" * 32


@pytest.mark.parametrize(
    "batch",
    [
        1,
        "text",
        [],
        {},
        {"start": 2},
        {"rows": []},
        {"start": True, "rows": []},
        {"start": "2", "rows": []},
        {"start": 2.0, "rows": []},
        {"start": 2, "rows": 5},
        {"start": 2, "rows": [1]},
        {"start": 2, "rows": ["ab"]},
        {"start": 2, "rows": [[DIGEST, []]]},
        {"start": 2, "rows": [["", [VERDICT]]]},
        {"start": 2, "rows": [["no digest", [VERDICT]]]},
        {"start": 2, "rows": [[5, [VERDICT]]]},
        {"start": 2, "rows": [[DIGEST, [[[1], [0.5]]]]]},
        {"start": 2, "rows": [[DIGEST, [[[1, 0], [0.5], 0.0]]]]},
        {"start": 2, "rows": [[DIGEST, [[["1"], [0.5], 0.0]]]]},
        {"start": 2, "rows": [[DIGEST, [[[-1], [0.5], 0.0]]]]},
        {"start": 2, "rows": [[DIGEST, [[[1], [float("nan")], 0.0]]]]},
        {"start": 2, "rows": [[DIGEST, [[[1], [0.5], float("inf")]]]]},
        {"start": 2, "rows": [[DIGEST, [[[1], [None], 0.0]]]]},
        {"start": 2, "rows": [[DIGEST, [[5, 5, 5]]]]},
    ],
)
def test_a_line_of_another_form_is_done_again(tmp_path: Path, batch: object) -> None:
    write(tmp_path / "j")
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(b"".join(lines[:2]) + json.dumps(batch).encode() + b"\n" + lines[2])
    assert read(tmp_path / "j") == {0: ROWS[0]}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(UsageError, match="cannot be written"):
        ResumeLog(tmp_path / "no" / "j", "some").append(Batch(0, ()), [])


def test_removing_it_twice_is_fine(tmp_path: Path) -> None:
    resume_log = write(tmp_path / "j")
    resume_log.remove()
    resume_log.remove()
    assert not (tmp_path / "j").exists()


class TestKey:
    @pytest.fixture
    def images(self, tmp_path: Path) -> ImageFolder:
        return ImageFolder.open(photos.write_photos(tmp_path / "photos"))

    def test_it_is_that_of_bundles_images_and_engine(
        self, tiny_bundle: Bundle, images: ImageFolder, tmp_path: Path
    ) -> None:
        first = resume_key([tiny_bundle], images, None)
        assert resume_key([tiny_bundle], ImageFolder.open(images.folder), None) == first
        others = {
            resume_key([tiny_bundle, tiny_bundle], images, None),
            resume_key([tiny_bundle], images, "onnxruntime"),
            resume_key([tiny_bundle], images.subset(images.files[1:]), None),
            resume_key([tiny_bundle], images.subset(images.files[::-1]), None),
        }
        os.utime(images.files[0].path, ns=(0, 1))
        others.add(resume_key([tiny_bundle], images, None))
        assert len(others | {first}) == 6

    def test_an_image_that_has_gone(self, tiny_bundle: Bundle, images: ImageFolder) -> None:
        images.files[3].path.unlink()
        with pytest.raises(CalibrationError, match="cannot be read"):
            resume_key([tiny_bundle], images, None)

    def test_frames_of_a_video(self, tiny_bundle: Bundle, tmp_path: Path) -> None:
        pytest.importorskip("av")
        import clips

        from vitedge.calib.data.video import VideoFrames

        video = VideoFrames.open(clips.write_clip(tmp_path / "clip.avi", 5))
        keys = {resume_key([tiny_bundle], each, None) for each in (video, video.subset(video.files[1:]))}
        os.utime(video.path, ns=(0, 1))
        assert len(keys | {resume_key([tiny_bundle], video, None)}) == 3


def test_an_interrupted_evaluation_resumes_and_predicts_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "BATCH_IMAGES", 4)
    folder = photos.write_photos(tmp_path / "photos", each=7)
    (folder / "green" / "broken.png").write_bytes(b"no image")
    images = ImageFolder.open(folder)

    def classifiers() -> tuple[FakeEngine, list[Classifier]]:
        engine = FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(8, 8))
        other = FakeEngine(lambda frame: frame.mean(axis=(0, 1))[::-1] / 2, input_size=(8, 8))
        return engine, [Classifier(each, SMALL, LABELS) for each in (engine, other)]

    _, whole = classifiers()
    expected = predict(whole, images)

    engine, stopped = classifiers()
    answer = engine._logits_of

    def interrupt(frame: np.ndarray) -> object:
        if len(engine.calls) > 13:
            raise KeyboardInterrupt
        return answer(frame)

    monkeypatch.setattr(engine, "_logits_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict(stopped, images, resume_log=ResumeLog(tmp_path / "j", "key"))
    kept = [json.loads(line)["start"] for line in (tmp_path / "j").read_text(encoding="utf-8").splitlines()[1:]]
    assert kept == [0, 4, 8]

    engine, again = classifiers()
    found = predict(again, images, resume_log=ResumeLog(tmp_path / "j", "key"))
    assert len(engine.calls) == len(expected[0]) - sum(file.name != "green/broken.png" for file in images.files[:12])
    for one, other in zip(expected, found, strict=True):
        assert replace(one, **dict.fromkeys(ARRAYS)).__dict__ == (replace(other, **dict.fromkeys(ARRAYS)).__dict__)
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


ARRAYS = ("indices", "scores", "divergences")


@pytest.mark.parametrize(
    ("start", "rows"),
    [
        (1, [[DIGEST, [[[1, 0, 2], [0.5, 0.3, 0.2], 0.0]]]] * 6),
        (64, []),
        (0, [[DIGEST, [[[1, 0, 2], [0.5, 0.3, 0.2], 0.0]]]] * 5),
        (0, [[DIGEST, [[[1, 0, 2], [0.5, 0.3, 0.2], 0.0]] * 2]] * 6),
        (0, [[DIGEST, [[[1, 0], [0.5, 0.3], 0.0]]]] * 6),
        (0, [[DIGEST, [[[1, 0, 3], [0.5, 0.3, 0.2], 0.0]]]] * 6),
        (0, [[DIGEST, [[[1, 0, 1 << 70], [0.5, 0.3, 0.2], 0.0]]]] * 6),
    ],
    ids=["place", "later place", "images", "classifiers", "classes", "class", "large class"],
)
def test_results_of_something_else_are_refused(tmp_path: Path, start: int, rows: list[object]) -> None:
    images = ImageFolder.open(photos.write_photos(tmp_path / "photos", each=2))
    lines = [{"format": 1, "key": "key"}, {"start": start, "rows": rows}]
    (tmp_path / "j").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    engine = FakeEngine(lambda frame: frame.mean(axis=(0, 1)), input_size=(8, 8))
    with pytest.raises(UsageError, match="j is damaged"):
        predict([Classifier(engine, SMALL, LABELS)], images, resume_log=ResumeLog(tmp_path / "j", "key"))
