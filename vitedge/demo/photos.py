"""Folders of photographed digits, one folder a class: for calibration, and to measure accuracy on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vitedge.demo.digits import LABELS, Digits
from vitedge.demo.scenes import random_scene, render
from vitedge.errors import OutputError
from vitedge.progress import Progress

HEIGHT = 240
SPREAD = 0.75
"""Variety of the scenes; training sees more."""
QUALITY = 92


def write_photos(folder: Path, digits: Digits, *, seed: int, progress: Progress) -> None:
    """Write every digit as a 320×240 JPEG in a random scene, named by its position among ``digits``.

    Raises:
        OutputError: an image cannot be written.
    """
    random = np.random.default_rng(seed)
    for label in LABELS:
        (folder / label).mkdir(parents=True)
    pairs = zip(digits.scans, digits.labels, strict=True)
    for number, (scan, label) in enumerate(progress.track(pairs, total=len(digits), unit="images")):
        photo = render(scan, random_scene(random, spread=SPREAD), height=HEIGHT, random=random)
        path = folder / LABELS[label] / f"{number:04}.jpg"
        try:
            Image.fromarray(photo[..., ::-1]).save(path, quality=QUALITY)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {error.strerror}",
                expected="room for about 10 MB",
                fix="free some disk space",
            ) from error


def sample(digits: Digits, count: int, *, seed: int) -> Digits:
    """Draw some of the digits, without replacement."""
    chosen = np.random.default_rng(seed).choice(len(digits), count, replace=False)
    return digits.take(np.sort(chosen))
