"""The interface of backends: each is a module, and a line in ``BACKENDS``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from vitedge.audit import Audit
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.precision_records import CalibrationRecord
from vitedge.bundle.targets import Precision, Target
from vitedge.bundle.verification_records import StageRecord, WorkaroundRecord
from vitedge.calib.data.dataset import CalibrationImages
from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.ptq import LAYERWISE_IMAGES, QuantizedGraph, quantize
from vitedge.calib.sensitivity.noise_limit import limit_noise
from vitedge.converters.quiet import quiet
from vitedge.converters.reference import Frames, Logits
from vitedge.converters.rewrites.apply import Rewrite
from vitedge.counts import counted
from vitedge.errors import UsageError
from vitedge.progress import Progress
from vitedge.runtime.engines.base import Engine

COMPARED_FRAMES = 16


@dataclass(frozen=True)
class Reduced:
    """A graph in the precision of a bundle.

    Attributes:
        graph: ``model.onnx``.
        calibration: how it was calibrated; None if it was not.
        unrounded: logits of the golden frames with everything but the quantizers in float32, if the graph rounds to 16
            bits. An engine may round otherwise, and differ as much as these. None if this host can measure the compiled
            engine instead.
        fp16: the 16-bit graph that accompanies an 8-bit graph; None if there is none.
    """

    graph: onnx.ModelProto
    calibration: CalibrationRecord | None
    unrounded: Logits | None = None
    fp16: Reduced | None = None


@dataclass(frozen=True)
class Mended:
    """An FP32 graph that the engine computes as its reference says.

    Attributes:
        graph: computes the same as the graph before.
        workarounds: what was changed in it, and why.
        half_logits: of ``BackendInputs.compared``, computed by the engine in bfloat16; None where it did not compute
            in it.
    """

    graph: onnx.ModelProto
    workarounds: tuple[WorkaroundRecord, ...] = ()
    half_logits: Logits | None = None


@dataclass(frozen=True)
class BackendInputs:
    """The input of ``Backend.mend`` and ``Backend.reduce``.

    Attributes:
        graph: FP32 graph; uint8 ``frame`` in, ``logits`` out.
        card: the model.
        frames: ``(N,H,W,3)`` uint8, photos or synthetic.
        golden: the first frames, which the bundle keeps.
        photos: all calibration images; None without ``calib``.
        half_logits: as in ``Mended``.
    """

    graph: onnx.ModelProto
    card: ModelCard
    frames: Frames
    golden: Frames
    photos: CalibrationImages | None
    half_logits: Logits | None = None

    @property
    def compared(self) -> Frames:
        """Return the frames on which an engine, and the int8 graph, are compared with the FP32 graph.

        They are spread evenly over the photos; where there are enough, over those not run layer by layer.
        """
        frames = self.frames if self.photos is None else self.photos.frames
        others = frames[LAYERWISE_IMAGES:] if len(frames) >= LAYERWISE_IMAGES + COMPARED_FRAMES else frames
        places = np.linspace(0, len(others) - 1, min(COMPARED_FRAMES, len(others))).round().astype(int)
        return np.asarray(others[places])


class Backend(Protocol):
    """A module that compiles graphs, or prepares graphs that the device compiles.

    Attributes:
        WRITES: describes the files that it writes.
        COMPARES: describes what stands for the device on this host.
        REWRITES: exact rewrites that pay with its engine alone; they are applied after the common rewrites.
    """

    WRITES: str
    COMPARES: str
    REWRITES: tuple[Rewrite, ...]

    def check_operators(self, graph: onnx.ModelProto) -> None:
        """Refuse a graph that it cannot compile, before more work goes into it; raises ConversionError."""

    def mend(self, inputs: BackendInputs, precision: Precision, progress: Progress) -> Mended:
        """Give operators that the engine computes wrongly another exact form; raises ConversionError."""

    def reduce(self, inputs: BackendInputs, precision: Precision, progress: Progress) -> Reduced:
        """Bring the graph to a precision."""

    def computed(self, graph: onnx.ModelProto) -> onnx.ModelProto:
        """Return the graph in the form that ONNX Runtime computes as the engine does; it gives the golden logits."""

    def rounded(self, graph: onnx.ModelProto, rest: str) -> onnx.ModelProto | None:
        """Return the graph with every value rounded as the engine's 16-bit type does.

        Args:
            graph: in the precision of the bundle.
            rest: precision of what the host's engine does not compute in 8 bits.

        Returns:
            None where the engine does not round, or where ``computed`` rounds already.
        """

    def write(self, folder: Path, card: ModelCard, precision: Precision) -> None:
        """Write the compiled files beside ``model.onnx`` in the folder of the bundle."""

    def record_stages(
        self, bundle: Bundle, graph: onnx.ModelProto, frame: NDArray[np.uint8]
    ) -> tuple[StageRecord, ...]:
        """Record values within ``model.onnx`` for the self-test; none where this host cannot run the engine."""

    def audit(self, bundle: Bundle) -> Audit | None:
        """Find the layers of the graph in the compiled engine; None where this host cannot compile for the target."""

    def open_fp16_engine(self, graph: onnx.ModelProto) -> Engine | None:
        """Open on this host what ``fp16`` would make of the FP32 graph, to time int8 against it; raises EngineError.

        None where this host does not stand for the device: it compiles for another one, or has no fast int8.
        """

    def open_host_engine(self, bundle: Bundle) -> Engine:
        """Open the engine that verifies and evaluates the bundle on this host."""


BACKENDS: Mapping[str, str] = {
    "openvino": "vitedge.converters.openvino.backend",
    "tensorrt": "vitedge.converters.tensorrt.backend",
}


def backend_of(target: Target) -> Backend:
    """Import the backend of a target."""
    backend: Backend = importlib.import_module(BACKENDS[target.backend])
    return backend


def quantized(inputs: BackendInputs, scheme: Scheme, progress: Progress) -> tuple[QuantizedGraph, CalibrationRecord]:
    """Quantize the graph to 8 bits, and record how.

    Raises:
        UsageError: there are no calibration images.
        CalibrationError: see ``quantize``.
    """
    photos = inputs.photos
    if photos is None:
        raise UsageError("int8 needs images to calibrate with", fix="calib=IMAGES")
    progress.step(f"calibrating on {counted(len(photos), 'image')}")
    with quiet():
        found = quantize(inputs.graph, photos.frames, scheme=scheme, progress=progress)
    record = CalibrationRecord(len(photos), photos.skipped, photos.sha256, found.recipe)
    return _limited(found, record, inputs, progress)


def _limited(
    found: QuantizedGraph, record: CalibrationRecord, inputs: BackendInputs, progress: Progress
) -> tuple[QuantizedGraph, CalibrationRecord]:
    """Leave layers of an 8-bit graph in 16 bits that lose too much."""
    full, frames = inputs.graph, inputs.compared
    with quiet():
        limited = limit_noise(full, found.graph, frames, progress, half_logits=inputs.half_logits)
    for line in limited.summary:
        progress.step(line)
    record = replace(record, float_layers=limited.float_layers, gap_db=limited.gap_db)
    return replace(found, graph=limited.graph), record
