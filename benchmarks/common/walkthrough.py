"""Runs the commands of a tool's documentation in an empty folder, as a new user would, and notes what each costs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

GRACE_SECONDS = 20.0
"""For a command to end after Ctrl-C."""
ERROR = re.compile(r"^\s*(\[ ERROR \]|(\w+\.)*\w*(Error|Exception)\b|error:|ERROR:)")
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
PREFIXES = ("PIP_", "UV_", "PYENV_", "HTTP_", "HTTPS_", "NO_PROXY")


@dataclass(frozen=True)
class Step:
    """Commands on the way to a goal.

    Attributes:
        name: goals name the steps that lead to them.
        commands: lines for a shell, as the documentation prints them. Upper-case words of ``Tool.names`` are replaced.
        files: text by name of the files that the user has to write before.
        until: pattern of the line of output at which the user has what was wanted, and presses Ctrl-C.
    """

    name: str
    commands: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    until: str = ""

    @property
    def lines_of_code(self) -> int:
        """Count the lines that the user writes, without empty ones."""
        return sum(bool(line.strip()) for text in self.files.values() for line in text.splitlines())


@dataclass(frozen=True)
class Outcome:
    """What a step cost.

    Attributes:
        step: its name.
        commands: its lines, as printed.
        lines_of_code: lines that had to be written.
        exit_code: of its commands; 0 where Ctrl-C ended a command that had shown what was wanted, 124 for too long.
        seconds: wall time, up to that line if there is one.
        megabytes: growth of the folder, the user's home included.
        packages: growth of the number of installed Python packages.
        error: first line of its error; empty without one.
    """

    step: str
    commands: tuple[str, ...]
    lines_of_code: int
    exit_code: int
    seconds: float
    megabytes: float
    packages: int
    error: str


def walk(step: Step, folder: Path, *, activate: str, names: Mapping[str, str], limit: float, log: Path) -> Outcome:
    """Run a step in the folder.

    Args:
        step: the step.
        folder: where the user works; ``home`` in it is the user's home, with empty caches at first.
        activate: script of a virtual environment that is sourced if it is there, relative to the folder.
        names: what stands for an upper-case word of the commands and files.
        limit: seconds after which the step is ended.
        log: file for what its commands print.
    """
    for name, text in step.files.items():
        (folder / name).write_text(replaced(text, names), encoding="utf-8")
    size, packages = megabytes(folder), installed(folder)
    script = "\n".join(["set -e", f"[ ! -e {activate} ] || . {activate}", *step.commands])
    exit_code, seconds, output = shell(replaced(script, names), folder, until=step.until, limit=limit)
    log.write_text("".join(f"{line}\n" for line in output), encoding="utf-8")
    return Outcome(
        step=step.name,
        commands=step.commands,
        lines_of_code=step.lines_of_code,
        exit_code=exit_code,
        seconds=round(seconds, 1),
        megabytes=round(megabytes(folder) - size, 1),
        packages=installed(folder) - packages,
        error="" if exit_code == 0 else first_error(output),
    )


def shell(script: str, folder: Path, *, until: str, limit: float) -> tuple[int, float, list[str]]:
    """Run a script with bash, and return its exit code, its seconds, and its lines of output.

    A line that matches ``until`` ends it by Ctrl-C with success; without such a line it fails, as it does after
    ``limit`` seconds.
    """
    begin = time.monotonic()
    child = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    late = threading.Event()

    def expire() -> None:
        late.set()
        _signal(child, signal.SIGKILL)

    timer = threading.Timer(limit, expire)
    timer.start()
    try:
        output, reached = _read(child, until)
        seconds = time.monotonic() - begin
        if reached:
            _end(child)
            return 0, seconds, output
        code = child.wait()
        return (124 if late.is_set() else code or int(bool(until))), time.monotonic() - begin, output
    finally:
        timer.cancel()
        _signal(child, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _read(child: subprocess.Popen[str], until: str) -> tuple[list[str], bool]:
    """Read lines to the end or to the first that matches, and tell whether one did."""
    output: list[str] = []
    assert child.stdout is not None
    for line in child.stdout:
        output.append(line.rstrip())
        if until and re.search(until, line):
            return output, True
    return output, False


def _end(child: subprocess.Popen[str]) -> None:
    """Press Ctrl-C, and wait while the child's output is read."""
    _signal(child, signal.SIGINT)
    timer = threading.Timer(GRACE_SECONDS, _signal, (child, signal.SIGKILL))
    timer.start()
    assert child.stdout is not None
    for _ in child.stdout:
        pass
    child.wait()
    timer.cancel()


def _signal(child: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to the child and to what it started, if any of them is alive."""
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a new user: an own home, and the machine's settings of pip and of the network."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name in PASSED_ON or name.upper().startswith(PREFIXES)}
    return {**kept, "HOME": str(home), "PYTHONUNBUFFERED": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def replaced(text: str, names: Mapping[str, str]) -> str:
    """Put values in the place of upper-case words."""
    for name, value in names.items():
        text = re.sub(rf"\b{name}\b", value.replace("\\", r"\\"), text)
    return text


def first_error(output: Sequence[str]) -> str:
    """Return the first line that tells an error, or the last line."""
    lines = [line.strip() for line in output if line.strip()]
    told = [line for line in lines if ERROR.match(line)]
    return (told or lines[-1:] or ["no output"])[0][:200]


def megabytes(folder: Path) -> float:
    """Return the size of all files under a folder, links not followed."""
    return sum(path.lstat().st_size for path in _files(folder)) / 1e6


def installed(folder: Path) -> int:
    """Count the installed Python packages under a folder."""
    return sum(1 for path in folder.rglob("site-packages/*.dist-info"))


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)
