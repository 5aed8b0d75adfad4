"""``vitedge run``: stream cameras, a video or a folder of images through a bundle."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.cli import EXIT_ERROR, output
from vitedge.cli.flags import ENGINE_HELP, THREADS_HELP
from vitedge.cli.signals import Stop, stoppable
from vitedge.cli.trust import add_trust_options, trusted
from vitedge.errors import EngineError, UsageError, VitedgeError
from vitedge.progress import Progress, Silent
from vitedge.runtime.engines.open import ENGINES
from vitedge.safety.files import folded_path
from vitedge.terminal_style import is_live

if TYPE_CHECKING:
    from vitedge.bundle.signatures import Trust
    from vitedge.cli.tally import StateNotes, Tally
    from vitedge.runtime.classifier import Classifier
    from vitedge.runtime.outputs import Output
    from vitedge.runtime.stream.cameras.streams import Streams
    from vitedge.runtime.stream.stream import Stream

DESCRIPTION = "Classify what cameras, a video or a folder of images show."
EPILOG = """\
sources:
  0, 1, ...             camera by its number, which may change when others come
  /dev/v4l/by-id/NAME   camera by its name, which does not change
  v4l2:///dev/video0    camera with options: ?size=1280x720&fps=30&fourcc=MJPG
  rtsp://, http://      network camera; ?transport=udp or tcp
  csi://0               camera of a Jetson or a Raspberry Pi
  gst:PIPELINE          pipeline of GStreamer
  clip.mp4              video file
  photo.jpg             image; photos/ is a folder, 'photos/*.jpg' some of it
  cameras.streams       list of sources, NAME = URI on each line
  test://               moving test picture

docs/cameras.md describes all of them. With several sources, each line of JSON names its source.

policies:
  latest   the newest frame; others are dropped and counted; default for cameras
  every    every frame; the source waits; default for files

A camera that was online is connected again whenever it is lost. --reconnect also goes on trying when the first
connection fails; --no-reconnect ends with the error. Standard error gets a line when a camera is lost and when it is
back, and a summary at the end.

Ctrl-C, SIGTERM and SIGHUP end the run with every file finished; a second one ends it at once. Exit codes: 0 at the end
of the source and for SIGTERM, which stops a service; 1 after an error, 129 for SIGHUP, 130 for Ctrl-C.

examples:
  vitedge run deit.bundle --source 0 --show
  vitedge run deit.bundle --source clip.mp4 --save annotated.mp4
  vitedge run deit.bundle --source 'rtsp://user:password@camera/1?transport=udp' --max-age 200 --jsonl - | jq .label
  vitedge run deit.bundle --source door=rtsp://camera-1/1 --source yard=rtsp://camera-2/1 --reconnect --save videos/
"""
SLIDE_FPS = 2.0


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "run",
        help="stream cameras, a video or images through a bundle",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder that vitedge convert wrote")
    parser.add_argument(
        "--source",
        required=True,
        action="append",
        metavar="[NAME=]URI",
        help="where frames come from, see below; several times for several cameras",
    )
    parser.add_argument("--jsonl", metavar="FILE", help="write a line of JSON per prediction; - for standard output")
    parser.add_argument(
        "--save", metavar="VIDEO", help="write the annotated frames as a video; a folder for several sources"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the files of --jsonl and --save when the first frame comes"
    )
    parser.add_argument("--show", action="store_true", help="show the annotated frames in a window; q or Esc ends")
    parser.add_argument(
        "--policy",
        choices=("latest", "every"),
        help="which frames to classify, see below (default: by the kind of source)",
    )
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="end after N predictions (default: with the source)"
    )
    parser.add_argument(
        "--max-age",
        type=float,
        metavar="MS",
        help="drop frames that are older than so many milliseconds (default: none)",
    )
    parser.add_argument(
        "--reconnect",
        action=argparse.BooleanOptionalAction,
        help="go on trying, also when the first connection fails; or end with the first error "
        "(default: connect a camera again that was online)",
    )
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes per prediction (default: 5)")
    parser.add_argument("--engine", choices=tuple(ENGINES), help=ENGINE_HELP)
    parser.add_argument("--threads", type=int, metavar="N", help=THREADS_HELP)
    add_trust_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Stream until the sources end, the window is closed, or a signal comes; then print a summary on stderr."""
    from vitedge.cli.sources import named_sources

    named = named_sources(arguments.source)
    if named is not None:
        _check_several(arguments)
    _check_outputs(arguments, named)
    trust = trusted(arguments)
    with stoppable() as stop:
        try:
            return _stream(arguments, named, trust, stop)
        except (KeyboardInterrupt, EngineError) as error:
            if isinstance(error, EngineError) and not stop.requested:  # a library makes its own error of the interrupt
                raise
        output.note("interrupted before the first prediction\n")
        return stop.exit_code


