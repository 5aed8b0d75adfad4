"""Channels of a tensor brought to one range, so that a single scale serves them all; exact.

``(γ·x̂ + β − shift) / scale`` needs no operator of its own: γ and β take it up, and the weights and biases of *all*
layers that read the result take it back (the recentring of Li et al., "RepQ-ViT", 2023, with a zero point of 0; the
scales of Xiao et al., "SmoothQuant", 2022). How far the activations give way to the weights is tried out for
each tensor.

Before convolutions a multiplication of the channels does it (``best_scaling``), where the engine computes that along
with the operator before it: an activation function, a convolution, a residual addition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Quantizer, Scheme, activation_quantizer, round_weights, weight_scales
from vitedge.calib.quantization.placement import Layer
from vitedge.calib.quantization.working_graph import WorkingGraph

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

STRENGTHS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""SmoothQuant's alpha: 0 evens out the weights, 1 the activations."""

LARGEST_RATIO = 1e6
"""Of the activations' and the weights' largest channel to any other, in the scales: a dead channel needs no scale."""

LARGEST_FACTOR = 100.0
"""Of one channel to another, in ``best_scaling``: what calibration hardly saw of a channel, other images may hold."""


@dataclass(frozen=True)
class Equalization:
    """What becomes of each channel: ``(x − shift) / scale``.

    Attributes:
        shift: ``(channels,)``.
        scale: ``(channels,)``, above 0.
    """

    shift: Doubles
    scale: Doubles

    def __call__(self, values: Floats) -> Floats:
        """Values with the channels on the last axis."""
        return np.asarray((values - self.shift) / self.scale, dtype=np.float32)

    def quantizer(self, low: Doubles, high: Doubles, scheme: Scheme) -> Quantizer:
        """For channels of these extremes, equalized."""
        lows, highs = (low - self.shift) / self.scale, (high - self.shift) / self.scale
        return activation_quantizer(float(lows.min()), float(highs.max()), scheme)


def equalizations(low: Doubles, high: Doubles, weight: Doubles, *, shifted: bool = True) -> Iterator[Equalization]:
    """Those worth trying: none at all, and every strength with and without a shift to the middle of each channel.

    Args:
        low: smallest value of each channel, ``(channels,)``.
        high: largest.
        weight: of all readers, ``(out, channels)``.
        shifted: try a shift.
    """
    nothing, peaks = np.zeros(len(low)), np.abs(weight).max(axis=0)
    yield Equalization(nothing, np.ones(len(low)))
    for shift in (nothing, (low + high) / 2)[: 1 + shifted]:
        reach = np.maximum(np.abs(low - shift), np.abs(high - shift))
        for strength in STRENGTHS:
            scale = _floored(reach) ** strength / _floored(peaks) ** (1 - strength)
            yield Equalization(shift, scale / np.exp(np.log(scale).mean()))


def best_scaling(rows: Floats, low: Doubles, high: Doubles, weight: Doubles, scheme: Scheme, *, groups: int) -> Doubles:
    """What channels are best divided by so that one scale serves them all, their weights multiplied in return.

    A channel of a depthwise convolution has outputs of its own, whose scales of the weights take up all: the channels
    are brought to exactly one range. Elsewhere weights have to pay, and the layers' outputs decide how much.

    Args:
        rows: some of the activations, ``(rows, channels)``.
        low: smallest value of each channel, ``(channels,)``.
        high: largest.
        weight: of all readers, by input channel, ``(·, channels)``; only those of its group.
        scheme: the kind of quantizer.
        groups: of the readers.
    """
    if groups > 1:
        scale = _floored(np.maximum(-low, high))
    else:
        scale = best_equalization(rows, low, high, weight, scheme, shifted=False)[0].scale
    return np.asarray(np.maximum(scale, scale.max() / LARGEST_FACTOR))


def best_equalization(
    rows: Floats, low: Doubles, high: Doubles, weight: Doubles, scheme: Scheme, *, shifted: bool = True
) -> tuple[Equalization, Quantizer]:
    """The equalization with the smallest squared error of the readers' outputs, inputs and weights quantized.

    Args:
        rows: some of the activations, ``(rows, channels)``.
        low: smallest value of each channel, ``(channels,)``.
        high: largest.
        weight: of all readers, ``(out, channels)``.
        scheme: the kind of quantizer.
        shifted: try a shift of the channels, too.
    """
    reference = rows @ weight.T.astype(np.float32)
    reference -= reference.mean(axis=0)

    def error(candidate: Equalization) -> float:
        scaled = weight * candidate.scale
        scales = weight_scales(scaled)
        rounded = round_weights(scaled, scales) * scales[:, None]
        outputs = candidate.quantizer(low, high, scheme)(candidate(rows)) @ rounded.T
        outputs -= outputs.mean(axis=0)  # the bias takes up the mean
        return float(np.square(outputs - reference, dtype=np.float64).sum())

    best = min(equalizations(low, high, weight, shifted=shifted), key=error)
    return best, best.quantizer(low, high, scheme)


def normalization_behind(graph: WorkingGraph, readers: Sequence[Layer]) -> int | None:
    """Position of the LayerNormalization that makes what the layers read, if they are all that reads it."""
    name = readers[0].data
    uses = sum(each == name for node in graph.nodes for each in node.input)
    uses += sum(output.name == name for output in graph.model.graph.output)
    if uses != len(readers) or any(layer.operator == "Conv" for layer in readers):
        return None
    for position, node in enumerate(graph.nodes):
        if name in node.output:
            affine = [each for each in node.input[1:] if each]
            sizes = [graph.constants[each].ndim for each in affine if each in graph.constants]
            known = node.op_type == "LayerNormalization" and sizes == [1] * len(affine)
            return position if known and node.output[0] == name else None
    return None


def fold(graph: WorkingGraph, position: int, readers: Sequence[Layer], equalization: Equalization) -> None:
    """Have the LayerNormalization at ``position`` equalize, and its readers undo it."""
    norm = graph.nodes[position]
    scale = graph.constants[norm.input[1]].astype(np.float64)
    offset = graph.constants[norm.input[2]].astype(np.float64) if len(norm.input) > 2 and norm.input[2] else 0.0
    name = norm.output[0]
    affine = [graph.add(f"{name}_scale", (scale / equalization.scale).astype(np.float32))]
    shifted = np.broadcast_to((offset - equalization.shift) / equalization.scale, scale.shape)
    if shifted.any():
        affine.append(graph.add(f"{name}_offset", shifted.astype(np.float32)))
    norm.input[:] = [norm.input[0], *affine]
    for layer in readers:
        weight = graph.weight(layer)
        graph.set_bias(layer, graph.bias(layer) + weight @ equalization.shift)
        graph.set_weight(layer, weight * equalization.scale)


def _floored(sizes: Doubles) -> Doubles:
    """Without the channels that are next to nothing."""
    largest = sizes.max(initial=0.0)
    return np.maximum(sizes, largest / LARGEST_RATIO) if largest > 0 else np.ones(len(sizes))
