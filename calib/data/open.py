"""Open images by path: a folder, a list of images, or a video."""

from __future__ import annotations

from pathlib import Path

from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.data.label_file import LABEL_FILE_SUFFIX, read_label_file
from vitedge.calib.data.video import VideoFrames
from vitedge.errors import CalibrationError
from vitedge.runtime.sources.images.pillow import is_image_name
from vitedge.safety.files import is_file

LIST_SUFFIX = ".txt"


def open_dataset(path: str | Path, *, limit: int | None = None) -> ImageFolder | VideoFrames:
    """Open the images of a folder or of a list, or the frames of a video.

    Args:
        path: path of the folder, list (``.txt``), label file (``.jsonl``) or video.
        limit: greatest number of images, spread evenly over the classes or over the video.

    Raises:
        CalibrationError: the path does not exist, holds no image or is a single image; or a line of the list names
            no file.
        FrameSourceError: the path is a file that FFmpeg cannot read as a video.
        MissingExtraError: the path is a video, and PyAV is not installed.
    """
    place = Path(path)
    if is_image_name(place) and is_file(place):
        raise CalibrationError(
            f"{place} is a single image",
            expected="a folder of images, a list of them, or a video",
            fix="give the folder it lies in",
        )
    if place.suffix.lower() == LIST_SUFFIX and is_file(place):
        return ImageFolder.from_list(place, limit=limit)
    if place.suffix.lower() == LABEL_FILE_SUFFIX and is_file(place):
        return read_label_file(place, limit=limit)
    return VideoFrames.open(place, limit=limit) if is_file(place) else ImageFolder.open(place, limit=limit)
