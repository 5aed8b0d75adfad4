"""The annotated clip: the frame of the camera, and beside it the prediction and the true label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vitedge.demo.clip import read_frames, write_video
from vitedge.demo.measure import Streamed
from vitedge.progress import Progress
from vitedge.runtime.outputs.overlay import BACKGROUND, BAR, MUTED, TEXT, Colour, annotate, layout_for

WRONG: Colour = (70, 70, 230)
SIDEBAR = 344
MARGIN = 11
BORDER = 3


def write_annotated(
    path: Path, clip: Path, stream: Streamed, truth: Sequence[str], caption: str, progress: Progress
) -> None:
    """Draw predictions onto their frames, and save the video.

    Args:
        path: ``.mp4`` to write.
        clip: the video that was streamed.
        stream: its predictions are drawn, and its frame rate is shown.
        truth: label of each frame.
        caption: what classified.
        progress: counts the frames.

    Raises:
        VitedgeError: the clip cannot be read, or the video not be written.
    """
    frames = progress.track(read_frames(clip), total=len(truth), unit="frames")
    write_video(path, _pictures(frames, stream, truth, caption))


def _pictures(
    frames: Iterable[NDArray[np.uint8]], stream: Streamed, truth: Sequence[str], caption: str
) -> Iterator[NDArray[np.uint8]]:
    right = 0
    answers = zip(frames, stream.predictions, truth, strict=True)
    for number, (frame, prediction, label) in enumerate(answers, start=1):
        right += prediction.label == label
        count = f"{right} of {number} frames right"
        yield annotate(prediction, _with_sidebar(frame, prediction.label, label, count, caption), fps=stream.fps)


def _with_sidebar(frame: NDArray[np.uint8], answer: str, truth: str, count: str, caption: str) -> NDArray[np.uint8]:
    """Add a dark column to the left of the frame; the panel of the overlay covers its upper part."""
    height = frame.shape[0]
    sidebar = Image.new("RGB", (SIDEBAR, height), BACKGROUND)
    draw = ImageDraw.Draw(sidebar)
    colour = BAR if answer == truth else WRONG
    below = layout_for(height, SIDEBAR + frame.shape[1], 2).height + 3 * MARGIN
    draw.text((MARGIN, below), answer, font=_font(150), fill=colour)
    draw.text((MARGIN + 150, below + 50), f"truth {truth}", font=_font(26), fill=TEXT)
    verdict = "right" if answer == truth else "wrong"
    draw.text((MARGIN + 150, below + 90), verdict, font=_font(26), fill=colour)
    draw.text((MARGIN, height - 4 * 16 - MARGIN), count, font=_font(18), fill=TEXT)
    draw.text((MARGIN, height - 2 * 16 - MARGIN), caption, font=_font(14), fill=MUTED)
    marked = frame.copy()
    marked[:BORDER] = marked[-BORDER:] = marked[:, :BORDER] = marked[:, -BORDER:] = colour
    return np.concatenate([np.asarray(sidebar), marked], axis=1)


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
