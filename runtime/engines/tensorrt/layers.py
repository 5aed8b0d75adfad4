"""The layers of a plan: which nodes TensorRT fused, in which precision each layer computes, and how attention runs.

On a device, the engine inspector describes the layers as JSON. The builder logs the same as text, also without a GPU.
TensorRT writes the type of a tensor into ``Format/Datatype``, TensorRT for RTX into ``Datatype``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LOG_HEADER = "Layers:"

_PRODUCT_KINDS = ("conv", "correlation", "deconv", "fullyconnected", "gemm", "matmul", "matrixmultiply")
_DTYPES = (
    (re.compile(r"bf16|bfloat16", re.IGNORECASE), "bf16"),
    (re.compile(r"fp8|e4m3", re.IGNORECASE), "fp8"),
    (re.compile(r"\bu?int8", re.IGNORECASE), "int8"),
    (re.compile(r"half|fp16", re.IGNORECASE), "fp16"),
    (re.compile(r"float|fp32", re.IGNORECASE), "fp32"),
)
_EXACTNESS = ("int8", "fp8", "fp16", "bf16", "fp32")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_LIST = r"\[((?: \{[^{}]*\},?)* ?)\]"
_LOGGED = re.compile(
    rf"Name: (.*?), LayerType: (.*?), Inputs: {_LIST}(?:, Constants: {_LIST})?, Outputs: {_LIST}, "
    r"(?:.*?, )?TacticName: (.*?), StreamId: \d+(?:, Metadata: (.*))?"
)
_TENSOR = re.compile(
    r"\{ Name: (.*?), (?:Location: \w+, )?Dimensions: \[([\d,\-]*)\][^{}]*?Datatype: ([^{}]*?)(?:, Format: [^{}]*)? \}"
)
_SOFTMAX_KERNEL = re.compile(r"softmax|Max\w*Sub\w*Exp\w*Sum", re.IGNORECASE)

# TensorRT documentation, "Fused Attention": head sizes and sequence lengths that its kernels support.
_INT8_HEADS = (16, 32, 64)
_INT8_SEQUENCE = 512
_FP16_HEADS = range(16, 257)


@dataclass(frozen=True)
class LayerTensor:
    """A tensor between layers.

    Attributes:
        name: name that TensorRT gave it.
        shape: its dimensions.
        dtype: ``fp32``, ``fp16``, ``bf16``, ``fp8`` or ``int8``; empty for any other.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class EngineLayer:
    """A layer of a plan: one kernel or a few.

    Attributes:
        name: name that TensorRT gave it.
        kind: its ``LayerType``, such as ``gemm`` or ``kgen``.
        tactic: name of the kernel; empty if it is not reported.
        inputs: tensors that it reads, without constants.
        outputs: tensors that it writes.
        nodes: names of the ONNX nodes that it computes, wholly or in part.
    """

    name: str
    kind: str
    tactic: str
    inputs: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class AttentionBlock:
    """One attention block of the network.

    Attributes:
        layer: name of the layer that computes its softmax.
        nodes: the ONNX nodes of that layer.
        dtype: type of the tensors that the layer reads.
        fused: whether one kernel computes both products and the softmax.
        reason: why it is not fused; empty if it is.
    """

    layer: str
    nodes: tuple[str, ...]
    dtype: str
    fused: bool
    reason: str


