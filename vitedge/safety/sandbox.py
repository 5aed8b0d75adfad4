"""Run code that reads an untrusted model in a child interpreter without network, within limits.

Start with ``run_sandboxed``. After the child has imported its libraries, and before it opens the file, it gives up
writing, network and programs (``confinement``). The parent watches memory, time and written bytes. The result is JSON,
and files in a folder of the caller. Nothing is unpickled, and no link is followed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import signal
import site
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from vitedge import errors
from vitedge.errors import CheckpointError, VitedgeError
from vitedge.safety import child, confinement
from vitedge.safety.files import read_json
from vitedge.safety.limits import (
    JSON_BYTES,
    MIB,
    SANDBOX_FILES,
    SANDBOX_MEMORY,
    SANDBOX_SECONDS,
    SANDBOX_START_SECONDS,
)
from vitedge.safety.sandbox_child import RESULT

_POLL_SECONDS = 0.05
_LAST_WORDS = 4096
_LAST_READS = 64
_SAID_CHARACTERS = 200
_SLACK = 4 * MIB
"""Bytes that the child may write beyond its limit, for its result and its output."""

_ERRORS = (
    "VitedgeError",
    "UsageError",
    "CheckpointError",
    "ConversionError",
    "CalibrationError",
    "BundleError",
    "EngineError",
)
_VARIABLES = (
    "PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME",
    "PYTHONNOUSERSITE", "PYTHONHASHSEED", "PYTHONUTF8", "VIRTUAL_ENV", "CONDA_PREFIX", "OMP_NUM_THREADS",
    "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR",
)  # fmt: skip


@dataclass(frozen=True)
class SandboxLimits:
    """Limits of a child process.

    Attributes:
        memory_bytes: memory, in addition to the interpreter with its libraries.
        seconds: elapsed time after the libraries are imported, and processor time on each core.
        file_bytes: size of all written files together.
    """

    memory_bytes: int = SANDBOX_MEMORY
    seconds: float = SANDBOX_SECONDS
    file_bytes: int = 64 * MIB


def run_sandboxed(
    module: str,
    request: Mapping[str, Any],
    folder: Path,
    limits: SandboxLimits,
    *,
    readable: Sequence[Path] = (),
    subject: str = "the file",
) -> Any:
    """Call ``module.serve(request, folder)`` in a child interpreter, and wait for its result.

    Args:
        module: full name of a module. It imports its libraries at the top, before the child gives up reading. Its
            ``serve`` takes the request and the folder, and returns a JSON value. A ``VitedgeError`` that it raises is
            raised here.
        request: a JSON object.
        folder: a folder of the caller, without folders in it; the child may write nowhere else. When this function
            returns, every file in it is a regular file. Its content comes from the child and is not to be trusted.
        limits: limits of the child.
        readable: files and folders that the child may read, in addition to Python's own and ``folder``.
        subject: name of the untrusted file, for errors.

    Returns:
        The result of ``serve``, within ``JSON_BYTES`` and ``JSON_DEPTH``.

    Raises:
        VitedgeError: ``serve`` raised this error.
        CheckpointError: the child reached a limit, which the message names, or ended without a result.
    """
    order = {
        "module": module,
        "request": dict(request),
        "folder": str(folder.absolute()),
        "readable": [str(each.absolute()) for each in readable],
        "parent": os.getpid(),
        **asdict(limits),
        "file_bytes": max(limits.file_bytes, JSON_BYTES),  # the result is a file too
    }
    with _started(order) as running:
        _watch(running, limits, subject)
        status = running.process.wait()
    _check_leavings(folder, subject)
    if status:
        _fail_ended(status, running, subject)
    return _result(folder, subject, limits)


@dataclass
class _Child:
    """A running child process.

    Attributes:
        process: the process.
        folder: the only folder that it may write to.
        output: its standard output and error.
        ready: pipe on which it reports that its libraries are imported.
        words: end of its output.
        printed: number of bytes of its output.
        memory: its memory in bytes when its libraries were imported; None before.
        written: bytes that it had written when its libraries were imported.
        began: time when its libraries were imported, or when it was started.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    output: IO[bytes]
    ready: IO[bytes]
    words: bytes = b""
    printed: int = 0
    memory: int | None = None
    written: int = 0
    began: float = 0.0


