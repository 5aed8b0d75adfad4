"""The engine over a driver and a TensorRT that are strict about owners; nothing here needs a GPU."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import FakeCuda, FakeTensorrt, fake_device
from numpy.typing import NDArray

from vitedge.bundle.bundle import Bundle
from vitedge.errors import EngineError
from vitedge.runtime.engines.tensorrt.engine import TensorrtEngine, open_plan

PLAN = b"a plan"


def mean_colour(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = frame.mean(axis=(0, 1), dtype=np.float32)
    return mean


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    made = FakeCuda()
    yield made
    assert made.wrong == []


@pytest.fixture
def module(cuda: FakeCuda) -> FakeTensorrt:
    return FakeTensorrt(cuda, {PLAN: mean_colour})


def opened(module: FakeTensorrt, bundle: Bundle, *, workers: int = 1, plan: bytes = PLAN) -> list[TensorrtEngine]:
    return open_plan(fake_device(module), bundle, plan, Path("model.plan"), graph="model.onnx", workers=workers)


def frames(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_logits_of_frames_by_a_graph(module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    (engine,) = opened(module, tiny_bundle)
    given = frames(3)
    made = []
    for frame in given:
        engine.frame[...] = frame
        made.append(engine.run())
    assert engine.graph_refusal == ""
    np.testing.assert_allclose(np.stack(made), given.mean(axis=(1, 2)), rtol=1e-6)
    assert module.cuda.calls.count("launch") == 3
    assert module.cuda.calls.count("execute_async_v3") == 2  # once to prepare, once captured
    engine.close()
    assert (module.cuda.left, module.alive) == ([], [])


def test_a_call_costs_four_of_the_driver(module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    (engine,) = opened(module, tiny_bundle)
    before = len(module.cuda.calls)
    engine.run()
    assert module.cuda.calls[before:] == ["push", "launch", "synchronize", "pop"]
    engine.close()


def test_the_logits_are_the_callers(module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    (engine,) = opened(module, tiny_bundle)
    engine.frame[...] = 1
    first = engine.run()
    engine.frame[...] = 2
    engine.run()
    assert first.tolist() == [1, 1, 1]
    engine.close()
    assert first.tolist() == [1, 1, 1]


def test_what_it_is(module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    (unknown,) = opened(module, tiny_bundle)
    assert (unknown.info.version, unknown.info.device) == ("10.3.0", "Orin")
    assert (unknown.info.effective_precision, unknown.info.rest_precision) == ("unavailable", "unavailable")
    unknown.close()
    product = {"LayerType": "gemm", "Inputs": [{"Format/Datatype": "Int8"}], "Outputs": [{"Format/Datatype": "Half"}]}
    module.inspections[PLAN] = json.dumps({"Layers": [product]})
    (known,) = opened(module, tiny_bundle)
    assert (known.info.effective_precision, known.info.rest_precision) == ("int8", "fp16")
    assert known.layers[0].kind == "gemm"
    known.close()


def test_closed(module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    (engine,) = opened(module, tiny_bundle)
    engine.close()
    engine.close()
    assert engine.frame.size == 0
    with pytest.raises(EngineError, match="closed"):
        engine.run()
    assert (module.cuda.left, module.alive) == ([], [])


@pytest.mark.parametrize("workers", [1, 2])
def test_whatever_call_fails_nothing_is_left(workers: int, module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    """Every call of opening fails in turn, with an error and with Ctrl-C; what opens all the same must run."""
    for engine in opened(module, tiny_bundle, workers=workers):
        engine.close()
    calls = list(module.cuda.calls[: module.cuda.calls.index("free_executable")])
    assert len(calls) > 20
    for failure in (EngineError("as the test wants"), KeyboardInterrupt()):
        failed = 0
        for index in range(len(calls)):
            cuda = FakeCuda()
            cuda.fail_at, cuda.failure = index, failure
            again = FakeTensorrt(cuda, module.answers)
            try:
                engines = opened(again, tiny_bundle, workers=workers)
            except type(failure):
                failed += 1
            else:
                cuda.fail_at = -1
                for engine in engines:
                    engine.frame[...] = 3
                    assert engine.run().tolist() == [3, 3, 3]
                    engine.close()
            assert cuda.wrong == [], (index, calls[index])
            assert cuda.left == [], (index, calls[index])
            assert again.alive == [], (index, calls[index])
            assert cuda._stack() == [], (index, calls[index])
        assert failed > 10


@pytest.mark.parametrize("refused", ["begin_capture", "end_capture", "instantiate"])
def test_without_a_graph_it_runs_all_the_same(
    refused: str, module: FakeTensorrt, tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    module.cuda.refusals = {refused}
    with caplog.at_level(logging.WARNING, "vitedge"):
        (engine,) = opened(module, tiny_bundle)
    assert "one by one" in caplog.text
    assert engine.graph_refusal == "CUDA failed, as the test wants"
    engine.frame[...] = 5
    assert engine.run().tolist() == [5, 5, 5]
    assert "launch" not in module.cuda.calls
    engine.close()
    assert (module.cuda.left, module.alive) == ([], [])


def test_tensorrt_for_rtx_is_asked_whether_a_plan_can_be_captured(cuda: FakeCuda, tiny_bundle: Bundle) -> None:
    module = FakeTensorrt(cuda, {PLAN: mean_colour}, rtx=True)
    (engine,) = opened(module, tiny_bundle)
    assert engine.graph_refusal == ""
    assert engine.info.version == "for RTX 1.7.1"
    engine.close()
    module.capturable = False
    (engine,) = opened(module, tiny_bundle)
    assert "cannot capture this plan" in engine.graph_refusal
    assert cuda.calls.count("begin_capture") == 1
    engine.close()


def test_a_call_that_fails_leaves_the_thread_as_it_was(module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    (engine,) = opened(module, tiny_bundle)
    for refused in ("launch", "synchronize"):
        module.cuda.refusals = {refused}
        with pytest.raises(EngineError):
            engine.run()
        assert module.cuda._stack() == []
    module.cuda.refusals = set()
    engine.frame[...] = 4
    assert engine.run().tolist() == [4, 4, 4]
    engine.close()


def test_an_inference_that_tensorrt_refuses(module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    module.runs = False
    with pytest.raises(EngineError, match="could not queue"):
        opened(module, tiny_bundle)
    assert (module.cuda.left, module.alive) == ([], [])


@pytest.mark.parametrize("attribute", ["refuses_contexts", "takes_memory"])
def test_a_context_that_tensorrt_refuses(attribute: str, module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    setattr(module, attribute, not getattr(module, attribute))
    with pytest.raises(EngineError):
        opened(module, tiny_bundle)
    assert (module.cuda.left, module.alive) == ([], [])


def test_a_plan_that_tensorrt_refuses_says_why(module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="magic tag does not match") as caught:
        opened(module, tiny_bundle, plan=b"another plan")
    assert "build it again with overwrite" in caught.value.fix
    assert (module.cuda.left, module.alive) == ([], [])


def test_a_tensorrt_that_does_not_start(
    module: FakeTensorrt, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(logger: object) -> None:
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(module, "Runtime", refuse)
    with pytest.raises(EngineError, match="does not start"):
        opened(module, tiny_bundle)
    assert module.cuda.left == []


@pytest.mark.parametrize(
    ("name", "shape", "kind", "problem"),
    [
        ("frame", (1, 64, 64, 3), "UINT8", "64x64x3"),
        ("frame", (1, 32, 32, 3), "FLOAT", "32x32x3 float32"),
        ("frame", (-1, 32, 32, 3), "UINT8", "open shape"),
        ("logits", (1, 3), "HALF", "HALF"),
        ("logits", (1, 4), "FLOAT", "gives 4"),
        ("scores", (1, 3), "FLOAT", "scores"),
    ],
)
def test_a_plan_of_another_model(
    name: str, shape: tuple[int, ...], kind: str, problem: str, module: FakeTensorrt, tiny_bundle: Bundle
) -> None:
    module.tensors[name] = (shape, kind)
    with pytest.raises(EngineError, match=problem):
        opened(module, tiny_bundle)
    assert (module.cuda.left, module.alive) == ([], [])


def test_workers_share_the_plan_until_the_last_is_closed(module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    first, second = opened(module, tiny_bundle, workers=2)
    assert module.alive.count("engine") == 1
    assert module.alive.count("execution") == 2
    assert first.info.workers == 2
    first.close()
    second.frame[...] = 9
    assert second.run().tolist() == [9, 9, 9]
    second.close()
    assert (module.cuda.left, module.alive) == ([], [])


def test_workers_in_threads(module: FakeTensorrt, tiny_bundle: Bundle) -> None:
    """Each in a thread of its own, which has no context of its own, and closed in another one."""
    workers = opened(module, tiny_bundle, workers=2)
    wrong: list[object] = []

    def work(engine: TensorrtEngine, value: int) -> None:
        for _ in range(50):
            engine.frame[...] = value
            made = engine.run()
            if made.tolist() != [value] * 3:
                wrong.append(made)

    threads = [threading.Thread(target=work, args=(worker, value)) for value, worker in enumerate(workers, start=1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert wrong == []
    for worker in workers:
        worker.close()
    assert (module.cuda.left, module.alive) == ([], [])
