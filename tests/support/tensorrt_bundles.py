"""Bundles for TensorRT: the graph that names colours, with its twin; and a fake device that knows the golden logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bundles import colour_graph, file_records, make_bundle, rewrite_manifest
from fake_tensorrt import Answer, FakeCuda, FakeTensorrt
from numpy.typing import NDArray

from vitedge.bundle import GOLDEN, MODEL_FP16_ONNX, OPENVINO_XML, Bundle, Golden

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
