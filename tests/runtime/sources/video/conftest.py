"""A clip, and servers, for the tests of videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from answering import Answering


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty numbered frames in an ``.avi``, which is readable up to where it is cut off."""
    pytest.importorskip("av")
    import clips

    return clips.write_clip(tmp_path_factory.mktemp("clips") / "numbered.avi", 60)


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transport stream, which playlists and scripts can name."""
    pytest.importorskip("av")
    import clips

    return clips.write_clip(tmp_path_factory.mktemp("segment") / "segment.ts", 20, codec="MPG2")


@pytest.fixture
def answering() -> Iterator[Callable[[Callable[[bytes], bytes | None]], Answering]]:
    servers: list[Answering] = []

    def make(answer: Callable[[bytes], bytes | None]) -> Answering:
        servers.append(Answering(answer))
        return servers[-1]

    yield make
    for each in servers:
        each.close()
