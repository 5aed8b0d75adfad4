"""Outputs of a stream: lines of JSON, an annotated video, a window, a function.

Public as ``vitedge.outputs``; the command line and the demo import it as well. Start with ``base``: an output has
``write`` and ``close``, and ``deliver`` writes predictions to several outputs. ``overlay`` draws them onto frames.
"""

from vitedge.runtime.outputs.base import Output, ViewerClosed, deliver
from vitedge.runtime.outputs.callback import Callback
from vitedge.runtime.outputs.jsonl import JsonLines
from vitedge.runtime.outputs.overlay import annotate
from vitedge.runtime.outputs.video import AnnotatedVideo, AnnotatedVideos
from vitedge.runtime.outputs.window import Window

__all__ = [
    "AnnotatedVideo",
    "AnnotatedVideos",
    "Callback",
    "JsonLines",
    "Output",
    "ViewerClosed",
    "Window",
    "annotate",
    "deliver",
]


def __dir__() -> list[str]:
    return list(__all__)
