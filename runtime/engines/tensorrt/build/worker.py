"""One build in a process of its own: ``python -m vitedge.runtime.engines.tensorrt.build.worker REQUEST``.

TensorRT needs much memory to build, and the system may kill it for that: then it takes nothing else along. The process
tells its progress and its errors in lines of JSON on standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TextIO, TypeVar

from vitedge.errors import EngineError, VitedgeError
from vitedge.progress import Counters, Progress
from vitedge.runtime.engines.tensorrt.build.builder import build_plan
from vitedge.runtime.engines.tensorrt.device import import_tensorrt
from vitedge.safety import child
from vitedge.bundle.targets import TensorrtModule

Item = TypeVar("Item")

LAST_WORDS = 300


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        graph: ONNX file.
        plan: file to write.
        timing_cache: file to read, if it is there, and to write.
        workspace_bytes: most scratch memory of a layer.
    """

    module: TensorrtModule
    graph: str
    plan: str
    timing_cache: str
    workspace_bytes: int


def build_apart(request: Request, progress: Progress) -> None:
    """Build in another process, and wait; if this one is interrupted, the other is killed.

    Raises:
        EngineError: the build failed, or its process was killed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
        process = subprocess.Popen(
            child.module_command(__name__, json.dumps(asdict(request))),
            env=child.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process alone, which then decides
        )
        try:
            assert process.stdout is not None
            _replay(process.stdout, progress)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if status:
            raise _died(request, status, words)


def _replay(lines: Iterable[str], progress: Progress) -> None:
    """Report what the other process reports.

    Raises:
        EngineError: it reported one.
    """
    with Counters(progress) as counters:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if "error" in event:
                raise EngineError(**event["error"])
            _apply(event, counters)


def _apply(event: dict[str, Any], counters: Counters) -> None:
    number = event["counter"]
    if "total" in event:
        counters.begin(number, total=event["total"], unit=event["unit"])
    elif "ended" in event:
        counters.end(number)
    else:
        counters.advance(number)


def _died(request: Request, status: int, words: IO[str]) -> EngineError:
    if status == -signal.SIGKILL:
        return EngineError(
            f"the build of {request.graph} was killed",
            expected="enough memory: the system kills what takes too much",
            fix="close other programs, add swap, or give --workspace-mb a smaller number",
        )
    words.seek(0)
    said = " ".join(words.read()[-LAST_WORDS:].split())
    end = f"crashed with {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
    return EngineError(f"the build of {request.graph} {end}: {said or 'it said nothing'}", fix="vitedge doctor")


class Lines:
    """A ``Progress`` that writes lines of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._counters = 0

    def step(self, text: str) -> None:
        """The process that waits has said what is done here."""

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
        """A line at the beginning, at each item, and at the end."""
        self._counters += 1
        return self._tracked(items, self._counters, total, unit)

    def _tracked(self, items: Iterable[Item], number: int, total: int, unit: str) -> Iterator[Item]:
        self.write({"counter": number, "total": total, "unit": unit})
        try:
            for item in items:
                self.write({"counter": number})
                yield item
        finally:
            self.write({"counter": number, "ended": True})

    def write(self, event: dict[str, Any]) -> None:
        """One line, at once.

        Raises:
            BrokenPipeError: the process that waited has gone.
        """
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()


def work(request: Request, lines: Lines) -> int:
    """Build and write; the exit code."""
    cache = Path(request.timing_cache)
    known = cache.read_bytes() if cache.is_file() else b""
    try:
        built = build_plan(
            import_tensorrt(request.module),
            Path(request.graph),
            workspace_bytes=request.workspace_bytes,
            timing_cache=known,
            progress=lines,
        )
    except VitedgeError as error:
        lines.write({"error": {"problem": error.problem, "expected": error.expected, "fix": error.fix}})
        return 0
    Path(request.plan).write_bytes(built.plan)
    if built.timing_cache:
        cache.write_bytes(built.timing_cache)
    return 0


def main() -> int:
    """Serve one request. TensorRT and CUDA may print, which must not get between the lines."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)
        with contextlib.suppress(BrokenPipeError):
            return work(Request(**json.loads(sys.argv[1])), Lines(stream))
    return 1


if __name__ == "__main__":
    sys.exit(main())
