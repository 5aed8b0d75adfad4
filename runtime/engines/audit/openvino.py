"""OpenVINO: find the layers of a model in the runtime model of its compiled graph, and time them.

OpenVINO's own word for the precision of an operator is the largest of its inputs, so a product of bfloat16 with
int8 weights that it decompresses has ``i8`` there. The name of the kernel and the data that it reads tell more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitedge.audit import INT8, UNAVAILABLE, Audit, AuditedLayer, Overhead, OverheadKind
from vitedge.bundle.bundle import Bundle
from vitedge.extras import require
from vitedge.runtime.engines.audit.openvino_ir import IrLayer, layers_of
from vitedge.runtime.engines.openvino import DEVICE, configuration, failed, read_model

WARM_UPS = 2
MOST_RUNS = 30
LEAST_RUNS = 3
PROFILE_SECONDS = 2.0

_PRECISIONS: Mapping[str, str] = {
    "u8": INT8, "i8": INT8, "bf16": "bf16", "f16": "fp16", "fp16": "fp16", "f32": "fp32", "fp32": "fp32",
}  # fmt: skip
_PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_WHOLES = ("Subgraph", "MHA", "ScaledDotProductAttention", "LLMMLP", "QKVProjection")
"""OpenVINO's kinds of operators that may hold several products, of which it tells no precision."""
_CONSTANT = "Const"
_MOVES = ("Reshape", "Transpose", "Reorder", "Pad", "StridedSlice", "Split", "Gather", "DepthToSpace", "SpaceToDepth")
_REFERENCE = "ref"
_SWITCHES = ("Reorder", "Convert")
_ENDS = ("Input", "Output")
_FLOAT32 = "fp32"


@dataclass(frozen=True)
class Kernel:
    """An operator of a compiled graph.

    Attributes:
        name: unique in the graph.
        operator: OpenVINO's name of its kind.
        kernel: OpenVINO's name of the code that computes it.
        reads: precision of its first input; ``unavailable`` without inputs.
        writes: precision of its first output.
        layers: names of the operators of the model that it computes, joined by commas.
        sources: names of the operators whose results it reads.
        constant: whether it is computed once, when the graph is compiled.
    """

    name: str
    operator: str
    kernel: str
    reads: str
    writes: str
    layers: str
    sources: tuple[str, ...]
    constant: bool

    @property
    def precision(self) -> str:
        """Return the precision of the computation: as the kernel's name says, or else the precision of the input."""
        return _PRECISIONS.get(self.kernel.rpartition("_")[2].lower(), self.reads)


def audit(bundle: Bundle, *, threads: int | None = None) -> Audit:
    """Compile the bundle's IR as the engine does, with a profile, and find its layers.

    Args:
        bundle: the bundle.
        threads: number of CPU threads, as for the engine.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        BundleIntegrityError: the IR or its weights are missing or altered.
        EngineError: OpenVINO cannot compile or run the IR.
    """
    openvino = require("openvino", extra="openvino", purpose="the openvino engine")
    core = openvino.Core()
    try:
        model = read_model(openvino, core, bundle)
        properties = configuration(core, bundle.manifest.precision.asked, "LATENCY", threads)
        return audit_model(openvino, core, model, properties)
    except (RuntimeError, ValueError) as error:
        raise failed(f"OpenVINO {openvino.__version__} cannot profile {bundle.path}", error) from error


