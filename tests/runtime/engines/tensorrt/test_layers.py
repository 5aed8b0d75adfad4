"""The inspector's JSON, as TensorRT 10 and TensorRT for RTX write it, and the builder's log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vitedge.runtime.engines.tensorrt.layers import (
    attention_blocks,
    effective_precision,
    parse_inspection,
    parse_log,
    rest_precision,
)


def tensor(name: str, shape: list[int], dtype: str, key: str = "Format/Datatype") -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": shape, key: dtype}


def layer(
    name: str, kind: str, inputs: list[Any], outputs: list[Any], nodes: tuple[str, ...] = (), tactic: str = ""
) -> dict[str, Any]:
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": inputs,
        "Outputs": outputs,
        "TacticName": tactic,
        "StreamId": 0,
        "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
    }


def inspection(*layers: Any) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["frame", "logits"]})


FUSED = layer(
    "_gemm_mha_v2_myl0_4",
    "kgen",
    [tensor("q", [2, 16, 32], "Half"), tensor("k", [2, 32, 16], "Half"), tensor("v", [2, 16, 32], "Half")],
    [tensor("mixed", [2, 16, 32], "Half")],
    ("/blocks.0/attn/MatMul_1", "/blocks.0/attn/Softmax", "/blocks.0/attn/MatMul"),
    "_gemm_mha_v2_0x8ad8cec45af6ab67b1b18a365c5ff65c",
)


def unfused(dtype: str, head: int, tokens: int) -> list[dict[str, Any]]:
    return [
        layer(
            "/blocks.0/attn/MatMul_myl0_5",
            "gemm",
            [tensor("q", [2, tokens, head], dtype), tensor("k", [2, head, tokens], dtype)],
            [tensor("scores", [2, tokens, tokens], "Half")],
            ("/blocks.0/attn/MatMul",),
        ),
        layer(
            "__myl_MaxrSubExpSumDiv_myl0_6",
            "kgen",
            [tensor("scores", [2, tokens, tokens], "Half")],
            [tensor("weights", [2, tokens, tokens], "Half")],
            ("/blocks.0/attn/Softmax",),
        ),
    ]


def test_a_fused_attention() -> None:
    (block,) = attention_blocks(parse_inspection(inspection(FUSED)))
    assert block.fused
    assert block.reason == ""
    assert block.dtype == "fp16"
    assert block.nodes[1] == "/blocks.0/attn/Softmax"


@pytest.mark.parametrize(
    ("dtype", "head", "tokens", "reason"),
    [
        ("Float", 64, 197, "reads fp32"),
        ("Int8", 36, 197, "heads are 36 wide: in int8"),
        ("Int8", 64, 577, "the sequence has 577 tokens"),
        ("Half", 512, 197, "heads are 512 wide: fused kernels take 16 to 256"),
        ("Half", 64, 197, "TensorRT chose separate kernels"),
    ],
)
def test_why_attention_is_not_fused(dtype: str, head: int, tokens: int, reason: str) -> None:
    (block,) = attention_blocks(parse_inspection(inspection(*unfused(dtype, head, tokens))))
    assert not block.fused
    assert block.reason.startswith(reason)
    assert block.nodes == ("/blocks.0/attn/Softmax",)


def test_a_softmax_of_the_older_runtime_whose_operands_are_not_told() -> None:
    alone = layer("/attn/Softmax", "SoftMax", [tensor("x", [1, 8, 8], "Row major linear FP16 format")], [])
    (block,) = attention_blocks(parse_inspection(inspection(alone)))
    assert (block.fused, block.dtype) == (False, "fp16")
    assert "do not say why" in block.reason


@pytest.mark.parametrize(
    ("described", "dtype"),
    [
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("Int8", "int8"),
        ("BFloat16", "bf16"),
        ("FP8", "fp8"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Row major linear FP16 format (kLINEAR)", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Int32", None),
        ("Bool", None),
    ],
)
def test_the_names_of_types(described: str, dtype: str | None) -> None:
    product = layer("fc", "CaskGemmConvolution", [tensor("x", [1, 8], described)], [])
    assert effective_precision(parse_inspection(inspection(product))) == dtype


def test_tensorrt_for_rtx_names_the_type_apart_from_the_format() -> None:
    read = {**tensor("x", [1, 8], "Half", key="Datatype"), "Format": "(Linear) Row major linear format"}
    assert effective_precision(parse_inspection(inspection(layer("fc", "gemm", [read], [])))) == "fp16"


def test_precision_is_that_of_most_products() -> None:
    def product(dtype: str) -> dict[str, Any]:
        return layer("fc", "gemm", [tensor("x", [1, 8], dtype)], [tensor("y", [1, 8], "Half")])

    norm = layer("norm", "kgen", [tensor("y", [1, 8], "Half")], [tensor("z", [1, 8], "Float")])
    layers = parse_inspection(inspection(product("Int8"), product("Int8"), product("Half"), norm))
    assert effective_precision(layers) == "int8"
    assert rest_precision(layers) == "fp16"
    assert rest_precision(layers[2:]) == "fp32"
    assert effective_precision(layers[1:3]) == "fp16"  # on a tie, the more exact


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", '{"Layers": 3}', '{"Layers": ["names", "alone"]}', "[" * 100_000]
)
def test_what_does_not_tell_is_unknown(text: str) -> None:
    layers = parse_inspection(text)
    assert layers == ()
    assert effective_precision(layers) is None
    assert rest_precision(layers) is None
    assert attention_blocks(layers) == ()


def test_keys_that_are_missing_are_unknown() -> None:
    (found,) = parse_inspection(inspection({"Name": "x", "Inputs": [{"Dimensions": None}, 3]}))
    assert found.inputs[0].shape == ()
    assert found.nodes == ()


LOGGED = (
    "Layers:\n"
    "Name: qkv_myl0_3, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [1,16,64], Strides: [1024,64,1], Datatype: "
    "Half, Format: (Linear) Row major linear format }], Constants: [ { Name: w, Dimensions: [3,64,64], Datatype: "
    "Int8, Format: (Linear) Row major linear format }], Outputs: [ { Name: y, Dimensions: [3,16,64], Datatype: Float, "
    "Format: (Linear) Row major linear format }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: qkv][ONNX Layer: "
    "norm]\n"
    "Name: wait, LayerType: wait, Inputs: [], Outputs: [], TacticName: , StreamId: 1, Metadata: \n"
)


def test_the_log_of_the_builder() -> None:
    product, wait = parse_log(LOGGED)
    assert (product.name, product.kind, product.nodes) == ("qkv_myl0_3", "gemm", ("qkv", "norm"))
    assert [(each.name, each.shape, each.dtype) for each in product.inputs] == [("x", (1, 16, 64), "fp16")]
    assert [(each.name, each.shape, each.dtype) for each in product.outputs] == [("y", (3, 16, 64), "fp32")]
    assert (wait.kind, wait.inputs, wait.nodes) == ("wait", (), ())
    assert parse_log("Layer: x") == ()
