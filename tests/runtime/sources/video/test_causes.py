"""Errors of FFmpeg and of the system as causes."""

from __future__ import annotations

import errno
import traceback
from typing import get_args

import pytest

from vitedge.errors import Cause, FrameSourceError
from vitedge.runtime.sources.video.causes import (
    Server,
    cause_of,
    errors_of_pyav,
    fail,
    opening_error,
    reading_error,
    reason_of,
    stopped,
    undecodable,
)

av = pytest.importorskip("av")

SERVER = Server("http://***@192.168.1.20:8080/cam", "http", "192.168.1.20", 8080, True, 10.0, 5.0)
RTSP = Server("rtsp://***@192.168.1.20:554/cam", "rtsp", "192.168.1.20", 554, True, 10.0, 5.0)


def ffmpeg(number: int) -> BaseException:
    """The error that PyAV raises for a number of FFmpeg, with the address in its text."""
    with pytest.raises(errors_of_pyav()) as raised:
        av.error.err_check(-number, "rtsp://joe:hunter2@192.168.1.20/cam")
    return raised.value


NUMBERS: dict[str, tuple[int, Cause]] = {
    "HTTP_UNAUTHORIZED": (av.error.ErrorType.HTTP_UNAUTHORIZED.value, "auth"),
    "HTTP_FORBIDDEN": (av.error.ErrorType.HTTP_FORBIDDEN.value, "auth"),
    "HTTP_NOT_FOUND": (av.error.ErrorType.HTTP_NOT_FOUND.value, "not_found"),
    "HTTP_OTHER_4XX": (av.error.ErrorType.HTTP_OTHER_4XX.value, "network"),
    "HTTP_SERVER_ERROR": (av.error.ErrorType.HTTP_SERVER_ERROR.value, "network"),
    "EXIT": (av.error.ErrorType.EXIT.value, "timeout"),
    "EOF": (av.error.ErrorType.EOF.value, "eof"),
    "INVALIDDATA": (av.error.ErrorType.INVALIDDATA.value, "no_video"),
    "DECODER_NOT_FOUND": (av.error.ErrorType.DECODER_NOT_FOUND.value, "codec"),
    "PROTOCOL_NOT_FOUND": (av.error.ErrorType.PROTOCOL_NOT_FOUND.value, "codec"),
    "ECONNREFUSED": (errno.ECONNREFUSED, "refused"),
    "ETIMEDOUT": (errno.ETIMEDOUT, "timeout"),
    "ECONNRESET": (errno.ECONNRESET, "network"),
    "EHOSTUNREACH": (errno.EHOSTUNREACH, "network"),
    "ENETUNREACH": (errno.ENETUNREACH, "network"),
    "EPIPE": (errno.EPIPE, "network"),
    "ENOENT": (errno.ENOENT, "not_found"),
    "EACCES": (errno.EACCES, "permission"),
    "EBUSY": (errno.EBUSY, "device_busy"),
    "ENODEV": (errno.ENODEV, "unplugged"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_each_error_of_ffmpeg_has_a_cause(name: str) -> None:
    number, cause = NUMBERS[name]
    error = ffmpeg(number)
    assert cause_of(error) == cause
    assert "hunter2" in str(error)
    assert "hunter2" not in reason_of(error)


@pytest.mark.parametrize("name", NUMBERS)
def test_its_description_keeps_no_secret(name: str) -> None:
    number, cause = NUMBERS[name]
    for described in (opening_error(ffmpeg(number), SERVER, 1.0), reading_error(ffmpeg(number), SERVER, 7)):
        with pytest.raises(FrameSourceError) as raised:
            fail(described)
        assert raised.value.cause in get_args(Cause)
        assert raised.value.expected
        assert raised.value.fix
        assert "hunter2" not in "".join(traceback.format_exception(raised.value))
    assert opening_error(ffmpeg(number), SERVER, 1.0).cause == cause


def test_texts_of_different_causes_differ() -> None:
    texts = {
        opening_error(ffmpeg(NUMBERS[name][0]), SERVER, 1.0).problem
        for name in ("HTTP_UNAUTHORIZED", "HTTP_FORBIDDEN", "HTTP_NOT_FOUND", "EXIT", "ECONNREFUSED", "INVALIDDATA")
    }
    assert len(texts) == 6


def test_the_port_of_rtsp_is_named_for_rtsp_alone() -> None:
    refused = ffmpeg(NUMBERS["ECONNREFUSED"][0])
    assert "554" in (opening_error(refused, RTSP, 1.0).expected or "")
    assert "554" not in (opening_error(refused, SERVER, 1.0).expected or "")


def test_nobody_is_asked_for_what_others_send_to_this_machine() -> None:
    listening = Server("udp://0.0.0.0:5004", "udp", "0.0.0.0", 5004, False, 10.0, 5.0)
    fix = opening_error(ffmpeg(NUMBERS["EXIT"][0]), listening, 10.0).fix or ""
    assert "nc -z" not in fix
    assert "udp port 5004" in fix


def test_invalid_data_by_rtsp_is_a_broken_answer() -> None:
    error = opening_error(ffmpeg(NUMBERS["INVALIDDATA"][0]), RTSP, 1.0)
    assert error.cause == "network"
    assert "mid-answer" in error.problem


def test_invalid_data_at_the_end_of_the_time_is_silence() -> None:
    number = NUMBERS["INVALIDDATA"][0]
    assert opening_error(ffmpeg(number), RTSP, 10.0).cause == "timeout"
    assert opening_error(ffmpeg(number), SERVER, 10.0).cause == "timeout"
    assert opening_error(ffmpeg(number), SERVER, 9.0).cause == "no_video"


def test_the_context_of_a_failure_is_dropped() -> None:
    """Also where it is raised while another error is handled."""

    def handle() -> None:
        try:
            int("hunter2")
        except ValueError:
            fail(FrameSourceError("plain"))

    with pytest.raises(FrameSourceError) as raised:
        handle()
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))
    assert raised.value.__cause__ is None


def test_an_error_that_is_none_of_them() -> None:
    assert cause_of(KeyError("x")) is None
    assert cause_of(OSError(errno.EXDEV, "no")) is None
    assert reason_of(KeyError("x")) == "KeyError"


def test_live_sources_that_end() -> None:
    assert "sent no frame for 5 s" in stopped("camera", "timeout", 3, seconds=5.0).problem
    assert "ended it" in stopped("camera", "eof", 3, seconds=5.0).problem
    assert "30 s" in undecodable("camera", 3, seconds=30.0).problem


def test_a_host_that_the_name_hides_is_not_told() -> None:
    """A part of a password that was taken for a host."""
    odd = Server("rtsp://***@cam/x", "rtsp", "ss.word", None, True, 10.0, 5.0)
    assert "ss.word" not in str(opening_error(ffmpeg(errno.ECONNREFUSED), odd, 1.0))
    assert "ss.word" not in str(opening_error(ffmpeg(errno.EIO), odd, 1.0))