def _stream(arguments: argparse.Namespace, named: Mapping[str, str] | None, trust: Trust | None, stop: Stop) -> int:
    from vitedge.cli.tally import StateNotes
    from vitedge.runtime.load import load
    from vitedge.safety.redact import redact_address

    notes = StateNotes(redact_address(arguments.source[0]), clears_line=_has_status_line(arguments))
    with (
        _quiet_log(),
        load(
            arguments.bundle,
            engine=arguments.engine,
            threads=arguments.threads,
            trust=trust,
            progress=_progress(arguments),
        ) as classifier,
        # last, because frames that a camera queues while a model loads are old
        _open(lambda: _opened(arguments, classifier, named, notes)) as stream,
    ):
        return _deliver(arguments, stream, stop)


def _opened(
    arguments: argparse.Namespace, classifier: Classifier, named: Mapping[str, str] | None, notes: StateNotes
) -> Stream | Streams:
    options: dict[str, Any] = {
        "max_frames": arguments.max_frames,
        "topk": arguments.topk,
        "reconnect": arguments.reconnect,
        "max_age_ms": arguments.max_age,
        "on_state": notes,
    }
    if named is not None:
        return classifier.streams(named, **options)
    return classifier.stream(arguments.source[0], policy=arguments.policy, **options)


@contextmanager
def _open(open_stream: Callable[[], Stream | Streams]) -> Iterator[Stream | Streams]:
    """Open a stream in a thread, because no signal interrupts a library that waits for a camera; stop it at the end."""
    from vitedge.runtime.system.owned import start_daemon

    opening: Future[Stream | Streams] = Future()

    def work() -> None:
        try:
            opening.set_result(open_stream())
        except BaseException as error:  # noqa: BLE001  # raised in the thread that waits
            opening.set_exception(error)

    start_daemon("vitedge-open", work)
    try:
        yield opening.result()
    finally:
        opening.add_done_callback(_stop)


def _stop(opening: Future[Stream | Streams]) -> None:
    if opening.exception() is None:
        opening.result().stop()


def _progress(arguments: argparse.Namespace) -> Progress:
    """Tell on standard error how loading goes, unless the lines of JSON appear on the same terminal."""
    return Silent() if arguments.jsonl == "-" and sys.stdout.isatty() else arguments.progress


def _has_status_line(arguments: argparse.Namespace) -> bool:
    beside_lines = arguments.jsonl == "-" and sys.stdout.isatty()
    return is_live(sys.stderr) and not beside_lines and not arguments.quiet


def _check_several(arguments: argparse.Namespace) -> None:
    if arguments.show:
        raise UsageError(
            "a window shows one source", expected="--show with one --source, without a name", fix="--save FOLDER"
        )
    if arguments.policy is not None:
        raise UsageError(
            f"--policy {arguments.policy} is for one source without a name",
            expected="several sources without it: the newest frame of each camera, in turn, and every frame of files",
        )


def _check_outputs(arguments: argparse.Namespace, named: Mapping[str, str] | None) -> None:
    from vitedge.cli.reports import check_written
    from vitedge.runtime.outputs.base import check_new_file, check_new_folder
    from vitedge.runtime.outputs.video_writer import VIDEO_FORMATS, format_of

    check_written(_written(arguments, named), read=named.values() if named is not None else arguments.source)
    if arguments.jsonl not in (None, "-"):
        check_new_file(arguments.jsonl, overwrite=arguments.overwrite)
    if arguments.save is None:
        return
    if named is None:
        format_of(check_new_file(arguments.save, overwrite=arguments.overwrite))  # before a model is loaded
        return
    check_new_folder(arguments.save, overwrite=arguments.overwrite)
    if Path(arguments.save).suffix.lower() in VIDEO_FORMATS:
        raise UsageError(
            f"{Path(arguments.save).name} is the name of one video, and there are named sources",
            expected="a folder, which gets a video for each source: --save FOLDER",
        )
    _check_names_of_videos(named)


