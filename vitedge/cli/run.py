"""``vitedge run``: stream a camera, a video or a folder of images through a bundle."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from vitedge.cli import EXIT_ERROR, output
from vitedge.cli.signals import Stop, stoppable
from vitedge.cli.trust import add_trust_options, trusted
from vitedge.errors import EngineError
from vitedge.prediction import Prediction
from vitedge.progress import Progress, Silent, Terminal
from vitedge.runtime.engines.open import ENGINES
from vitedge.safety.escape import terminal, terminal_lines

if TYPE_CHECKING:
    from vitedge.bundle.signatures import Trust
    from vitedge.runtime.outputs import Output
    from vitedge.runtime.stream.stream import Stream

DESCRIPTION = "Classify what a camera, a video or a folder of images shows."
EPILOG = """\
sources:
  0, 1, ...             camera number (V4L2)
  clip.mp4              video file
  photos/               folder of images, photo.jpg one image
  rtsp://, http://      network stream

policies:
  latest  classify the newest frame, and count the dropped frames; the default for cameras and streams
  every   classify every frame, and let the source wait; the default for files

Ctrl-C, SIGTERM and SIGHUP end the run with every file finished; a second one ends it at once. Exit codes: 0 at the end
of the source and for SIGTERM, which stops a service; 1 after an error, 129 for SIGHUP, 130 for Ctrl-C.

examples:
  vitedge run deit.bundle --source 0 --show
  vitedge run deit.bundle --source clip.mp4 --save annotated.mp4
  vitedge run deit.bundle --source rtsp://camera/1 --jsonl - | jq .label
"""
REDRAW_SECONDS = 0.1
REMEMBERED = 100_000
LABELS_SHOWN = 5
SLIDE_FPS = 2.0


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "run",
        help="stream a camera, a video or images through a bundle",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder that vitedge convert wrote")
    parser.add_argument("--source", required=True, metavar="URI", help="where frames come from")
    parser.add_argument("--jsonl", metavar="FILE", help="write a line of JSON per prediction; - for standard output")
    parser.add_argument("--save", metavar="VIDEO", help="write the annotated frames as a video")
    parser.add_argument("--show", action="store_true", help="show them in a window; q or Esc ends")
    parser.add_argument("--policy", choices=("latest", "every"), help="which frames to classify")
    parser.add_argument("--max-frames", type=int, metavar="N", help="end after N predictions")
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes per prediction (default: 5)")
    parser.add_argument("--engine", choices=tuple(ENGINES), help="default: the engine of the bundle's target")
    add_trust_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Stream until the source ends, the window is closed, or a signal comes; then print a summary on stderr."""
    _check_outputs(arguments)
    trust = trusted(arguments)
    with stoppable() as stop:
        try:
            return _stream(arguments, trust, stop)
        except (KeyboardInterrupt, EngineError) as error:
            if isinstance(error, EngineError) and not stop.requested:  # a library makes its own error of the interrupt
                raise
        output.note("interrupted before the first prediction\n")
        return stop.exit_code


def _stream(arguments: argparse.Namespace, trust: Trust | None, stop: Stop) -> int:
    from vitedge.runtime.load import load

    with (
        _quiet_libraries(),
        load(arguments.bundle, engine=arguments.engine, trust=trust, progress=_progress(arguments)) as classifier,
        classifier.stream(  # last, because frames that a camera queues while a model loads are old
            arguments.source, policy=arguments.policy, max_frames=arguments.max_frames, topk=arguments.topk
        ) as stream,
    ):
        return _deliver(arguments, stream, stop)


def _progress(arguments: argparse.Namespace) -> Progress:
    """Tell on standard error how loading goes, unless the lines of JSON appear on the same terminal."""
    return Silent() if arguments.jsonl == "-" and sys.stdout.isatty() else Terminal()


def _check_outputs(arguments: argparse.Namespace) -> None:
    from vitedge.runtime.outputs.base import check_new_file

    if arguments.jsonl not in (None, "-"):
        check_new_file(arguments.jsonl)
    if arguments.save is not None:
        check_new_file(arguments.save)


def _deliver(arguments: argparse.Namespace, stream: Stream, stop: Stop) -> int:
    from vitedge.runtime.outputs import deliver

    tally = Tally()
    outputs = [stop, *_outputs(arguments, stream), tally]
    if sys.stderr.isatty() and not (arguments.jsonl == "-" and sys.stdout.isatty()):
        outputs.append(StatusLine(sys.stderr))
    exit_code = 0
    try:
        deliver(stream, outputs)
    except KeyboardInterrupt:
        exit_code = stop.exit_code
    except BrokenPipeError:
        output.abandon(sys.stdout)
        exit_code = EXIT_ERROR
    finally:
        output.note(tally.summary(stream.notices))
    return exit_code


