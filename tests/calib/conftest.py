"""Fixtures of the calibration's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

COLOURS = ("red", "green", "blue")

MakePhotos = Callable[..., Path]


@pytest.fixture(scope="session")
def make_photos(colour_frame: Callable[..., NDArray[np.uint8]]) -> MakePhotos:
    """``make_photos(folder, classes=("red", ...), each=2)`` writes noisy 40×48 PNG files in folders by colour."""

    def make(folder: Path, *, classes: tuple[str, ...] = COLOURS, each: int = 2) -> Path:
        for number, name in enumerate(classes):
            (folder / name).mkdir(parents=True)
            for index in range(each):
                pixels = colour_frame(name, height=40, width=48, order="RGB", seed=10 * number + index)
                Image.fromarray(pixels).save(folder / name / f"{index}.png")
        return folder

    return make


@pytest.fixture(scope="session")
def photos(make_photos: MakePhotos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images each of red, green and blue; do not write into it."""
    return make_photos(tmp_path_factory.mktemp("photos") / "colours", each=4)
