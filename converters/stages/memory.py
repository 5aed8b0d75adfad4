"""Refuse a conversion that will not fit into memory, before the system kills it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import onnx

from vitedge.bundle.targets import Precision
from vitedge.converters.request import Request
from vitedge.converters.sources.onnx.models import OnnxModel
from vitedge.converters.sources.parse import ExportedProgramFile, HubFolder, OnnxFile
from vitedge.converters.sources.torch_export.programs import ExportedProgramModel
from vitedge.converters.stages.loading import Model
from vitedge.errors import ConversionError
from vitedge.progress import Progress
from vitedge.runtime.system.machine import Memory, read_memory, resident_bytes

MEBIBYTE = 1 << 20
BASE_BYTES = 800 * MEBIBYTE
"""PyTorch, ONNX, ONNX Runtime and OpenVINO, and small graphs."""
COPIES = 10
"""Copies of the float32 weights that are alive at the peak: module, graphs before and after a rewrite, sessions."""
PIXEL_BYTES = 1_000
"""The frames that engines are compared on, for each pixel of the input; attention of large inputs takes more."""
CALIBRATION_BYTES = 200 * MEBIBYTE
"""Images, and values of one part of the graph at a time, for 8-bit precisions."""
WARN_FROM = 0.7
"""Share of the available memory from which the estimate is shown."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


def check_files(request: Request, progress: Progress) -> None:
    """Check the files of a source, before they are read; a name says nothing yet.

    Raises:
        ConversionError: as for ``check_model``.
    """
    files = _weight_files(request)
    if files:
        _check(request, sum(path.stat().st_size for path in files), (0, 0), read_memory(), progress)


def check_model(request: Request, model: Model, progress: Progress) -> None:
    """Check a model that was loaded, before it is exported.

    Raises:
        ConversionError: the conversion is estimated to take more memory than is available.
    """
    weights = model.path.stat().st_size if isinstance(model, ExportedProgramModel) else _weight_bytes(model)
    _check(request, weights, model.card.preprocessing.input_size, read_memory(), progress)


def estimated_peak(weights: int, input_size: tuple[int, int], precision: Precision) -> int:
    """Estimate the most memory that a conversion holds, in bytes.

    Args:
        weights: bytes of the weights in float32.
        input_size: (height, width) in pixels.
        precision: of the bundle.
    """
    calibration = CALIBRATION_BYTES if precision in ("int8", "fp8") else 0
    return BASE_BYTES + COPIES * weights + PIXEL_BYTES * math.prod(input_size) + calibration


def _check(request: Request, weights: int, input_size: tuple[int, int], memory: Memory, progress: Progress) -> None:
    if memory.available is None:
        return
    peak = estimated_peak(weights, input_size, request.precision)
    needed, free = peak - resident_bytes(), memory.available + memory.swap
    estimate = (
        f"converting {request.source.name} takes about {peak // MEBIBYTE} MiB of memory at its peak, "
        f"{needed // MEBIBYTE} MiB more than now, and {free // MEBIBYTE} MiB are available"
    )
    if needed > free:
        limit = "" if memory.limit is None else f"; the control group's limit is {memory.limit // MEBIBYTE} MiB"
        raise ConversionError(
            f"{estimate}{limit}",
            expected=f"{BASE_BYTES // MEBIBYTE} MiB for the libraries and {COPIES} times the weights of "
            f"{weights // MEBIBYTE} MiB; this is an estimate",
            fix="close other programs, add swap, raise the limit (docker --memory, MemoryMax=), or convert on a larger "
            "machine: the bundle is the same",
        )
    if needed > WARN_FROM * memory.available:
        progress.step(f"warning: {estimate}")


def _weight_files(request: Request) -> list[Path]:
    """Return the files whose bytes become weights; none for a name, whose weights are not here yet."""
    source, weights = request.source, request.model.weights
    if weights is not None:
        return _existing([weights])
    if isinstance(source, (OnnxFile, ExportedProgramFile)):
        return _existing([source.path])
    if isinstance(source, HubFolder):  # of several formats of the same weights, one is read
        by_suffix = [_existing(sorted(source.path.glob(f"*{suffix}"))) for suffix in WEIGHT_SUFFIXES]
        return next((files for files in by_suffix if files), [])
    return []


def _existing(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.is_file()]


def _weight_bytes(model: Model) -> int:
    """Return the bytes of a model's weights."""
    if isinstance(model, OnnxModel):
        return sum(_bytes_of(tensor) for tensor in model.graph.graph.initializer)
    assert not isinstance(model, ExportedProgramModel)
    total: int = sum(each.numel() * each.element_size() for each in model.module.parameters())
    return total


def _bytes_of(tensor: onnx.TensorProto) -> int:
    """Return the size of a tensor, from its shape: its numbers may lie in another file."""
    count: int = math.prod(tensor.dims)
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
