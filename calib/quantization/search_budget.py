"""On how many images ranges are tried: fewer for large networks, so that the search of one takes minutes.

A search runs the rest of the network for each candidate of each tensor. A network of the size of DeiT-Tiny is searched
on as many images as pay, a larger one on fewer, in proportion to its products.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vitedge.calib.quantization.placement import Layer
from vitedge.calib.quantization.working_graph import WorkingGraph

IMAGES, FEWEST = 16, 4
FIRST, FEWEST_FIRST = 4, 1
SMALL = 1.5e9
"""Multiply-accumulates up to which a network is searched on all images."""


@dataclass(frozen=True)
class Effort:
    """How thoroughly ranges are searched.

    Attributes:
        first: images that every candidate is tried on; what is far off shows at once.
        images: that the closest of them are tried on.
    """

    first: int
    images: int


def effort_for(macs: int) -> Effort:
    """What a network of so many multiply-accumulates an image is worth."""
    share = min(1.0, SMALL / max(macs, 1))
    return Effort(max(FEWEST_FIRST, round(FIRST * share)), max(FEWEST, round(IMAGES * share)))


def multiply_accumulates(graph: WorkingGraph, layers: Iterable[Layer], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Of products with constant weights and convolutions for one image; padding counts as if it kept the size.

    Args:
        graph: of the layers.
        layers: to count.
        shapes: of the tensors that they read, ``(1, …)``.
    """
    return sum(graph.constants[each.weight].size * _places(graph, each, shapes[each.data]) for each in layers)


def _places(graph: WorkingGraph, layer: Layer, shape: tuple[int, ...]) -> int:
    """How often a layer's weights are applied."""
    if layer.operator != "Conv":
        return math.prod(shape[:-1])
    strides = next((list(each.ints) for each in graph.nodes[layer.position].attribute if each.name == "strides"), [])
    spatial = shape[2:]
    return math.prod(math.ceil(size / step) for size, step in zip(spatial, strides or [1] * len(spatial), strict=True))
