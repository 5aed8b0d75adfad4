"""The ONNX Runtime engine: what it says ran is what its profile shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.errors import EngineError
from vitedge.runtime.engines.onnxruntime import OnnxruntimeEngine, effective_precision, open_engine

pytest.importorskip("onnxruntime")


def ran(kind: str, dtype: str = "float") -> dict[str, Any]:
    return {"op_name": kind, "output_type_shape": [{dtype: [1, 3]}]}


@pytest.mark.parametrize(
    ("executed", "expected"),
    [
        ([ran("QLinearConv", "uint8"), ran("MatMulIntegerToFloat"), ran("MatMul")], "int8"),
        ([ran("Gemm")] * 49 + [ran("MatMulIntegerToFloat")] * 12, "fp32"),
        ([ran("MatMul"), ran("QGemm")], "fp32"),
        ([ran("Conv", "float16"), ran("LayerNormalization")], "fp16"),
        ([ran("Softmax"), ran("Add")], "unavailable"),
        ([{"op_name": "Gemm"}, {}], "unavailable"),
        ([], "unavailable"),
    ],
)
def test_the_kernels_decide_what_the_precision_is(executed: list[dict[str, Any]], expected: str) -> None:
    assert effective_precision(executed) == expected


def test_an_int8_bundle_says_what_onnx_runtime_made_of_it(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    engine = open_engine(make_bundle(tmp_path / "int8.bundle", precision="int8"), threads=1)
    engine.close()
    assert engine.info.effective_precision in ("int8", "fp32")
    assert engine.info.rest_precision == "fp32"


def test_it_takes_the_threads_that_were_asked_for(tiny_bundle: Bundle) -> None:
    engine = open_engine(tiny_bundle, threads=1)
    assert engine._session.get_session_options().intra_op_num_threads == 1
    engine.close()


class _BrokenSession:
    """A session that fails as ONNX Runtime fails: with an exception of its own."""

    def run(self, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail

        raise Fail("no memory left")


def test_a_failure_of_onnx_runtime_is_an_engine_error_with_its_reason(tiny_bundle: Bundle) -> None:
    real = open_engine(tiny_bundle)
    real.close()
    engine = OnnxruntimeEngine(_BrokenSession(), np.zeros((32, 32, 3), np.uint8), real.info)
    with closing(engine), pytest.raises(EngineError, match="no memory left"):
        engine.run()


def test_without_a_place_for_temporary_files_it_runs_and_does_not_say_its_precision(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    with closing(open_engine(tiny_bundle)) as engine:
        assert engine.info.effective_precision == engine.info.rest_precision == "unavailable"
        assert np.isfinite(engine.run()).all()


def test_the_profile_is_thrown_away(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    open_engine(tiny_bundle).close()
    assert list(tmp_path.iterdir()) == []
