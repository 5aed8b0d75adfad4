"""Small real bundles: a graph that names the dominant colour of a frame, as ONNX and IR, with true hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vitedge.bundle.accuracy_records import ConfidenceRecord, ThresholdsRecord
from vitedge.bundle.bundle import (
    GOLDEN,
    INPUT_NAME,
    LABELS,
    MANIFEST,
    MODEL_ONNX,
    OPENVINO_XML,
    OUTPUT_NAME,
    Bundle,
    sha256_of,
)
from vitedge.bundle.manifest import SCHEMA_VERSION, FileRecord, Manifest, dump_manifest
from vitedge.bundle.model_card import Activation, ModelCard
from vitedge.bundle.precision_records import PrecisionRecord
from vitedge.bundle.preprocessing import ChannelOrder, Preprocessing
from vitedge.bundle.targets import Precision
from vitedge.bundle.verification_records import GoldenRecord, VerificationRecord
from vitedge.metrics import parity
from vitedge.version import VERSION

COLOURS = ("red", "green", "blue")
SIDE = 32
PATCH = 4
OPSET = 18
PREPROCESSING = Preprocessing(
    input_size=(SIDE, SIDE),
    resize_size=(SIDE, SIDE),
    interpolation="bilinear",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
WEIGHTS = np.array([[8, -4, -4], [-4, 8, -4], [-4, -4, 8]], dtype=np.float32)

Frame = NDArray[np.uint8]


def colour_frame(
    colour: str, *, height: int = SIDE, width: int = SIDE, order: ChannelOrder = "BGR", seed: int = 0
) -> Frame:
    """A noisy ``height×width×3`` frame in which one colour dominates; BGR unless told, as OpenCV would give it."""
    frame = np.random.default_rng(seed).integers(0, 90, (height, width, 3), dtype=np.uint8)
    frame[..., order.index(colour[0].upper())] += 140
    return frame


def colour_graph(precision: Precision = "fp32") -> onnx.ModelProto:
    """``frame`` (1,32,32,3) uint8 RGB to ``logits`` (1,3): patch convolution, average, linear layer.

    In int8 the inputs of the convolution and of the linear layer pass through Q/DQ pairs, and their weights are
    stored in int8, as in the graphs that calibration writes. Weights use half of their range, as for CPUs without
    VNNI, whose sums of two products saturate at 16 bits.
    """
    kernel = np.zeros((3, 3, PATCH, PATCH), dtype=np.float32)
    kernel[range(3), range(3)] = 1 / PATCH**2
    graph = _Graph(quantized=precision == "int8")
    graph.constants.update(kernel=kernel, weights=WEIGHTS, step=np.array(1 / 255, np.float32))
    graph.add("Cast", [INPUT_NAME], "pixels", to=TensorProto.FLOAT)
    graph.add("Mul", ["pixels", "step"], "scaled")
    graph.add("Transpose", ["scaled"], "planes", perm=[0, 3, 1, 2])
    planes, filters = graph.fake_quantize("planes", 1 / 255), graph.quantized_weight("kernel", 1 / 992)
    graph.add("Conv", [planes, filters], "patches", strides=[PATCH, PATCH])
    graph.add("GlobalAveragePool", ["patches"], "pooled")
    graph.add("Flatten", ["pooled"], "features")
    features, weights = graph.fake_quantize("features", 1 / 255), graph.quantized_weight("weights", 1 / 7.5)
    graph.add("MatMul", [features, weights], OUTPUT_NAME)
    return graph.model()


class _Graph:
    """Nodes and constants, in order."""

    def __init__(self, *, quantized: bool) -> None:
        self.quantized = quantized
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = {}

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: object) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))

    def fake_quantize(self, name: str, step: float) -> str:
        """Send a tensor through Q/DQ, where the graph is a quantized one; the name of the result."""
        if not self.quantized:
            return name
        parameters = self._parameters(name, step, np.uint8)
        self.add("QuantizeLinear", [name, *parameters], f"{name}_quantized")
        self.add("DequantizeLinear", [f"{name}_quantized", *parameters], f"{name}_dequantized")
        return f"{name}_dequantized"

    def quantized_weight(self, name: str, step: float) -> str:
        """Store a constant in int8, where the graph is a quantized one; the name of what stands for it."""
        if not self.quantized:
            return name
        self.constants[f"{name}_int8"] = np.rint(self.constants.pop(name) / step).astype(np.int8)
        self.add("DequantizeLinear", [f"{name}_int8", *self._parameters(name, step, np.int8)], f"{name}_dequantized")
        return f"{name}_dequantized"

    def _parameters(self, name: str, step: float, kind: type[np.integer]) -> list[str]:
        names = [f"{name}_scale", f"{name}_zero_point"]
        self.constants.update(zip(names, (np.array(step, np.float32), np.array(0, kind)), strict=True))
        return names

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "dominant_colour",
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, [1, SIDE, SIDE, 3])],
            [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [1, len(COLOURS)])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def make_bundle(
    path: Path,
    *,
    precision: Precision = "fp32",
    labels: tuple[str, ...] = COLOURS,
    preprocessing: Preprocessing = PREPROCESSING,
    min_sqnr_db: float = 30.0,
    confidence: ConfidenceRecord | None = None,
    activation: Activation = "softmax",
    thresholds: ThresholdsRecord | None = None,
) -> Bundle:
    """Write a bundle that tells red, green and blue frames apart, and open it.

    Args:
        path: its folder, which must not exist.
        precision: ``int8`` writes a Q/DQ graph.
        labels: one for each of the three logits.
        preprocessing: for a network that takes 32×32 frames.
        min_sqnr_db: what the self-test demands.
        confidence: temperature and threshold for the runtime.
        activation: ``sigmoid`` makes it a multi-label bundle.
        thresholds: of a multi-label bundle.
    """
    graph = colour_graph(precision)
    (path / OPENVINO_XML).parent.mkdir(parents=True)
    onnx.save(graph, path / MODEL_ONNX)
    _write_openvino(path)
    (path / LABELS).write_text("\n".join(labels) + "\n", encoding="utf-8")
    golden = _write_golden(path, preprocessing.channel_order)
    card = ModelCard("dominant_colour", "tests", "onnx", labels, preprocessing, weights_sha256="", pretrained=True)
    manifest = _manifest(path, replace(card, activation=activation), precision, golden, min_sqnr_db)
    rewrite_manifest(path, replace(manifest, confidence=confidence, thresholds=thresholds))
    return Bundle.open(path)


def rewrite_manifest(path: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` of the bundle at ``path``."""
    (path / MANIFEST).write_text(dump_manifest(manifest), encoding="utf-8")


