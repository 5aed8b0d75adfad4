"""TensorRT: find the layers of a bundle among the layers of its plan, as the engine inspector describes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from vitedge.audit import EIGHT_BITS, UNAVAILABLE, Audit, AuditedLayer, Overhead
from vitedge.bundle.bundle import MODEL_ONNX
from vitedge.runtime.engines.base import EngineInfo
from vitedge.runtime.engines.tensorrt.layers import EngineLayer, is_product

_REFORMATS = ("reformat", "reorder", "copy")


def audit(plan: Sequence[EngineLayer], layers: Iterable[AuditedLayer], info: EngineInfo) -> Audit:
    """Find the layers of a bundle's graph in a plan; it is not profiled.

    Args:
        plan: layers of the plan; empty if TensorRT does not describe them.
        layers: of the bundle's ``model.onnx``.
        info: of the engine.
    """
    return Audit(
        engine=f"{info.name} {info.version}",
        device=info.device,
        layers=tuple(_audited(layer, _layer_of(layer, plan), plan, info.graph) for layer in layers),
        overheads=tuple(_overheads(plan)),
    )


def _layer_of(layer: AuditedLayer, plan: Iterable[EngineLayer]) -> EngineLayer | None:
    """Find the layer of the plan that computes a layer; some of several may only bring its weights into form."""
    found = [each for each in plan if layer.name in each.nodes and each.inputs]
    return next((each for each in found if is_product(each)), next(iter(found), None))


def _audited(layer: AuditedLayer, found: EngineLayer | None, plan: Sequence[EngineLayer], graph: str) -> AuditedLayer:
    if found is None:
        return replace(layer, precision=UNAVAILABLE, kernel="", reason="", microseconds=None)
    weights = _dequantized_weights(found, plan)
    precision = weights or found.inputs[0].dtype or UNAVAILABLE
    fell_back = layer.quantized and precision not in (*EIGHT_BITS, UNAVAILABLE)
    return replace(
        layer,
        precision=precision,
        kernel=found.tactic or found.kind,
        reason=_reason(graph, weights) if fell_back else "",
        microseconds=None,
    )


def _dequantized_weights(layer: EngineLayer, plan: Iterable[EngineLayer]) -> str:
    """Return the floating-point type of weights that a layer of constants alone computes; empty if none does.

    Such a product converts its 8-bit input, too: TensorRT for RTX fuses that into ``runtime_fusion`` layers.
    """
    constants = {tensor.name for each in plan if not each.inputs for tensor in each.outputs}
    types = [tensor.dtype for tensor in layer.inputs if tensor.name in constants]
    return next((dtype for dtype in types if dtype and dtype not in EIGHT_BITS), "")


def _reason(graph: str, weights: str) -> str:
    if graph != MODEL_ONNX:
        return "the plan of the 16-bit graph was kept, which was faster here"
    return "TensorRT dequantizes its weights" if weights else "TensorRT does not fuse the quantizer of its input"


def _overheads(plan: Iterable[EngineLayer]) -> Iterator[Overhead]:
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for layer in plan:
        if layer.inputs and layer.outputs and any(word in layer.kind.lower() for word in _REFORMATS):
            before, after = (each[0].dtype or UNAVAILABLE for each in (layer.inputs, layer.outputs))
            change = after if before == after else f"{before} → {after}"
            grouped.setdefault((layer.kind, layer.tactic, change), []).append(layer.name)
    for (kind, tactic, change), names in grouped.items():
        switch = "→" in change
        yield Overhead("precision switch" if switch else "layout change", kind, tactic, change, tuple(names))
