"""Equalization of a LayerNormalization's channels to one range, so that a single scale serves them all; exact.

``(γ·x̂ + β − shift) / scale`` needs no operator of its own: γ and β take it up, and the weights and biases of *all*
layers that read the result undo it (the recentring of Li et al., "RepQ-ViT", 2023, with a zero point of 0; the scales
of Xiao et al., "SmoothQuant", 2022). How far the activations are equalized at the cost of the weights is tried out for
each tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Quantizer, Scheme, activation_quantizer, round_weights, weight_scales
from vitedge.graph.edit import drop_input, set_constant
from vitedge.graph.layers import Layer
from vitedge.graph.values import constant, constant_shape, producer_of

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

STRENGTHS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""SmoothQuant's alpha: 0 equalizes the weights, 1 the activations."""

LARGEST_RATIO = 1e6
"""Of the activations' and the weights' largest channel to any other, in the scales: a dead channel needs no scale."""


@dataclass(frozen=True)
class Equalization:
    """The change of each channel: ``(x − shift) / scale``.

    Attributes:
        shift: ``(channels,)``.
        scale: ``(channels,)``, above 0.
    """

    shift: Doubles
    scale: Doubles

    def __call__(self, values: Floats) -> Floats:
        """Equalize values with the channels on the last axis."""
        return np.asarray((values - self.shift) / self.scale, dtype=np.float32)

    def quantizer(self, low: Doubles, high: Doubles, scheme: Scheme) -> Quantizer:
        """Give the quantizer for equalized channels, whose ranges were ``low`` to ``high`` before."""
        lows, highs = (low - self.shift) / self.scale, (high - self.shift) / self.scale
        return activation_quantizer(float(lows.min()), float(highs.max()), scheme)


def equalizations(low: Doubles, high: Doubles, weight: Doubles, *, shifted: bool = True) -> Iterator[Equalization]:
    """Give the candidates: no equalization, and every strength with and without a shift to the middle of each channel.

    Args:
        low: smallest value of each channel, ``(channels,)``.
        high: largest.
        weight: of all readers, ``(out, channels)``.
        shifted: try a shift.
    """
    zeros, peaks = np.zeros(len(low)), np.abs(weight).max(axis=0)
    yield Equalization(zeros, np.ones(len(low)))
    for shift in (zeros, (low + high) / 2)[: 1 + shifted]:
        reach = np.maximum(np.abs(low - shift), np.abs(high - shift))
        for strength in STRENGTHS:
            scale = without_dead(reach) ** strength / without_dead(peaks) ** (1 - strength)
            yield Equalization(shift, scale / np.exp(np.log(scale).mean()))


def best_equalization(
    rows: Floats,
    low: Doubles,
    high: Doubles,
    weight: Doubles,
    scheme: Scheme,
    *,
    shifted: bool = True,
    groups: int = 1,
) -> tuple[Equalization, Quantizer]:
    """Choose the equalization with the smallest squared error of the readers' outputs, inputs and weights quantized.

    Args:
        rows: some of the activations, ``(rows, channels)``.
        low: smallest value of each channel, ``(channels,)``.
        high: largest.
        weight: of all readers, ``(out / groups, channels)``; those of a channel's own group.
        scheme: the kind of quantizer.
        shifted: try a shift of the channels, too.
        groups: of channels; each output sums over the channels of one group.
    """
    columns = _by_group(weight, groups).transpose(0, 2, 1)
    reference = _by_group(rows, groups) @ columns.astype(np.float32)
    reference -= reference.mean(axis=1, keepdims=True)

    def error(candidate: Equalization) -> float:
        scaled = _by_group(weight * candidate.scale, groups)
        flat = scaled.reshape(-1, scaled.shape[-1])
        scales = weight_scales(flat)
        rounded = (round_weights(flat, scales) * scales[:, None]).reshape(scaled.shape)
        outputs = _by_group(candidate.quantizer(low, high, scheme)(candidate(rows)), groups) @ rounded.transpose(
            0, 2, 1
        )
        outputs -= outputs.mean(axis=1, keepdims=True)  # the bias takes up the mean
        return float(np.square(outputs - reference, dtype=np.float64).sum())

    best = min(equalizations(low, high, weight, shifted=shifted), key=error)
    return best, best.quantizer(low, high, scheme)


def _by_group(matrix: NDArray[Any], groups: int) -> NDArray[Any]:
    """Split ``(rows, channels)`` into ``(groups, rows, channels / groups)``."""
    return matrix.reshape(len(matrix), groups, -1).transpose(1, 0, 2)


def layernorm_behind(value: ir.Value, readers: Sequence[Layer]) -> ir.Node | None:
    """Give the LayerNormalization that produces a value, if these layers are all that reads it.

    Args:
        value: what the layers read.
        readers: linear layers; behind a convolution, channels lie on another axis.
    """
    if len(value.uses()) != len(readers) or value.is_graph_output() or any(each.operator == "Conv" for each in readers):
        return None
    norm = producer_of(value, "LayerNormalization")
    if norm is None or norm.outputs[0] is not value:
        return None
    shapes = [constant_shape(each) for each in norm.inputs[1:] if each is not None]
    return norm if all(shape is not None and len(shape) == 1 for shape in shapes) else None


def fold_equalization(model: ir.Model, norm: ir.Node, readers: Sequence[Layer], equalization: Equalization) -> None:
    """Have a LayerNormalization equalize its output, and the readers undo it.

    Args:
        model: changed in place.
        norm: as ``layernorm_behind`` finds it.
        readers: all layers that read it, each with a bias.
        equalization: of its channels.
    """
    scale, offset = constant(norm.inputs[1]), constant(norm.inputs[2]) if len(norm.inputs) > 2 else None
    if scale is None:
        raise ValueError(f"{norm.name} has no constant scale")
    name = norm.outputs[0].name
    set_constant(model, norm, 1, f"{name}_scale", scale / equalization.scale)
    shifted = np.broadcast_to(
        ((0.0 if offset is None else offset) - equalization.shift) / equalization.scale, scale.shape
    )
    if shifted.any():
        set_constant(model, norm, 2, f"{name}_offset", shifted)
    else:
        drop_input(model, norm, 2)
    for layer in readers:
        weight = layer.weight_matrix
        layer.replace_bias(model, layer.bias + weight @ equalization.shift)
        layer.set_weight(model, weight * equalization.scale)


def without_dead(sizes: Doubles) -> Doubles:
    """Raise channels that are next to nothing to a small share of the largest."""
    largest = sizes.max(initial=0.0)
    return np.maximum(sizes, largest / LARGEST_RATIO) if largest > 0 else np.ones(len(sizes))
