"""The baselines of vitedge's int8: other quantizers, and their results on OpenVINO."""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.timing import Call
from vitedge.bundle.bundle import INPUT_NAME
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.extras import require
from vitedge.runtime.engines.openvino import native_float

PURPOSE = "this benchmark"


def nncf_quantized(model: Any, inputs: NDArray[Any], alpha: float | None = None) -> Any:
    """Quantize an OpenVINO model with NNCF.

    Args:
        model: the FP32 model.
        inputs: ``(N, …)``, to calibrate on.
        alpha: strength of SmoothQuant; −1 disables it, None is NNCF's default.
    """
    nncf = require("nncf", extra="convert", purpose=PURPOSE)
    options: dict[str, Any] = {}
    if alpha is not None:
        smooth = nncf.AdvancedSmoothQuantParameters(matmul=alpha)
        options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smooth)
    with redirect_stdout(sys.stderr):  # its progress bars would end up in the report
        return nncf.quantize(
            model,
            nncf.Dataset([each[np.newaxis] for each in inputs]),
            subset_size=len(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            **options,
        )


def own_ir(module: Any, preprocessing: Preprocessing) -> Any:
    """Convert a PyTorch module with OpenVINO's own converter; float32 ``(1,3,H,W)`` in."""
    import torch

    openvino = require("openvino", extra="openvino", purpose=PURPOSE)
    shape = [1, 3, *preprocessing.input_size]
    model = openvino.convert_model(module.eval(), example_input=torch.zeros(shape))
    model.reshape(shape)
    return model


def from_frame(model: Any, preprocessing: Preprocessing) -> Any:
    """Put OpenVINO's own preprocessing before a model: uint8 NHWC in, mean and std inside."""
    openvino = require("openvino", extra="openvino", purpose=PURPOSE)
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    convert = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    convert.mean([255 * each for each in preprocessing.mean]).scale([255 * each for each in preprocessing.std])
    return steps.build()


def onnxruntime_quantized(source: Path, frames: NDArray[np.uint8], destination: Path) -> Path:
    """Quantize a graph with ONNX Runtime's static quantization: Q/DQ, its defaults, but weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Frames(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(frames)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            frame = next(self._left, None)
            return None if frame is None else {INPUT_NAME: frame[np.newaxis]}

    prepared = destination.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared)
    quantize_static(
        prepared,
        destination,
        Frames(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return destination


def check_compiles(file: Path) -> None:
    """Compile a file in a process of its own first, because OpenVINO crashes on some that others wrote.

    Raises:
        RuntimeError: OpenVINO cannot compile it.
    """
    program = "import openvino, sys; openvino.Core().compile_model(sys.argv[1], 'CPU')"
    status = subprocess.run([sys.executable, "-c", program, str(file)], stderr=subprocess.DEVNULL).returncode
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"exit code {status}"
        raise RuntimeError(f"OpenVINO cannot compile it: its process ended with {how}")


def compiled(model: Any) -> Any:
    """Compile a model or file with vitedge's hints, and return an infer request."""
    openvino = require("openvino", extra="openvino", purpose=PURPOSE)
    core = openvino.Core()
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": native_float(core)}
    return core.compile_model(model, "CPU", hints).create_infer_request()


def compiled_call(model: Any, inputs: NDArray[Any]) -> Call:
    """Return a call that runs a model on the first input."""
    request = compiled(model)
    request.get_input_tensor().data[...] = inputs[:1]

    def run() -> None:
        request.start_async()
        request.wait()

    return run
