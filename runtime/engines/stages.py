"""Find where an engine that fails the self-test first differs from the graph, by values that the manifest records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.verification_records import StageRecord
from vitedge.errors import VitedgeError
from vitedge.metrics import sqnr_db
from vitedge.runtime.engines import openvino

Values: TypeAlias = Mapping[str, NDArray[Any]]

SAMPLES = 32
"""Numbers of each value that the manifest records."""
LOST_DB = 10.0
"""A value that is worse by this than on the converting host is where the engine differs."""
READERS: Mapping[str, Callable[[Bundle, Sequence[str], NDArray[np.uint8]], Values]] = {
    "openvino": openvino.values_within,
}
"""Engines that can tell the values within a network."""


def samples_of(value: NDArray[Any]) -> NDArray[np.float32]:
    """Take ``SAMPLES`` numbers of a value, evenly spread; all if it has fewer. Returns ``(samples,)`` float32."""
    flat = np.asarray(value, dtype=np.float32).reshape(-1)
    return np.asarray(flat[np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(np.int64)])


def first_difference(bundle: Bundle, engine: str, frame: NDArray[np.uint8]) -> str:
    """Describe where an engine first differs from the graph, for the error of the self-test.

    The network is compiled again with outputs inside. The place is not found if they switch the fault off, or if
    nothing was recorded.

    Args:
        bundle: the bundle.
        engine: name of the engine.
        frame: first golden frame, ``(H,W,3)`` uint8.

    Returns:
        A phrase that follows the error; empty if the place is not found.
    """
    stages, read = bundle.manifest.stages, READERS.get(engine)
    if read is None or not stages:
        return ""
    try:
        values = read(bundle, [stage.value for stage in stages], frame)
    except (VitedgeError, RuntimeError, ValueError):
        return ""  # the self-test failed already; this only adds to its error
    for stage in stages:
        reached = _reached(stage, values.get(stage.value))
        if reached < stage.sqnr_db - LOST_DB:
            return f"; it first differs {stage.place}: {reached:.1f} dB instead of {stage.sqnr_db:.1f} dB"
    return ""


def _reached(stage: StageRecord, value: NDArray[Any] | None) -> float:
    """Return the SQNR of a value; where the engine does not have it, the one that the converting host measured."""
    if value is None:
        return stage.sqnr_db
    found = samples_of(value)
    expected = np.asarray(stage.samples, dtype=np.float32)
    return sqnr_db(expected, found) if found.shape == expected.shape else stage.sqnr_db
