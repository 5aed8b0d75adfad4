"""What a process and its children connect to, and what they open to write, by strace or by Python's audit events."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitedge.safety import child

SECONDS = 300
CALLS = "connect,sendto,sendmsg,sendmmsg,openat,open,creat,mkdir,mkdirat"

_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")
_ADDRESS = re.compile(r'sin6?_port=htons\((\d+)\).*?(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"')
_PATH = re.compile(r'^(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"(.*)$')
_WRITES = re.compile(r"O_(?:WRONLY|RDWR|CREAT|TRUNC|APPEND)")

AUDIT = """
import os, sys

descriptor = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def hook(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        os.write(descriptor, f"connect {{arguments[1][0]}}:{{arguments[1][1]}}\\n".encode())
    elif event in ("socket.sendto", "socket.sendmsg") and isinstance(arguments[1], tuple):
        os.write(descriptor, f"connect {{arguments[1][0]}}:{{arguments[1][1]}}\\n".encode())
    elif event == "socket.getaddrinfo" and not str(arguments[0]).replace(".", "").isdigit():
        os.write(descriptor, f"connect {{arguments[0]}}:{{arguments[1]}}\\n".encode())
    elif event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        os.write(descriptor, f"write {{os.path.abspath(arguments[0])}}\\n".encode())
    elif event == "os.mkdir":
        os.write(descriptor, f"write {{os.path.abspath(arguments[0])}}\\n".encode())

sys.addaudithook(hook)
"""


@dataclass(frozen=True)
class Watched:
    """A process that ended.

    Attributes:
        status: its exit code.
        stderr: what it said there.
        connections: ``HOST:PORT`` of every address of the internet that it connected or sent to, or looked up.
        written: absolute paths of files that it opened to write, and of folders that it made.
    """

    status: int
    stderr: str
    connections: frozenset[str]
    written: frozenset[str]


def strace_works() -> bool:
    """Whether there is a strace that may trace."""
    found = shutil.which("strace")
    return found is not None and subprocess.run([found, "-qq", "true"], check=False).returncode == 0


def watch(command: Sequence[str], *, cwd: Path, log: Path, variables: Mapping[str, str], strace: bool) -> Watched:
    """Run a command and follow what it does.

    Args:
        command: what to run.
        cwd: its current folder.
        log: a file that is not there yet, for the watcher.
        variables: what is changed in the environment; an empty value takes a variable away.
        strace: whether to follow system calls; else, what Python's own audit events tell.
    """
    environment = {name: value for name, value in child.environment(variables).items() if value}
    if strace:
        options = ["-f", "-y", "-qq", "--seccomp-bpf", "-s", "4096", "-o", str(log), "-e", f"trace={CALLS}"]
        command = ["strace", *options, *command]
    else:
        folder = log.with_suffix(".audit")
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(AUDIT.format(log=str(log)), encoding="utf-8")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    logged = log.read_text(encoding="utf-8", errors="replace")
    connections, written = read_strace(logged, cwd) if strace else read_audit(logged)
    return Watched(done.returncode, done.stderr, frozenset(connections), frozenset(written))


def read_audit(text: str) -> tuple[set[str], set[str]]:
    """Connections and written paths of what ``AUDIT`` logged."""
    pairs = [line.split(" ", 1) for line in text.splitlines()]
    return {what for kind, what in pairs if kind == "connect"}, {what for kind, what in pairs if kind == "write"}


def read_strace(text: str, cwd: Path) -> tuple[set[str], set[str]]:
    """Connections and written paths of ``strace -f -y`` of a process that began in this folder."""
    connections: set[str] = set()
    written: set[str] = set()
    for line in text.splitlines():
        found = _CALL.match(line)
        if found is None:
            continue
        call, rest = found.groups()
        if call in ("connect", "sendto", "sendmsg", "sendmmsg"):
            connections |= {f"{host}:{port}" for port, host in _ADDRESS.findall(rest)}
        elif " = -1 E" not in rest:
            written |= _written(call, rest, cwd)
    return connections, written


def _written(call: str, rest: str, cwd: Path) -> set[str]:
    found = _PATH.match(rest)
    if found is None:
        return set()
    folder, path, flags = found.groups()
    if call in ("open", "openat") and not _WRITES.search(flags):
        return set()
    return {os.path.normpath(Path(folder or cwd) / path)}
