"""Options that limit what OpenCV's FFmpeg may open: no other file for a file, no file of this machine for a stream.

FFmpeg opens the files and addresses that a file or stream names. A concat script or an HLS playlist under the name
``clip.mp4`` would open others, and a server's playlist would open files of this machine. FFmpeg's own lists of allowed
protocols and demuxers prevent both.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""OpenCV reads it when it opens a capture; it holds ``name;value`` pairs separated by ``|``."""

_CONTAINERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg", "asf", "ivf", "yuv4mpegpipe"),
    *("h264", "hevc", "m4v", "mjpeg"),
)
_STREAMED = (
    *("rtsp", "hls", "dash", "live_flv", "mpjpeg", "jpeg_pipe", "png_pipe"),
    *("aac", "ac3", "eac3", "mp3", "webvtt"),  # the other tracks of a playlist
)
_NETWORK = (
    *("rtsp", "rtsps", "rtp", "srtp", "udp", "tcp", "tls", "http", "https", "httpproxy", "crypto"),
    *("rtmp", "rtmps", "rtmpt", "rtmpe", "rtmpte", "rtmpts", "ffrtmpcrypt", "ffrtmphttp"),
)

FILE_OPTIONS = f"protocol_whitelist;file|format_whitelist;{','.join(_CONTAINERS)}"
STREAM_OPTIONS = (
    f"rtsp_flags;prefer_tcp|protocol_whitelist;{','.join(_NETWORK)}|"
    f"format_whitelist;{','.join((*_CONTAINERS, *_STREAMED))}"
)


class _Variable:
    """The environment variable, shared by captures that are opened at the same time with the same options."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._options, self._users, self._waiting = "", 0, 0
        self._before: str | None = None

    @contextmanager
    def holding(self, options: str) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._users or (options == self._options and self._waiting == 1))
            self._waiting -= 1
            if not self._users:
                self._set(options)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if not self._users:
                    self._restore()
                    self._changed.notify_all()

    def _set(self, options: str) -> None:
        self._options, self._before = options, os.environ.get(VARIABLE)
        os.environ[VARIABLE] = f"{options}|{self._before}" if self._before else options

    def _restore(self) -> None:
        if self._before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = self._before


_variable = _Variable()


def _forget_users() -> None:
    """Run in a forked child: the threads of the parent that were opening captures do not exist here."""
    global _variable
    _variable = _Variable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_users)


@contextmanager
def ffmpeg_options(options: str) -> Iterator[None]:
    """Use options, followed by the user's own, for the captures that are opened within this context.

    Other threads that request different options wait until this context is left.
    """
    with _variable.holding(options):
        yield
