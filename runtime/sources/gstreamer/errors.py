"""What ``gst-launch-1.0`` says at its end, as an error with a cause."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

from vitedge.counts import counted
from vitedge.errors import Cause, FrameSourceError, UsageError, VitedgeError
from vitedge.safety.redact import redact, redact_address

SHOWN_CHARACTERS = 200
_ERRONEOUS = re.compile(r"erroneous pipeline: (?P<what>.+)")
_ERROR = re.compile(r"ERROR: from element (?P<element>\S+): (?P<what>.+)")
_NO_ELEMENT = re.compile(r"no element \"(?P<name>[^\"]+)\"")

_PACKAGES = (
    (r"libcamera", "gstreamer1.0-libcamera"),
    (r"nv", "nvidia-l4t-gstreamer"),
    (r"av(?:dec|enc|mux|demux)_", "gstreamer1.0-libav"),
    (r"(?:x264|mpg123|asf|rm)", "gstreamer1.0-plugins-ugly"),
    (
        r"(?:v4l2|rtsp|rtp|udp|jpeg|matroska|avi|qt|multifile|soup|vp[89]|deinterlace|videocrop|videoflip)",
        "gstreamer1.0-plugins-good",
    ),
    (r"(?:video|decodebin|uridecodebin|playbin|app|tcp|gio|audio|ogg|theora)", "gstreamer1.0-plugins-base"),
    (r"(?:h26[45]parse|srt|rtmp|dash|hls|webrtc|kms|openjpeg|tsdemux|av1parse|va|mpeg)", "gstreamer1.0-plugins-bad"),
)
"""Packages of Debian and Ubuntu by the beginnings of names of elements."""

_SIGNS: tuple[tuple[str, Cause], ...] = (
    (r"unauthorized|not authorized|401", "auth"),
    (r"permission denied|not permitted", "permission"),
    (
        r"is busy|device or resource busy|already in use|failed to create capturesession|in use by another",
        "device_busy",
    ),
    (r"connection refused", "refused"),
    (r"no such device|device .*(?:lost|disconnected|unplugged)|has been removed", "unplugged"),
    (
        r"no cameras available|invalid camera device|could not find any supported camera|could not find a camera named|"
        r"cannot identify device|no such file|resource not found|not found|404",
        "not_found",
    ),
    (r"tls|certificate", "tls"),
    (r"timed? ?out|timeout", "timeout"),
    (r"missing a plug-?in|no suitable plugins|no decoder|missing plugin|missing element", "codec"),
    (r"not-negotiated|not-linked|plain text files|could not determine type|wrong type|no valid frames", "no_video"),
    (r"failed to connect|could not connect|could not open resource|could not resolve|network|host|socket", "network"),
)
"""Causes by the texts of elements, the more certain first."""

_ADVICE: dict[Cause | None, tuple[str, str]] = {
    "auth": ("the user and password of the camera", "check both in the pipeline"),
    "permission": ("the right to read the device", "sudo usermod -aG video $USER, then log in again"),
    "device_busy": ("a camera that no other program uses", "fuser -v /dev/video* names its user"),
    "refused": ("a server that listens", "check the address and the port"),
    "unplugged": (
        "a camera that stays attached",
        "check the cable and the power; sudo dmesg | tail says what happened",
    ),
    "not_found": ("a camera or file that exists", "gst-device-monitor-1.0 Video/Source lists the cameras"),
    "codec": (
        "an element that decodes this",
        "gst-inspect-1.0 lists the elements; sudo apt-get install gstreamer1.0-libav",
    ),
    "no_video": (
        "a pipeline whose last element gives video/x-raw",
        "run it by itself: gst-launch-1.0 -v PIPELINE ! fakesink",
    ),
    "network": ("a server that this machine reaches", "check the address and the network"),
    "eof": ("a camera or stream that goes on", "run it by itself: gst-launch-1.0 -v PIPELINE ! fakesink"),
}
_OTHERWISE = ("a pipeline that runs", "run it by itself: gst-launch-1.0 -v PIPELINE ! fakesink")


def pipeline_error(name: str, messages: Iterable[str], exit_code: int | None, delivered: int) -> VitedgeError:
    """Describe why a pipeline ended.

    Args:
        name: name of the source, without secrets.
        messages: the lines that ``gst-launch-1.0`` wrote.
        exit_code: its exit code, negative for a signal; None if it still runs.
        delivered: number of frames before its end.

    Returns:
        A UsageError for a pipeline that GStreamer cannot parse, and a FrameSourceError for any other end.
    """
    lines = tuple(messages)
    erroneous = next((found for found in map(_ERRONEOUS.search, lines) if found is not None), None)
    if erroneous is not None:
        return _not_built(name, erroneous["what"])
    error = next((found for found in map(_ERROR.search, lines) if found is not None), None)
    if error is not None:
        return _failed(name, error["element"], error["what"], lines, delivered)
    if exit_code is not None and exit_code < 0:
        return FrameSourceError(
            f"{name} ended after {counted(delivered, 'frame')}: {_signal_name(-exit_code)} ended gst-launch-1.0",
            expected="a driver and elements that do not crash",
            fix="run it by itself: gst-launch-1.0 -v PIPELINE ! fakesink",
        )
    if delivered:
        return _ended(name, delivered)
    expected, fix = _ADVICE["no_video"]
    return FrameSourceError(f"{name} ended without a frame", expected=expected, fix=fix, cause="no_video")


def _ended(name: str, delivered: int) -> FrameSourceError:
    expected, fix = _ADVICE["eof"]
    return FrameSourceError(
        f"{name} ended after {counted(delivered, 'frame')}", expected=expected, fix=fix, cause="eof"
    )


def _not_built(name: str, what: str) -> VitedgeError:
    missing = _NO_ELEMENT.search(what)
    if missing is None:
        return UsageError(
            f"GStreamer cannot build {name}: {redact_address(what)[:SHOWN_CHARACTERS]}",
            expected="a pipeline as gst-launch-1.0 takes it, without a sink",
            fix="gst-inspect-1.0 ELEMENT shows the properties and formats of an element",
        )
    element = missing["name"]
    package = next((package for begin, package in _PACKAGES if re.match(begin, element)), None)
    return FrameSourceError(
        f"GStreamer has no element {element!r:.80}, which {name} needs",
        expected="an installed element",
        fix=f"sudo apt-get install {package}; gst-inspect-1.0 {element[:40]} shows whether it is there"
        if package
        else "gst-inspect-1.0 lists the elements that are installed",
        cause="not_found",
    )


def _failed(name: str, element: str, what: str, lines: tuple[str, ...], delivered: int) -> FrameSourceError:
    whole = "\n".join(line for line in lines if "../" not in line).lower()
    cause = next((cause for sign, cause in _SIGNS if re.search(sign, what.lower())), None)
    cause = cause or next((cause for sign, cause in _SIGNS if re.search(sign, whole)), None)
    expected, fix = _ADVICE.get(cause, _OTHERWISE)
    after = f" after {counted(delivered, 'frame')}" if delivered else ""
    return FrameSourceError(
        f"{name} failed{after}: {element.rpartition('/')[2].partition(':')[2] or element}: "
        f"{redact(what)[:SHOWN_CHARACTERS]}",
        expected=expected,
        fix=fix,
        cause=cause,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
