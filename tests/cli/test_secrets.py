"""A secret in an address reaches no output of any verb."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from secrets_in_addresses import ADDRESSES, CANARY, HOST

from vitedge.bundle.bundle import Bundle
from vitedge.cli import main
from vitedge.runtime.load import load

pytest.importorskip("av")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assert_silent(printed: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """Check everything that left the process: both streams, log records, and files."""
    for text in (*printed, caplog.text, *(path.read_bytes().decode("latin-1") for path in Path().rglob("*.*"))):
        assert CANARY not in text


@pytest.mark.parametrize("address", ADDRESSES)
def test_run_tells_no_secret(
    address: str, tiny_bundle: Bundle, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        code = main(["run", str(tiny_bundle.path), f"--source={address}", "--jsonl", "o.jsonl", "--save", "o.mp4"])
    assert code in (1, 2)
    printed = capfd.readouterr()
    assert "error: " in printed.err
    assert_silent(printed, caplog)


@pytest.mark.parametrize("address", ADDRESSES[:32:4])
@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "BUNDLE", "--against", "BUNDLE", "--data=ADDRESS"],
        ["run", "ADDRESS", "--source", "0"],
        ["run", "BUNDLE", "--source", "clip.avi", "--jsonl=ADDRESS"],
        ["run", "BUNDLE", "--source", "clip.avi", "--save=ADDRESS.mp4"],
        ["run", "BUNDLE", "--sorce=ADDRESS"],
        ["run", "BUNDLE", "--source", "clip.avi", "ADDRESS"],
        ["inspect", "ADDRESS"],
        ["ADDRESS"],
    ],
    ids=" ".join,
)
def test_other_verbs_tell_no_secret(
    address: str,
    arguments: list[str],
    tiny_bundle: Bundle,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = [each.replace("ADDRESS", address).replace("BUNDLE", str(tiny_bundle.path)) for each in arguments]
    try:
        assert main(given) != 0
    except SystemExit as exit_:
        assert exit_.code != 0  # noqa: PT017 - argparse exits itself
    assert_silent(capfd.readouterr(), caplog)


@pytest.mark.parametrize("address", ADDRESSES[::7])
def test_the_error_of_a_stream_tells_no_secret(address: str, tiny_bundle: Bundle) -> None:
    with load(tiny_bundle) as classifier, pytest.raises(Exception) as raised:  # noqa: PT011 - several kinds
        classifier.stream(address)
    assert CANARY not in f"{raised.value} {raised.value!r}"


def test_a_traceback_of_the_command_line_tells_no_secret(tmp_path: Path) -> None:
    """Neither an exception that nobody expected, nor one in a thread or a destructor, nor another library's warning."""
    (tmp_path / "program.py").write_text(
        f"""
import logging, sys, threading
from vitedge.cli import output
ADDRESS = "rtsp://a:" + "{CANARY}" + "@{HOST}/x"
def fail():
    try:
        raise ConnectionError("cannot reach " + ADDRESS)
    except ConnectionError as error:
        raise RuntimeError("failed at " + ADDRESS) from error
class Failing:
    def __del__(self):
        fail()
output.prepare()
logging.getLogger("httpx").warning("retry %s", ADDRESS)
thread = threading.Thread(target=fail)
thread.start()
thread.join()
Failing()
fail()
"""
    )
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: failed at rtsp://***@") == 3
    assert "retry rtsp://***@" in done.stderr
    assert CANARY not in done.stderr + done.stdout
