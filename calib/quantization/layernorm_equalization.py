"""Equalization of a LayerNormalization's channels to one range, so that a single scale serves them all; exact.

``(γ·x̂ + β − shift) / scale`` needs no operator of its own: γ and β take it up, and the weights and biases of *all*
layers that read the result undo it, also behind windows, shifts and other operators that only copy values (the
recentring of Li et al., "RepQ-ViT", 2023, with a zero point of 0; the scales of Xiao et al., "SmoothQuant", 2022). How
far the activations are equalized at the cost of the weights is tried out for each tensor.

Channels of one range have no room left: before, only the largest channel was clipped when an image exceeded the range
of calibration, now any channel is. So a choice is judged on rows of images that its ranges were not taken from, and the
range may be wider than the range seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import (
    Quantizer,
    Scheme,
    activation_quantizer,
    dequantized,
    round_weights,
    weight_scales,
)
from vitedge.calib.quantization.parallel import parallel_map
from vitedge.calib.quantization.validation_rows import ValidationRows
from vitedge.graph.channels import ZERO, Channels, Reading, input_columns, numbered, trace
from vitedge.graph.edit import drop_input, set_constant
from vitedge.graph.layers import Layer
from vitedge.graph.operators import DATA_MOVEMENT_OPERATORS
from vitedge.graph.values import constant, constant_shape

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

STRENGTHS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""SmoothQuant's alpha: 0 equalizes the weights, 1 the activations."""

MARGINS = (1.0, 1.15, 1.3, 1.5)
"""Ranges that are tried, in parts of the range seen: with room for larger values in other images."""

ROOM, LARGEST_ROOM = 2.0, 0.5
"""Additional room in parts of the range, divided by the number of images, and the most: validation rows of a few images
say little about the images that reach furthest."""

LARGEST_RATIO = 1e6
"""Of the activations' and the weights' largest channel to any other, in the scales: a dead channel needs no scale."""


@dataclass(frozen=True)
class Equalization:
    """The change of each channel: ``(x − shift) / scale``.

    Attributes:
        shift: ``(channels,)``.
        scale: ``(channels,)``, above 0.
        margin: the range of the equalized channels, in parts of the range seen.
    """

    shift: Doubles
    scale: Doubles
    margin: float = 1.0

    def __call__(self, values: Floats) -> Floats:
        """Equalize values with the channels on the last axis."""
        changed = values - self.shift
        changed /= self.scale
        return np.asarray(changed, dtype=np.float32)

    def undone(self, values: Floats) -> Floats:
        """Give the values that were equalized, with the channels on the last axis."""
        changed = values * self.scale
        changed += self.shift
        return np.asarray(changed, dtype=np.float32)

    def of(self, columns: NDArray[np.intp]) -> Equalization:
        """Return the equalization of columns that hold copies of the channels, ``(columns,)``."""
        return replace(self, shift=self.shift[columns], scale=self.scale[columns])

    def of_copies(self, values: Floats, channels: Channels) -> Floats:
        """Equalize a value that holds copies of the channels, wherever they are; other values stay.

        Args:
            values: of any shape.
            channels: of the same shape, as in ``vitedge.graph.channels.Reading``.
        """
        copied, index = channels > ZERO, np.maximum(channels, 1) - 1
        return np.where(copied, (values - self.shift[index]) / self.scale[index], values).astype(np.float32)

    def with_room(self, images: int) -> Equalization:
        """Return the equalization with additional room, for ranges that were taken from so many images."""
        return replace(self, margin=self.margin * (1 + min(LARGEST_ROOM, ROOM / images)))

    def quantizer(self, low: Doubles, high: Doubles, scheme: Scheme) -> Quantizer:
        """Give the quantizer for equalized channels, whose ranges were ``low`` to ``high`` before, with the margin."""
        lows, highs = (low - self.shift) / self.scale, (high - self.shift) / self.scale
        return activation_quantizer(self.margin * float(lows.min()), self.margin * float(highs.max()), scheme)


def equalizations(
    low: Doubles, high: Doubles, weight: Doubles, *, shifted: bool = True, centre: Doubles | None = None
) -> Iterator[Equalization]:
    """Give the candidates: no equalization, and every strength with and without a shift.

    Args:
        low: smallest value of each channel, ``(channels,)``.
        high: largest.
        weight: of all readers, ``(out, channels)``.
        shifted: try a shift.
        centre: the shift, ``(channels,)``; by default the middle of each channel's range.
    """
    zeros, peaks = np.zeros(len(low)), np.abs(weight).max(axis=0)
    middle = (low + high) / 2 if centre is None else centre
    yield Equalization(zeros, np.ones(len(low)))
    for shift in (zeros, middle)[: 1 + shifted]:
        reach = np.maximum(np.abs(low - shift), np.abs(high - shift))
        for strength in STRENGTHS:
            scale = without_dead(reach) ** strength / without_dead(peaks) ** (1 - strength)
            yield Equalization(shift, scale / np.exp(np.log(scale).mean()))