def audit_model(openvino: Any, core: Any, model: Any, properties: Mapping[str, Any]) -> Audit:
    """Compile a model with a profile, run it on random numbers, and find its layers.

    Args:
        openvino: the module.
        core: OpenVINO's core.
        model: an ``openvino.Model``. One with inputs of unknown size is compiled and not run.
        properties: to compile with.

    Raises:
        RuntimeError: OpenVINO cannot compile or run the model.
    """
    layers = layers_of(model)
    compiled = core.compile_model(model, DEVICE, {**properties, "PERF_COUNT": True})
    kernels = kernels_of(compiled.get_runtime_model())
    rest = _precision(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
    times, runs = ({}, 0) if model.is_dynamic() else _profile(compiled)
    computed = [each for each in kernels.values() if not each.constant]
    return Audit(
        engine=f"openvino {openvino.__version__.partition('-')[0]}",
        device=core.get_property(DEVICE, "FULL_DEVICE_NAME").strip(),
        layers=tuple(_audited(layer, _kernel_of(layer, kernels), kernels, times) for layer in layers),
        overheads=tuple(_overheads(computed, times, rest)),
        microseconds=sum(times.get(each.name, 0.0) for each in computed) if times else None,
        runs=runs,
    )


def kernels_of(runtime_model: Any) -> dict[str, Kernel]:
    """Read the operators of a compiled graph, by name and in the order of execution."""
    kernels: dict[str, Kernel] = {}
    for node in runtime_model.get_ordered_ops():
        facts = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        inputs = node.input_values()
        sources = tuple(value.get_node().get_friendly_name() for value in inputs)
        kernels[node.get_friendly_name()] = Kernel(
            name=node.get_friendly_name(),
            operator=facts["layerType"],
            kernel=facts["primitiveType"],
            reads=_precision(inputs[0].get_element_type().get_type_name()) if inputs else UNAVAILABLE,
            writes=_precision(facts["outputPrecisions"].partition(",")[0]),
            layers=facts["originalLayersNames"],
            sources=sources,
            constant=facts["layerType"] == _CONSTANT
            or (bool(sources) and all(name in kernels and kernels[name].constant for name in sources)),
        )
    return kernels


def _precision(type_name: str) -> str:
    """Return the name of a type; types that no layer computes in, such as ``i64``, keep OpenVINO's."""
    return _PRECISIONS.get(type_name, type_name or UNAVAILABLE)


def _profile(compiled: Any) -> tuple[dict[str, float], int]:
    """Run a graph on random numbers.

    OpenVINO tells the mean over all runs since the graph was compiled, in whole microseconds; the first runs, which
    are slow, are taken out of it. It never tells the time of a single run.

    Returns:
        The mean time of each operator in microseconds, by name, and the number of runs; nothing where OpenVINO does
        not profile.
    """
    request = compiled.create_infer_request()
    generator = np.random.default_rng(0)
    for index, _ in enumerate(compiled.inputs):
        data = request.get_input_tensor(index).data
        data[...] = (255 * generator.random(data.shape)).astype(data.dtype)
    for _ in range(WARM_UPS):
        request.infer()
    slow = _means(request)
    ends, runs = time.monotonic() + PROFILE_SECONDS, 0
    while runs < LEAST_RUNS or (runs < MOST_RUNS and time.monotonic() < ends):
        request.infer()
        runs += 1
    means = {
        name: max(0.0, (mean * (WARM_UPS + runs) - slow.get(name, 0.0) * WARM_UPS) / runs)
        for name, mean in _means(request).items()
    }
    return (means, runs) if means else ({}, 0)


def _means(request: Any) -> dict[str, float]:
    return {each.node_name: each.real_time.total_seconds() * 1e6 for each in request.get_profiling_info()}


def _kernel_of(layer: IrLayer, kernels: Mapping[str, Kernel]) -> Kernel | None:
    """Find the operator that computes a layer.

    OpenVINO keeps the names of the operators that it fuses, and loses some: then the weights that an operator reads,
    or the names of what lies behind the layer, tell which one it is.
    """
    products = [each for each in kernels.values() if each.operator in (*_PRODUCTS, *_WHOLES) and not each.constant]
    own, *behind = layer.aliases
    return (
        _holding(own, products)
        or next((each for each in products if layer.weights and layer.weights in _constants(each, kernels)), None)
        or next((found for name in behind if (found := _holding(name, products)) is not None), None)
    )


def _holding(name: str, products: Iterable[Kernel]) -> Kernel | None:
    """Find the operator that computes an operator of the model; names may hold commas."""
    return next((each for each in products if f",{name}," in f",{each.layers},"), None)


def _constants(kernel: Kernel, kernels: Mapping[str, Kernel]) -> set[str]:
    """Return the names of the constants that an operator reads, which may be moved or converted before."""
    found, pending = set[str](), [name for name in kernel.sources if kernels[name].constant]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += kernels[name].sources
    return found


def _audited(
    layer: IrLayer, kernel: Kernel | None, kernels: Mapping[str, Kernel], times: Mapping[str, float]
) -> AuditedLayer:
    if kernel is None:
        return AuditedLayer(layer.name, layer.operator, layer.quantized, UNAVAILABLE)
    if kernel.operator in _WHOLES:
        return AuditedLayer(
            layer.name, layer.operator, layer.quantized, UNAVAILABLE, kernel.kernel, microseconds=times.get(kernel.name)
        )
    fell_back = layer.quantized and kernel.precision not in (INT8, UNAVAILABLE)
    return AuditedLayer(
        name=layer.name,
        operator=layer.operator,
        quantized=layer.quantized,
        precision=kernel.precision,
        kernel=kernel.kernel,
        reason=_reason(kernel, kernels) if fell_back else "",
        microseconds=times.get(kernel.name),
    )


def _reason(kernel: Kernel, kernels: Mapping[str, Kernel]) -> str:
    """Say why a layer is not computed in int8: where its 8-bit input becomes floating point, before it."""
    if kernel.reads == INT8:
        return f"the engine has no int8 kernel for this {kernel.operator}"
    moved: list[str] = []
    source = _data_source(kernel, kernels)
    while source is not None and source.reads != INT8 and source.operator in _MOVES:
        moved.append(source.operator)
        source = _data_source(source, kernels)
    if source is None or source.reads != INT8:
        return "the engine computes the quantizer of its input in floating point"
    before = _data_source(source, kernels)
    behind = f" behind {before.operator}" if before is not None and before.operator != "Input" else ""
    across = f", and then applies {', '.join(reversed(moved))}" if moved else ""
    return f"the engine dequantizes its input{behind}{across}"


def _data_source(kernel: Kernel, kernels: Mapping[str, Kernel]) -> Kernel | None:
    return kernels[kernel.sources[0]] if kernel.sources else None


def _overheads(kernels: Iterable[Kernel], times: Mapping[str, float], rest: str) -> Iterator[Overhead]:
    grouped: dict[tuple[OverheadKind, str, str, str], list[str]] = {}
    for each in kernels:
        kind = _overhead_kind(each, rest)
        if kind is not None and (not times or times.get(each.name, 0.0) > 0):  # some only change what memory means
            change = each.writes if each.reads in (each.writes, UNAVAILABLE) else f"{each.reads} → {each.writes}"
            grouped.setdefault((kind, each.operator, each.kernel, change), []).append(each.name)
    found = [
        Overhead(*key, tuple(names), sum(times[name] for name in names) if times else None)
        for key, names in grouped.items()
    ]
    yield from sorted(found, key=lambda each: each.microseconds or 0.0, reverse=True)


def _overhead_kind(kernel: Kernel, rest: str) -> OverheadKind | None:
    if kernel.operator in _ENDS:
        return None
    if kernel.operator in _SWITCHES:
        return "layout change" if kernel.reads == kernel.writes else "precision switch"
    if kernel.kernel.startswith(_REFERENCE):
        return "reference kernel"
    return "float32 kernel" if kernel.operator in _PRODUCTS and kernel.precision == _FLOAT32 != rest else None
