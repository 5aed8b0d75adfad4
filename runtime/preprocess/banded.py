"""Filters along one axis of many lines, as banded matrix products.

An output is a weighted sum of a few neighbouring inputs, so filtering a line is a product with a banded matrix. The
band is cut into dense blocks, because BLAS multiplies dense matrices. Every product is small enough that OpenBLAS keeps
it on the calling thread. Its own threads would spin on after the call, on cores that inference needs.

``LineFilter`` filters along the lines, and ``ColumnFilter`` across them, while they pass through a buffer that stays in
the cache.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from vitedge.runtime.preprocess.taps import Indices, Taps

Values: TypeAlias = NDArray[np.floating[Any]]
FloatKind: TypeAlias = type[np.float32] | type[np.float64]

SINGLE_THREAD_PRODUCT = 4 * 65536
"""Rows x columns x depth up to which OpenBLAS uses a single thread (interface/gemm.c)."""
CALL_COST = 65536
"""Cost of a call, in multiply-adds."""
MOST_BLOCKS = 8
"""Blocks in a group, at most: more hardly ever make windows narrower."""
LINE_COST = 2
"""Cost of starting a group of windows, in inputs of a window."""
ROW_BLOCKS = (4, 8, 12, 16)
"""Candidates for the number of output rows in a block of a ``ColumnFilter``."""
STRIP_BYTES = 1024 * 1024
"""Size of the lines that are filtered at a time, so that they stay in the cache."""
EVEN_LINES = 12
"""OpenBLAS's kernels take this many lines at a time, or a divisor of it."""


@dataclass(frozen=True)
class Bands:
    """Taps cut into blocks of equal size, in groups of equally many.

    The windows of a group begin at equal distances, and so do the groups, so that one strided view holds all windows.
    Distances are whole numbers and the taps' are not: with one distance alone, windows would have to be wider.

    Attributes:
        begin: index of the input where the first window begins; may lie before the image.
        steps: distance from one group to the next, and from one window to the next, in inputs.
        matrices: ``(groups, blocks, inputs of a window, outputs of a block)``.
    """

    begin: int
    steps: tuple[int, int]
    matrices: Values

    @property
    def outputs(self) -> int:
        """Return the number of outputs of all blocks; the outputs after the last tap are zero."""
        groups, blocks, _, size = self.matrices.shape
        return int(groups * blocks * size)

    @property
    def inputs(self) -> int:
        """Return the number of inputs that all windows together span."""
        groups, blocks, window, _ = self.matrices.shape
        return int((groups - 1) * self.steps[0] + (blocks - 1) * self.steps[1] + window)


@dataclass(frozen=True)
class _Cut:
    """One way to cut taps into blocks."""

    begin: int
    steps: tuple[int, int]
    window: int
    groups: int
    blocks: int

    @property
    def cost(self) -> int:
        return self.groups * (self.blocks * self.window + LINE_COST)


