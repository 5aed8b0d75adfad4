"""TensorRT on the road to a bundle: the host makes strongly typed graphs and forecasts them, the device builds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from vitedge.audit import Audit
from vitedge.bundle.bundle import MODEL_ONNX, Bundle
from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.precision_records import CalibrationRecord
from vitedge.bundle.targets import Precision
from vitedge.bundle.verification_records import StageRecord
from vitedge.calib.quantization.affine import Scheme
from vitedge.converters.backends import BackendInputs, Mended, Reduced, quantized
from vitedge.converters.reference import graph_logits
from vitedge.converters.rewrites.apply import Rewrite
from vitedge.converters.tensorrt import emulation
from vitedge.converters.tensorrt.casts import counts
from vitedge.converters.tensorrt.typed import Typed, half_graph
from vitedge.converters.tensorrt.value_ranges import peaks
from vitedge.graph.files import bundle_graph, without_weights
from vitedge.graph.session import open_session
from vitedge.progress import Progress
from vitedge.runtime.engines.base import EngineInfo
from vitedge.runtime.engines.onnxruntime import OnnxruntimeEngine
from vitedge.runtime.system.machine import processor_name, threads_for_engine

WRITES = "strongly typed ONNX"
COMPARES = "what ONNX Runtime computes on this host, every value rounded as the graph says,"
REWRITES: tuple[Rewrite, ...] = ()
MEASURED_FRAMES = 64


def check_operators(graph: onnx.ModelProto) -> None:
    """Refuse nothing: only the device knows which operators its TensorRT builds."""


def mend(inputs: BackendInputs, precision: Precision, progress: Progress) -> Mended:  # noqa: ARG001
    """Give the graph itself: this host has no TensorRT to compare with."""
    return Mended(inputs.graph)


def reduce(inputs: BackendInputs, precision: Precision, progress: Progress) -> Reduced:
    """Reduce a graph to a precision; an 8-bit graph comes with a 16-bit one, and the device keeps the faster."""
    if precision == "fp32":
        return Reduced(inputs.graph, None, unrounded=_logits(inputs.graph, inputs))
    half = _half(inputs.graph, inputs, None, progress)
    if precision == "fp16":
        return half
    found, record = quantized(inputs, Scheme.FLOAT8 if precision == "fp8" else Scheme.SHIFTED, progress)
    return replace(_half(found.graph, inputs, record, progress), fp16=half)


def _half(
    graph: onnx.ModelProto, inputs: BackendInputs, record: CalibrationRecord | None, progress: Progress
) -> Reduced:
    shaped = _shaped(graph)
    typed = half_graph(shaped, peaks(shaped, inputs.frames[:MEASURED_FRAMES], progress))
    progress.step(f"typed the graph: {_described(typed)}")
    return Reduced(typed.graph, record, unrounded=_logits(graph, inputs))


def _shaped(graph: onnx.ModelProto) -> onnx.ModelProto:
    return without_weights(
        graph, lambda light: onnx.shape_inference.infer_shapes(light, strict_mode=True, data_prop=True)
    )


def _described(typed: Typed) -> str:
    counted = Counter("values beyond float16" if each.startswith("values") else each for each in typed.full.values())
    kept = ", ".join(f"{count} ({reason})" for reason, count in counted.most_common())
    return f"{counts(typed.graph).casts} casts between precisions; float32 stay {kept or 'no operators'}"


def _logits(graph: onnx.ModelProto, inputs: BackendInputs) -> NDArray[np.float32]:
    return graph_logits(graph, inputs.golden, inputs.card.preprocessing)


def computed(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Round the 16-bit values of a graph, which ONNX Runtime by itself leaves out."""
    return emulation.rounded(graph)


def rounded(graph: onnx.ModelProto, rest: str) -> onnx.ModelProto | None:  # noqa: ARG001
    """Give None: ``computed`` rounds every value."""
    return None


def write(folder: Path, card: ModelCard, precision: Precision) -> None:
    """Write nothing: the device builds from the ONNX files."""


def record_stages(
    bundle: Bundle,  # noqa: ARG001
    graph: onnx.ModelProto,  # noqa: ARG001
    frame: NDArray[np.uint8],  # noqa: ARG001
) -> tuple[StageRecord, ...]:
    """Give none: TensorRT does not run here, and its plans have no outputs inside."""
    return ()


def audit(bundle: Bundle) -> Audit | None:  # noqa: ARG001
    """Find nothing: the device compiles the graph."""
    return None


def open_fp16_engine(graph: onnx.ModelProto) -> None:  # noqa: ARG001
    """Open nothing: the device builds both graphs, and times them."""
    return


def open_host_engine(bundle: Bundle) -> OnnxruntimeEngine:
    """Open ONNX Runtime on the rounded graph, as a forecast of the device."""
    size = bundle.manifest.model.preprocessing.input_size
    graph = emulation.rounded(bundle_graph(bundle, MODEL_ONNX))
    session = open_session(graph, threads=threads_for_engine(None))
    info = EngineInfo("onnxruntime", onnxruntime.__version__, processor_name(), "fp32", "fp32")
    return OnnxruntimeEngine(session, np.zeros((*size, 3), np.uint8), info)
