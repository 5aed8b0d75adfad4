"""Engines: each runs a compiled graph in a thread of its own.

A backend is a module with ``open_engine``, for the lowest latency of one frame, and ``open_lanes``, for the most frames
a second; and a line in ``ENGINES``, and one in ``READS``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import MODEL_ONNX, OPENVINO_BIN, OPENVINO_XML, Bundle
from vitedge.bundle.targets import target_named
from vitedge.errors import EngineError, UsageError, did_you_mean


@dataclass(frozen=True)
class EngineInfo:
    """What runs, and where.

    Attributes:
        name: key in ``ENGINES``.
        version: version of the inference library.
        device: name of the processor, as the library or the system gives it.
        effective_precision: what the matrix products of the weights are computed in: ``fp32``, ``bf16``, ``fp16``,
            ``fp8`` or ``int8``, as read back from the compiled engine, not as asked for.
        rest_precision: what everything else is computed in; equal to ``effective_precision`` unless that is ``int8``.
            Either is ``unavailable`` where the library does not say.
        lanes: how many engines share the compiled graph and the processors; 1 for an engine that has both to itself.
        graph: of the bundle, that was compiled.
    """

    name: str
    version: str
    device: str
    effective_precision: str
    rest_precision: str
    lanes: int = 1
    graph: str = MODEL_ONNX


class Engine(Protocol):
    """One execution context of a compiled graph. Not thread-safe: one engine a thread.

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
    "tensorrt": "vitedge.runtime.engines.tensorrt.open",
}

READS: Mapping[str | None, tuple[str, ...]] = {
    None: (OPENVINO_XML, OPENVINO_BIN),  # only bundles whose own engine is OpenVINO have these
    "openvino": (OPENVINO_XML, OPENVINO_BIN),
    "onnxruntime": (MODEL_ONNX,),
    "tensorrt": (),
}
"""Files of a bundle whose contents are checked as an engine of that name is opened."""


def open_engine(bundle: Bundle, name: str | None = None, *, threads: int | None = None) -> Engine:
    """Open an engine on a bundle.

    Args:
        bundle: what to run.
        name: key in ``ENGINES``; by default the backend of the bundle's target.
        threads: CPU threads to use; by default the backend decides.

    Raises:
        UsageError: no engine of that name, or fewer than one thread.
        MissingExtraError: its library is not installed.
        EngineError: its library cannot run this bundle.
    """
    engine: Engine = _backend(bundle, name, threads).open_engine(bundle, threads=threads)
    return engine


def open_lanes(bundle: Bundle, name: str | None = None, *, threads: int | None = None) -> Sequence[Engine]:
    """Open engines that together run a bundle for the most frames a second, each to be used in a thread of its own.

    One frame takes longer in such an engine than in that of ``open_engine``, for it has a share of the processors.
    Arguments and errors are those of ``open_engine``.

    Returns:
        Two or more; none where the backend knows no faster way than one engine.
    """
    lanes: Sequence[Engine] = _backend(bundle, name, threads).open_lanes(bundle, threads=threads)
    return lanes


def _backend(bundle: Bundle, name: str | None, threads: int | None) -> Any:
    chosen = target_named(bundle.manifest.target).backend if name is None else name
    if chosen not in ENGINES:
        raise UsageError(
            f"unknown engine {chosen!r}",
            expected=f"one of {', '.join(ENGINES)}",
            fix=did_you_mean(chosen, ENGINES),
        )
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", expected="1 or more", fix="leave it out to let the engine decide")
    return importlib.import_module(ENGINES[chosen])


def check_contract(bundle: Bundle, path: Path, *, frame: NDArray[Any], logits: NDArray[Any]) -> None:
    """Refuse a graph whose input and output are not those of the bundle's model.

    Args:
        bundle: says what they must be.
        path: the graph, for the error.
        frame: the engine's input buffer, without the batch axis.
        logits: the engine's output, without the batch axis.

    Raises:
        EngineError: a shape or dtype differs.
    """
    model = bundle.manifest.model
    expected = (
        ((*model.preprocessing.input_size, 3), np.dtype(np.uint8)),
        ((model.num_classes,), np.dtype(np.float32)),
    )
    actual = ((frame.shape, frame.dtype), (logits.shape, logits.dtype))
    if actual != expected:
        raise EngineError(
            f"{path} takes a {_described(*actual[0])} frame and gives {_described(*actual[1])} logits",
            expected=f"{_described(*expected[0])} and {_described(*expected[1])}, as the manifest says",
            fix="convert the model again",
        )


def _described(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{'x'.join(map(str, shape))} {dtype}"
