"""Load programs of ``torch.export`` (``.pt2``) and export them to ONNX, both in a sandboxed child."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from vitedge.bundle.bundle import sha256_of
from vitedge.bundle.model_card import Activation, ModelCard
from vitedge.converters.onnx_export import check_outputs
from vitedge.converters.reference import Frames, Logits, normalized
from vitedge.converters.sources.labels import choose_labels
from vitedge.converters.sources.onnx.files import load_own_data, read_graph
from vitedge.converters.sources.parse import ExportedProgramFile
from vitedge.converters.sources.preprocessing import require_preprocessing
from vitedge.converters.sources.torch_export.worker import GRAPH, IMAGES, LOGITS
from vitedge.counts import counted
from vitedge.errors import CheckpointError, ConversionError
from vitedge.safety.files import check_regular, read_bytes
from vitedge.safety.limits import (
    CHECKPOINT_BYTES,
    CHECKPOINT_SPARE,
    INPUT_SIDE,
    PROGRAM_COPIES,
    PROGRAM_MEMORY,
    PROGRAM_RATE,
    SANDBOX_MEMORY,
    SANDBOX_SECONDS,
)
from vitedge.safety.sandbox import SandboxLimits, run_sandboxed

ARCHITECTURE = "torch.export"
WORKER = "vitedge.converters.sources.torch_export.worker"


@dataclass(frozen=True)
class ExportedProgramModel:
    """A classifier in a file of ``torch.export``; this process never loads the file.

    Attributes:
        card: identity, labels, preprocessing.
        path: path of the file.
        activation: None, because a file does not say what its outputs are.
    """

    card: ModelCard
    path: Path
    activation: Activation | None = None

    def export(self, frames: Frames) -> tuple[onnx.ModelProto, Logits]:
        """Write the program as ONNX, as ``export`` does for a module, and run it in PyTorch.

        Args:
            frames: ``(N,H,W,3)`` uint8.

        Returns:
            The graph, with input ``pixels`` and output ``logits``, and the program's logits, ``(N, classes)`` float32.

        Raises:
            CheckpointError: the file has changed, or its export exceeds the limits for its size.
            ConversionError: the program cannot be exported to ONNX.
        """
        images = normalized(frames, self.card.preprocessing)
        with tempfile.TemporaryDirectory(prefix="vitedge-program-") as scratch:
            folder = Path(scratch)
            images.tofile(folder / IMAGES)
            facts = _run(self.path, folder, {"input_size": list(images.shape[2:])})
            return _graph(folder / GRAPH), _logits(folder / LOGITS, len(images), facts.logits)


@dataclass(frozen=True)
class ProgramInfo:
    """Input size and number of logits of a program.

    Attributes:
        input_size: (height, width) in pixels; None if they are dynamic.
        logits: number of logits.
    """

    input_size: tuple[int, int] | None
    logits: int


def load_program(
    source: ExportedProgramFile, *, labels: Path | None, preprocessing: str | None
) -> ExportedProgramModel:
    """Read input and output of a program that ``torch.export.save`` wrote, without running code from the file.

    Args:
        source: the file.
        labels: file of labels; the program has none.
        preprocessing: see ``read_preprocessing``; required, because the program has none.

    Raises:
        UsageError: ``preprocessing`` is None, or ``read_preprocessing`` refuses it.
        CheckpointError: the file is no program or would run code, the program is no image classifier or was exported
            in training mode, or labels do not match the logits.
    """
    path = source.path
    with tempfile.TemporaryDirectory(prefix="vitedge-program-") as scratch:
        facts = _run(path, Path(scratch), {})
    holder = "a program of torch.export does not"
    card = ModelCard(
        name=source.name,
        source=str(path),
        architecture=ARCHITECTURE,
        labels=choose_labels(facts.logits, file=labels, configured=None, where=str(path)),
        preprocessing=require_preprocessing(preprocessing, facts.input_size, name=str(path), holder=holder),
        weights_sha256=sha256_of(path),
        pretrained=True,
    )
    return ExportedProgramModel(card, path)


def _run(path: Path, folder: Path, request: Mapping[str, Any]) -> ProgramInfo:
    try:
        size = check_regular(path, limit=CHECKPOINT_BYTES)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}", expected="a file that torch.export.save wrote"
        ) from error
    limits = SandboxLimits(
        memory_bytes=SANDBOX_MEMORY + PROGRAM_MEMORY * size,
        seconds=SANDBOX_SECONDS + size / PROGRAM_RATE,
        file_bytes=CHECKPOINT_SPARE + PROGRAM_COPIES * size,
    )
    told = run_sandboxed(
        WORKER,
        {"path": str(path.absolute()), "name": str(path), **request},
        folder,
        limits,
        readable=[path],
        subject=str(path),
    )
    return _facts(told, path)


def _facts(told: Any, path: Path) -> ProgramInfo:
    """Check the child's report, which is not trusted."""
    match told:
        case {"input_size": None, "logits": int(logits)} if logits > 0:
            return ProgramInfo(None, logits)
        case {"input_size": [int(height), int(width)], "logits": int(logits)} if logits > 0:
            if min(height, width) > 0 and max(height, width) <= INPUT_SIDE:
                return ProgramInfo((height, width), logits)
    raise CheckpointError(
        f"{path} describes itself as {told!r:.200}",
        expected=f"an image of up to {INPUT_SIDE}x{INPUT_SIDE} and a logit or more",
    )


def _graph(path: Path) -> onnx.ModelProto:
    try:
        graph = read_graph(path).model
        load_own_data(graph, path)
    except (OSError, ValueError) as error:
        raise ConversionError(f"the program gave no ONNX graph: {error}") from error
    check_outputs(graph)
    return graph


def _logits(path: Path, images: int, classes: int) -> Logits:
    try:
        content = read_bytes(path, limit=4 * images * classes)
        return np.frombuffer(content, dtype=np.float32).reshape(images, classes)
    except (OSError, ValueError) as error:
        raise ConversionError(
            f"the program did not give {counted(classes, 'logit')} for each of {counted(images, 'image')}"
        ) from error