@dataclass(frozen=True)
class ChosenEqualization:
    """An equalization that was chosen.

    Attributes:
        equalization: of the ranges of all images.
        judged: the same choice, of the ranges that it was judged with.
    """

    equalization: Equalization
    judged: Equalization


def best_equalization(
    rows: ValidationRows,
    low: Doubles,
    high: Doubles,
    weight: Doubles,
    scheme: Scheme,
    *,
    shifted: bool = True,
    centre: Doubles | None = None,
    groups: int = 1,
) -> ChosenEqualization:
    """Choose the equalization with the smallest squared error of the readers' outputs, inputs and weights quantized.

    The errors of inputs and of weights are taken for independent.

    Args:
        rows: some of the activations.
        low: smallest value of each channel in all images, ``(channels,)``.
        high: largest.
        weight: of all readers, ``(out / groups, channels)``; only the weights of a channel's own group.
        scheme: the kind of quantizer.
        shifted: try a shift of the channels, too.
        centre: the shift, ``(channels,)``; by default the middle of each channel's range.
        groups: of channels; each output sums over the channels of one group.
    """
    errors = _OutputErrors.of(rows, weight, groups)
    judged, found = (
        list(equalizations(*ends, weight, shifted=shifted, centre=centre))
        for ends in ((rows.low, rows.high), (low, high))
    )
    margins = MARGINS[:1] if scheme is Scheme.FLOAT8 else MARGINS  # float8 ranges have room anyway

    def by_margin(equalization: Equalization) -> list[float]:
        by_weights = errors.of_weights(equalization.scale, scheme)
        return [by_weights + each for each in errors.of_inputs(equalization, margins, scheme)]

    choices = itertools.product(range(len(judged)), margins)
    sizes = dict(zip(choices, itertools.chain.from_iterable(parallel_map(by_margin, judged)), strict=True))
    position, margin = min(sizes, key=sizes.__getitem__)
    return ChosenEqualization(*(replace(each[position], margin=margin) for each in (found, judged)))


@dataclass(frozen=True)
class _OutputErrors:
    """Squared errors of the outputs of layers, without their mean: the biases take that up.

    Attributes:
        rows: that the layers read.
        weight: of all readers, ``(out / groups, channels)``.
        groups: of channels.
        gram: of the centred rows, ``(groups, channels / groups, channels / groups)``.
        weight_gram: of the weights' columns, likewise.
    """

    rows: ValidationRows
    weight: Doubles
    groups: int
    gram: Floats
    weight_gram: Floats

    @classmethod
    def of(cls, rows: ValidationRows, weight: Doubles, groups: int) -> _OutputErrors:
        centred = _by_group(_centred(rows.values, rows.shares) * np.sqrt(rows.shares), groups)
        split = _by_group(weight, groups)
        gram, weight_gram = (each.transpose(0, 2, 1) @ each for each in (centred, split))
        return cls(rows, weight, groups, gram, weight_gram.astype(np.float32))

    def of_inputs(self, equalization: Equalization, margins: Sequence[float], scheme: Scheme) -> Iterator[float]:
        """Measure what the quantizer of the rows changes for each margin, judged with the range of other images."""
        equalized, spread = equalization(self.rows.values), np.sqrt(self.rows.shares)
        for margin in margins:
            quantizer = replace(equalization, margin=margin).quantizer(self.rows.low, self.rows.high, scheme)
            change = equalization.undone(quantizer(equalized))
            change -= self.rows.values
            centred = _centred(change, self.rows.shares)
            centred *= spread
            yield _energy(_by_group(centred, self.groups), self.weight_gram)

    def of_weights(self, scale: Doubles, scheme: Scheme) -> float:
        """Measure what rounding the weights changes, behind channels that were divided by the scale."""
        scaled = _by_group(self.weight * scale, self.groups)
        flat, grid = scaled.reshape(-1, scaled.shape[-1]), scheme.weight_grid
        scales = weight_scales(flat, grid)
        change = (dequantized(round_weights(flat, scales, grid), scales) - flat).reshape(scaled.shape)
        return _energy(change / scale.reshape(self.groups, 1, -1), self.gram)


def _centred(values: Floats, shares: Floats) -> Floats:
    return np.asarray(values - (shares * values).sum(axis=0))


