"""Small image files in folders by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = ("red", "green", "blue")


def save_image(path: Path, image: NDArray[np.uint8]) -> Path:
    """Write ``H×W×3`` uint8 BGR pixels in the format of the path's suffix."""
    Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(path)
    return path


def write_photo(path: Path, colour: str, seed: int = 0) -> NDArray[np.uint8]:
    """Write a noisy 40×48 image in which one colour dominates; its pixels, RGB."""
    pixels = np.random.default_rng(seed).integers(0, 90, (40, 48, 3), dtype=np.uint8)
    pixels[..., COLOURS.index(colour)] += 140
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def write_photos(folder: Path, colours: Iterable[str] = COLOURS, *, each: int = 2) -> Path:
    """Write ``each`` images of every colour into folders of that name, ``0.png`` and on."""
    for number, colour in enumerate(colours):
        for index in range(each):
            write_photo(folder / colour / f"{index}.png", colour, seed=100 * number + index)
    return folder


def write_smooth(folder: Path, sizes: Iterable[tuple[int, int]], classes: Sequence[str] = (".",)) -> Path:
    """Write different smooth images of these widths and heights, in turn into a folder of each class."""
    generator = np.random.default_rng(4)
    for number, size in enumerate(sizes):
        path = folder / classes[number % len(classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return folder
