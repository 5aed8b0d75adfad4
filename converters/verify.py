"""Checks before a bundle is published: the graph against the source, the engine against the graph.

``vitedge.converters.precision_gate`` compares the precision with fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.targets import Precision
from vitedge.bundle.verification_records import LEAST_DEMANDED_DB
from vitedge.converters.reference import check_reference
from vitedge.converters.rewrites.apply import check_export
from vitedge.errors import ConversionError
from vitedge.metrics import Parity, parity
from vitedge.safety.limits import GOLDEN_BYTES, MIB

Frames = NDArray[np.uint8]
Logits = NDArray[np.float32]

GOLDEN_FRAMES = 8
LOGITS_BYTES = 4 * MIB
"""Space for the logits of the golden frames, also of the 16-bit twin: enough for 65,000 classes."""
SYNTHETIC_SEED = 2026
CONTRAST = 64.0


@dataclass(frozen=True)
class EngineGate:
    """The SQNR that an engine must reach against ``model.onnx`` in ONNX Runtime, in dB over the golden vectors.

    Attributes:
        floor: the SQNR that the converting host must reach. With swapped channels, trained ViTs reach less.
        cap: the highest SQNR that is demanded of a device, because its CPU may round otherwise than the host's.
        random_floor: the floor for random weights, which amplify rounding more than trained weights.
    """

    floor: float
    cap: float
    random_floor: float


ENGINE_GATES: Mapping[Precision, EngineGate] = {
    "fp32": EngineGate(floor=50.0, cap=60.0, random_floor=50.0),
    "fp16": EngineGate(floor=20.0, cap=25.0, random_floor=LEAST_DEMANDED_DB),
    "int8": EngineGate(floor=18.0, cap=20.0, random_floor=LEAST_DEMANDED_DB),
    "fp8": EngineGate(floor=18.0, cap=20.0, random_floor=LEAST_DEMANDED_DB),
}
MARGIN_DB = 6.0

UNEXPLAINED_DB = 10.0
"""An engine that computes in 16 bits may be worse by this than the graph with every value rounded; most are better."""
ROUNDED_DB = 40.0
"""An engine that computes in 16 bits and reaches this is right: each value rounded to bfloat16 leaves 48 dB or more."""


def golden_frames(frames: Frames) -> Frames:
    """Take the first frames, as many as fit into the golden vectors, at most ``GOLDEN_FRAMES``.

    Args:
        frames: ``(N,H,W,3)`` uint8.

    Raises:
        ConversionError: not even one fits.
    """
    fitting = (GOLDEN_BYTES - LOGITS_BYTES) // frames[0].nbytes
    if not fitting:
        raise ConversionError(
            f"an input of {frames.shape[1]}x{frames.shape[2]} is too large for a bundle",
            expected=f"at most {GOLDEN_BYTES - LOGITS_BYTES} bytes, 3 a pixel",
            fix="convert with a smaller input_size=",
        )
    return frames[: min(GOLDEN_FRAMES, fitting)]


def synthetic_frames(input_size: tuple[int, int], count: int = GOLDEN_FRAMES) -> Frames:
    """Make deterministic frames for models without photos: 1/f noise, as in natural images, in every channel.

    Args:
        input_size: (H, W) in pixels.
        count: N.

    Returns:
        ``(N,H,W,3)`` uint8. The channels are independent, so that swapped channels show.
    """
    height, width = input_size
    rows, columns = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    generator = np.random.default_rng(SYNTHETIC_SEED)
    white = np.fft.rfft2(generator.standard_normal((count, 3, height, width)))
    pink = np.fft.irfft2(white / frequency, s=(height, width))
    pink *= CONTRAST / pink.std(axis=(2, 3), keepdims=True)
    level = generator.uniform(64, 192, (count, 3, 1, 1))
    return np.ascontiguousarray(np.clip(np.rint(pink + level), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def check_source(source: Logits, graph: Logits) -> Parity:
    """Compare the FP32 graph with the model as it was given.

    Args:
        source: ``(N, classes)`` logits of PyTorch, or of an ONNX file as given in ONNX Runtime.
        graph: ``(N, classes)`` logits of the graph.

    Raises:
        ConversionError: they differ by more than rounding, or the logits of the source are not finite or all equal.
    """
    check_reference(source, "the model")
    difference = parity(source, graph)
    check_export(difference)
    return difference


def demanded_sqnr(golden: Logits, reached: Logits, precision: Precision, *, random_weights: bool = False) -> float:
    """Compute the SQNR in dB that the bundle demands of every engine: the SQNR on this host, less a margin.

    Args:
        golden: ``(N, classes)`` logits of ``model.onnx`` in ONNX Runtime.
        reached: ``(N, classes)`` logits of the engine that was compiled from it.
        precision: of the bundle.
        random_weights: whether the weights of the model are random; then little is demanded.

    Raises:
        ConversionError: the engine does not compute what the graph says, or golden logits are not finite or all equal.
    """
    check_reference(golden, f"the {precision} graph")
    gate = ENGINE_GATES[precision]
    floor = gate.random_floor if random_weights else gate.floor
    sqnr = parity(golden, reached).sqnr_db
    if not sqnr >= floor:
        raise ConversionError(
            f"the engine differs from its graph in {precision}: SQNR {sqnr:.1f} dB",
            expected=f"at least {floor:.0f} dB",
            fix="try precision='fp32', or another version of the engine's library",
        )
    return max(floor, min(sqnr - MARGIN_DB, gate.cap))


def check_explained(golden: Logits, reached: Logits, rounded: Logits) -> None:
    """Compare an engine that computes in 16 bits with what their rounding alone does.

    Args:
        golden: ``(N, classes)`` logits of ``model.onnx`` in ONNX Runtime.
        reached: ``(N, classes)`` logits of the engine.
        rounded: ``(N, classes)`` logits of ``model.onnx`` in ONNX Runtime with every value rounded to 16 bits.

    Raises:
        ConversionError: the engine is worse by more than ``UNEXPLAINED_DB``, and below ``ROUNDED_DB``: it computes an
            operator otherwise.
    """
    explained, found = parity(golden, rounded).sqnr_db, parity(golden, reached).sqnr_db
    if not found >= min(explained - UNEXPLAINED_DB, ROUNDED_DB):
        raise ConversionError(
            f"the engine differs from its graph by more than 16-bit rounding explains: SQNR {found:.1f} dB",
            expected=f"about {explained:.1f} dB, which the graph reaches with every value rounded",
            fix="try precision='fp32', or another version of the engine's library",
        )
