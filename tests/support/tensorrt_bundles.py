"""Bundles for TensorRT: the graph that names colours, with its twin; and a fake device that knows the golden logits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from bundles import colour_graph, file_records, make_bundle, rewrite_manifest
from fake_tensorrt import Answer, FakeCuda, FakeTensorrt
from numpy.typing import NDArray

from vitedge.bundle.bundle import GOLDEN, MODEL_FP16_ONNX, MODEL_ONNX, OPENVINO_XML, TENSORRT, Bundle, Golden
from vitedge.runtime.engines.tensorrt.build_record import BuildCandidate, BuildRecord, InferenceLatency, dump_record
from vitedge.runtime.engines.tensorrt.fingerprint import Fingerprint
from vitedge.runtime.engines.tensorrt.plan_store import graphs_of
from vitedge.version import VERSION

INT8_PLAN, FP16_PLAN = b"plan of model.onnx", b"plan of model.fp16.onnx"


def make_tensorrt_bundle(path: Path, *, target: str = "jetson-orin-nano", twin: bool = True) -> Bundle:
    """An int8 bundle as ``vitedge convert`` writes it for a Jetson; the twin's golden logits are twice as large."""
    made = make_bundle(path, precision="int8")
    for file in (path / OPENVINO_XML).parent.iterdir():
        file.unlink()
    (path / OPENVINO_XML).parent.rmdir()
    record = made.manifest.golden
    if twin:
        (path / MODEL_FP16_ONNX).write_bytes(colour_graph().SerializeToString())
        golden = made.golden()
        replace(golden, fp16_logits=2 * golden.logits).write(path / GOLDEN)
        record = replace(record, fp16_min_sqnr_db=30.0)
    rewrite_manifest(path, replace(made.manifest, target=target, golden=record, files=file_records(path)))
    return Bundle.open(path)


def write_build(bundle: Bundle, *, kept: str, **changes: Any) -> None:
    """Write ``tensorrt/`` as a build on an Orin leaves it; ``changes`` are to the fingerprint."""
    plan = {MODEL_ONNX: INT8_PLAN, MODEL_FP16_ONNX: FP16_PLAN}[kept]
    fingerprint = Fingerprint("tensorrt", "10.3.0", "Orin", "8.7", "L4T 36.4.3", graphs_of(bundle), ())
    candidate = BuildCandidate(kept, 1.0, len(plan), "fp16", 40.0, InferenceLatency(1.0, 1.0, 1.0, 10), "")
    record = BuildRecord(
        schema_version=1,
        vitedge_version=VERSION,
        created_at="2026-01-01T00:00:00+00:00",
        fingerprint=replace(fingerprint, **changes),
        kept=kept,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        workspace_bytes=1 << 28,
        candidates=(candidate,),
        attention=(),
    )
    folder = bundle.path / TENSORRT
    folder.mkdir()
    (folder / "model.plan").write_bytes(plan)
    (folder / "build.json").write_text(dump_record(record), encoding="utf-8")


def answers_of(bundle: Bundle) -> dict[bytes, Answer]:
    """What the plans of its graphs answer: the golden logits, and zeros to what is no golden frame."""
    golden = bundle.golden()
    answers = {INT8_PLAN: _looked_up(golden, golden.logits)}
    if golden.fp16_logits is not None:
        answers[FP16_PLAN] = _looked_up(golden, golden.fp16_logits)
    return answers


def _looked_up(golden: Golden, logits: NDArray[np.float32]) -> Answer:
    table = {frame.tobytes(): each for frame, each in zip(golden.frames, logits, strict=True)}

    def answer(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        return table.get(frame.tobytes(), np.zeros(3, np.float32))

    return answer


def fake_module(bundle: Bundle, *, rtx: bool = False) -> FakeTensorrt:
    """TensorRT on a device that knows the bundle's plans."""
    return FakeTensorrt(FakeCuda(), answers_of(bundle), rtx=rtx)


class AnyPlan(dict[bytes, Answer]):
    """Every plan answers alike, as where it was built for real."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    def __contains__(self, plan: object) -> bool:
        return True

    def __missing__(self, plan: bytes) -> Answer:
        return self.answer


class Steps:
    """A ``Progress`` that remembers its steps and counters."""

    def __init__(self, on_step: Callable[[str], None] = lambda text: None) -> None:
        self.steps: list[str] = []
        self.counted: dict[str, list[int]] = {}
        self.on_step = on_step

    def step(self, text: str) -> None:
        self.steps.append(text)
        self.on_step(text)

    def track(self, items: Iterable[Any], *, total: int, unit: str) -> Iterator[Any]:
        self.counted[unit] = [0, total]
        for item in items:
            self.counted[unit][0] += 1
            yield item


def with_graph(
    path: Path, model: onnx.ModelProto, twin: onnx.ModelProto | None, *, target: str, min_sqnr_db: float = 20.0
) -> Bundle:
    """A bundle of graphs that take 32×32 frames and give three logits; golden vectors from ONNX Runtime, on noise."""
    made = make_tensorrt_bundle(path, target=target, twin=twin is not None)
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    graphs = {MODEL_ONNX: model} | ({} if twin is None else {MODEL_FP16_ONNX: twin})
    logits = []
    for name, graph in graphs.items():
        onnx.save(graph, path / name)
        logits.append(reference(path / name, frames))
    Golden(frames, *logits).write(path / GOLDEN)
    record = replace(
        made.manifest.golden, min_sqnr_db=min_sqnr_db, fp16_min_sqnr_db=None if twin is None else min_sqnr_db
    )
    rewrite_manifest(path, replace(made.manifest, golden=record, files=file_records(path)))
    return Bundle.open(path)


def reference(graph: Path, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What ONNX Runtime makes of frames, ``(N, classes)``."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"frame": frame[np.newaxis]})[0] for frame in frames])
