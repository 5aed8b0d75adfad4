"""Fixtures that all rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def find_shared_data() -> Path | None:
    """The folder of trained models, photos and clips, or None where it is absent."""
    named = os.environ.get("VITEDGE_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if (folder / "models").is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Trained models, photos and clips outside the repository."""
    folder = find_shared_data()
    if folder is None:
        pytest.skip("no test data: put it at ../shared/data, or name its folder in VITEDGE_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-test results of one test must not spare another test its self-test."""
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