@contextlib.contextmanager
def _started(order: dict[str, Any]) -> Iterator[_Child]:
    """Start a child, and kill it with its whole session at the end."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as ready, tempfile.TemporaryFile() as orders:
        try:
            orders.write(json.dumps({**order, "ready": writing}, allow_nan=False).encode())
            orders.seek(0)
            process = subprocess.Popen(
                child.module_command("vitedge.safety.sandbox_child"),
                stdin=orders,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                cwd="/",
                env=_variables(Path(order["folder"])),
                pass_fds=[writing],
                start_new_session=True,  # Ctrl-C reaches only this process, which kills the child
            )
        finally:
            os.close(writing)
        assert process.stdout is not None
        try:
            yield _Child(process, Path(order["folder"]), process.stdout, ready, began=time.monotonic())
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
            process.stdout.close()


def _variables(folder: Path) -> dict[str, str]:
    """Return the child's environment, without the user's tokens and passwords, and with caches in its folder."""
    inherited = child.environment()
    known = {name: inherited[name] for name in _VARIABLES if name in inherited}
    own = {
        "HOME": os.fspath(folder),
        "TMPDIR": os.fspath(folder),
        "TORCHINDUCTOR_CACHE_DIR": os.fspath(folder),  # PyTorch creates this folder on import
        "PYTHONUSERBASE": site.getuserbase(),  # packages in the user's home stay importable
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",  # it starts threads on load, which Landlock would not restrict
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    return {**known, **own}


def _watch(running: _Child, limits: SandboxLimits, subject: str) -> None:
    """Wait until the child ends, and raise when it reaches a limit."""
    with selectors.DefaultSelector() as selector:
        for stream in (running.output, running.ready):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ)
        while running.process.poll() is None:
            for key, _ in selector.select(_POLL_SECONDS):
                if not _take(running, key.fileobj):
                    selector.unregister(key.fileobj)
            if not selector.get_map():
                time.sleep(_POLL_SECONDS)
            _check_limits(running, limits, subject)
        _check_limits(running, limits, subject)
        for _ in range(_LAST_READS):
            if not _take(running, running.output):
                break


def _take(running: _Child, stream: Any) -> bool:
    """Read the available bytes; return False at the end of the stream."""
    piece: bytes | None = stream.read(1 << 16)
    if stream is running.ready and piece:
        running.memory = int(json.loads(piece)["memory"])
        running.written, running.began = _written(running), time.monotonic()
    elif piece:
        running.words = (running.words + piece)[-_LAST_WORDS:]
        running.printed += len(piece)
    return piece != b""


def _check_limits(running: _Child, limits: SandboxLimits, subject: str) -> None:
    passed = time.monotonic() - running.began
    if running.memory is None:
        if passed > SANDBOX_START_SECONDS:
            raise CheckpointError(
                f"the child interpreter that reads {subject} did not start within {SANDBOX_START_SECONDS:g} s",
                fix="close other programs",
            )
        return
    if passed > limits.seconds:
        raise _stopped(subject, f"took longer than {limits.seconds:g} s")
    if _memory(running) - running.memory > limits.memory_bytes:
        raise _out_of_memory(subject, limits)
    if _written(running) - running.written > limits.file_bytes + _SLACK:
        raise _too_large(subject, limits)
    if _files(running.folder) > SANDBOX_FILES:
        raise _stopped(subject, f"made more than {SANDBOX_FILES} files")


def _memory(running: _Child) -> int:
    return confinement.anonymous_bytes(running.process.pid)


def _written(running: _Child) -> int:
    """Return the bytes that the child wrote to files; 0 if the system does not tell."""
    fields = confinement.read_fields(Path(f"/proc/{running.process.pid}/io"))
    return max(int(fields.get("wchar", 0)) - running.printed, int(fields.get("write_bytes", 0)))


def _files(folder: Path) -> int:
    """Count the files in a folder, up to one more than the limit."""
    with os.scandir(folder) as entries:
        return sum(1 for _ in itertools.islice(entries, SANDBOX_FILES + 1))


def _stopped(subject: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"reading {subject} {what}, and was stopped",
        expected="a model that can be read within limits that fit its size",
        fix="do not use this file unless you trust its source",
    )


def _out_of_memory(subject: str, limits: SandboxLimits) -> CheckpointError:
    return _stopped(subject, f"took more than {limits.memory_bytes / MIB:.0f} MiB of memory")


def _too_large(subject: str, limits: SandboxLimits) -> CheckpointError:
    return _stopped(subject, f"wrote more than {limits.file_bytes / MIB:.0f} MiB")


def _fail_ended(status: int, running: _Child, subject: str) -> NoReturn:
    """Raise the error for a child that ended without a result."""
    words = running.words.decode("utf-8", "replace").strip().splitlines()
    said = words[-1][:_SAID_CHARACTERS] if words else "it said nothing"
    if status == -signal.SIGXCPU:
        raise _stopped(subject, "took too much processor time")
    how = f"was ended by {_signal(-status)}" if status < 0 else f"ended with exit code {status}"
    when = "before it began" if running.memory is None else "while it read"
    raise CheckpointError(
        f"the child interpreter that reads {subject} {how} {when}: {said}",
        expected="a model that the installed libraries can read",
        fix="do not use this file unless you trust its source" if running.memory is not None else "vitedge doctor",
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _check_leavings(folder: Path, subject: str) -> None:
    """Refuse links, folders and special files that the child left; the child has ended."""
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise _stopped(subject, "made a folder, a link or a special file")


def _result(folder: Path, subject: str, limits: SandboxLimits) -> Any:
    try:
        outcome = read_json(folder / RESULT, limit=JSON_BYTES)
        (kind, value), *others = outcome.items()
    except (OSError, ValueError, AttributeError) as error:
        raise _stopped(subject, "gave no result") from error
    if kind == "result" and not others:
        return value
    if kind == "error" and isinstance(value, dict):
        raise _translated(value)
    if kind == "limit":
        raise _too_large(subject, limits) if value == "file" else _out_of_memory(subject, limits)
    raise CheckpointError(
        f"{subject} cannot be read: {value}",
        expected="a model that the installed libraries can read",
        fix="save the model again with the installed versions",
    )


def _translated(value: dict[str, Any]) -> VitedgeError:
    name = value.get("kind")
    kind: type[VitedgeError] = getattr(errors, name) if name in _ERRORS else CheckpointError
    return kind(str(value.get("problem")), expected=str(value.get("expected")), fix=str(value.get("fix")))
