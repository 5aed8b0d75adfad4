"""Reference logits: of a graph, by ONNX Runtime, and of a module, by PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.quantization.parallel import parallel_map
from vitedge.errors import ConversionError
from vitedge.graph.session import conversion_errors, open_session

Frames = NDArray[np.uint8]
Logits = NDArray[np.float32]


def graph_logits(graph: onnx.ModelProto, frames: Frames, preprocessing: Preprocessing) -> Logits:
    """Run a graph of one input and one output.

    Q/DQ pairs are computed as written, in floating point.

    Args:
        graph: takes one uint8 ``(1,H,W,3)`` frame, or one normalized float32 ``(1,3,H,W)`` image.
        frames: ``(N,H,W,3)`` uint8.
        preprocessing: mean and std, for graphs that take normalized images.

    Returns:
        ``(N, classes)`` float32.

    Raises:
        ConversionError: ONNX Runtime cannot run the graph.
    """
    with conversion_errors():
        session = open_session(graph, threads=1)
        (entry,) = session.get_inputs()
        inputs = frames if entry.type == "tensor(uint8)" else normalized(frames, preprocessing)
        outputs = parallel_map(lambda each: session.run(None, {entry.name: each[None]})[0], inputs)
        return np.concatenate(list(outputs))


def check_reference(logits: Logits, what: str) -> None:
    """Refuse logits against which nothing could fail, or nothing could pass.

    Args:
        logits: ``(N, classes)``.
        what: computed them, for the error.

    Raises:
        ConversionError: they are no floating-point numbers, one is not finite, or all are equal.
    """
    if logits.dtype.kind != "f" or not logits.size:
        raise ConversionError(
            f"{what} gives {logits.dtype} of shape {logits.shape}", expected="floating-point logits, one for each class"
        )
    if not np.all(np.isfinite(logits)):
        raise ConversionError(
            f"{what} gives NaN or infinite logits in float32", expected="finite logits", fix="check its weights"
        )
    if not np.any(logits) or (logits.size > 1 and logits.min() == logits.max()):
        raise ConversionError(
            f"{what} gives the logit {logits.flat[0]:g} for every class and image",
            expected="logits that an engine could get wrong",
            fix="check its weights",
        )


def module_logits(module: nn.Module, frames: Frames, preprocessing: Preprocessing) -> Logits:
    """Run a PyTorch classifier on a few ``(N,H,W,3)`` uint8 frames; ``(N, classes)`` float32."""
    return image_logits(module, normalized(frames, preprocessing))


def image_logits(module: nn.Module, images: NDArray[np.float32]) -> Logits:
    """Run a PyTorch classifier on a few normalized images ``(N,3,H,W)``; ``(N, classes)`` float32."""
    with _single_threaded():
        return np.concatenate([one_image_logits(module, each) for each in images])


def one_image_logits(module: nn.Module, image: NDArray[np.float32]) -> Logits:
    """Run a PyTorch classifier on a normalized image ``(3,H,W)``, in PyTorch's threads; ``(1, classes)`` float32."""
    with torch.no_grad():
        logits: Logits = module(torch.from_numpy(image[None])).numpy()
    return logits


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Have PyTorch compute in one thread: on a few images, its others spend more time on waiting in busy loops.

    The number is the process's, so only one thread may do this at a time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def normalized(frames: Frames, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Normalize frames ``(N,H,W,3)`` as torchvision's ``ToTensor`` and ``Normalize`` do: ``(N,3,H,W)`` float32."""
    mean = np.asarray(preprocessing.mean, dtype=np.float32)
    std = np.asarray(preprocessing.std, dtype=np.float32)
    scaled = (frames.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
