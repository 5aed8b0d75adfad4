"""Record values within a network, by which a device that fails the self-test finds where it first differs."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from vitedge.bundle.bundle import Bundle
from vitedge.bundle.verification_records import StageRecord
from vitedge.converters.openvino.parts import cuts_of, place_of, values_at
from vitedge.metrics import sqnr_db
from vitedge.runtime.engines.openvino import values_within
from vitedge.runtime.engines.stages import samples_of

MOST_STAGES = 24


def record_stages(bundle: Bundle, graph: onnx.ModelProto, frame: NDArray[np.uint8]) -> tuple[StageRecord, ...]:
    """Record some of the values through which everything flows, evenly spread, on the first golden frame.

    Args:
        bundle: not yet published; its IR is compiled with outputs inside.
        graph: ``model.onnx``.
        frame: ``(H,W,3)`` uint8.

    Returns:
        Nothing where everything flows through no value alone.

    Raises:
        ConversionError: ONNX Runtime cannot run the graph.
        RuntimeError: OpenVINO cannot run it with more outputs.
    """
    names = [cut.name for cut in cuts_of(graph)[1:-1]]
    if not names:
        return ()
    chosen = [
        names[index] for index in np.unique(np.linspace(0, len(names) - 1, min(MOST_STAGES, len(names))).astype(int))
    ]
    expected = values_at(graph, chosen, frame[None])
    stages = []
    for name, value in values_within(bundle, chosen, frame).items():
        samples = samples_of(expected[name])
        if expected[name].dtype == np.float32 and np.any(samples):
            reached = sqnr_db(samples, samples_of(value))
            stages.append(StageRecord(name, place_of(graph, name), tuple(map(float, samples)), reached))
    return tuple(stages)
