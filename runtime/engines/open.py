"""The table of engines, and how one is opened on a bundle.

An engine is a module with two functions and a line in ``ENGINES``. ``open_engine(bundle, threads=, progress=)`` opens
one for the lowest latency, and ``open_workers(bundle, threads=, batches=)`` several for the highest throughput.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vitedge.bundle.bundle import MODEL_ONNX, OPENVINO_BIN, OPENVINO_XML, Bundle
from vitedge.bundle.targets import target_named
from vitedge.errors import UsageError, did_you_mean
from vitedge.progress import Progress, Silent
from vitedge.runtime.engines.base import Engine

MOST_THREADS = 1024
"""ONNX Runtime starts as many threads as it is asked for, of which thousands take minutes."""


@dataclass(frozen=True)
class EngineEntry:
    """A line in the table of engines.

    Attributes:
        module: module that opens it, imported when it is needed.
        reads: files of the bundle that it reads when it is opened, and whose hashes it checks.
    """

    module: str
    reads: tuple[str, ...] = ()


EngineName = Literal["openvino", "onnxruntime", "tensorrt"]
ENGINES: Mapping[str, EngineEntry] = {
    "openvino": EngineEntry("vitedge.runtime.engines.openvino", reads=(OPENVINO_XML, OPENVINO_BIN)),
    "onnxruntime": EngineEntry("vitedge.runtime.engines.onnxruntime", reads=(MODEL_ONNX,)),
    "tensorrt": EngineEntry("vitedge.runtime.engines.tensorrt.open"),
}


def open_engine(
    bundle: Bundle,
    name: str | None = None,
    *,
    threads: int | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> Engine:
    """Open an engine on a bundle, for the lowest latency of one frame.

    Args:
        bundle: the bundle to run.
        name: key in ``ENGINES``; by default the engine of the bundle's target.
        threads: number of CPU threads; by default the engine decides.
        progress: receives the steps of a build, which TensorRT may need first.

    Raises:
        UsageError: there is no engine of that name, or ``threads`` is not 1…``MOST_THREADS``.
        MissingExtraError: its library is not installed.
        EngineError: its library cannot run this bundle.
    """
    engine: Engine = _module(bundle, name, threads).open_engine(bundle, threads=threads, progress=progress)
    return engine


def open_workers(
    bundle: Bundle, name: str | None = None, *, threads: int | None = None, batches: bool = False
) -> Sequence[Engine]:
    """Open engines that together run a bundle for the highest throughput, each in a thread of its own.

    A single frame takes longer than in the engine of ``open_engine``, because the workers share the processors.
    Other arguments, and errors, are as for ``open_engine``.

    Args:
        bundle: as there.
        name: as there.
        threads: as there.
        batches: whether several frames will wait at once. Where an engine takes them in less time together, the
            workers are ``BatchEngine``, in which a single frame takes as long as several.

    Returns:
        Two or more engines; none if the library has no faster way than one engine.
    """
    workers: Sequence[Engine] = _module(bundle, name, threads).open_workers(bundle, threads=threads, batches=batches)
    return workers


def files_read(bundle: Bundle, name: str | None = None) -> tuple[str, ...]:
    """Return the files of a bundle that an engine reads and checks when it is opened; none for an unknown engine."""
    entry = ENGINES.get(_name(bundle, name))
    return () if entry is None else entry.reads


def _name(bundle: Bundle, name: str | None) -> str:
    return target_named(bundle.manifest.target).backend if name is None else name


def _module(bundle: Bundle, name: str | None, threads: int | None) -> Any:
    chosen = _name(bundle, name)
    if chosen not in ENGINES:
        raise UsageError(
            f"unknown engine {chosen!r}",
            expected=f"one of {', '.join(ENGINES)}",
            fix=did_you_mean(chosen, ENGINES),
        )
    check_threads(threads)
    return importlib.import_module(ENGINES[chosen].module)


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that no engine takes.

    Raises:
        UsageError: it is not 1…``MOST_THREADS``, nor None.
    """
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MOST_THREADS):
        raise UsageError(
            f"threads is {threads!r}", expected=f"1 to {MOST_THREADS}", fix="leave it out to let the engine decide"
        )
