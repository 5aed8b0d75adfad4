"""Engines: each runs one compiled graph. A backend is a module with ``open_engine``, and a line in ``ENGINES``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle import Bundle
from vitedge.errors import UsageError, did_you_mean
from vitedge.targets import target_named


@dataclass(frozen=True)
class EngineInfo:
    """What runs, and where.

    Attributes:
        name: key in ``ENGINES``.
        version: version of the inference library.
        device: name of the processor, as the library or the system gives it.
        effective_precision: what the matrix products of the weights are computed in: ``fp32``, ``bf16``, ``fp16``
            or ``int8``, as read back from the compiled engine, not as asked for.
        rest_precision: what everything else is computed in; equal to ``effective_precision`` unless that is ``int8``.
    """

    name: str
    version: str
    device: str
    effective_precision: str
    rest_precision: str


class Engine(Protocol):
    """One compiled graph with one execution context. Not thread-safe: one engine a thread.

    Attributes:
        info: what runs, and where.
        frame: ``H×W×3`` uint8, the engine's own input buffer. Write a preprocessed frame into it, then ``run``.
    """

    info: EngineInfo
    frame: NDArray[np.uint8]

    def run(self) -> NDArray[np.float32]:
        """Classify what is in ``frame``.

        Returns:
            ``(classes,)`` float32 logits; the caller owns them.

        Raises:
            EngineError: the backend failed.
        """

    def close(self) -> None:
        """Free the engine; a second call does nothing."""


ENGINES: Mapping[str, str] = {
    "openvino": "vitedge.runtime.engines.openvino",
    "onnxruntime": "vitedge.runtime.engines.onnxruntime",
}


def open_engine(bundle: Bundle, name: str | None = None, *, threads: int | None = None) -> Engine:
    """Open an engine on a bundle.

    Args:
        bundle: what to run.
        name: key in ``ENGINES``; by default the backend of the bundle's target.
        threads: CPU threads to use; by default the backend decides.

    Raises:
        UsageError: no engine of that name.
        MissingExtraError: its library is not installed.
        EngineError: its library cannot run this bundle.
    """
    chosen = target_named(bundle.manifest.target).backend if name is None else name
    if chosen not in ENGINES:
        raise UsageError(
            f"unknown engine {chosen!r}",
            expected=f"one of {', '.join(ENGINES)}",
            fix=did_you_mean(chosen, ENGINES),
        )
    engine: Engine = importlib.import_module(ENGINES[chosen]).open_engine(bundle, threads=threads)
    return engine
