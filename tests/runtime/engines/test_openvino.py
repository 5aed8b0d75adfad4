"""The OpenVINO engine: what it asks for, what it reads back, and what it keeps to itself."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vitedge.bundle.bundle import MODEL_ONNX, OPENVINO_XML, OUTPUT_NAME, Bundle
from vitedge.bundle.targets import Precision
from vitedge.errors import EngineError
from vitedge.runtime.engines.openvino import (
    OpenvinoEngine,
    effective_precision,
    executed_layers,
    native_float,
    open_engine,
    open_workers,
)

onnx = pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")
bundles = pytest.importorskip("bundles")

WEIGHTED = ("FullyConnected", "Convolution")
FLOATS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


@pytest.fixture(scope="module")
def core() -> Any:
    return openvino.Core()


def opened(make_bundle: Callable[..., Bundle], path: Path, precision: Precision) -> OpenvinoEngine:
    return open_engine(make_bundle(path / "some.bundle", precision=precision), threads=1)


def compiled_of(engine: OpenvinoEngine) -> Any:
    return engine._request.get_compiled_model()


def test_one_stream_for_latency_with_the_threads_asked_for(tiny_bundle: Bundle) -> None:
    engine = open_engine(tiny_bundle, threads=1)
    compiled = compiled_of(engine)
    assert compiled.get_property("PERFORMANCE_HINT") == "LATENCY"
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    engine.close()


def test_threads_that_were_counted_may_run_on_any_core(tiny_bundle: Bundle) -> None:
    """Else the threads of two processes, one a camera, would all be pinned to the first cores."""
    engine = open_engine(tiny_bundle, threads=1)
    assert compiled_of(engine).get_property("ENABLE_CPU_PINNING") is False
    engine.close()


def test_one_thread_compiles_nothing_to_find_that_it_has_no_workers(tiny_bundle: Bundle) -> None:
    nothing_to_compile = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, files={}))
    assert open_workers(nothing_to_compile, threads=1) == ()


def test_workers_are_requests_to_one_graph_that_is_compiled_for_throughput(tiny_bundle: Bundle) -> None:
    workers = open_workers(tiny_bundle, threads=2)
    for worker in workers:
        compiled = compiled_of(worker)
        assert compiled.get_property("PERFORMANCE_HINT") == "THROUGHPUT"
        assert compiled.get_property("NUM_STREAMS") == 2
        assert worker.info.workers == len(workers) == 3  # one is filled while two compute
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
    engine = open_engine(tiny_bundle, threads=2)
    assert replace(workers[0].info, workers=1) == engine.info
    for each in (engine, *workers):
        each.close()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_is_not_fp32_rests_in_the_native_16_bit_type(
    make_bundle: Callable[..., Bundle], tmp_path: Path, core: Any, precision: Precision
) -> None:
    engine = opened(make_bundle, tmp_path, precision)
    assert compiled_of(engine).get_property("INFERENCE_PRECISION_HINT").get_type_name() == native_float(core)
    assert engine.info.rest_precision == FLOATS[native_float(core)]
    engine.close()


def test_fp16_reports_the_type_that_ran(make_bundle: Callable[..., Bundle], tmp_path: Path, core: Any) -> None:
    engine = opened(make_bundle, tmp_path, "fp16")
    assert engine.info.effective_precision == FLOATS[native_float(core)]
    engine.close()


def test_int8_is_reported_where_the_layers_ran_in_it(
    make_bundle: Callable[..., Bundle], tmp_path: Path, core: Any
) -> None:
    if "INT8" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU runs int8 graphs in floating point")
    engine = opened(make_bundle, tmp_path, "int8")
    ran = {kind: precision for kind, precision in executed_layers(compiled_of(engine)) if kind in WEIGHTED}
    assert ran["FullyConnected"] == "u8"
    on_arm = platform.machine() == "aarch64"  # there, the one convolution runs in floating point: a tie
    assert ran["Convolution"] == (native_float(core) if on_arm else "u8")
    assert engine.info.effective_precision == (engine.info.rest_precision if on_arm else "int8")
    engine.close()


class _Fact(str):
    """A value of OpenVINO's run-time information."""

    __slots__ = ()

    def astype(self, kind: type[str]) -> str:
        return kind(self)


def test_int8_weights_that_are_decompressed_make_no_int8_layer() -> None:
    """OpenVINO calls the precision of such a product ``i8``, after its weights; its kernel says the truth."""
    facts = {"layerType": "FullyConnected", "primitiveType": "brgemm_avx512_amx_bf16", "runtimePrecision": "i8"}
    node = SimpleNamespace(get_rt_info=lambda: {key: _Fact(value) for key, value in facts.items()})
    compiled = SimpleNamespace(get_runtime_model=lambda: SimpleNamespace(get_ordered_ops=lambda: [node]))
    assert effective_precision(executed_layers(compiled)) == "bf16"


