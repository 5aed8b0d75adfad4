"""Standard output and error that are full, closed or left; hostile text on its way to a terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bundles
import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.cli import EXIT_ERROR, EXIT_USAGE

pytestmark = pytest.mark.timeout(120)

HOSTILE = "\x1b]0;owned\x07\x9b31m\nerror: forged\r\u202e\x7f"


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def buffering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


def vitedge(command: str, *, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``vitedge`` as a shell does that was given ``command``, where warnings are errors."""
    line = command.replace("vitedge", f"{sys.executable} -W error -m vitedge", 1)
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, check=False, cwd=cwd, env={**os.environ, **environment}
    )


@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize("verb", ["targets", "targets --json", "models", "--help", "convert --help", "--version"])
def test_a_full_disk_is_one_line(verb: str) -> None:
    done = vitedge(f"vitedge {verb} > /dev/full")
    assert done.returncode == EXIT_ERROR
    assert done.stderr.startswith(b"error: ")
    assert b"No space left on device" in done.stderr
    assert done.stderr.count(b"error") == 1
    assert b"Traceback" not in done.stderr


def test_a_closed_output_is_one_line() -> None:
    done = vitedge("vitedge targets >&-")
    assert done.returncode == EXIT_ERROR
    assert done.stderr.startswith(b"error: standard output cannot be written: Bad file descriptor")


CLOSED = "<&- >&- 2>&-"


def test_what_writes_files_works_without_any_stream(tmp_path: Path, tiny_bundle: Bundle) -> None:
    """The files that it opens get other descriptors than the standard streams, to which libraries print."""
    pytest.importorskip("av")
    import clips
    import photos

    photo, made = tmp_path / "photo.png", tmp_path / "made.bundle"
    photos.save_image(photo, np.full((40, 40, 3), 90, np.uint8))
    shutil.copytree(tiny_bundle.path, made)
    for verb in (
        f"run {made} --source {photo} --jsonl {tmp_path}/out.jsonl --save {tmp_path}/out.avi",
        f"sign --new-key {tmp_path}/key.pem",
        f"sign {made} --key {tmp_path}/key.pem",
        f"bench {made} --seconds 0.1 --json {tmp_path}/bench.json",
        f"eval {made} --against {made} --data {tmp_path} --json {tmp_path}/eval.json",
    ):
        assert vitedge(f"vitedge {verb} {CLOSED}").returncode == 0, verb
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(line)["label"] in tiny_bundle.manifest.model.labels
    assert len(clips.read_clip(tmp_path / "out.avi")) == 1
    for report in ("bench.json", "eval.json"):
        assert json.loads((tmp_path / report).read_text())


@pytest.mark.parametrize("verb", ["targets", "models --json", "--help"])
def test_a_reader_that_leaves_hears_nothing(verb: str) -> None:
    done = vitedge(f"vitedge {verb} | exec true; exit ${{PIPESTATUS[0]}}")
    assert done.returncode in (0, EXIT_ERROR)  # the reader may leave after it was written
    assert done.stderr == b""


def broken_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize("verb", ["targets", "--help"])
def test_a_pipe_without_a_reader_ends_quietly(verb: str) -> None:
    pipe = broken_pipe()
    done = subprocess.run([sys.executable, "-m", "vitedge", verb], stdout=pipe, stderr=subprocess.PIPE, check=False)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (EXIT_ERROR, b"")


@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize("closed", ["2> /dev/full", "2>&-"])
def test_errors_that_nobody_can_hear_are_still_exit_codes(closed: str) -> None:
    assert vitedge(f"vitedge inspect nothing {closed}").returncode == EXIT_ERROR
    assert vitedge(f"vitedge targets --no-such {closed}").returncode in (EXIT_ERROR, EXIT_USAGE)
    done = vitedge(f"vitedge targets {closed}")
    assert done.returncode == 0
    assert b"\ncpu " in done.stdout


@pytest.mark.usefixtures("buffering")
def test_a_summary_that_cannot_be_written_is_an_error(tiny_bundle: Bundle, photo: Path) -> None:
    pytest.importorskip("openvino")
    done = vitedge(f"vitedge run {tiny_bundle.path} --source {photo} --jsonl - 2> /dev/full")
    assert done.returncode == EXIT_ERROR
    assert json.loads(done.stdout)["label"] == "red"


