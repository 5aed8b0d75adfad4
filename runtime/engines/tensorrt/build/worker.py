"""A build in its own process: ``python -m vitedge.runtime.engines.tensorrt.build.worker REQUEST``.

A build needs much memory, and the system may kill it; in its own process, it takes nothing else with it. The process
reports progress and errors as lines of JSON on standard output.
"""

from __future__ import annotations

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

from vitedge.bundle.targets import TensorrtModule
from vitedge.errors import EngineError, VitedgeError
from vitedge.progress import Counters, Progress
from vitedge.runtime.engines.tensorrt.build.builder import build_plan
from vitedge.runtime.engines.tensorrt.device import import_tensorrt
from vitedge.safety import child

Item = TypeVar("Item")

LAST_WORDS = 300


@dataclass(frozen=True)
class BuildRequest:
    """The arguments of a build.

    Attributes:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        graph: path of the ONNX file.
        plan: path of the plan to write.
        timing_cache: path of the timing cache to read, if it exists, and to write.
        workspace_bytes: scratch memory limit of a layer.
    """

    module: TensorrtModule
    graph: str
    plan: str
    timing_cache: str
    workspace_bytes: int


def build_apart(request: BuildRequest, progress: Progress) -> None:
    """Build in another process and wait for it; kill it if this process is interrupted.

    Raises:
        EngineError: the build failed, or its process was killed.
    """
    beside = Path(request.plan).parent  # can be written; a folder for temporary files may be missing
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace", dir=beside) as words:
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
    """Forward the progress that the other process reports.

    Raises:
        EngineError: the other process reported an error.
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


def _died(request: BuildRequest, status: int, words: IO[str]) -> EngineError:
    if status == -signal.SIGKILL:
        return EngineError(
            f"the build of {request.graph} was killed",
            expected="enough memory: the system kills a process that takes too much",
            fix="close other programs, add swap, or give a smaller workspace_mb=",
        )
    words.seek(0)
    said = " ".join(words.read()[-LAST_WORDS:].split())
    end = f"crashed with {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
    return EngineError(f"the build of {request.graph} {end}: {said or 'it said nothing'}", fix="vitedge doctor")


class JsonProgress:
    """A ``Progress`` that writes lines of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._counters = 0

    def step(self, text: str) -> None:
        """Ignore it: the waiting process has reported the step."""

    def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
        """Write a line at the beginning, for each item, and at the end."""
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
        """Write one line and flush it; end this process if nobody waits for its result any more."""
        try:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            os._exit(1)  # from any thread: TensorRT calls its progress monitor from its own


def work(request: BuildRequest, lines: JsonProgress) -> int:
    """Build, write the plan, and return the exit code."""
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
    """Serve one request; what TensorRT and CUDA print goes to standard error, not between the lines of JSON."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)
        return work(BuildRequest(**json.loads(sys.argv[1])), JsonProgress(stream))


if __name__ == "__main__":
    sys.exit(main())
