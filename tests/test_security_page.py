"""The commands of ``docs/security.md`` run, as printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitedge.bundle.bundle import MANIFEST, Bundle
from vitedge.bundle.signing import new_key

pytest.importorskip("cryptography")

PAGE = Path(__file__).resolve().parent.parent / "docs" / "security.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def site(
    tiny_bundle: Bundle, colour_frame: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder that is both the host's and the device's, before the first update."""
    pytest.importorskip("openvino")
    pytest.importorskip("PIL.Image")
    import photos

    photos.save_image(tmp_path / "red.png", colour_frame("red"))
    shutil.copytree(tiny_bundle.path, tmp_path / "deit.bundle")
    new_key(tmp_path / "fleet.pem")
    for folder in ("keys", "bundles"):
        (tmp_path / folder).mkdir()
    shutil.copy(tmp_path / "fleet.pub.pem", tmp_path / "keys")
    (tmp_path / "update.sh").write_text(blocks("bash")[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SOURCE", "red.png")
    return tmp_path


def bash(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)


def published(site: Path, created_at: str, archive: str) -> None:
    """Convert again, and sign and pack as the page does."""
    manifest = site / "deit.bundle" / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "created_at": created_at}))
    assert bash(blocks("bash")[0].replace("deit-2.tar.gz", archive)).returncode == 0


def state(site: Path) -> tuple[str, list[str]]:
    bundles = site / "bundles"
    current = (bundles / "current").readlink().name if (bundles / "current").is_symlink() else ""
    return current, sorted(each.name for each in bundles.iterdir())


def test_an_update_over_the_air_and_back(site: Path) -> None:
    _, _, service, roll_back = blocks("bash")
    for number in (1, 2):
        published(site, f"2026-01-0{number}T00:00:00Z", f"deit-{number}.tar.gz")
        done = bash(f"bash update.sh deit-{number}.tar.gz")
        assert (done.returncode, done.stderr) == (0, "")
        assert state(site)[0] == f"deit-{number}"
    ran = bash(service)
    assert ran.returncode == 0, ran.stderr
    assert json.loads((site / "predictions.jsonl").read_text())["label"] == "red"
    assert bash(roll_back).returncode == 0
    assert state(site) == ("deit-1", ["current", "deit-1", "deit-2", "previous"])


def test_an_update_that_is_refused_changes_nothing(site: Path) -> None:
    published(site, "2026-01-02T00:00:00Z", "deit-2.tar.gz")
    assert bash("bash update.sh deit-2.tar.gz").returncode == 0
    before = state(site)
    published(site, "2026-01-01T00:00:00Z", "older.tar.gz")
    (site / "deit.bundle" / MANIFEST).write_text((site / "deit.bundle" / MANIFEST).read_text() + "\n")
    assert bash("tar -czf altered.tar.gz deit.bundle; rm deit.bundle/manifest.sig").returncode == 0
    assert bash("tar -czf unsigned.tar.gz deit.bundle").returncode == 0
    for archive, problem in (
        ("older", "no newer than the current bundle"),
        ("altered", "was altered after"),
        ("unsigned", "is not signed"),
    ):
        done = bash(f"bash update.sh {archive}.tar.gz")
        assert done.returncode != 0
        assert problem in done.stderr
        assert state(site) == before


def test_python(site: Path) -> None:
    for key in ("fleet.pem", "fleet.pub.pem"):  # the page makes its own
        (site / key).unlink()
    for block in blocks("python"):
        names: dict[str, Any] = {}
        exec(compile(f"import vitedge\n{block}", PAGE.name, "exec"), names)
        names["classifier"].close()
    assert all((site / key).is_file() for key in ("fleet.pem", "fleet.pub.pem"))