def _check_names_of_videos(named: Iterable[str]) -> None:
    seen = dict[str, str]()
    for name in named:
        other = seen.setdefault(folded_path(name), name)
        if other != name:
            raise UsageError(
                f"the videos of {other!r} and {name!r} are one file where capitals do not count",
                expected="names that differ in other letters too, because --save FOLDER writes NAME.mp4",
            )


def _written(arguments: argparse.Namespace, named: Mapping[str, str] | None) -> dict[str, str | Path | None]:
    """Return the files that are written, by the options that ask for them."""
    if arguments.save is None or named is None:
        return {"--jsonl": arguments.jsonl, "--save": arguments.save}
    videos = {f"--save, for {name}": Path(arguments.save) / f"{name}.mp4" for name in named}
    return {"--jsonl": arguments.jsonl, **videos}


def _deliver(arguments: argparse.Namespace, stream: Stream | Streams, stop: Stop) -> int:
    from vitedge.cli.tally import StatusLine, StatusLog, Tally
    from vitedge.runtime.outputs import deliver

    tally = Tally()
    outputs = [*_outputs(arguments, stream), tally]
    if _has_status_line(arguments):
        outputs.append(StatusLine(sys.stderr))
    elif arguments.jsonl != "-" and not arguments.quiet and _goes_on(stream):
        outputs.append(StatusLog(sys.stderr))
    exit_code = 0
    try:
        with stop.ends(stream.stop):
            deliver(stream, [*outputs, stop])
        exit_code = stop.exit_code if stop.requested else 0
    except KeyboardInterrupt:
        exit_code = stop.exit_code
        if stop.overdue:
            output.abandon(sys.stdout)
    except BrokenPipeError:
        output.abandon(sys.stdout)
        exit_code = EXIT_ERROR
    except VitedgeError:
        if tally.count:  # else the error says all there is to say
            output.inform(_summary(tally, stream))
        raise
    output.inform(_summary(tally, stream))
    return exit_code


def _goes_on(stream: Stream | Streams) -> bool:
    """Decide whether a stream has no end in sight, so that a summary at the end is not enough."""
    from vitedge.runtime.stream.cameras.streams import Streams

    return isinstance(stream, Streams) or stream.source.live


def _summary(tally: Tally, stream: Stream | Streams) -> str:
    from vitedge.runtime.stream.cameras.streams import StreamsStats

    stats = stream.stats
    if isinstance(stats, StreamsStats):
        return tally.summary(stream.notices, stats.total, stats.cameras)
    return tally.summary(stream.notices, stats)


def _outputs(arguments: argparse.Namespace, stream: Stream | Streams) -> list[Output]:
    from vitedge.runtime.outputs import JsonLines, Window

    outputs: list[Output] = []
    if arguments.jsonl is not None:
        lines = sys.stdout if arguments.jsonl == "-" else arguments.jsonl
        outputs.append(JsonLines(lines, overwrite=arguments.overwrite))
    if arguments.save is not None:
        outputs.append(_video(arguments, stream))
    if arguments.show:
        outputs.append(Window())
    return outputs


def _video(arguments: argparse.Namespace, stream: Stream | Streams) -> Output:
    from vitedge.runtime.outputs import AnnotatedVideo, AnnotatedVideos
    from vitedge.runtime.sources.images.files import ImageFiles
    from vitedge.runtime.stream.cameras.streams import Streams

    if isinstance(stream, Streams):
        return AnnotatedVideos(arguments.save, overwrite=arguments.overwrite)
    fps = SLIDE_FPS if isinstance(stream.source, ImageFiles) else stream.source.fps
    return AnnotatedVideo(arguments.save, fps=fps, realtime=stream.policy == "latest", overwrite=arguments.overwrite)


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keep logged notices off the terminal: this verb prints them in its summary."""
    handler = logging.NullHandler()
    logger = logging.getLogger("vitedge")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
