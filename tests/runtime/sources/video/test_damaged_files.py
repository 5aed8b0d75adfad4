"""Video files that are cut off or damaged, and files that are no videos."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitedge.errors import FrameSourceError
from vitedge.runtime.sources.open import open_source
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.sources.video import decoder, tracks
from vitedge.runtime.sources.video import file as video_file
from vitedge.runtime.sources.video.file import open_video
from vitedge.safety.escape import terminal

av = pytest.importorskip("av")

import clips  # noqa: E402 - needs PyAV

pytestmark = pytest.mark.timeout(120)


class TestDamaged:
    def test_a_cut_off_video_gives_its_frames_and_a_notice(
        self, clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cut = tmp_path / "cut\x1b[2J.avi"
        cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
        with caplog.at_level(logging.WARNING, "vitedge"), open_video(cut) as source:
            frames = list(source)
        numbers = [clips.number_of(frame.image) for frame in frames if not frame.corrupt]
        assert numbers == list(range(len(numbers)))
        assert 10 < len(numbers) < 50
        assert len(frames) - len(numbers) <= 1, "only the last frame may be torn"
        assert source.notices[0] == f"{cut} is cut off: it ended after {len(frames)} of about 60 frames"
        assert caplog.messages == [terminal(notice) for notice in source.notices]

    @pytest.mark.parametrize(
        ("suffix", "codec", "noticed"),
        [(".mp4", "libx264", True), (".mkv", "libx264", True), (".flv", "flv", True), (".ts", "libx264", False)],
    )
    def test_each_format_cut_off(self, suffix: str, codec: str, noticed: bool, tmp_path: Path) -> None:
        """A transport stream does not say how long it is."""
        options = {"movflags": "faststart"} if suffix == ".mp4" else {}
        whole = tmp_path / f"whole{suffix}"
        with av.open(whole, "w", options=options) as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            for picture in clips.numbered_frames(100):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
            container.mux(stream.encode(None))
        with open_video(whole) as source:
            assert len(list(source)) == 100
        assert source.notices == ()
        cut = tmp_path / f"cut{suffix}"
        content = whole.read_bytes()
        cut.write_bytes(content[: len(content) * 6 // 10])
        with open_video(cut) as source:
            count = len(list(source))
        assert 0 < count < 100
        assert any("is cut off" in notice for notice in source.notices) is noticed

    def test_damage_in_the_middle_is_counted_and_the_rest_is_read(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 60, (96, 128, 3), dtype=np.uint8)
        pictures = [picture // 2 + noise for picture in clips.numbered_frames(60)]
        whole = clips.encode(tmp_path / "whole.mp4", pictures, "libx264", "yuv420p", options={"g": "10"})
        content = bytearray(whole.read_bytes())
        for place in range(len(content) // 2, len(content) // 2 + 60):
            content[place] ^= 0x5A
        path = tmp_path / "damaged.mp4"
        path.write_bytes(content)
        with open_video(path) as source:
            frames = list(source)
        assert len(frames) >= 55
        assert clips.number_of(frames[-1].image) == 59
        damaged = sum(frame.corrupt for frame in frames)
        lost = 60 - len(frames)
        assert damaged + lost > 0
        assert len(source.notices) == (damaged > 0) + (lost > 0)
        assert all("damaged" in notice or "not decodable" in notice for notice in source.notices)

    def test_a_torn_jpeg_is_damaged(self, tmp_path: Path) -> None:
        """FFmpeg's decoder fills the rest of the picture with something, and says nothing."""
        noise = np.random.default_rng(0).integers(0, 256, (192, 320, 3), dtype=np.uint8)
        path = clips.encode(tmp_path / "clip.avi", [noise] * 20, "mjpeg", "yuvj420p", size=(320, 192))
        content = bytearray(path.read_bytes())
        jpeg = content.index(b"\xff\xd8\xff", content.index(b"\xff\xd8\xff", len(content) // 2) + 3)
        end = content.index(b"\xff\xd9", jpeg)
        middle = (jpeg + end) // 2
        content[middle:end] = b"\xff\xd9".ljust(end - middle, b"\0")
        path.write_bytes(content)
        with open_video(path) as source:
            frames = list(source)
        assert len(frames) == 20
        assert sum(frame.corrupt for frame in frames) == 1
        assert source.notices == (f"{path}: 1 frame was damaged",)

    def test_a_video_without_a_whole_frame_is_an_error(self, clip: Path, tmp_path: Path) -> None:
        cut = tmp_path / "cut.avi"
        contents = clip.read_bytes()
        cut.write_bytes(contents[: contents.index(b"movi") + 100])
        with (
            pytest.raises(FrameSourceError, match=r"no frame that can be decoded|not a video") as raised,
            open_video(cut) as source,
        ):
            list(source)
        assert raised.value.cause == "no_video"

    def test_an_mp4_without_its_index_is_an_error(self, tmp_path: Path) -> None:
        whole = clips.write_clip(tmp_path / "whole.mp4", 30, codec="mp4v")
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(whole.read_bytes()[:-200])
        with pytest.raises(FrameSourceError, match="is not a video") as raised:
            open_video(cut)
        assert "truncated" in raised.value.fix

    @pytest.mark.parametrize(
        ("name", "length", "whole"),
        [
            ("numbered-720p.mp4", 180, 1.0),
            ("numbered-360p.mkv", 180, 1.0),
            ("bottle-detection.mp4", 1189, 1.0),
            ("car-detection.mp4", 377, 1.0),
            ("numbered-720p.mp4", 180, 0.3),
            ("numbered-360p.mkv", 180, 0.9),
            ("car-detection.mp4", 377, 0.95),
        ],
    )
    def test_real_clips_whole_and_cut_off(
        self, name: str, length: int, whole: float, shared_data: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / name
        contents = (shared_data / "video" / name).read_bytes()
        path.write_bytes(contents[: int(whole * len(contents))])
        with open_video(path, SourceOptions(planes=True)) as source:
            frames = sum(1 for _ in source)
        assert source.length == length
        if whole == 1.0:
            assert (frames, source.notices) == (length, ())
        else:
            assert 0 < frames < length
            assert source.notices[0] == f"{path} is cut off: it ended after {frames} of about {length} frames"


class TestNoVideo:
    @pytest.mark.parametrize("contents", [b"", b"this is no video" * 100])
    def test_a_file_that_is_no_video(self, contents: bytes, tmp_path: Path) -> None:
        path = tmp_path / "notes.mp4"
        path.write_bytes(contents)
        with pytest.raises(FrameSourceError, match=rf"notes\.mp4 \({len(contents)} bytes\) is not a video"):
            open_source(path)

    def test_sound_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.mp4"
        with av.open(path, "w") as container:
            sound = container.add_stream("aac", rate=8000)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
            silence.sample_rate = 8000
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
        with pytest.raises(FrameSourceError, match="has no video track; it holds audio") as raised:
            open_video(path)
        assert raised.value.cause == "no_video"

    def test_a_codec_without_a_decoder_is_named(self, tmp_path: Path) -> None:
        path = clips.write_clip(tmp_path / "clip.mp4", 3, codec="avc1")
        content = path.read_bytes()
        path.write_bytes(content.replace(b"avc1", b"zzz1"))
        with pytest.raises(FrameSourceError, match="zzz1 video, and zzz1 is not in this build of FFmpeg") as raised:
            open_video(path)
        assert raised.value.cause == "codec"
        assert "cut off" not in str(raised.value)

    def test_a_known_codec_without_a_decoder_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As AV1 in a build of FFmpeg without dav1d."""

        class Without:
            def __init__(self, container: Any) -> None:
                self.container = container

            @property
            def streams(self) -> Any:
                track = self.container.streams.video[0]

                class Track:
                    index, type, disposition, codec_context = track.index, "video", track.disposition, None

                only = Track()

                class Streams(list):
                    video = (only,)

                    def best(self, _: str) -> Any:
                        return only

                return Streams([only])

            def dumps_format(self) -> str:
                return self.container.dumps_format().replace("mpeg4", "av1")

            def close(self) -> None:
                self.container.close()

        path = clips.write_clip(tmp_path / "clip.mp4", 3, codec="mp4v")
        monkeypatch.setattr(video_file, "_opened", lambda _, name: (Without(av.open(name)), ""))
        with pytest.raises(FrameSourceError, match="AV1 is not in this build of FFmpeg"):
            open_video(path)

    @pytest.mark.parametrize("kind", ["fifo", "zero", "folder", "sparse", "gone"])
    def test_what_is_no_regular_file_is_refused(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / "clip.mp4"
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        elif kind == "sparse":
            path.write_bytes(b"\0\0\0\x18ftypisom")
            os.truncate(path, 100 << 30)
        with pytest.raises(FrameSourceError, match=r"clip\.mp4 cannot be read") as raised:
            open_video(path)
        assert raised.value.cause == ("not_found" if kind == "gone" else None)

    def test_frames_that_are_too_large_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "clip.y4m").write_bytes(b"YUV4MPEG2 W12000 H12000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(1000))
        with pytest.raises(FrameSourceError, match=r"clip\.y4m has frames of 12000x12000 pixels"):
            open_source(tmp_path / "clip.y4m")

    def test_frames_that_become_too_large_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "change.ts"
        small = clips.encode(tmp_path / "a.ts", clips.numbered_frames(5), "libx264", "yuv420p")
        large = clips.encode(
            tmp_path / "b.ts", clips.numbered_frames(5, height=192, width=256), "libx264", "yuv420p", size=(256, 192)
        )
        path.write_bytes(small.read_bytes() + large.read_bytes())
        for module in (decoder, tracks):
            monkeypatch.setattr(module, "IMAGE_PIXELS", 128 * 96)
        with open_video(path) as source, pytest.raises(FrameSourceError, match=r"larger|has frames of"):
            list(source)

    def test_without_pyav(self, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "av", None)
        with pytest.raises(Exception, match=r"vitedge\[camera\]"):
            open_video(clip)
