"""On how many images ranges are tried: fewer for large networks, so that the search of one takes minutes.

A search runs the rest of the network for each candidate of each tensor. A network of the size of DeiT-Tiny is searched
on as many images as pay, a larger one on fewer, in proportion to its products.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vitedge.graph.attributes import integers
from vitedge.graph.layers import Layer

SMALL = 1.5e9
"""Multiply-accumulates up to which a network is searched on all images."""


@dataclass(frozen=True)
class SearchBudget:
    """How thoroughly ranges are searched.

    Attributes:
        first: images that every candidate is tried on; what is far off shows at once.
        images: that the closest candidates are tried on.
    """

    first: int
    images: int


LARGEST, SMALLEST = SearchBudget(4, 16), SearchBudget(1, 4)


def budget_for(macs: int) -> SearchBudget:
    """Give the budget for a network of so many multiply-accumulates an image."""
    share = min(1.0, SMALL / max(macs, 1))
    first, images = round(LARGEST.first * share), round(LARGEST.images * share)
    return SearchBudget(max(SMALLEST.first, first), max(SMALLEST.images, images))


def multiply_accumulates(layers: Iterable[Layer], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the multiply-accumulates of layers for one image; padding counts as if it kept the size.

    Args:
        layers: to count.
        shapes: of the tensors that they read, ``(1, …)``, by name.
    """
    return sum(math.prod(layer.weight_shape) * _places(layer, shapes[str(layer.data.name)]) for layer in layers)


def _places(layer: Layer, shape: tuple[int, ...]) -> int:
    """Return how often a layer applies its weights to one image."""
    if layer.operator != "Conv":
        return math.prod(shape[:-1])
    spatial = shape[2:]
    strides = integers(layer.node, "strides", 1, len(spatial))
    return math.prod(math.ceil(size / step) for size, step in zip(spatial, strides, strict=True))
