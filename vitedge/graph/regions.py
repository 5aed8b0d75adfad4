"""Regions of tensors: a box of indices, half open along each axis.

Used for bounds inference: which region of an operator's input a region of its output is computed from (Ragan-Kelley
et al., "Halide", PLDI 2013).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

Span = tuple[int, int]
Region = tuple[Span, ...]
Shape = Sequence[int]

WORTHWHILE_SHARE = 0.75


def whole(shape: Shape) -> Region:
    """Give the region that is all of a tensor."""
    return tuple((0, size) for size in shape)


def extent(region: Region) -> list[int]:
    """Give the shape of a region."""
    return [stop - start for start, stop in region]


def volume(region: Region) -> int:
    """Count the elements of a region."""
    return prod(extent(region))


def hull(one: Region, other: Region) -> Region:
    """Give the smallest region that contains both."""
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def contains(outer: Region, inner: Region) -> bool:
    """Decide whether ``inner`` lies in ``outer``."""
    return hull(outer, inner) == outer


def relative(inner: Region, outer: Region) -> Region:
    """Give ``inner`` in the coordinates of ``outer``."""
    return tuple((a - c, b - c) for (a, b), (c, _) in zip(inner, outer, strict=True))


def worth_computing(regions: Sequence[Region], shape: Shape) -> list[Region]:
    """Choose pieces of a tensor that cover ``regions``.

    Regions are joined where that computes no more elements than they have. Pieces that add up to more than three
    quarters of the tensor are not worth their extra operators: the whole tensor takes their place.
    """
    pieces: list[Region] = []
    for region in regions:
        pieces = _joined(pieces, region)
    everything = whole(shape)
    if sum(map(volume, pieces)) > WORTHWHILE_SHARE * volume(everything):
        return [everything]
    return pieces


def _joined(pieces: list[Region], region: Region) -> list[Region]:
    for piece in pieces:
        both = hull(piece, region)
        if volume(both) <= volume(piece) + volume(region):
            return _joined([each for each in pieces if each is not piece], both)
    return [*pieces, region]


def reshaped(region: Region, old: Shape, new: Shape) -> Region | None:
    """Follow a region of a tensor through a reshape; None if its elements form no region there.

    Args:
        region: of the tensor in its ``old`` shape.
        old: a shape without zeros.
        new: a shape of as many elements.
    """
    result: list[Span] = []
    for before, after in _groups(old, new):
        span = _flattened(region[before], old[before])
        spans = None if span is None else _unflattened(span, new[after])
        if spans is None:
            return None
        result += spans
    return tuple(result)


def joined(regions: Sequence[Region], shape: Shape) -> Region | None:
    """Join regions of a tensor whose elements follow one another; None if together they form no region."""
    start, stop = None, None
    for region in regions:
        span = _flattened(region, shape)
        if span is None or stop not in (None, span[0]):
            return None
        start, stop = span[0] if start is None else start, span[1]
    return None if start is None or stop is None else _unflattened((start, stop), shape)


def _groups(old: Shape, new: Shape) -> Iterator[tuple[slice, slice]]:
    """Yield runs of axes with equal products, which a reshape turns into one another."""
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while (left := prod(old[start_i:i])) != (right := prod(new[start_j:j])):
            i, j = (i + 1, j) if left < right else (i, j + 1)
        yield slice(start_i, i), slice(start_j, j)


def _flattened(spans: Region, sizes: Shape) -> Span | None:
    """Return the range of row-major indices of a region; None if it has gaps."""
    start, length = 0, 1
    for (first, last), size in zip(spans, sizes, strict=True):
        if length == 1:
            start, length = start * size + first, last - first
        elif (first, last) == (0, size):
            start, length = start * size, length * size
        else:
            return None
    return start, start + length


def _unflattened(span: Span, sizes: Shape) -> Region | None:
    """Return the region of a range of row-major indices; None if it is no box."""
    if not sizes:
        return ()
    start, stop = span
    inner = prod(sizes[1:])
    if start % inner == 0 and stop % inner == 0:
        return ((start // inner, stop // inner), *whole(sizes[1:]))
    row = start // inner
    if row != (stop - 1) // inner:
        return None
    rest = _unflattened((start - row * inner, stop - row * inner), sizes[1:])
    return None if rest is None else ((row, row + 1), *rest)
