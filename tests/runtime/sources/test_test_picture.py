"""The test picture, ``test://``."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from vitedge.errors import UsageError
from vitedge.runtime.preprocess.planes import YuvPlanes
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.options import PictureOptions
from vitedge.runtime.sources.test_picture import BUFFERED_FRAMES, NUMBERS, NumberedPicture, read_frame_number

pytestmark = pytest.mark.timeout(60)


def picture(number: int, *, width: int = 320, height: int = 240, planes: bool = False) -> np.ndarray | YuvPlanes:
    source = NumberedPicture(PictureOptions(width=width, height=height, frames=1, planes=planes))
    return source._pixels(number)


class TestNumbers:
    @pytest.mark.parametrize("planes", [False, True])
    @pytest.mark.parametrize("size", [(1280, 720), (36, 48), (641, 479), (47, 1000), (1000, 49)])
    @pytest.mark.parametrize("number", [0, 1, 30, 65_535, NUMBERS - 1])
    def test_the_number_is_read_back(self, number: int, size: tuple[int, int], planes: bool):
        assert read_frame_number(picture(number, width=size[0], height=size[1], planes=planes)) == number

    def test_it_starts_again_after_the_largest(self):
        assert read_frame_number(picture(NUMBERS + 5)) == 5

    @pytest.mark.parametrize("size", [(160, 120), (224, 224), (1920, 1080), (48, 64)])
    def test_it_survives_resizing_and_jpeg(self, size: tuple[int, int]):
        image = pytest.importorskip("PIL.Image")
        import io

        resized = image.fromarray(picture(1_234_567, width=1280, height=720)).resize(size)
        buffer = io.BytesIO()
        resized.save(buffer, "JPEG", quality=40)
        assert read_frame_number(np.asarray(image.open(buffer))) == 1_234_567

    def test_a_torn_picture_has_none(self):
        torn = picture(7).copy()
        torn[30:] = picture(8 << 16)[30:]
        assert read_frame_number(torn) is None

    @pytest.mark.parametrize("value", [0, 16, 128, 235, 255])
    def test_a_plain_picture_has_none(self, value: int):
        assert read_frame_number(np.full((240, 320, 3), value, dtype=np.uint8)) is None

    def test_a_turned_or_cropped_picture_has_none(self):
        assert read_frame_number(picture(9)[::-1]) is None
        assert read_frame_number(picture(9)[:, 40:]) is None

    def test_it_moves(self):
        assert not np.array_equal(picture(1)[120:], picture(2)[120:])


class TestFinite:
    def test_it_is_a_video_of_so_many_frames(self):
        with open_source("test://?fps=10&size=64x64&frames=5") as source:
            assert (source.live, source.fps, source.length) == (False, 10.0, 5)
            frames = list(source)
        assert [read_frame_number(frame.pixels) for frame in frames] == [0, 1, 2, 3, 4]
        assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
        assert [frame.pts for frame in frames] == [0.0, 0.1, 0.2, 0.3, 0.4]
        assert frames[0].image.shape == (64, 64, 3)
        assert not np.shares_memory(frames[0].image, frames[1].image)

    def test_closed_it_ends(self):
        source = NumberedPicture(PictureOptions(width=64, height=64, frames=100))
        frames = iter(source)
        next(frames)
        source.close()
        source.close()
        assert list(frames) == []


class TestLive:
    def test_its_frames_come_when_they_are_due(self):
        with open_source("test://?fps=100&size=64x64") as source:
            assert (source.live, source.fps, source.length) == (True, 100.0, None)
            frames = list(itertools.islice(source, 10))
        assert all(isinstance(frame.pixels, YuvPlanes) for frame in frames)
        assert {frame.age_basis for frame in frames} == {"device"}
        numbers = [round(frame.pts * 100) for frame in frames]
        assert numbers[0] == 0
        assert [read_frame_number(frame.pixels) for frame in frames] == numbers
        distances = np.diff([frame.captured_ns for frame in frames]) / np.diff(numbers)
        assert np.allclose(distances, 1e7, atol=2)
        assert abs(frames[-1].captured_at - time.time()) < 60

    def test_a_late_reader_loses_frames_and_the_number_shows_it(self):
        source = NumberedPicture(PictureOptions(width=64, height=64, fps=1000.0))
        frames = iter(source)
        next(frames)
        time.sleep(0.05)
        late = list(itertools.islice(frames, 2 + BUFFERED_FRAMES))
        source.close()
        assert [frame.index for frame in late] == list(range(1, 3 + BUFFERED_FRAMES))
        assert read_frame_number(late[-1].pixels) > 40

    def test_close_from_another_thread_ends_a_wait(self):
        source = NumberedPicture(PictureOptions(width=64, height=64, fps=0.001))
        read: list[object] = []
        reader = threading.Thread(target=lambda: read.extend(source), daemon=True)
        reader.start()
        while not read:
            time.sleep(0.01)
        source.close()
        reader.join(30)
        assert not reader.is_alive()
        assert len(read) == 1

    def test_planes_may_be_declined(self):
        with open_source("test://?size=64x64&planes=false") as source:
            assert isinstance(next(iter(source)).pixels, np.ndarray)


@pytest.mark.parametrize("address", ["test://?size=35x48", "test://?size=36x47"])
def test_a_picture_that_is_too_small(address: str):
    with pytest.raises(UsageError, match="has 3") as raised:
        open_source(address)
    assert "at least 36x48" in raised.value.expected


def test_an_8k_picture():
    with open_source("test://?size=7680x4320&frames=1") as source:
        (frame,) = source
    assert read_frame_number(frame.pixels) == 0


def test_it_has_no_name():
    with pytest.raises(UsageError, match="has a name"):
        open_source("test://ball")
