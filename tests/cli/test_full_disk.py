"""A small file system that is full."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mount_namespaces import run_apart

from vitedge.bundle.bundle import Bundle
from vitedge.cli import EXIT_ERROR

pytestmark = pytest.mark.timeout(240)

FILL = """
mount --make-rprivate / && mount -t tmpfs -o size=128k tmpfs "$1" || exit 77
cd "$1"
shift
head -c 1000000 /dev/zero > full 2>/dev/null
"$@"
code=$?
ls -A 1>&2
exit $code
"""


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("PIL.Image")
    import photos

    path = tmp_path_factory.mktemp("photos") / "red.png"
    photos.write_photo(path, "red")
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["targets", "--json", "targets.json"],
        ["export", "BUNDLE", "--for", "triton", "-o", "repository"],
        ["sign", "--new-key", "fleet.pem"],
        ["run", "BUNDLE", "--source", "PHOTO", "--jsonl", "lines.jsonl"],
        ["run", "BUNDLE", "--source", "PHOTO", "--save", "video.mp4"],
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1]}",
)
def test_a_full_disk_is_one_error(arguments: list[str], tiny_bundle: Bundle, photo: Path, tmp_path: Path) -> None:
    places = {"BUNDLE": str(tiny_bundle.path), "PHOTO": str(photo)}
    verb = [sys.executable, "-m", "vitedge", "--quiet", *(places.get(word, word) for word in arguments)]
    done = run_apart(FILL, tmp_path, *verb)
    assert done.returncode == EXIT_ERROR, done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "space" in done.stderr or "is full" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    left = {line for line in done.stderr.splitlines() if line and not line.startswith(("error: ", " "))}
    assert left <= {"full", arguments[-1]}, "half of something was left"
