"""A container whose root is read-only, with no place for temporary files, no home and no cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mount_namespaces import run_apart

from vitedge.bundle.bundle import Bundle
from vitedge.cli import EXIT_USAGE

pytestmark = pytest.mark.timeout(240)

READ_ONLY = """
mount --make-rprivate / || exit 77
for point in $(awk '{ print $5 }' /proc/self/mountinfo | sort -u); do
    case $point in
        /proc* | /sys* | /dev | /dev/pts | /dev/mqueue) ;;
        *) mount -o remount,bind,ro "$point" 2>/dev/null ;;
    esac
done
for place in /tmp /var/tmp /dev/shm "$1"; do
    touch "$place/probe" 2>/dev/null && { rm -f "$place/probe"; exit 77; }
done
unset HOME TMPDIR VITEDGE_CACHE XDG_CACHE_HOME
export PYTHONDONTWRITEBYTECODE=1
cd /
shift
exec "$@"
"""


def run_read_only(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command where nothing can be written; other processes notice nothing of it."""
    return run_apart(READ_ONLY, folder, *arguments)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_every_engine_runs(tiny_bundle: Bundle, tmp_path: Path, engine: str) -> None:
    pytest.importorskip("PIL.Image")
    import numpy as np
    import photos

    photo = photos.save_image(tmp_path / "photo.png", np.full((40, 40, 3), 90, np.uint8))
    verb = (sys.executable, "-m", "vitedge")
    done = run_read_only(
        tmp_path, *verb, "run", tiny_bundle.path, "--source", photo, "--jsonl", "-", "--engine", engine
    )
    assert done.returncode == 0, done.stderr
    assert '"label"' in done.stdout


@pytest.mark.parametrize("verb", ["doctor", "inspect", "bench"])
def test_other_verbs_work(tiny_bundle: Bundle, tmp_path: Path, verb: str) -> None:
    arguments = {"doctor": (), "inspect": (tiny_bundle.path,), "bench": (tiny_bundle.path, "--seconds", "0.1")}[verb]
    done = run_read_only(tmp_path, sys.executable, "-m", "vitedge", verb, *arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["targets", "--json", "FOLDER/targets.json"], ["sign", "--new-key", "FOLDER/fleet.pem"]],
    ids=lambda arguments: str(arguments[0]),
)
def test_a_result_that_cannot_be_written_is_one_error(arguments: list[str], tmp_path: Path) -> None:
    given = [each.replace("FOLDER", str(tmp_path)) for each in arguments]
    done = run_read_only(tmp_path, sys.executable, "-m", "vitedge", *given)
    assert done.returncode == EXIT_USAGE, done.stderr
    assert f"error: {tmp_path} cannot be written to\n  expected: a folder that you may write to" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert not list(tmp_path.iterdir())


def test_a_tensorrt_engine_says_where_it_could_be_written(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from tensorrt_bundles import make_tensorrt_bundle

    bundle = make_tensorrt_bundle(tmp_path / "orin.bundle")
    code = (
        "import sys\n"
        "from vitedge.bundle.bundle import Bundle\n"
        "from vitedge.errors import EngineError\n"
        "from vitedge.runtime.engines.tensorrt.plan_store import writable_plan_dir\n"
        "try: writable_plan_dir(Bundle.open(sys.argv[1]))\n"
        "except EngineError as error: print(error)\n"
    )
    done = run_read_only(tmp_path, sys.executable, "-c", code, bundle.path)
    assert "can be written nowhere" in done.stdout, done.stderr
    assert "set VITEDGE_CACHE" in done.stdout
    assert not os.path.lexists(bundle.path / "tensorrt")