class _Core:
    """Answers the one question that ``native_float`` asks."""

    def __init__(self, default: str) -> None:
        self._default = default

    def get_property(self, device: str, name: str) -> Any:
        assert (device, name) == ("CPU", "INFERENCE_PRECISION_HINT")
        return getattr(openvino.Type, self._default)


@pytest.mark.parametrize(("default", "native"), [("bf16", "bf16"), ("f16", "f16"), ("f32", "f32"), ("dynamic", "f32")])
def test_the_native_type_is_the_plugin_s_default(default: str, native: str) -> None:
    assert native_float(_Core(default)) == native


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ({("FullyConnected", "i8"): 49, ("Convolution", "u8"): 1, ("MatMul", "f32"): 100, ("MVN", "f32"): 25}, "int8"),
        ({("FullyConnected", "f32"): 49, ("Convolution", "u8"): 1}, "fp32"),
        ({("FullyConnected", "i8"): 2, ("Convolution", "bf16"): 2}, "bf16"),
        ({("FullyConnected", "bf16"): 3, ("Subgraph", "f32"): 90}, "bf16"),
        ({("FullyConnected", "f16"): 3}, "fp16"),
        ({("MatMul", "f32"): 3, ("Subgraph", "bf16"): 9}, "fp32"),
        ({("FullyConnected", "i4"): 3}, None),
        ({("Subgraph", "bf16"): 9}, None),
    ],
)
def test_layers_with_weights_decide_what_the_precision_is(
    layers: dict[tuple[str, str], int], expected: str | None
) -> None:
    assert effective_precision(Counter(layers)) == expected


class _BrokenRequest:
    """A request whose tensors are fine and whose inference fails as OpenVINO fails."""

    def __init__(self, real: Any) -> None:
        self.get_input_tensor = real.get_input_tensor
        self.get_output_tensor = real.get_output_tensor

    def start_async(self) -> None:
        pass

    def wait(self) -> None:
        raise RuntimeError("Exception from src/inference.cpp:1:\nno memory left\n")


def test_a_failure_of_openvino_is_an_engine_error_with_its_reason(tiny_bundle: Bundle) -> None:
    real = open_engine(tiny_bundle)
    engine = OpenvinoEngine(_BrokenRequest(real._request), real.info)
    with closing(real), closing(engine), pytest.raises(EngineError, match="no memory left") as caught:
        engine.run()
    assert isinstance(caught.value.__cause__, RuntimeError)


LISTENER = """
import sys
events = []
calls = ("socket.", "urllib.", "os.fork", "os.exec", "os.posix_spawn", "subprocess.")
sys.addaudithook(lambda name, _: events.append(name) if name.startswith(calls) else None)
from vitedge.bundle.bundle import Bundle
from vitedge.runtime.engines.open import open_engine
open_engine(Bundle.open(sys.argv[1]), "openvino").close()
import threading
assert threading.active_count() == 1, threading.enumerate()
assert not events, events
"""


def test_opening_reports_to_nobody_and_leaves_no_trace_at_home(tiny_bundle: Bundle, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    subprocess.run(
        [sys.executable, "-c", LISTENER, str(tiny_bundle.path)],
        env={**environment, "HOME": str(tmp_path)},
        check=True,
        timeout=120,
    )
    assert list(tmp_path.iterdir()) == []


def with_a_large_tensor(bundle: Bundle, path: Path, side: int) -> Bundle:
    """The bundle with another IR: ``side`` × ``side`` copies of its logits on their way."""
    shutil.copytree(bundle.path, path)
    graph = onnx.load(path / MODEL_ONNX)
    graph.graph.node[-1].output[0] = "small"
    nodes = (("Expand", ["small", "shape"], "large"), ("ReduceMax", ["large", "axes"], "widest"))
    for kind, inputs, output in nodes:
        graph.graph.node.append(onnx.helper.make_node(kind, inputs, [output], name=output))
    graph.graph.node.append(onnx.helper.make_node("Reshape", ["widest", "back"], [OUTPUT_NAME], name="last"))
    constants = {"shape": [side, side, 1, 3], "axes": [0, 1], "back": [1, 3]}
    for name, values in constants.items():
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
    onnx.save(graph, path / MODEL_ONNX)
    model = openvino.Core().read_model(path / MODEL_ONNX)
    openvino.save_model(model, path / OPENVINO_XML, compress_to_fp16=False)
    bundles.rewrite_manifest(path, replace(bundle.manifest, files=bundles.file_records(path)))
    return Bundle.open(path)


def test_a_tensor_that_would_fill_the_machine_is_refused_before_it_is_computed(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"makes a tensor of the shape \[40000,40000,1,3\]"):
        open_engine(with_a_large_tensor(tiny_bundle, tmp_path / "large.bundle", 40_000))
    opened = open_engine(with_a_large_tensor(tiny_bundle, tmp_path / "small.bundle", 10))
    assert opened.run().shape == (3,)
    opened.close()