def _energy(rows: NDArray[Any], gram: Floats) -> float:
    """Sum up ``r G rᵀ`` over the rows of all groups, ``(groups, rows, channels)``."""
    return float(((rows.astype(np.float32, copy=False) @ gram) * rows).sum(dtype=np.float64))


def _by_group(matrix: NDArray[Any], groups: int) -> NDArray[Any]:
    """Split ``(rows, channels)`` into ``(groups, rows, channels / groups)``."""
    return np.asarray(matrix.reshape(len(matrix), groups, -1).transpose(1, 0, 2))


@dataclass(frozen=True)
class ReadNorm:
    """A LayerNormalization whose channels are read by layers alone, directly or behind operators that copy values.

    Attributes:
        node: the normalization.
        readers: every layer that reads it, with the channel of each of its input columns, ``(in,)``, counted from 0.
        values: the channels of every value that holds copies of them, as in ``vitedge.graph.channels.Reading``.
        shiftable: whether the channels may be shifted: no zeros are padded beside them.
    """

    node: ir.Node
    readers: tuple[tuple[Layer, NDArray[np.intp]], ...]
    values: Mapping[ir.Value, Channels]
    shiftable: bool

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        shape = constant_shape(self.node.inputs[1])
        assert shape is not None
        return shape[0]

    def columns_of(self, tensor: ir.Value) -> NDArray[np.intp]:
        """Return the channel of each column of a tensor that a layer reads, ``(in,)``."""
        return next(columns for layer, columns in self.readers if layer.data is tensor)


def norm_behind(value: ir.Value) -> ir.Node | None:
    """Find the LayerNormalization that a value comes from, directly or through operators that copy values."""
    while (producer := value.producer()) is not None:
        if producer.op_type == "LayerNormalization" and producer.outputs[0] is value:
            return producer
        if producer.op_type not in DATA_MOVEMENT_OPERATORS or producer.inputs[0] is None:
            return None
        value = producer.inputs[0]
    return None


def read_norm(graph: ir.Graph, norm: ir.Node, layers: Collection[Layer]) -> ReadNorm | None:
    """Find all readers of a LayerNormalization; None unless they are layers that can undo an equalization.

    None as well where a copy of its channels has no reader any more: a layer behind it was quantized already.

    Args:
        graph: in topological order.
        norm: the normalization.
        layers: the linear layers and convolutions of the graph, each with a bias.
    """
    shapes = [constant_shape(each) for each in norm.inputs[1:] if each is not None]
    numbers = numbered(norm.outputs[0], -1)
    if numbers is None or not all(shape is not None and len(shape) == 1 for shape in shapes):
        return None
    found = trace(graph, norm.outputs[0], numbers)
    if any(not value.uses() and not value.is_graph_output() for value in found.values):
        return None  # a layer read it, and reads its quantized copy by now
    readers = [_reader(reading, layers) for reading in found.readings]
    if not readers or any(each is None for each in readers):
        return None
    padded = any((channels == ZERO).any() for channels in found.values.values())
    known = tuple(each for each in readers if each is not None)
    return ReadNorm(norm, known, found.values, not padded and not any(layer.pads() for layer, _ in known))


def _reader(reading: Reading, layers: Collection[Layer]) -> tuple[Layer, NDArray[np.intp]] | None:
    layer = reading.layer
    columns = None if layer is None else input_columns(layer, reading.channels)
    if layer is None or layer not in layers or columns is None or (columns == ZERO).any():
        return None
    return layer, columns.astype(np.intp) - 1


def fold_equalization(model: ir.Model, norm: ReadNorm, equalization: Equalization) -> None:
    """Make a LayerNormalization equalize its output, and its readers undo it.

    Args:
        model: changed in place.
        norm: the normalization with its readers.
        equalization: of its channels.
    """
    node = norm.node
    scale, offset = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scale is None:
        raise ValueError(f"{node.name} has no constant scale")
    name = node.outputs[0].name
    set_constant(model, node, 1, f"{name}_scale", scale / equalization.scale)
    shifted = np.broadcast_to(
        ((0.0 if offset is None else offset) - equalization.shift) / equalization.scale, scale.shape
    )
    if shifted.any():
        set_constant(model, node, 2, f"{name}_offset", shifted)
    else:
        drop_input(model, node, 2)
    for layer, columns in norm.readers:
        read = equalization.of(columns)
        layer.replace_bias(model, layer.bias + layer.response(read.shift))
        layer.scale_inputs(model, read.scale)


def without_dead(sizes: Doubles) -> Doubles:
    """Raise channels that are next to nothing to a small share of the largest."""
    largest = sizes.max(initial=0.0)
    return np.maximum(sizes, largest / LARGEST_RATIO) if largest > 0 else np.ones(len(sizes))
