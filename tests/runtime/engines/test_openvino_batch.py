"""Batches: the larger graph keeps the frames apart, or is not used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.errors import EngineError
from vitedge.runtime.engines import openvino_batch
from vitedge.runtime.engines.base import BatchEngine
from vitedge.runtime.engines.openvino import open_workers
from vitedge.runtime.engines.openvino_batch import BATCH_FRAMES, compile_batch, set_batch

openvino = pytest.importorskip("openvino")
op = pytest.importorskip("openvino.opset13")

SIDE = 8
FRAMES = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)

Build = Callable[[Any], Any]


def model_of(build: Build) -> Any:
    """A model of one frame; ``build`` gets the frame as float32 tokens, 1×64×3, and returns the logits, 1×4."""
    frame = op.parameter([1, SIDE, SIDE, 3], np.uint8, name="frame")
    tokens = op.reshape(op.convert(frame, np.float32), sizes(1, SIDE * SIDE, 3), special_zero=False)
    return openvino.Model([build(tokens)], [frame])


def sizes(*values: int) -> Any:
    return op.constant(np.array(values, np.int64))


def weights(*shape: int) -> Any:
    return op.constant(np.random.default_rng(2).normal(size=shape).astype(np.float32))


def with_class_token(tokens: Any) -> Any:
    """What a ViT does: a token before the others, heads, and the logits of one token."""
    joined = op.concat([weights(1, 1, 3), tokens], 1)
    heads = op.transpose(op.reshape(joined, sizes(1, 65, 3, 1), special_zero=False), sizes(0, 2, 1, 3))
    merged = op.reshape(op.transpose(heads, sizes(0, 2, 1, 3)), sizes(1, -1, 3), special_zero=False)
    token = op.gather(merged, sizes(7), sizes(1))
    return op.matmul(op.reshape(token, sizes(1, 3), special_zero=False), weights(3, 4), False, False)


def in_windows(tokens: Any) -> Any:
    """What a Swin does: windows of a frame lie along the leading axis."""
    grid = op.reshape(tokens, sizes(1, 2, 4, 2, 4, 3), special_zero=False)
    windows = op.reshape(op.transpose(grid, sizes(0, 1, 3, 2, 4, 5)), sizes(4, 16, 3), special_zero=False)
    means = op.reduce_mean(windows, sizes(1), keep_dims=False)
    return op.matmul(op.reshape(means, sizes(1, 12), special_zero=False), weights(12, 4), False, False)


def mixing(tokens: Any) -> Any:
    """A reshape, after a transpose, whose leading size holds no batch: a larger one would mix the frames."""
    turned = op.reshape(op.transpose(tokens, sizes(1, 0, 2)), sizes(32, 2, 3), special_zero=False)
    back = op.reshape(op.reduce_max(turned, sizes(1), keep_dims=False), sizes(1, 96), special_zero=False)
    return op.matmul(back, weights(96, 4), False, False)


def summing(tokens: Any) -> Any:
    """A sum over the batch."""
    return op.matmul(
        op.reduce_sum(op.reduce_mean(tokens, sizes(1)), sizes(0), keep_dims=False), weights(3, 4), False, False
    )


def logits(compiled: Any, frames: np.ndarray) -> np.ndarray:
    return np.array(compiled([frames])[0])


def batched(build: Build) -> tuple[Any | None, Any]:
    core, model = openvino.Core(), model_of(build)
    properties = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(model, "CPU", properties)
    return compile_batch(core, model, compiled, properties, FRAMES), compiled


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_batch, "_share_of_time", lambda *_: 0.5)


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("build", [with_class_token, in_windows])
def test_a_graph_that_keeps_frames_apart_takes_several(build: Build) -> None:
    batch, compiled = batched(build)
    assert batch is not None
    frames = np.random.default_rng(3).integers(0, 256, (BATCH_FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    alone = np.concatenate([logits(compiled, frame[None]) for frame in frames])
    assert np.array_equal(logits(batch, frames), alone)
    assert len(np.unique(alone, axis=0)) == BATCH_FRAMES


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("build", [mixing, summing])
def test_a_graph_that_would_mix_frames_is_not_used(build: Build) -> None:
    assert batched(build)[0] is None


def test_what_does_not_grow_with_the_batch_is_named() -> None:
    with pytest.raises(ValueError, match="does not grow with the batch"):
        set_batch(model_of(summing), 2)


def test_values_stay_within_the_limit_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 65 * 3  # the tokens of `with_class_token`
    monkeypatch.setattr(openvino_batch, "MODEL_ACTIVATION", 2 * largest)
    set_batch(model_of(with_class_token), 2)
    with pytest.raises(ValueError, match="larger than any in an image classifier"):
        set_batch(model_of(with_class_token), 3)


@pytest.mark.parametrize(("share", "used"), [(0.8, True), (1.0, False)])
def test_batches_that_save_no_time_are_not_used(monkeypatch: pytest.MonkeyPatch, share: float, used: bool) -> None:
    monkeypatch.setattr(openvino_batch, "_share_of_time", lambda *_: share)
    assert (batched(with_class_token)[0] is not None) == used


@pytest.mark.parametrize(("share", "wanted", "frames"), [(0.8, True, 4), (0.8, False, 1), (1.0, True, 1)])
def test_workers_keep_one_graph(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, share: float, wanted: bool, frames: int
) -> None:
    monkeypatch.setattr(openvino_batch, "_share_of_time", lambda *_: share)
    with ExitStack() as closing:
        workers = open_workers(tiny_bundle, threads=2, batches=wanted)
        for worker in workers:
            closing.callback(worker.close)
            compiled = worker._request.get_compiled_model()
            assert compiled.inputs[0].shape[0] == frames
            assert isinstance(worker, BatchEngine) == (frames > 1)


@pytest.mark.usefixtures("pays")
def test_workers_give_a_batch_the_logits_of_its_frames(tiny_bundle: Bundle) -> None:
    with ExitStack() as closing:
        workers = open_workers(tiny_bundle, threads=2, batches=True)
        for worker in workers:
            closing.callback(worker.close)
            assert isinstance(worker, BatchEngine)
            assert not np.shares_memory(worker.frames, workers[0].frames) or worker is workers[0]
        first = workers[0]
        assert isinstance(first, BatchEngine)
        first.frames[...] = np.random.default_rng(4).integers(0, 256, first.frames.shape)
        found = first.run_batch()
        for frame, own in zip(first.frames, found, strict=True):
            first.frame[...] = frame
            assert np.array_equal(first.run(), own)
    with pytest.raises(EngineError, match="is closed"):
        first.run_batch()
