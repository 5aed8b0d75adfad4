"""What OpenVINO runs of graphs with its own rewrites: no layer falls back, and no reference kernel splits or joins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
import timm
import torch

openvino = pytest.importorskip("openvino")

from vitedge.bundle.preprocessing import Preprocessing  # noqa: E402
from vitedge.calib.quantization.ptq import quantize  # noqa: E402
from vitedge.calib.quantization.search_budget import SearchBudget  # noqa: E402
from vitedge.converters.onnx_export import export  # noqa: E402
from vitedge.converters.openvino.rewrites import REWRITES as OPENVINO_REWRITES  # noqa: E402
from vitedge.converters.rewrites import whole_pixels  # noqa: E402
from vitedge.converters.rewrites.apply import REWRITES, Rewrite, Rewritten, apply_rewrites  # noqa: E402
from vitedge.metrics import sqnr_db  # noqa: E402
from vitedge.runtime.engines.audit.openvino import Kernel, audit_model, kernels_of  # noqa: E402
from vitedge.runtime.engines.openvino import native_float  # noqa: E402

pytestmark = pytest.mark.slow
SWIN = ("swin_tiny_patch4_window7_224", 56, {"img_size": 56, "embed_dim": 24, "depths": (2, 1), "num_heads": (2, 4)})
MOBILEVITV2 = ("mobilevitv2_050", 64, {"exportable": True})
EXPECTED = {
    SWIN[0]: {"gather pixels": 2, "one mask": 1, "rows of tokens": 7},
    MOBILEVITV2[0]: {"fuse GroupNorm": 21, "split convolutions": 9, "gather pixels": 6},
}
COPIES = ("Concatenation", "Split", "StridedSlice")


def network(name: str, side: int, options: Mapping[str, Any]) -> tuple[Any, Any, Preprocessing]:
    """Export a network with random weights, once; give two frames and their preprocessing with it."""
    graph = onnx.load_from_string(_exported(name, side, tuple(options.items())))
    frames = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    return graph, frames, Preprocessing(input_size=(side, side), resize_size=(side, side))


@cache
def _exported(name: str, side: int, options: tuple[tuple[str, Any], ...]) -> bytes:
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=5, **dict(options)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return export(module, (side, side)).SerializeToString()


def rewritten(graph: Any, frames: Any, preprocessing: Preprocessing, own: Sequence[Rewrite]) -> Rewritten:
    result = apply_rewrites(graph, frames, preprocessing, (*REWRITES, *own))
    assert result.unproved == {}
    return result


def compiled(graph: Any, precision: str) -> Any:
    core = openvino.Core()
    return core.compile_model(
        core.read_model(graph.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": precision}
    )


def operators(compiled_graph: Any) -> list[Kernel]:
    return [each for each in kernels_of(compiled_graph.get_runtime_model()).values() if not each.constant]


@pytest.mark.parametrize(("name", "side", "options"), [SWIN, MOBILEVITV2], ids=["windows", "separable attention"])
def test_fewer_operators_run_and_compute_the_same(name: str, side: int, options: Mapping[str, Any]) -> None:
    exported, frames, preprocessing = network(name, side, options)
    before = rewritten(exported, frames, preprocessing, ())
    after = rewritten(exported, frames, preprocessing, OPENVINO_REWRITES)
    assert {rule: after.applied[rule].changed for rule in EXPECTED[name]} == EXPECTED[name]
    engine = compiled(after.graph, "f32")
    computed = np.concatenate([engine(frame[None])[0] for frame in frames])
    assert sqnr_db(before.logits, computed) > 80
    ran = operators(engine)
    assert [each.name for each in ran if each.operator in COPIES and each.kernel.startswith("ref")] == []
    assert "RMS" not in {each.operator for each in ran}
    assert len(ran) < len(operators(compiled(before.graph, "f32")))


@pytest.mark.parametrize(
    "rows",
    [
        "joined = Reshape(c, planes) t = Transpose<perm = [0, 2, 1]>(joined) n = LayerNormalization(t, scale) "
        "p = MatMul(n, square) y = Add(p, t)",
        "t = Transpose<perm = [0, 2, 3, 1]>(c) r = Reshape(t, tokens) n = LayerNormalization(r, scale) "
        "p = MatMul(n, square) q = Reshape(p, back) y = Add(q, t)",
    ],
    ids=["planes", "a map that is read twice"],
)
def test_a_map_becomes_rows_without_a_transpose(rows: str) -> None:
    graph = graphs.model(
        (1, 16, 8, 8),
        f"c = Conv<pads = [1, 1, 1, 1]>(x, kernel) {rows}",
        kernel=graphs.random(16, 16, 3, 3),
        scale=graphs.random(16),
        square=graphs.random(16, 16),
        planes=np.asarray([1, 16, 64]),
        tokens=np.asarray([1, 64, 16]),
        back=np.asarray([1, 8, 8, 16]),
    )

    def transposes() -> int:
        return sum(each.operator == "Transpose" for each in operators(compiled(graphs.ir.to_proto(graph), "f32")))

    assert transposes() == 1
    whole_pixels.rewrite(graph, graphs.PREPROCESSING)
    assert transposes() == 0


def test_projections_of_shifted_windows_run_in_int8() -> None:
    exported, frames, preprocessing = network(*SWIN)
    result = rewritten(exported, frames, preprocessing, OPENVINO_REWRITES)
    graph = quantize(result.graph, frames, budget=SearchBudget(first=1, images=1)).graph
    core = openvino.Core()
    model = core.read_model(graph.SerializeToString())
    found = audit_model(openvino, core, model, {"INFERENCE_PRECISION_HINT": native_float(core)})
    quantized = [layer for layer in found.layers if layer.quantized]
    assert len(quantized) >= 12
    assert [layer.name for layer in quantized if layer.precision != "int8"] == []