def file_records(path: Path) -> dict[str, FileRecord]:
    """Size and hash of every file of the bundle at ``path``, the manifest apart."""
    names = sorted(each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file())
    return {
        name: FileRecord(sha256=sha256_of(path / name), bytes=(path / name).stat().st_size)
        for name in names
        if name != MANIFEST
    }


def _write_openvino(path: Path) -> None:
    model = openvino.Core().read_model(path / MODEL_ONNX)
    model.inputs[0].get_node().set_layout(openvino.Layout("NHWC"))
    openvino.save_model(model, path / OPENVINO_XML, compress_to_fp16=False)


def _write_golden(path: Path, order: ChannelOrder) -> NDArray[np.float32]:
    frames = np.stack([colour_frame(colour, order=order, seed=seed) for seed, colour in enumerate(COLOURS)])
    session = onnxruntime.InferenceSession(str(path / MODEL_ONNX), providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run([OUTPUT_NAME], {INPUT_NAME: frame[None]})[0] for frame in frames])
    np.savez(path / GOLDEN, frames=frames, logits=logits)
    return logits


def _manifest(
    path: Path, card: ModelCard, precision: Precision, golden: NDArray[np.float32], min_sqnr_db: float
) -> Manifest:
    effective = "fp32" if precision == "fp16" else precision
    return Manifest(
        schema_version=SCHEMA_VERSION,
        vitedge_version=VERSION,
        created_at="2026-01-01T00:00:00+00:00",
        model=card,
        precision=PrecisionRecord(asked=precision, effective=effective, rest="fp32"),
        target="cpu",
        calibration=None,
        golden=GoldenRecord(inputs="synthetic", count=len(golden), min_sqnr_db=min_sqnr_db),
        verification=VerificationRecord(fp32_against_source=None, precision_against_fp32=parity(golden, golden)),
        accuracy=None,
        tools={"onnx": onnx.__version__, "openvino": openvino.__version__},
        host="tests",
        files=file_records(path),
    )
