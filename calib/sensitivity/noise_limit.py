"""A limit for the noise of 8 bits: layers that add too much of it to the logits stay in 16 bits.

    FP32 graph ─▶ logits ─────────────┐
       └ in bfloat16 ─▶ logits ───────┼─▶ gap in dB ─▶ within the limit: the Q/DQ graph as it is
    Q/DQ graph ─▶ logits ─────────────┘             └▶ above it: noise of each layer alone ─▶ mixed graph

The gap is the SQNR of 16 bits less the SQNR of int8 or fp8. Networks amplify noise, whatever produces it:
networks with random weights amplify it a hundred times as much as trained networks. The gap cancels the amplification,
so that it compares networks.
It is measured against bfloat16 everywhere, although some engines compute in float16, which leaves 18 dB more: 8 bits
cannot follow there. A healthy network pays for one pass over a few images, and for a second one where the layer before
the last is int8: its noise goes right into the logits, and has a limit of its own where the gap is small enough.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.calib.quantization.layerwise import LayerwiseRun, logits_of
from vitedge.calib.sensitivity.paired_graphs import PairedGraphs, PairedLayer, mixed, pair_graphs
from vitedge.calib.sensitivity.result import LayerNoise, by_noise_per_product, relative_noise
from vitedge.calib.sensitivity.sensitivity import Floats, measure_noise
from vitedge.counts import counted
from vitedge.graph.layers import linear_layers
from vitedge.graph.rounding import rounded
from vitedge.graph.values import bodies
from vitedge.metrics import sqnr_db
from vitedge.progress import Progress, Silent

if TYPE_CHECKING:
    import onnx

LARGEST_GAP_DB = 8.0
"""Largest gap that is left alone: six times the noise of 16 bits. Engines fuse operators and round otherwise than the
graph says, which leaves up to 2 dB more in their own results. A healthy int8, such as DeiT-Tiny's, has 6.5 dB."""

WIDE_GAP_DB = 10.0
"""Gap from which on a warning is given."""

MOST_PRODUCTS = 0.25
"""Largest share of the multiply-accumulates that goes back to 16 bits. They take about twice as long there, so that a
quarter of them costs a quarter of the time of all. ``fp16`` serves a network better that needs more."""

LARGEST_END_NOISE = 0.1
"""Largest noise that the layer before the last may add in 8 bits, as a share of the noise of all others: 0.4 dB."""

MEASURED_FRAMES = 8
"""Frames that the layers are measured on, each alone; the graph that comes out is measured on all."""

ROUNDS = 5
"""How often layers are chosen."""


@dataclass(frozen=True)
class LimitedNoise:
    """A quantized graph whose noise was compared with the noise of 16 bits.

    Attributes:
        graph: with Q/DQ.
        gap_db: SQNR of the logits in bfloat16, less the SQNR of ``graph`` with the rest in bfloat16.
        float_layers: names of the layers that stay in 16 bits, those with most noise for each product first.
        share: of the multiply-accumulates of all quantized layers, 0…1, that are in 16 bits.
        gap_before_db: the gap with all layers in 8 bits.
    """

    graph: onnx.ModelProto
    gap_db: float
    float_layers: tuple[str, ...]
    share: float
    gap_before_db: float

    @property
    def summary(self) -> tuple[str, ...]:
        """Say which layers stay in 16 bits, and whether a gap remains; no lines if 8 bits lose little."""
        lines = []
        if self.float_layers:
            lines.append(
                f"in 16 bits stay {counted(len(self.float_layers), 'layer')}, with {100 * self.share:.0f} % of the "
                f"products: {', '.join(self.float_layers)}. 8 bits are {self.gap_db:.1f} dB behind 16 bits, instead of "
                f"{self.gap_before_db:.1f}"
            )
        if self.gap_db > WIDE_GAP_DB:
            lines.append(
                f"warning: 8 bits are {self.gap_db:.1f} dB behind 16 bits. precision='auto' finds out whether int8 is "
                "good enough, precision='fp16' loses less"
            )
        return tuple(lines)


def limit_noise(
    full: onnx.ModelProto,
    quantized: onnx.ModelProto,
    frames: NDArray[np.uint8],
    progress: Progress = Silent(),  # noqa: B008
    *,
    half_logits: Floats | None = None,
) -> LimitedNoise:
    """Leave layers in floating point until 8 bits are at most ``LARGEST_GAP_DB`` behind bfloat16.

    Args:
        full: FP32; uint8 ``frame`` in, ``logits`` out.
        quantized: with Q/DQ, made from it.
        frames: ``(N,H,W,3)`` uint8, preprocessed; a few.
        progress: told of the layers, if there are any.
        half_logits: ``(N, classes)``, what the engine makes of the frames in bfloat16; None to round every value, which
            leaves up to 4 dB less, because engines fuse operators.

    Returns:
        The quantized graph itself where the gap is small enough, but with the layer before the last in floating point
        if it adds more than ``LARGEST_END_NOISE``. Otherwise the fewest products that close the gap are
        back in floating point, ``MOST_PRODUCTS`` at most: the gap may remain.

    Raises:
        ConversionError: ONNX Runtime cannot run a graph.
    """
    meter = _Meter.of(full, frames, half_logits)
    noise = meter.noise(quantized)
    before = meter.gap_db(noise)
    pair = pair_graphs(full, quantized)
    if before <= LARGEST_GAP_DB:
        return _without_noisy_end(pair, meter, noise)
    count = counted(len(pair.layers), "layer")
    progress.step(f"8 bits are {before:.1f} dB behind 16 bits: measuring the noise of each of {count}")
    layers = by_noise_per_product(measure_noise(pair, frames[:MEASURED_FRAMES], progress))
    names, graph, after = _mix(pair, layers, meter, noise)
    share = _products([each for each in layers if each.name in names]) / _products(layers)
    return LimitedNoise(graph, meter.gap_db(after), names, share, before)


