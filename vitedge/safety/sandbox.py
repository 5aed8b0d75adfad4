"""Code that reads a stranger's model runs in a child interpreter without network, within bounds.

Start with ``run_sandboxed``. The child gives up writing, network and programs by itself (``confinement``) once its
libraries are imported and before it opens the file. The parent watches its memory, its time and what it writes. What
comes back is JSON, and files in a folder of the caller; nothing is unpickled, and no link is followed.
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
from vitedge.safety.sandboxed import RESULT

_POLL_SECONDS = 0.05
_LAST_WORDS = 4096
_LAST_READS = 64
_SAID_CHARACTERS = 200
_SLACK = 4 * MIB
"""What the child may write beyond its bound: its result, and what it prints."""

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
class Bounds:
    """What a child may use.

    Attributes:
        memory_bytes: above the interpreter with its libraries.
        seconds: of waiting, once its libraries are imported; of processor time, this many on each core.
        file_bytes: written, all files together.
    """

    memory_bytes: int = SANDBOX_MEMORY
    seconds: float = SANDBOX_SECONDS
    file_bytes: int = 64 * MIB


def run_sandboxed(
    module: str,
    request: Mapping[str, Any],
    folder: Path,
    bounds: Bounds,
    *,
    readable: Sequence[Path] = (),
    subject: str = "the file",
) -> Any:
    """Call ``module.serve(request, folder)`` in a child interpreter, and wait for its result.

    Args:
        module: importable by its full name; it imports what it needs at its top, before the child gives up reading.
            Its ``serve`` takes the request and the folder, and returns what JSON has; a ``VitedgeError`` that it raises
            is raised here.
        request: what JSON has.
        folder: a folder without folders that the caller owns, the only one that the child may write to. Every file in
            it is the child's word: it is a regular file when this function returns, and no more than that is certain.
        bounds: what the child may use.
        readable: files and folders that the child reads, beside Python's own and ``folder``.
        subject: names the stranger's file in errors.

    Returns:
        What ``serve`` returned, of at most ``JSON_BYTES`` and ``JSON_DEPTH``.

    Raises:
        VitedgeError: what ``serve`` raised, with its class, or a ``CheckpointError`` that names the bound that was
            reached, or says how the child ended.
    """
    order = {
        "module": module,
        "request": dict(request),
        "folder": str(folder.absolute()),
        "readable": [str(each.absolute()) for each in readable],
        "parent": os.getpid(),
        **asdict(bounds),
        "file_bytes": max(bounds.file_bytes, JSON_BYTES),  # the result is a file too
    }
    with _started(order) as running:
        _watch(running, bounds, subject)
        status = running.process.wait()
    _check_leavings(folder, subject)
    if status:
        _fail_ended(status, running, subject)
    return _result(folder, subject, bounds)


@dataclass
class _Child:
    """A child that runs.

    Attributes:
        process: it.
        folder: the one that it may write to.
        output: what it prints.
        ready: where it tells that its libraries are imported.
        words: the last that it printed.
        printed: bytes that it printed.
        memory: bytes that it held when its libraries were imported; None before.
        written: bytes that it had written by then.
        began: when that was.
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
    """Start a child; it and all of its session are killed on the way out."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as ready, tempfile.TemporaryFile() as orders:
        try:
            orders.write(json.dumps({**order, "ready": writing}, allow_nan=False).encode())
            orders.seek(0)
            process = subprocess.Popen(
                child.module_command("vitedge.safety.sandboxed"),
                stdin=orders,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                cwd="/",
                env=_variables(Path(order["folder"])),
                pass_fds=[writing],
                start_new_session=True,  # Ctrl-C reaches this process alone, which then kills the child
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
    """The child's environment: no token or password of the user's, and caches nowhere but in its folder."""
    inherited = child.environment()
    known = {name: inherited[name] for name in _VARIABLES if name in inherited}
    own = {
        "HOME": os.fspath(folder),
        "TMPDIR": os.fspath(folder),
        "TORCHINDUCTOR_CACHE_DIR": os.fspath(folder),  # PyTorch makes it when it is imported
        "PYTHONUSERBASE": site.getuserbase(),  # the true home's packages stay importable
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",  # it starts threads when it is loaded, which Landlock would not hold
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    return {**known, **own}


def _watch(running: _Child, bounds: Bounds, subject: str) -> None:
    """Wait until the child ends, and raise when it reaches a bound."""
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
            _check_bounds(running, bounds, subject)
        _check_bounds(running, bounds, subject)
        for _ in range(_LAST_READS):
            if not _take(running, running.output):
                break


def _take(running: _Child, stream: Any) -> bool:
    """Read what has come; False at the end of the stream."""
    piece: bytes | None = stream.read(1 << 16)
    if stream is running.ready and piece:
        running.memory = int(json.loads(piece)["memory"])
        running.written, running.began = _written(running), time.monotonic()
    elif piece:
        running.words = (running.words + piece)[-_LAST_WORDS:]
        running.printed += len(piece)
    return piece != b""


def _check_bounds(running: _Child, bounds: Bounds, subject: str) -> None:
    passed = time.monotonic() - running.began
    if running.memory is None:
        if passed > SANDBOX_START_SECONDS:
            raise CheckpointError(
                f"the child interpreter that reads {subject} had not started after {SANDBOX_START_SECONDS:g} s",
                fix="close other programs",
            )
        return
    if passed > bounds.seconds:
        raise _stopped(subject, f"took longer than {bounds.seconds:g} s")
    if _memory(running) - running.memory > bounds.memory_bytes:
        raise _out_of_memory(subject, bounds)
    if _written(running) - running.written > bounds.file_bytes + _SLACK:
        raise _too_large(subject, bounds)
    if _files(running.folder) > SANDBOX_FILES:
        raise _stopped(subject, f"made more than {SANDBOX_FILES} files")


def _memory(running: _Child) -> int:
    return confinement.anonymous_bytes(running.process.pid)


def _written(running: _Child) -> int:
    """Bytes that the child wrote to files; 0 where the system does not tell."""
    fields = confinement.read_fields(Path(f"/proc/{running.process.pid}/io"))
    return max(int(fields.get("wchar", 0)) - running.printed, int(fields.get("write_bytes", 0)))


def _files(folder: Path) -> int:
    """Number of files in a folder, counted as far as the bound."""
    with os.scandir(folder) as entries:
        return sum(1 for _ in itertools.islice(entries, SANDBOX_FILES + 1))


def _stopped(subject: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"reading {subject} {what}, and was stopped",
        expected="a model that can be read within the bounds that its size justifies",
        fix="do not use this file, unless you know who made it",
    )


def _out_of_memory(subject: str, bounds: Bounds) -> CheckpointError:
    return _stopped(subject, f"took more than {bounds.memory_bytes / MIB:.0f} MiB of memory")


def _too_large(subject: str, bounds: Bounds) -> CheckpointError:
    return _stopped(subject, f"wrote more than {bounds.file_bytes / MIB:.0f} MiB")


def _fail_ended(status: int, running: _Child, subject: str) -> NoReturn:
    """Raise for a child that ended without a result."""
    words = running.words.decode("utf-8", "replace").strip().splitlines()
    said = words[-1][:_SAID_CHARACTERS] if words else "it said nothing"
    if status == -signal.SIGXCPU:
        raise _stopped(subject, "took too much processor time")
    how = f"was ended by {_signal(-status)}" if status < 0 else f"ended with exit code {status}"
    when = "before it began" if running.memory is None else "at it"
    raise CheckpointError(
        f"the child interpreter that reads {subject} {how} {when}: {said}",
        expected="a model that the installed libraries can read",
        fix="do not use this file, unless you know who made it" if running.memory is not None else "vitedge doctor",
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _check_leavings(folder: Path, subject: str) -> None:
    """Refuse links, FIFOs and the like in what the child wrote; the child has ended."""
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise _stopped(subject, "made a folder, a link or a special file")


def _result(folder: Path, subject: str, bounds: Bounds) -> Any:
    try:
        outcome = read_json(folder / RESULT, limit=JSON_BYTES)
        (kind, value), *others = outcome.items()
    except (OSError, ValueError, AttributeError) as error:
        raise _stopped(subject, "gave no result") from error
    if kind == "result" and not others:
        return value
    if kind == "error" and isinstance(value, dict):
        raise _translated(value)
    if kind == "bound":
        raise _too_large(subject, bounds) if value == "file" else _out_of_memory(subject, bounds)
    raise CheckpointError(
        f"{subject} cannot be read: {value}",
        expected="a model that the installed libraries can read",
        fix="save the model again, with the versions that are installed here",
    )


def _translated(value: dict[str, Any]) -> VitedgeError:
    name = value.get("kind")
    kind: type[VitedgeError] = getattr(errors, name) if name in _ERRORS else CheckpointError
    return kind(str(value.get("problem")), expected=str(value.get("expected")), fix=str(value.get("fix")))