def cut_into_bands(taps: Taps, kind: FloatKind, size: int) -> Bands:
    """Cut taps into blocks of ``size`` outputs, in float32 or float64, whose windows are as narrow as can be."""
    spans, count = taps.spans(), -(-len(taps.first) // size)
    spacing = max(taps.first[-1] - taps.first[0], 0) / max(len(taps.first) - 1, 1)
    layouts = _layouts(count, spacing * size, spacing * (size - size % taps.stride))
    cuts = (_cut(spans, size, -(-count // blocks), blocks, steps) for blocks, steps in layouts)
    cut = min(cuts, key=lambda each: each.cost)
    matrices = np.zeros((cut.groups * cut.blocks, cut.window, size), kind)
    begins = cut.begin + _starts(np.arange(count), cut.blocks, cut.steps)
    for block, begin in enumerate(begins.tolist()):
        outputs = slice(block * size, min((block + 1) * size, len(taps.first)))
        matrices[block, :, : outputs.stop - outputs.start] = taps.matrix(outputs, begin, begin + cut.window).T
    return Bands(cut.begin, cut.steps, matrices.reshape(cut.groups, cut.blocks, cut.window, size))


def _layouts(count: int, distance: float, whole: float) -> list[tuple[int, tuple[int, int]]]:
    """Return numbers of blocks in a group, and whole distances of groups and of blocks, next to the real ones.

    A block of 16 values may begin in the middle of a pixel of three. Windows are narrower if they begin at whole
    pixels, so the distance of blocks of 15 values is tried too.

    Args:
        count: number of blocks.
        distance: mean distance of blocks.
        whole: what the distance would be if a block held whole pixels alone.
    """
    return [
        (blocks, (outer, inner))
        for blocks in range(1, min(count, MOST_BLOCKS) + 1)
        for outer in {math.floor(distance * blocks), math.ceil(distance * blocks)}
        for inner in {math.floor(distance), math.ceil(distance), math.floor(whole), math.ceil(whole)}
    ]


def _starts(block: Indices, blocks: int, steps: tuple[int, int]) -> Indices:
    """Return where the windows of some blocks begin, from the first on."""
    return block // blocks * steps[0] + block % blocks * steps[1]


def _cut(spans: tuple[Indices, Indices], size: int, groups: int, blocks: int, steps: tuple[int, int]) -> _Cut:
    starts = _starts(np.arange(len(spans[0])) // size, blocks, steps)
    begin, end = int((spans[0] - starts).min()), int((spans[1] - starts).max())
    return _Cut(begin, steps, end - begin, groups, blocks)


class LineFilter:
    """Filters along lines. Not thread-safe: it owns its scratch buffers.

    Attributes:
        needed: the inputs that any output needs.
        values: ``(lines, inputs)``, receives the needed inputs.
        outputs: number of values of a filtered line; those after the last output are zero.

    Args:
        taps: taps of a line.
        kind: type of the values and of the sums.
        size: number of outputs in a block.
        lines: number of lines to make room for.
    """

    def __init__(self, taps: Taps, kind: FloatKind, size: int, lines: int) -> None:
        bands = cut_into_bands(taps, kind, size)
        groups, blocks, window, _ = bands.matrices.shape
        self.needed = slice(taps.begin, taps.end)
        self.outputs = bands.outputs
        scratch: Values = np.zeros((lines, bands.inputs), kind)
        margin = taps.begin - bands.begin
        self.values = scratch[:, margin : margin + taps.end - taps.begin]
        self._matrices = bands.matrices
        self._at_once = _even(SINGLE_THREAD_PRODUCT // (size * window))
        line, value = scratch.strides
        steps = tuple(step * value for step in bands.steps)
        self._windows = as_strided(scratch, (groups, blocks, lines, window), (*steps, line, value), writeable=False)

    def __call__(self, out: Values) -> None:
        """Filter the first lines.

        Args:
            out: ``(lines, outputs)``, receives as many lines as it has.
        """
        groups, blocks, _, size = self._matrices.shape
        for begin in range(0, len(out), self._at_once):
            part = out[begin : begin + self._at_once]
            windows = self._windows[:, :, begin : begin + len(part)]
            results = part.reshape(len(part), groups, blocks, size).transpose(1, 2, 0, 3)
            np.matmul(windows, self._matrices, out=results)


def lines_at_once(line_bytes: int) -> int:
    """Return the number of lines of a size that stay in the cache together."""
    return _even(STRIP_BYTES // line_bytes)


def _even(lines: int) -> int:
    return max(1, lines // EVEN_LINES * EVEN_LINES or lines)


@dataclass(frozen=True)
class Strip:
    """Rows that pass through a ``ColumnFilter`` together: call ``make_room``, fill ``values``, call ``filter``.

    Attributes:
        rows: rows of the image.
        values: ``(rows, width)`` float32, receives them; a part of a scratch buffer.
    """

    rows: slice
    values: Values
    _kept: tuple[Values, Values] | None
    _products: tuple[tuple[Values, Values, Values], ...]

    def make_room(self) -> None:
        """Move the rows that are still needed to the begin of the buffer, if it is full."""
        if self._kept is not None:
            np.copyto(*self._kept)

    def filter(self) -> None:
        """Compute the outputs whose last row has come."""
        for matrix, rows, out in self._products:
            np.matmul(matrix, rows, out=out)


class ColumnFilter:
    """Filters along the columns of an image while its rows pass. Not thread-safe: it owns its scratch buffers.

    Attributes:
        strips: the rows that are needed, a few at a time; each must be filtered, in this order.

    Args:
        taps: taps of a column.
        out: ``(outputs, width)`` float32, receives the result.
        rows: number of rows in a strip.
    """

    def __init__(self, taps: Taps, out: Values, rows: int) -> None:
        blocks = min((_row_blocks(taps, size) for size in ROW_BLOCKS), key=lambda each: _cost(each, out.shape[1]))
        needed = taps.end - taps.begin
        rows = min(rows, needed)
        widest = max(block.stop - block.start for _, block in blocks)
        self._buffer: Values = np.zeros((min(needed, rows + 2 * widest), out.shape[1]), np.float32)
        self.strips = tuple(self._strips(taps, blocks, out, rows))

    def _strips(self, taps: Taps, blocks: list[_RowBlock], out: Values, count: int) -> Iterator[Strip]:
        first = taps.begin  # the image's row at the begin of the buffer
        waiting = deque(blocks)
        for begin in range(taps.begin, taps.end, count):
            end = min(begin + count, taps.end)
            kept = None
            if end - first > len(self._buffer):
                needed = waiting[0][1].start
                kept = (self._buffer[: begin - needed], self._buffer[needed - first : begin - first])
                first = needed
            products: list[tuple[Values, Values, Values]] = []
            while waiting and waiting[0][1].stop <= end:
                outputs, rows = waiting.popleft()
                matrix = taps.matrix(outputs, rows.start, rows.stop).astype(np.float32)
                products += _products(matrix, self._buffer[rows.start - first : rows.stop - first], out[outputs])
            yield Strip(slice(begin, end), self._buffer[begin - first : end - first], kept, tuple(products))


_RowBlock: TypeAlias = tuple[slice, slice]
"""Outputs, and the rows that they need."""


def _row_blocks(taps: Taps, size: int) -> list[_RowBlock]:
    starts = np.arange(0, len(taps.first), size)
    begins, ends = taps.spans()
    begins, ends = np.minimum.reduceat(begins, starts), np.maximum.reduceat(ends, starts)
    return [
        (slice(start, min(start + size, len(taps.first))), slice(begin, end))
        for start, begin, end in zip(starts.tolist(), begins.tolist(), ends.tolist(), strict=True)
    ]


def _cost(blocks: list[_RowBlock], width: int) -> int:
    """Return the cost of the products of all blocks, in multiply-adds."""
    size = blocks[0][0].stop
    sizes = [size * (rows.stop - rows.start) * width for _, rows in blocks]
    return sum(each + CALL_COST * -(-each // SINGLE_THREAD_PRODUCT) for each in sizes)


def _products(matrix: Values, rows: Values, out: Values) -> list[tuple[Values, Values, Values]]:
    """Cut the product of a block into parts that one thread multiplies."""
    width = max(1, SINGLE_THREAD_PRODUCT // matrix.size)
    parts = -(-rows.shape[1] // width)
    edges = [part * rows.shape[1] // parts for part in range(parts + 1)]
    return [(matrix, rows[:, begin:end], out[:, begin:end]) for begin, end in itertools.pairwise(edges)]