@dataclass(frozen=True)
class _Meter:
    """Measures the noise of graphs, as energy in the logits relative to the energy of the logits.

    Attributes:
        reference: logits of the FP32 graph.
        frames: to measure on.
        half: noise of 16 bits.
    """

    reference: Floats
    frames: NDArray[np.uint8]
    half: float

    @classmethod
    def of(cls, full: onnx.ModelProto, frames: NDArray[np.uint8], half_logits: Floats | None) -> _Meter:
        reference = logits_of(ir.from_proto(full), frames)
        if half_logits is None:
            half_logits = logits_of(ir.from_proto(rounded(full, "bf16")), frames)
        return cls(reference, frames, relative_noise(sqnr_db(reference, half_logits)))

    @property
    def allowed(self) -> float:
        """Return the noise of quantizers that leaves a gap of ``LARGEST_GAP_DB``."""
        return self.half * (relative_noise(-LARGEST_GAP_DB) - 1)

    def noise(self, graph: onnx.ModelProto) -> float:
        """Measure the noise of a graph's quantizers."""
        return relative_noise(sqnr_db(self.reference, logits_of(ir.from_proto(graph), self.frames)))

    def gap_db(self, noise: float) -> float:
        """Return the gap of a graph: its engine adds the noise of 16 bits to the noise of the quantizers."""
        return float(10 * np.log10((noise + self.half) / self.half))


def _without_noisy_end(pair: PairedGraphs, meter: _Meter, noise: float) -> LimitedNoise:
    """Leave the layer before the last in floating point if it adds too much to the noise of all others.

    Args:
        pair: the graphs.
        meter: to measure with.
        noise: of the quantized graph.
    """
    gap_db = meter.gap_db(noise)
    healthy = LimitedNoise(pair.quantized, gap_db, (), 0.0, gap_db)
    names = [layer.name for layer in linear_layers(pair.full_model.graph)][-2:-1]
    end = next((layer for layer in pair.layers if layer.name in names and not _is_in_branch(layer)), None)
    if end is None:
        return healthy
    graph = mixed(pair, names)
    without = meter.noise(graph)
    if noise <= (1 + LARGEST_END_NOISE) * without:
        return healthy
    products = _products_by_name(pair, meter.frames)
    share = products[end.name] / sum(products.values())
    return LimitedNoise(graph, meter.gap_db(without), (end.name,), share, gap_db)


def _products_by_name(pair: PairedGraphs, frames: NDArray[np.uint8]) -> dict[str, int]:
    """Count the multiply-accumulates of every quantized layer, by one pass of a frame."""
    run = LayerwiseRun(pair.full_model, frames[:1])
    run.advance(None, keep={layer.result for layer in pair.layers})
    return {layer.name: layer.fan_in * run.values[0][layer.result].size for layer in pair.layers}


def _mix(
    pair: PairedGraphs, layers: Sequence[LayerNoise], meter: _Meter, before: float
) -> tuple[tuple[str, ...], onnx.ModelProto, float]:
    """Choose layers for 16 bits until the measured noise is allowed, or no more of them fit.

    The noise of layers alone does not quite add up to the noise of all. The sum is compared with what was measured
    before, and after each choice.

    Returns:
        Their names, the mixed graph and its noise.
    """
    fixed = {layer.name for layer in pair.layers if _is_in_branch(layer)}
    left, noise = sum(layer.noise for layer in layers), before
    for _ in range(ROUNDS):
        names = _noisiest(layers, left * meter.allowed / noise, fixed)
        graph = mixed(pair, names)
        noise = meter.noise(graph)
        if noise <= meter.allowed:
            break
        left = sum(layer.noise for layer in layers if layer.name not in names)
    return names, graph, noise


def _is_in_branch(layer: PairedLayer) -> bool:
    """Decide whether a branch or a loop computes what the layer reads: ``mixed`` cannot copy those."""
    return any(True for node in layer.full.nodes for _ in bodies(node))


def _noisiest(layers: Sequence[LayerNoise], allowed: float, fixed: Collection[str]) -> tuple[str, ...]:
    """Take layers from the first on until the others are within what is allowed.

    Args:
        layers: in the order in which they are taken.
        allowed: noise that the other layers may make.
        fixed: names of layers that cannot be taken.

    Returns:
        Names; a layer that would exceed ``MOST_PRODUCTS`` is left out, and smaller ones behind it are not.
    """
    left, room = sum(layer.noise for layer in layers), MOST_PRODUCTS * _products(layers)
    names = []
    for layer in layers:
        if left <= allowed:
            break
        if layer.multiplications <= room and layer.name not in fixed:
            names.append(layer.name)
            left, room = left - layer.noise, room - layer.multiplications
    return tuple(names)


def _products(layers: Sequence[LayerNoise]) -> int:
    return sum(layer.multiplications for layer in layers)
