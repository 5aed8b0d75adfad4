"""What differs between backends on the road to a bundle: a module each, and a line in ``BACKENDS``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.manifest import CalibrationRecord
from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.targets import Precision, Target
from vitedge.calib.data.dataset import CalibrationImages
from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.ptq import QuantizedGraph, quantize
from vitedge.converters.quiet import quiet
from vitedge.converters.reference import Frames, Logits
from vitedge.converters.rewrites.apply import Rewrite
from vitedge.errors import UsageError
from vitedge.progress import Progress
from vitedge.runtime.engines.base import Engine


@dataclass(frozen=True)
class Reduced:
    """A graph in the precision asked for.

    Attributes:
        graph: ``model.onnx``.
        calibration: how it was calibrated; None if it was not.
        unrounded: logits of the golden frames with all but the quantizers in float32, where the graph itself rounds to
            16 bits: an engine may round otherwise, and differ by as much. None where the compiled engine, which the
            host has, shows how much it differs.
        twin: the 16-bit graph that goes with an 8-bit one; None where none does.
    """

    graph: onnx.ModelProto
    calibration: CalibrationRecord | None
    unrounded: Logits | None = None
    twin: Reduced | None = None


@dataclass(frozen=True)
class Material:
    """What a graph is reduced with.

    Attributes:
        graph: FP32; uint8 ``frame`` in, ``logits`` out.
        card: its preprocessing.
        frames: ``(N,H,W,3)`` uint8, photos or synthetic.
        golden: the first of them, which the bundle keeps.
        photos: all of them; None without ``--calib``.
    """

    graph: onnx.ModelProto
    card: ModelCard
    frames: Frames
    golden: Frames
    photos: CalibrationImages | None


class Backend(Protocol):
    """A module that compiles graphs, or makes them for a device that compiles them.

    Attributes:
        WRITES: what it writes, for people.
        COMPARES: what stands for the device on this host, for people.
        REWRITES: exact rewrites that pay with its engine alone; they come after those for all.
    """

    WRITES: str
    COMPARES: str
    REWRITES: tuple[Rewrite, ...]

    def check_operators(self, graph: onnx.ModelProto) -> None:
        """Refuse a graph that it cannot compile, before more work goes into it; raises ConversionError."""

    def reduce(self, material: Material, precision: Precision, progress: Progress) -> Reduced:
        """The graph in a precision."""

    def computed(self, graph: onnx.ModelProto) -> onnx.ModelProto:
        """The graph in the form in which ONNX Runtime computes what it says: golden logits are taken from that."""

    def write(self, folder: Path, card: ModelCard, precision: Precision) -> None:
        """Write what it compiled beside ``model.onnx`` and all else that the bundle's folder holds already."""

    def open_host_engine(self, bundle: Bundle) -> Engine:
        """What the bundle is verified and evaluated with on this host."""


BACKENDS: Mapping[str, str] = {
    "openvino": "vitedge.converters.openvino.backend",
    "tensorrt": "vitedge.converters.tensorrt.backend",
}


def backend_of(target: Target) -> Backend:
    """The backend that compiles for a target."""
    backend: Backend = importlib.import_module(BACKENDS[target.backend])
    return backend


def quantized(material: Material, scheme: Scheme, progress: Progress) -> tuple[QuantizedGraph, CalibrationRecord]:
    """The graph in int8, and the record of how.

    Raises:
        UsageError: there are no photos.
        CalibrationError: see ``quantize``.
    """
    photos = material.photos
    if photos is None:
        raise UsageError("int8 needs images to calibrate with", fix="--calib DIR")
    progress.step(f"calibrating on {len(photos)} images")
    with quiet():
        found = quantize(material.graph, photos.frames, scheme=scheme, progress=progress)
    return found, CalibrationRecord(len(photos), photos.skipped, photos.sha256, found.recipe)
