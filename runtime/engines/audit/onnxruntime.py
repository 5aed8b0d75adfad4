"""ONNX Runtime: find the layers of a bundle among the nodes that were executed, by its profile."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vitedge.audit import EIGHT_BITS, UNAVAILABLE, Audit, AuditedLayer, Overhead
from vitedge.bundle.bundle import Bundle
from vitedge.runtime.engines.base import EngineInfo
from vitedge.runtime.engines.onnxruntime import product_precision, profiled_nodes

RUNS = 10
"""Of which the first warms the session."""

_KERNEL_TIME = "_kernel_time"
_FUSED = ("/", "_nhwc", "_quant")
"""How the name goes on that ONNX Runtime gives a node which it made from another one."""
_SWITCHES = ("Cast", "DequantizeLinear", "QuantizeLinear")
_PRECISIONS: Mapping[str, str] = {
    "float": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"
}  # fmt: skip


@dataclass(frozen=True)
class _Node:
    """An executed node.

    Attributes:
        name: in the graph that ONNX Runtime optimized.
        kind: its operator.
        reads: precision of its first input.
        writes: precision of its first output.
        product: precision of a matrix product or convolution; None for any other node.
        microseconds: mean time over the runs after the first, or of a single run.
    """

    name: str
    kind: str
    reads: str
    writes: str
    product: str | None
    microseconds: float


def audit(bundle: Bundle, layers: Iterable[AuditedLayer], info: EngineInfo, *, threads: int | None = None) -> Audit:
    """Run the bundle's graph with a profile, and find its layers.

    Args:
        bundle: the bundle.
        layers: of its graph.
        info: of the engine.
        threads: number of CPU threads, as for the engine.

    Raises:
        EngineError: ONNX Runtime cannot run the graph.
    """
    nodes = _nodes(profiled_nodes(bundle, threads=threads, runs=RUNS))
    return Audit(
        engine=f"{info.name} {info.version}",
        device=info.device,
        layers=tuple(_audited(layer, _node_of(layer, nodes)) for layer in layers),
        overheads=tuple(_overheads(nodes)),
        microseconds=sum(node.microseconds for node in nodes) if nodes else None,
        runs=RUNS - 1 if nodes else 0,
    )


def _nodes(events: Iterable[Mapping[str, Any]]) -> list[_Node]:
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if name.endswith(_KERNEL_TIME):
            runs.setdefault(name.removesuffix(_KERNEL_TIME), []).append(event)
    return [_node(name, each) for name, each in runs.items()]


def _node(name: str, runs: Sequence[Mapping[str, Any]]) -> _Node:
    args, times = runs[0]["args"], [float(event.get("dur", 0)) for event in runs]
    return _Node(
        name,
        str(args.get("op_name", "")),
        _type(args.get("input_type_shape")),
        _type(args.get("output_type_shape")),
        product_precision(args),
        statistics.fmean(times[1:] or times),
    )


def _type(tensors: Any) -> str:
    """Return the precision of the first tensor of a list such as ``[{"float": [1, 3]}]``."""
    first = tensors[0] if tensors else {}
    return _PRECISIONS.get(next(iter(first), ""), UNAVAILABLE)


def _node_of(layer: AuditedLayer, nodes: Iterable[_Node]) -> _Node | None:
    products = [node for node in nodes if node.product is not None]
    made_from_it = tuple(f"{layer.name}{ending}" for ending in _FUSED)
    return next(
        (node for node in products if node.name == layer.name),
        next((node for node in products if node.name.startswith(made_from_it)), None),
    )


def _audited(layer: AuditedLayer, node: _Node | None) -> AuditedLayer:
    if node is None or node.product is None:
        return replace(layer, precision=UNAVAILABLE, kernel="", reason="", microseconds=None)
    fell_back = layer.quantized and node.product not in EIGHT_BITS
    return replace(
        layer,
        precision=node.product,
        kernel=node.kind,
        reason=f"ONNX Runtime does not fuse its DequantizeLinear into the {layer.operator}" if fell_back else "",
        microseconds=node.microseconds,
    )


def _overheads(nodes: Iterable[_Node]) -> Iterator[Overhead]:
    grouped: dict[tuple[str, str], list[_Node]] = {}
    for node in nodes:
        if node.kind in _SWITCHES:
            grouped.setdefault((node.kind, f"{node.reads} → {node.writes}"), []).append(node)
    found = [
        Overhead("precision switch", kind, kind, change, tuple(each.name for each in group), _sum(group))
        for (kind, change), group in grouped.items()
    ]
    yield from sorted(found, key=lambda each: each.microseconds or 0.0, reverse=True)


def _sum(nodes: Iterable[_Node]) -> float:
    return sum(node.microseconds for node in nodes)
