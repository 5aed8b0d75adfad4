"""Find out whether int8 pays on this machine: its engine and an fp16 engine of the same FP32 graph take turns."""

from __future__ import annotations

import time
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.precision_records import AgainstFp16Record
from vitedge.converters.reference import Logits
from vitedge.converters.stages.drafting import Draft
from vitedge.errors import EngineError
from vitedge.metrics import sqnr_db
from vitedge.prediction import StageTimes
from vitedge.progress import Progress
from vitedge.runtime.bench.ratio import Ratio, paired_ratio
from vitedge.runtime.bench.timing import Samples, time_calls
from vitedge.runtime.engines.base import Engine

SECONDS = 1.5
"""Longest time of all turns, unless ``LEAST_TURNS`` take longer."""
TURN_SECONDS = 0.02
"""Time of one engine in a turn. Turns are short, so that other programs slow both engines of a turn alike."""
SETTLING_SECONDS = 0.01
"""Time before it that is not counted: the caches still hold the other engine's weights, and fp16 has twice as many."""
LEAST_TURNS = 6
"""Fewer turns have no 95 % interval."""
NARROW = 0.02
"""Width of the interval, relative to the ratio, from which on no more turns are taken."""
MOST_SPREAD = 1.25
"""Upper over lower bound of the interval, beyond which other programs disturb the turns too much to say anything."""
COMPARED_FRAMES = 8
"""Frames that the accuracy is compared on; they also warm the engine."""
_NO_STAGES = StageTimes(0.0, 0.0, 0.0)


def against_fp16(
    engine: Engine, logits: Logits, reference: Logits, draft: Draft, progress: Progress
) -> AgainstFp16Record | None:
    """Time the engine of an int8 bundle against fp16, and warn if int8 does not pay.

    Args:
        engine: of the bundle, warm.
        logits: ``(N, classes)``, of the engine for the frames of the gate.
        reference: ``(N, classes)``, of the FP32 graph for these frames.
        draft: of the bundle.
        progress: receives the steps.

    Returns:
        What was measured. None for other precisions, for ``auto``, which times its candidates itself, where this host
        does not stand for the device, and where the times are not certain.
    """
    if draft.precision != "int8" or draft.choice is not None:
        return None
    try:
        fp16 = draft.backend.open_fp16_engine(draft.full.graph)
    except EngineError as error:
        progress.step(f"warning: int8 is not timed against fp16: {error.problem}")
        return None
    if fp16 is None:
        return None
    progress.step("timing int8 against fp16")
    with closing(fp16):
        frames = draft.gate.frames[:COMPARED_FRAMES]
        fp16_logits = np.stack([_infer(fp16, frame) for frame in frames])
        ratio = time_in_turns(engine, fp16)
    if ratio.high > MOST_SPREAD * ratio.low:
        progress.step(
            "note: whether int8 is faster than fp16 here is not known, because other programs disturb the measurement: "
            f"it takes {ratio.low:.2f} to {ratio.high:.2f} times as long"
        )
        return None
    first = reference[: len(frames)]
    record = AgainstFp16Record(
        time_ratio=ratio.p50,
        low=ratio.low,
        high=ratio.high,
        turns=len(ratio.rounds),
        sqnr_db=sqnr_db(first, logits[: len(frames)]),
        fp16_sqnr_db=sqnr_db(first, fp16_logits),
        images=len(frames),
    )
    verdict = record.verdict("this machine")
    progress.step(verdict if record.pays else f"warning: {verdict}. Convert with precision='fp16'")
    return record


def time_in_turns(engine: Engine, other: Engine) -> Ratio:
    """Time two warm engines in turns; return the ratio of the first one's time to the other's."""
    rounds, others = list[Samples](), list[Samples]()
    ends = time.monotonic() + SECONDS
    while True:
        rounds.append(_turn(engine))
        others.append(_turn(other))
        ratio = paired_ratio(rounds, others)
        narrow = ratio.high - ratio.low <= NARROW * ratio.p50
        if len(rounds) >= LEAST_TURNS and (narrow or time.monotonic() >= ends):
            return ratio


def _turn(engine: Engine) -> Samples:
    def run() -> StageTimes:
        engine.run()
        return _NO_STAGES

    time_calls(run, seconds=SETTLING_SECONDS, at_least=1)
    return time_calls(run, seconds=TURN_SECONDS, at_least=1)


def _infer(engine: Engine, frame: NDArray[np.uint8]) -> Logits:
    engine.frame[...] = frame
    return engine.run()