@pytest.mark.usefixtures("buffering")
def test_json_lines_on_a_full_disk_are_one_line(tiny_bundle: Bundle, photo: Path) -> None:
    pytest.importorskip("openvino")
    done = vitedge(f"vitedge run {tiny_bundle.path} --source {photo} --jsonl - > /dev/full")
    assert done.returncode == EXIT_ERROR
    assert done.stderr.count(b"error: ") == 1
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("option", ["--jsonl", "--save", "--html"])
@pytest.mark.parametrize("device", ["/dev/full", "/dev/null", "/dev/stdout"])
def test_no_device_is_replaced_by_an_output(option: str, device: str, tiny_bundle: Bundle, photo: Path) -> None:
    verb = f"bench {tiny_bundle.path}" if option == "--html" else f"run {tiny_bundle.path} --source {photo}"
    before = identity(device)
    done = vitedge(f"vitedge {verb} {option} {device}")
    assert done.returncode == EXIT_USAGE
    assert f"error: {device} ".encode() in done.stdout + done.stderr  # of one pipe, as of /dev/stdout itself
    assert identity(device) == before


def identity(path: str) -> tuple[int, ...]:
    """Return what a replacement of the file changes; its time of access changes by itself."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino, status.st_mode, status.st_rdev


@pytest.fixture
def photo(colour_frame: Callable[..., object], tmp_path: Path) -> Path:
    pytest.importorskip("PIL.Image")
    import photos

    return photos.save_image(tmp_path / "photo.png", colour_frame("red"))


@pytest.fixture
def hostile_bundle(make_bundle: Callable[..., Bundle], tmp_path: Path) -> Bundle:
    """Control characters and line breaks in every text of its manifest that has no list of values."""
    bundle = make_bundle(tmp_path / "hostile\x1b[31m.bundle", labels=(f"red{HOSTILE}", "green", "blue"))
    manifest = bundle.manifest
    bundles.rewrite_manifest(
        bundle.path,
        replace(
            manifest,
            vitedge_version=HOSTILE,
            created_at=HOSTILE,
            host=HOSTILE,
            tools={HOSTILE: HOSTILE},
            model=replace(manifest.model, name=HOSTILE, source=HOSTILE, architecture=HOSTILE, revision=HOSTILE),
        ),
    )
    return Bundle.open(bundle.path)


@pytest.mark.parametrize(
    "verb",
    [
        "inspect BUNDLE",
        "inspect BUNDLE --json",
        "run BUNDLE --source PHOTO",
        "run BUNDLE --source PHOTO --jsonl -",
        "run BUNDLE --source PHOTO/no",
        "bench BUNDLE --seconds 0.1 --html page.html --json figures.json",
        "eval BUNDLE --against BUNDLE --data IMAGES --html page.html --json figures.json",
        "export BUNDLE --for triton -o triton",
        "build BUNDLE",
        "inspect BUNDLE/\x1b[2J",
        "inspect --\x1b[2J BUNDLE",
        "\x1b[2J",
    ],
)
def test_no_control_character_reaches_the_terminal_or_a_file(
    verb: str, hostile_bundle: Bundle, photo: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    images = tmp_path / "images\x1b[5m"
    images.mkdir()
    (images / "photo\x07\n.png").write_bytes(photo.read_bytes())
    (images / "bad\x07\udcff.png").write_bytes(b"no image")
    named = {"BUNDLE": str(hostile_bundle.path), "PHOTO": str(photo), "IMAGES": str(images)}
    words = [
        named.get(word) or word.replace("BUNDLE", named["BUNDLE"]).replace("PHOTO", named["PHOTO"])
        for word in verb.split()
    ]
    done = subprocess.run([sys.executable, "-m", "vitedge", *words], capture_output=True, check=False, cwd=tmp_path)
    assert b"Traceback" not in done.stderr
    written = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".html", ".pbtxt", ".txt")]
    texts = [
        done.stdout,
        done.stderr,
        *(path.read_bytes() for path in written if hostile_bundle.path not in path.parents),
    ]
    for text in texts:
        assert not set(text.decode("utf-8")) & set("\x1b\x07\x9b\r\u202e\x7f")
    assert b"\nerror: forged" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_locale_that_knows_ascii_alone_is_no_error(
    locale: dict[str, str], make_bundle: Callable[..., Bundle], photo: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    bundle = make_bundle(tmp_path / "gänse.bundle", labels=("gänseblümchen", "日本", "blue"))
    shown = vitedge(f"vitedge inspect {bundle.path}", **locale)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"g\\xe4nsebl" in shown.stdout
    read = vitedge(f"vitedge inspect {bundle.path} --json", **locale)
    assert json.loads(read.stdout)["manifest"]["model"]["labels"][0] == "gänseblümchen"
    ran = vitedge(f"vitedge run {bundle.path} --source {photo} --jsonl -", **locale)
    assert json.loads(ran.stdout)["label"] == "gänseblümchen"