def _outputs(arguments: argparse.Namespace, stream: Stream) -> list[Output]:
    from vitedge.runtime.outputs import AnnotatedVideo, JsonLines, Window
    from vitedge.runtime.sources.images.files import ImageFiles

    outputs: list[Output] = []
    if arguments.jsonl is not None:
        outputs.append(JsonLines(sys.stdout if arguments.jsonl == "-" else arguments.jsonl))
    if arguments.save is not None:
        fps = SLIDE_FPS if isinstance(stream.source, ImageFiles) else stream.source.fps
        outputs.append(AnnotatedVideo(arguments.save, fps=fps, realtime=stream.policy == "latest"))
    if arguments.show:
        outputs.append(Window())
    return outputs


def _named(prediction: Prediction) -> str:
    if prediction.abstained:
        return f"unsure: {prediction.label}"
    return " + ".join(prediction.labels) if prediction.accepted else prediction.label


class StatusLine:
    """The last prediction on one line of a terminal, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        from vitedge.runtime.outputs.overlay import RateMeter

        self._stream = stream
        self._rate = RateMeter()
        self._drawn = -REDRAW_SECONDS
        self._dropped = 0

    def write(self, prediction: Prediction) -> None:
        """Redraw the line, unless it was redrawn just before."""
        rate = self._rate.tick()
        self._dropped += prediction.dropped
        now = time.monotonic()
        if now - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = now
        fps = f"{rate:.1f} fps" if rate else "-"
        text = terminal(
            f"frame {prediction.frame}  {_named(prediction)} {100 * prediction.score:.1f} %  {fps}  "
            f"age {prediction.age_ms:.0f} ms  dropped {self._dropped}"
        )
        self._redraw(text[: shutil.get_terminal_size().columns - 1])

    def close(self) -> None:
        """Clear the line."""
        self._redraw("")

    def _redraw(self, text: str) -> None:
        with suppress(OSError):  # a terminal that has gone ends no stream
            self._stream.write(f"\r\033[K{text}")
            self._stream.flush()


class Tally:
    """Counts and times of a stream, for the summary at its end; times are of the last 100 000 predictions."""

    def __init__(self) -> None:
        self._labels: Counter[str] = Counter()
        self._times: deque[tuple[float, ...]] = deque(maxlen=REMEMBERED)
        self._dropped = self._abstained = self._frames = 0
        self._first = self._last = 0.0

    def write(self, prediction: Prediction) -> None:
        """Count the prediction."""
        self._last = time.monotonic()
        if not self._times:
            self._first = self._last
        stages = prediction.stages_ms
        self._times.append((prediction.age_ms, stages.preprocess, stages.infer, stages.postprocess))
        self._frames += 1
        self._labels.update([prediction.label] if prediction.accepted is None else prediction.labels)
        self._abstained += prediction.abstained
        self._dropped += prediction.dropped

    def close(self) -> None:
        """Nothing to finish."""

    def summary(self, notices: tuple[str, ...]) -> str:
        """Render the lines at the end of a run."""
        return terminal_lines([*self._lines(), *(f"note: {notice}" for notice in notices)])

    def _lines(self) -> Iterator[str]:
        frames = self._frames
        if frames == 0:
            yield "no predictions"
            return
        elapsed = self._last - self._first
        rate = f", {(frames - 1) / elapsed:.1f} fps" if elapsed > 0 else ""
        yield f"{frames} prediction{'s' if frames > 1 else ''}{rate}, {self._dropped} frames dropped"
        columns = np.array(self._times).T
        for name, values in zip(("age", "preprocess", "infer", "postprocess"), columns, strict=True):
            p50, p99 = np.percentile(values, (50, 99))
            yield f"  {name:<12} p50 {p50:8.2f} ms   p99 {p99:8.2f} ms"
        shares = (f"{label} {100 * count / frames:.1f} %" for label, count in self._labels.most_common(LABELS_SHOWN))
        yield f"  {'labels':<12} {', '.join(shares)}"
        if self._abstained:
            yield f"  {'unsure':<12} {self._abstained} below the threshold, {100 * self._abstained / frames:.1f} %"


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the messages of OpenCV and FFmpeg off the terminal: vitedge reports the relevant ones as errors and notices.

    The notices are also logged; this verb prints them in its summary instead.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    handler = logging.NullHandler()
    logger = logging.getLogger("vitedge")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
