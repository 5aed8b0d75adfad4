"""Fixtures of the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory, colour_frame: Callable[..., np.ndarray]) -> Path:
    """Ten frames each of red, green and blue, then twenty more of blue."""
    pytest.importorskip("av")
    import clips

    colours = np.repeat([*COLOURS, "blue", "blue"], 10)
    pictures = (colour_frame(colour, height=240, width=320) for colour in colours)
    return clips.write_pictures(tmp_path_factory.mktemp("clips") / "colours.avi", pictures, height=240, width=320)
