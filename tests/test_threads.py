"""The number of threads that a caller allows reaches all that computes, and ends with the context."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper

from vitedge.calib.quantization.parallel import thread_count
from vitedge.graph.session import open_session
from vitedge.runtime.system.machine import threads_for_engine
from vitedge.threads import allowed_threads, allowing


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A file with one operator."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    node = helper.make_node("Relu", ["x"], ["y"])
    model = helper.make_model(helper.make_graph([node], "relu", values[:1], values[1:]), ir_version=9)
    onnx.save(model, tmp_path / "relu.onnx")
    return tmp_path / "relu.onnx"


def test_engines_workers_and_sessions_take_it(graph: Path) -> None:
    before = thread_count(), threads_for_engine(None)
    with allowing(3):
        assert (thread_count(), threads_for_engine(None), threads_for_engine(1)) == (3, 3, 1)
        assert open_session(graph).get_session_options().intra_op_num_threads == 3
        assert open_session(graph, threads=1).get_session_options().intra_op_num_threads == 1
    assert (thread_count(), threads_for_engine(None)) == before


def test_it_ends_with_an_error() -> None:
    with pytest.raises(ValueError, match="within"), allowing(3):
        raise ValueError("within")
    assert allowed_threads() is None


def test_other_threads_keep_theirs() -> None:
    seen: list[int | None] = []
    with allowing(3):
        other = threading.Thread(target=lambda: seen.append(allowed_threads()))
        other.start()
        other.join()
    assert seen == [None]
