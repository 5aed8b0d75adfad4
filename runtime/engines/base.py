"""``Engine``: the Protocol that every backend implements, and the check that a graph belongs to its bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import MODEL_ONNX, Bundle
from vitedge.errors import EngineError

BATCH_FRAMES = 4
"""Frames of a batch, in engines that take several at once. More save little more, and each frame waits for all."""


@dataclass(frozen=True)
class EngineInfo:
    """The library, device and precision of an engine.

    Attributes:
        name: key in ``vitedge.runtime.engines.open.ENGINES``.
        version: version of the inference library.
        device: name of the processor, from the library or the system.
        effective_precision: precision of the matrix products with weights: ``fp32``, ``bf16``, ``fp16``, ``fp8`` or
            ``int8``, as read back from the compiled engine, not as requested.
        rest_precision: precision of everything else; equal to ``effective_precision`` unless that is ``int8``. Both
            are ``unavailable`` if the library does not report them.
        workers: number of engines that share the compiled graph and the processors; 1 if the engine has both to itself.
        graph: name of the bundle's graph that was compiled.
    """

    name: str
    version: str
    device: str
    effective_precision: str
    rest_precision: str
    workers: int = 1
    graph: str = MODEL_ONNX


class Engine(Protocol):
    """One execution context of a compiled graph. Not thread-safe: one engine a thread.

    Attributes:
        info: the library, device and precision.
        frame: ``H×W×3`` uint8, the engine's input buffer. Write a preprocessed frame into it, then call ``run``.
    """

    info: EngineInfo
    frame: NDArray[np.uint8]

    def run(self) -> NDArray[np.float32]:
        """Classify the contents of ``frame``.

        Returns:
            ``(classes,)`` float32 logits; the caller owns them.

        Raises:
            EngineError: the backend failed.
        """

    def close(self) -> None:
        """Free the engine; a second call does nothing."""


@runtime_checkable
class BatchEngine(Engine, Protocol):
    """An engine that also classifies several frames at once, with the logits that ``run`` gives for each, bit for bit.

    Attributes:
        frames: ``B×H×W×3`` uint8, the input buffer of ``run_batch``.
    """

    frames: NDArray[np.uint8]

    def run_batch(self) -> NDArray[np.float32]:
        """Classify the contents of ``frames``.

        Returns:
            ``(B, classes)`` float32 logits; the caller owns them.

        Raises:
            EngineError: the backend failed.
        """


def check_contract(bundle: Bundle, path: Path, *, frame: NDArray[Any], logits: NDArray[Any]) -> None:
    """Check that the input and output of a graph match the bundle's model.

    Args:
        bundle: the bundle, whose manifest has the expected shapes.
        path: path of the graph, for the error.
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
