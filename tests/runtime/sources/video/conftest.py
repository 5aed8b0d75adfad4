"""A clip for the tests of videos."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty numbered frames in an ``.avi``, which is readable up to where it is cut off."""
    pytest.importorskip("av")
    import clips

    return clips.write_clip(tmp_path_factory.mktemp("clips") / "numbered.avi", 60)
