"""The layers that a bundle records, found by ONNX Runtime and by TensorRT."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vitedge.audit import Audit, AuditedLayer
from vitedge.bundle.bundle import MODEL_FP16_ONNX, Bundle
from vitedge.runtime.engines.audit import engine as dispatch
from vitedge.runtime.engines.audit import onnxruntime as ort_reader
from vitedge.runtime.engines.audit import tensorrt as trt_reader
from vitedge.runtime.engines.base import EngineInfo
from vitedge.runtime.engines.open import open_engine
from vitedge.runtime.engines.tensorrt.layers import EngineLayer, LayerTensor
from vitedge.testing import FAKE_INFO

LAYERS = (
    AuditedLayer("patches", "Conv", True, "unavailable"),
    AuditedLayer("logits", "MatMul", True, "unavailable"),
    AuditedLayer("head", "MatMul", False, "unavailable"),
)
ORIN = EngineInfo("tensorrt", "10.3.0", "Orin", "int8", "fp16")


def event(name: str, kind: str, reads: str, writes: str, microseconds: int) -> dict[str, Any]:
    args = {"op_name": kind, "input_type_shape": [{reads: [1]}], "output_type_shape": [{writes: [1]}]}
    return {"name": f"{name}_kernel_time", "dur": microseconds, "args": args}


PROFILE = [
    event("logits_1", "Gemm", "float", "float", 4),
    event("patches_nhwc", "QLinearConv", "uint8", "uint8", 9),
    event("patches_nhwc", "QLinearConv", "uint8", "uint8", 5),
    event("logits_dequantize", "DequantizeLinear", "uint8", "float", 2),
    event("logits/MatMulAddFusion", "Gemm", "float", "float", 3),
]


def with_layers(bundle: Bundle, layers: tuple[AuditedLayer, ...] = LAYERS) -> Bundle:
    return replace(bundle, manifest=replace(bundle.manifest, audit=Audit("", "", layers)))


def audited(bundle: Bundle, profile: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Audit:
    monkeypatch.setattr(ort_reader, "profiled_nodes", lambda *_, **__: profile)
    return ort_reader.audit(bundle, LAYERS, replace(FAKE_INFO, name="onnxruntime"))


def test_a_profile_of_onnx_runtime(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = audited(tiny_bundle, PROFILE, monkeypatch)
    patches, logits, head = audit.layers
    assert (patches.precision, patches.kernel, patches.microseconds, patches.reason) == ("int8", "QLinearConv", 5, "")
    assert (logits.precision, logits.kernel, logits.microseconds) == ("fp32", "Gemm", 3)
    assert logits.reason == "ONNX Runtime does not fuse its DequantizeLinear into the MatMul"
    assert (head.precision, head.kernel) == ("unavailable", "")
    (switch,) = audit.overheads
    assert (switch.kind, switch.change, switch.names) == ("precision switch", "int8 → fp32", ("logits_dequantize",))
    assert audit.microseconds == 5 + 2 + 3 + 4


def test_without_a_profile_nothing_is_told(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = audited(tiny_bundle, [], monkeypatch)
    assert (audit.microseconds, audit.runs, audit.overheads) == (None, 0, ())
    assert "does not tell" in audit.summary


def test_onnx_runtime_itself(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    bundle = with_layers(make_bundle(tmp_path / "some.bundle", precision="int8"), LAYERS[:2])
    with closing(open_engine(bundle, "onnxruntime", threads=1)) as engine:
        audit = dispatch.audit_engine(bundle, engine.info, threads=1)
    assert audit is not None
    assert audit.unknown == ()
    assert audit.microseconds is not None
    assert all(layer.microseconds for layer in audit.layers)


def plan_layer(name: str, kind: str, reads: str, writes: str, *nodes: str) -> EngineLayer:
    tensors = [(LayerTensor(f"{name} {way}", (1, 8), dtype),) for way, dtype in (("in", reads), ("out", writes))]
    return EngineLayer(name, kind, f"tactic of {name}" if nodes else "", tensors[0], tensors[1], nodes)


PLAN = (
    plan_layer("weights of logits", "kgen", "int8", "int8", "logits"),
    plan_layer("first", "CaskConvolution", "int8", "fp16", "patches", "norm"),
    plan_layer("copy", "Reformat", "fp16", "int8"),
    plan_layer("turn", "Reformat", "fp16", "fp16"),
    plan_layer("last", "gemm", "fp16", "fp16", "logits"),
)


def test_a_plan_of_tensorrt() -> None:
    audit = trt_reader.audit(PLAN, LAYERS, ORIN)
    patches, logits, head = audit.layers
    assert (patches.precision, patches.kernel, patches.reason) == ("int8", "tactic of first", "")
    assert (logits.precision, logits.kernel) == ("fp16", "tactic of last")  # the product, not what moves its weights
    assert logits.reason == "TensorRT does not fuse the quantizer of its input"
    assert head.precision == "unavailable"
    assert [(each.kind, each.change, each.names) for each in audit.overheads] == [
        ("precision switch", "fp16 → int8", ("copy",)),
        ("layout change", "fp16", ("turn",)),
    ]
    assert audit.microseconds is None


def test_weights_that_the_plan_dequantizes() -> None:
    """As the builder of TensorRT for RTX logs it: the product reads int8, and weights that became fp16 before it."""
    weights = replace(plan_layer("CastMulCast", "kgen", "", "fp16", "logits"), inputs=())
    product = plan_layer("CastMulFc", "runtime_fusion", "int8", "fp16", "logits")
    product = replace(product, inputs=(*product.inputs, *weights.outputs))
    (_, logits, _) = trt_reader.audit((weights, product), LAYERS, ORIN).layers
    assert (logits.precision, logits.reason) == ("fp16", "TensorRT dequantizes its weights")


def test_the_plan_of_the_16_bit_graph_was_kept() -> None:
    kept = replace(ORIN, graph=MODEL_FP16_ONNX)
    (logits,) = [layer for layer in trt_reader.audit(PLAN, LAYERS, kept).layers if layer.name == "logits"]
    assert logits.reason == "the plan of the 16-bit graph was kept, which was faster here"


def test_a_plan_that_does_not_describe_its_layers() -> None:
    assert "does not tell" in trt_reader.audit((), LAYERS, ORIN).summary


def test_each_engine_has_its_reader(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    engine = SimpleNamespace(layers=PLAN, close=lambda: closed.append(True))
    monkeypatch.setattr(dispatch, "open_engine", lambda _: engine)
    recorded = Audit("", "", LAYERS, asked="fp8")
    bundle = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, audit=recorded))
    audit = dispatch.audit_engine(bundle, ORIN)
    assert audit is not None
    assert len(audit.executed) == 1
    assert "of 2 fp8 layers" in audit.summary
    assert closed == [True]


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt", "fake"])
def test_a_bundle_without_recorded_layers_is_audited_by_openvino_alone(
    tiny_bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "open_engine", lambda _: pytest.fail("nothing is to be found"))
    info = replace(FAKE_INFO, name=name)
    assert dispatch.audit_engine(tiny_bundle, info) is None
    assert dispatch.audit_engine(with_layers(tiny_bundle, ()), info) is None
