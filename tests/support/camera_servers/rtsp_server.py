"""Sends clips by RTSP on loopback: ``/usr/bin/python3 rtsp_server.py OPTIONS``, with GStreamer's bindings.

OPTIONS is JSON, the fields of ``servers.RtspOptions``. The port is printed. The program ends with its parent, and after
``seconds``. Each mount sends its clip over and over, in step with ``time.monotonic``, so that a server that comes back
goes on where time is.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # in the place of this folder

import gi  # noqa: E402

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

from camera_servers.encoded_clip import CodedPicture, open_clip  # noqa: E402
from camera_servers.send_times import SendTimes  # noqa: E402

NANOSECONDS = 1_000_000_000
CAPS = {
    "h264": "video/x-h264,stream-format=byte-stream,alignment=au",
    "hevc": "video/x-h265,stream-format=byte-stream,alignment=au",
    "mjpeg": "image/jpeg,framerate=30/1",
}
PAYLOADERS = {
    "h264": "h264parse ! rtph264pay config-interval=-1 pt=96",
    "hevc": "h265parse ! rtph265pay config-interval=-1 pt=96",
    "mjpeg": "jpegparse ! rtpjpegpay pt=26",
}
SOUND = "( audiotestsrc is-live=true wave=silence ! audioconvert ! alawenc ! rtppcmapay name=pay0 pt=8 )"


def video_launch(codec: str, loss: float) -> str:
    """Describe the pipeline of a clip; RTP packets are lost behind the payloader, whose name the server looks for."""
    source = f'appsrc name=pictures is-live=true format=time block=false max-bytes=0 caps="{CAPS[codec]}"'
    if loss:
        return f"( {source} ! {PAYLOADERS[codec]} ! identity name=pay0 drop-probability={loss} )"
    return f"( {source} ! {PAYLOADERS[codec]} name=pay0 )"


class Sender:
    """Sends the pictures of a mount to its pipelines.

    A camera takes pictures in the order in which they are shown. One with B-frames sends some of them later: those that
    it sends before others are due when they are sent, and the others were due before.

    Args:
        clips: the clips, one after the other; all have the same codec and frame rate.
        times: where to note when a picture was sent.
    """

    def __init__(self, clips: list[Path], times: SendTimes) -> None:
        opened = [open_clip(each) for each in clips]
        self.codec, self.fps = opened[0].codec, opened[0].fps
        self._times = times
        self._pictures: list[tuple[int, CodedPicture]] = []
        for clip in opened:
            pictures = clip.pictures()
            shift = len(self._pictures) - min(each.number for each in pictures)
            self._pictures += [(each.number + shift, each) for each in pictures]
        self._lead = max(place - step for step, (place, _) in enumerate(self._pictures))

    def start(self, media: Any) -> None:
        """Send pictures to a pipeline until it is taken down."""
        source = media.get_element().get_by_name_recurse_up("pictures")
        ended = threading.Event()
        media.connect("unprepared", lambda *_: ended.set())
        threading.Thread(target=self._send, args=(source, ended), daemon=True).start()

    def _send(self, source: Any, ended: threading.Event) -> None:
        while not source.get_base_time():  # it is set after the clock
            time.sleep(0.002)
        origin, begin = time.monotonic(), self._next_key()
        playing = source.get_clock().get_time() - source.get_base_time()
        for step in count(begin):
            ended.wait(max(0.0, step / self.fps - time.monotonic()))
            if ended.is_set():
                return
            place, coded = self._pictures[step % len(self._pictures)]
            due = (step - step % len(self._pictures) + place - self._lead) / self.fps
            buffer = Gst.Buffer.new_wrapped(coded.data)
            buffer.pts = max(0, playing + round((due - origin) * NANOSECONDS))
            self._times.note(coded.number, due)
            if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                return

    def _next_key(self) -> int:
        """Return the step of the next picture that decoding can begin with."""
        now = int(time.monotonic() * self.fps)
        return next(step for step in count(now) if self._pictures[step % len(self._pictures)][1].key)


def restrict(server: Any, factories: list[Any], user: str, password: str) -> None:
    """Let in those who give this name and password."""
    auth, token = GstRtspServer.RTSPAuth.new(), GstRtspServer.RTSPToken.new()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    for factory in factories:
        permissions = GstRtspServer.RTSPPermissions.new()
        for right in ("access", "construct"):
            permissions.add_permission_for_role("viewer", f"media.factory.{right}", True)
        factory.set_permissions(permissions)


def end_with_parent(seconds: float) -> None:
    """End when the parent ends, which closes standard input, and after some seconds."""

    def wait_for_end() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=wait_for_end, daemon=True).start()
    GLib.timeout_add(round(seconds * 1000), lambda: os._exit(0))


def main() -> None:
    """Serve until the end."""
    options = json.loads(sys.argv[1])
    Gst.init(None)
    times = SendTimes(Path(options["times"]))
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(str(options["port"]))
    factories = []
    for mount, clips in options["mounts"].items():
        factory = GstRtspServer.RTSPMediaFactory.new()
        if clips:
            sender = Sender([Path(each) for each in clips], times)
            factory.set_launch(video_launch(sender.codec, options["loss"]))
            factory.connect("media-configure", lambda _, media, sender=sender: sender.start(media))
        else:
            factory.set_launch(SOUND)
        factory.set_shared(True)
        factory.set_latency(0)
        server.get_mount_points().add_factory(mount, factory)
        factories.append(factory)
    if options["user"]:
        restrict(server, factories, options["user"], options["password"])
    if not server.attach(None):
        sys.exit(f"port {options['port']} is taken")
    end_with_parent(options["seconds"])
    print(server.get_bound_port(), flush=True)  # noqa: T201
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
