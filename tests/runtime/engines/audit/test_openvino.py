"""OpenVINO's execution graph: which layers of a graph run in int8, and what else takes time."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitedge.audit import Audit
from vitedge.bundle.bundle import OPENVINO_BIN, OPENVINO_XML, Bundle
from vitedge.errors import BundleIntegrityError, EngineError

openvino = pytest.importorskip("openvino")
graphs = pytest.importorskip("quantized_graphs")

from vitedge.runtime.engines.audit import openvino as reader  # noqa: E402
from vitedge.runtime.engines.audit.openvino_ir import IrLayer, layers_of  # noqa: E402
from vitedge.runtime.engines.openvino import native_float  # noqa: E402

ON_X86 = platform.machine() == "x86_64"
"""Elsewhere OpenVINO has other kernels, and the layers are found all the same."""
FLOATS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


@pytest.fixture(scope="module")
def core() -> Any:
    return openvino.Core()


def audited(core: Any, graph: Any) -> Audit:
    model = core.read_model(graph.SerializeToString())
    return reader.audit_model(openvino, core, model, {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1})


def test_every_layer_of_a_bundle_with_its_kernel_and_time(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    audit = reader.audit(make_bundle(tmp_path / "some.bundle", precision="int8"), threads=1)
    assert [(layer.name, layer.operator, layer.quantized) for layer in audit.layers] == [
        ("patches", "Convolution", True),
        ("logits", "MatMul", True),
    ]
    assert all(layer.kernel for layer in audit.layers)
    assert audit.runs >= reader.LEAST_RUNS
    assert audit.microseconds is not None
    assert 0 < sum(layer.microseconds or 0 for layer in audit.layers) <= audit.microseconds
    assert audit.engine.startswith("openvino 20")


def test_an_fp32_bundle_has_no_int8_layers(tiny_bundle: Bundle) -> None:
    audit = reader.audit(tiny_bundle, threads=1)
    assert audit.quantized == ()
    assert [layer.precision for layer in audit.in_floating_point] == ["fp32", "fp32"]


def test_a_layer_whose_input_is_dequantized_before_it_fell_back(core: Any) -> None:
    audit = audited(core, graphs.behind_shifted_windows())
    (layer,) = audit.fallbacks if ON_X86 else audit.layers
    if not ON_X86:
        assert layer.name == "attn.qkv"
        return
    assert (layer.name, layer.precision) == ("attn.qkv", FLOATS[native_float(core)])
    assert layer.reason == (
        "the engine dequantizes its input behind Concatenation, and then applies Reshape, Transpose, Reshape"
    )
    assert "0 of 1 int8 layer runs in int8" in audit.summary


def test_a_layer_that_openvino_renames_is_found_by_its_weights(core: Any) -> None:
    audit = audited(core, graphs.behind_a_scale())
    assert [layer.name for layer in audit.layers] == ["conv", "second"]
    assert all(layer.kernel for layer in audit.layers)
    assert len(audit.executed) == 2 or not ON_X86


def test_what_lies_behind_a_layer_ends_where_values_branch_off(core: Any) -> None:
    conv, second = layers_of(core.read_model(graphs.behind_a_scale().SerializeToString()))
    assert conv.aliases[:3] == ("conv/WithoutBiases", "conv", "scaled")
    assert "second" not in conv.aliases
    assert second.weights == "second_weight"


def test_names_with_commas_and_layers_that_share_an_operator(core: Any) -> None:
    """OpenVINO joins names with commas, and may compute a chain of products in one operator of untold precision."""
    audit = audited(core, graphs.chain("a,b", "blocks.0.fc", "head"))
    assert [(layer.name, layer.quantized) for layer in audit.layers] == [
        ("a,b", True),
        ("blocks.0.fc", True),
        ("head", False),
    ]
    assert all(layer.kernel for layer in audit.layers)


def test_a_graph_of_any_size_is_compiled_and_not_timed(core: Any) -> None:
    audit = audited(core, graphs.chain("fc", "head", batch="N"))
    assert (audit.microseconds, audit.runs) == (None, 0)
    assert [layer.microseconds for layer in audit.layers] == [None, None]
    assert audit.summary


def kernel(operator: str, name: str, reads: str, writes: str, *sources: str, layers: str = "") -> reader.Kernel:
    return reader.Kernel(f"{operator} {name}", operator, name, reads, writes, layers, sources, constant=False)


@pytest.mark.parametrize(
    ("name", "reads", "precision"),
    [
        ("brgemm_avx512_amx_I8", "int8", "int8"),
        ("brgemm_avx512_amx_bf16", "bf16", "bf16"),
        ("brgemm_avx512_amx_bf16", "int8", "bf16"),  # int8 weights that it decompresses
        ("gemm_acl_f16", "fp16", "fp16"),
        ("ref_any", "fp32", "fp32"),
        ("", "unavailable", "unavailable"),
    ],
)
def test_the_kernel_tells_the_precision(name: str, reads: str, precision: str) -> None:
    assert kernel("FullyConnected", name, reads, "bf16").precision == precision


def ir_layer(*aliases: str, weights: str = "") -> IrLayer:
    return IrLayer(aliases[0], "MatMul", quantized=True, aliases=aliases, weights=weights)


@pytest.mark.parametrize(
    ("layer", "found"),
    [
        (ir_layer("fc", weights="weights of fc"), "its own name"),
        (ir_layer("renamed", weights="weights of qkv"), "its weights"),
        (ir_layer("renamed", "bias", "scaled"), "what lies behind it"),
        (ir_layer("a,b"), "a name with a comma"),
        (ir_layer("fc_1", "elsewhere", weights="weights of nothing"), None),
    ],
)
def test_how_a_layer_is_found(layer: IrLayer, found: str | None) -> None:
    constant = reader.Kernel("weights of qkv", "Const", "", "int8", "int8", "", (), constant=True)
    moved = reader.Kernel("moved", "Transpose", "", "int8", "int8", "", (constant.name,), constant=True)
    products = [
        replace(kernel("MatMul", "jit", "int8", "bf16", layers="x,fc"), name="its own name"),
        replace(kernel("MatMul", "jit", "int8", "bf16", moved.name, layers="Multiply_1"), name="its weights"),
        replace(kernel("MatMul", "jit", "int8", "bf16", layers="Multiply_2,scaled,"), name="what lies behind it"),
        replace(kernel("MatMul", "jit", "int8", "bf16", layers="a,b"), name="a name with a comma"),
        replace(kernel("Eltwise", "jit", "bf16", "bf16", layers="elsewhere"), name="no product"),
    ]
    kernels = {each.name: each for each in (constant, moved, *products)}
    chosen = reader._kernel_of(layer, kernels)
    assert (None if chosen is None else chosen.name) == found


def test_an_operator_that_holds_several_products_does_not_tell_their_precision() -> None:
    whole = kernel("Subgraph", "jit_avx512_f32", "fp32", "fp32")
    audited_layer = reader._audited(ir_layer("fc"), whole, {}, {whole.name: 2.0})
    assert (audited_layer.precision, audited_layer.kernel, audited_layer.reason) == ("unavailable", whole.kernel, "")
    assert audited_layer.microseconds == 2.0


@pytest.mark.parametrize(
    ("operator", "name", "reads", "writes", "kind"),
    [
        ("Reorder", "jit_uni_f32", "fp32", "bf16", "precision switch"),
        ("Convert", "ref_I8", "int8", "fp32", "precision switch"),
        ("Convert", "ref_i64", reader._precision("i64"), reader._precision("i32"), "precision switch"),
        ("Reorder", "jit_uni_bf16", "bf16", "bf16", "layout change"),
        ("Split", "ref_bf16", "bf16", "bf16", "reference kernel"),
        ("MatMul", "brgemm_avx512_f32", "fp32", "fp32", "float32 kernel"),
        ("MatMul", "brgemm_avx512_amx_bf16", "bf16", "bf16", None),
        ("Output", "unknown_f32", "fp32", "fp32", None),
    ],
)
def test_what_takes_time_beside_the_layers(operator: str, name: str, reads: str, writes: str, kind: str | None) -> None:
    found = list(reader._overheads([kernel(operator, name, reads, writes)], {f"{operator} {name}": 3.0}, "bf16"))
    assert [(each.kind, each.microseconds) for each in found] == ([] if kind is None else [(kind, 3.0)])


def test_operators_without_any_time_only_change_what_memory_means() -> None:
    fake = kernel("Reorder", "reorder_bf16", "bf16", "bf16")
    assert list(reader._overheads([fake], {fake.name: 0.0}, "bf16")) == []
    assert [each.microseconds for each in reader._overheads([fake], {}, "bf16")] == [None]  # nothing was profiled


def test_reasons_other_than_an_operator_that_dequantizes() -> None:
    quantizer = kernel("FakeQuantize", "jit_avx512_f32", "bf16", "bf16")
    product = kernel("FullyConnected", "brgemm_bf16", "bf16", "bf16", quantizer.name)
    assert "quantizer of its input in floating point" in reader._reason(product, {quantizer.name: quantizer})
    direct = kernel("Convolution", "acl_f16", "int8", "fp16")
    assert reader._reason(direct, {}) == "the engine has no int8 kernel for this Convolution"


def test_weights_alone_in_int8_make_no_int8_layer(core: Any) -> None:
    graph = graphs.QuantizedGraph((4, graphs.CHANNELS))
    product = graph.add("MatMul", ["x", graph.weights("fc", graphs.CHANNELS, graphs.CHANNELS)], "fc")
    (layer,) = layers_of(core.read_model(graph.model(product).SerializeToString()))
    assert (layer.name, layer.quantized) == ("fc", False)


def test_a_product_of_two_quantized_activations_is_a_layer(core: Any) -> None:
    graph = graphs.QuantizedGraph((2, 4, graphs.CHANNELS))
    other = graph.add("Transpose", [graph.quantized("x")], "moved", perm=[0, 2, 1])
    sigmoid = graph.add("Sigmoid", ["x"], "sigmoid")
    product = graph.add("MatMul", [graph.quantized(sigmoid), other], "scores")
    (layer,) = layers_of(core.read_model(graph.model(product).SerializeToString()))
    assert (layer.name, layer.quantized, layer.weights) == ("scores", True, "")


def test_an_altered_bundle_is_refused(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "some.bundle", precision="int8")
    (bundle.path / OPENVINO_BIN).write_bytes(b"")
    with pytest.raises(BundleIntegrityError):
        reader.audit(bundle)


def test_an_error_of_openvino_is_an_engine_error(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Exception from somewhere\nno memory left")

    monkeypatch.setattr(reader, "audit_model", fail)
    with pytest.raises(EngineError, match="no memory left"):
        reader.audit(tiny_bundle)
    assert (tiny_bundle.path / OPENVINO_XML).exists()
