"""The self-test of an engine: it must reproduce the bundle's golden vectors before it serves its first frame.

A graph that was verified on the host can still be wrong on the device: int8 sums overflow on CPUs without VNNI, a
16-bit type overflows, a driver or a library has a bug. The result is cached per bundle, engine, library version and
processor.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import GOLDEN, MANIFEST, MODEL_ONNX, Bundle, Golden
from vitedge.counts import counted
from vitedge.errors import BundleError, EngineError
from vitedge.metrics import SQNR_CAP_DB, sqnr_db
from vitedge.runtime.engines.base import Engine, EngineInfo
from vitedge.runtime.engines.stages import first_difference
from vitedge.runtime.system import cache
from vitedge.runtime.system.capabilities import instructions

CACHE_KIND = "self-test"


@dataclass(frozen=True)
class SelfTest:
    """How close an engine came to the golden logits.

    Attributes:
        sqnr_db: SQNR of its logits against the golden ones, over all vectors together.
        vectors: number of vectors that were run; 0 if the result came from the cache.
    """

    sqnr_db: float
    vectors: int


def ensure_self_test(bundle: Bundle, engine: Engine) -> SelfTest:
    """Run the self-test, unless the cache says that this engine passed it on this bundle.

    Raises:
        EngineError: the engine's logits are not close enough to the golden ones.
        BundleError: the golden vectors cannot be read, or the manifest demands too little.
    """
    key = cache_key(bundle, engine.info)
    known = (cache.get(CACHE_KIND, key) or {}).get("sqnr_db")
    if isinstance(known, float) and _demanded(bundle, engine.info.graph) <= known <= SQNR_CAP_DB:
        return SelfTest(sqnr_db=known, vectors=0)
    result = self_test(bundle, engine)
    cache.put(CACHE_KIND, key, {"sqnr_db": result.sqnr_db, **asdict(engine.info)})
    return result


def self_test(bundle: Bundle, engine: Engine) -> SelfTest:
    """Run the golden frames through an engine and compare its logits.

    Raises:
        EngineError: the logits have another shape, are not finite, or are not close enough to the golden ones.
        BundleError: the golden vectors cannot be read, any engine would pass them, or the manifest demands too little.
    """
    golden = bundle.golden()
    expected, demanded = _reference(bundle, golden, engine.info.graph)
    _check_fit(bundle, golden.frames, expected, engine)
    logits = np.stack([_logits(engine, frame) for frame in golden.frames])
    if logits.shape != expected.shape:
        raise _refusal(
            bundle, engine, f"gave {counted(logits.shape[1], 'logit')}", f"{counted(expected.shape[1], 'logit')}"
        )
    if not np.all(np.isfinite(logits)):
        raise _refusal(bundle, engine, "gave logits that are not finite numbers", "finite logits")
    reached = sqnr_db(expected, logits)
    if not reached >= demanded:
        where = first_difference(bundle, engine.info.name, golden.frames[0])
        raise _refusal(bundle, engine, f"reached an SQNR of {reached:.1f} dB{where}", f"at least {demanded:.1f} dB")
    return SelfTest(sqnr_db=reached, vectors=len(logits))


def cache_key(bundle: Bundle, info: EngineInfo) -> str:
    """Return the hex SHA-256 of the manifest, which holds the hash of every file, of the engine and of its processor.

    A CPU's instructions decide how an engine computes, and its name does not tell them. A GPU is known by its name.
    """
    digest = hashlib.sha256(bundle.digest.encode())
    processor = info.device if info.name == "tensorrt" else instructions() or info.device
    digest.update(json.dumps({**asdict(info), "device": processor}, sort_keys=True).encode())
    return digest.hexdigest()


def _reference(bundle: Bundle, golden: Golden, graph: str) -> tuple[NDArray[np.float32], float]:
    """Return the golden logits of a graph, and the SQNR that an engine must reach against them."""
    if graph == MODEL_ONNX:
        return golden.logits, _demanded(bundle, graph)
    if golden.fp16_logits is None:
        raise BundleError(f"{bundle.path / GOLDEN} has no logits of {graph}", fix="convert the model again")
    return golden.fp16_logits, _demanded(bundle, graph)


def _demanded(bundle: Bundle, graph: str) -> float:
    record = bundle.manifest.golden
    record.check(bundle.path / MANIFEST)
    half = record.fp16_min_sqnr_db
    return record.min_sqnr_db if graph == MODEL_ONNX or half is None else half


def _check_fit(bundle: Bundle, frames: NDArray[np.uint8], logits: NDArray[np.float32], engine: Engine) -> None:
    if frames.shape[1:] != engine.frame.shape or frames.dtype != np.uint8 or logits.ndim != 2 or not len(frames):
        raise _refusal(
            bundle,
            engine,
            f"cannot take golden frames of shape {frames.shape} and type {frames.dtype}",
            f"one or more uint8 frames of shape {engine.frame.shape}",
        )


def _logits(engine: Engine, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    engine.frame[...] = frame
    return engine.run()


def _refusal(bundle: Bundle, engine: Engine, reached: str, expected: str) -> EngineError:
    info = engine.info
    what = f"{info.name} {info.version} in {info.effective_precision} on {info.device}"
    return EngineError(
        f"self-test of {bundle.path}: {what} {reached}",
        expected=f"{expected} against the bundle's golden vectors",
        fix=_advice(info),
    )


def _advice(info: EngineInfo) -> str:
    if info.name == "tensorrt":
        return "build the engine again with overwrite=True; else try another version of TensorRT"
    if info.effective_precision == "int8":
        return "int8 overflows on CPUs without VNNI: convert with precision='fp16'; else try another engine version"
    if info.effective_precision in ("fp16", "bf16"):
        return "16-bit numbers lose too much of this model on this processor: convert with precision='fp32'"
    if info.name == "openvino":
        return (
            "convert the model again on a machine like this, which finds the wrong operator and works around it; "
            "else try another version of the engine's library"
        )
    return "try another version of the engine's library, or convert the model again"