def parse_inspection(text: str) -> tuple[EngineLayer, ...]:
    """Parse the result of ``EngineInspector.get_engine_information(JSON)``.

    Returns:
        The layers; empty if the text is not such JSON, or the plan has only the names of its layers.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    found = value.get("Layers") if isinstance(value, dict) else None
    return tuple(_layer(each) for each in found if isinstance(each, dict)) if isinstance(found, list) else ()


def _layer(value: dict[str, Any]) -> EngineLayer:
    return EngineLayer(
        name=str(value.get("Name", "")),
        kind=str(value.get("LayerType", "")),
        tactic=str(value.get("TacticName", "")),
        inputs=_tensors(value.get("Inputs")),
        outputs=_tensors(value.get("Outputs")),
        nodes=tuple(_NODE.findall(str(value.get("Metadata", "")))),
    )


def _tensors(values: object) -> tuple[LayerTensor, ...]:
    if not isinstance(values, list):
        return ()
    return tuple(
        LayerTensor(
            name=str(each.get("Name", "")),
            shape=tuple(size for size in each.get("Dimensions") or () if isinstance(size, int)),
            dtype=_dtype(str(each.get("Datatype") or each.get("Format/Datatype") or "")),
        )
        for each in values
        if isinstance(each, dict)
    )


def parse_log(message: str) -> tuple[EngineLayer, ...]:
    """Parse the layers that a verbose builder logs under ``Layers:``; empty for any other message."""
    header, _, body = message.partition("\n")
    if header.strip() != LOG_HEADER:
        return ()
    return tuple(_logged_layer(*found.groups("")) for found in map(_LOGGED.fullmatch, body.splitlines()) if found)


def _logged_layer(
    name: str,
    kind: str,
    inputs: str,
    constants: str,  # noqa: ARG001
    outputs: str,
    tactic: str,
    metadata: str,
) -> EngineLayer:
    return EngineLayer(
        name, kind, tactic, _logged_tensors(inputs), _logged_tensors(outputs), tuple(_NODE.findall(metadata))
    )


def _logged_tensors(text: str) -> tuple[LayerTensor, ...]:
    return tuple(
        LayerTensor(name, tuple(int(size) for size in shape.split(",") if size), _dtype(dtype))
        for name, shape, dtype in _TENSOR.findall(text)
    )


def _dtype(text: str) -> str:
    return next((name for pattern, name in _DTYPES if pattern.search(text)), "")


def effective_precision(layers: Iterable[EngineLayer]) -> str | None:
    """Return the type that most matrix products and convolutions read; on a tie, the more precise; None if unknown."""
    counted = Counter(each.inputs[0].dtype for each in layers if is_product(each) and each.inputs[0].dtype)
    return max(counted, key=lambda name: (counted[name], _EXACTNESS.index(name)), default=None)


def rest_precision(layers: Iterable[EngineLayer]) -> str | None:
    """Return the type of most tensors between layers, 8 bits excluded; on a tie, the more precise; None if unknown."""
    written = (tensor.dtype for layer in layers for tensor in layer.outputs)
    counted = Counter(dtype for dtype in written if dtype in ("fp16", "bf16", "fp32"))
    return max(counted, key=lambda name: (counted[name], _EXACTNESS.index(name)), default=None)


def is_product(layer: EngineLayer) -> bool:
    """Tell whether a layer is a matrix product or a convolution."""
    return bool(layer.inputs) and any(kind in layer.kind.lower() for kind in _PRODUCT_KINDS)


def attention_blocks(layers: Iterable[EngineLayer]) -> tuple[AttentionBlock, ...]:
    """Find every attention block, in order: one kernel (``…_mha_…``), or a softmax between two products."""
    found = tuple(layers)
    return tuple(_block(layer, found) for layer in found if _is_fused(layer) or _SOFTMAX_KERNEL.search(_kernel(layer)))


def _kernel(layer: EngineLayer) -> str:
    return f"{layer.name} {layer.kind} {layer.tactic}"


def _is_fused(layer: EngineLayer) -> bool:
    return "mha" in f"{layer.name} {layer.tactic}".lower()


def _block(layer: EngineLayer, layers: tuple[EngineLayer, ...]) -> AttentionBlock:
    fused = _is_fused(layer)
    products = [each for each in layers if is_product(each) and _feeds(each, layer)]
    read = (layer if fused or not products else products[0]).inputs
    return AttentionBlock(
        layer=layer.name,
        nodes=layer.nodes,
        dtype=read[0].dtype if read else "",
        fused=fused,
        reason="" if fused else _why_not(read),
    )


def _feeds(producer: EngineLayer, consumer: EngineLayer) -> bool:
    return bool({each.name for each in producer.outputs} & {each.name for each in consumer.inputs})


def _why_not(read: tuple[LayerTensor, ...]) -> str:
    """Say why there is no fused kernel, from the operands of the first product: rows×head and head×columns."""
    if len(read) < 2 or len(read[0].shape) < 2 or len(read[1].shape) < 2:
        return "TensorRT chose separate kernels; the layers do not say why"
    sequence, head, dtype = read[1].shape[-1], read[0].shape[-1], read[0].dtype
    if dtype == "fp32":
        return "reads fp32: fused kernels take fp16, bf16, fp8 and int8"
    if dtype == "int8" and head not in _INT8_HEADS:
        return f"heads are {head} wide: in int8, fused kernels take 16, 32 and 64"
    if dtype == "int8" and sequence > _INT8_SEQUENCE:
        return f"the sequence has {sequence} tokens: in int8, fused kernels take {_INT8_SEQUENCE}"
    if head not in _FP16_HEADS:
        return f"heads are {head} wide: fused kernels take 16 to 256"
    return "TensorRT chose separate kernels; the layers do not say why"
