"""HardSigmoid as a Clip."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from graphs import PREPROCESSING, kinds, random, rewritten

from vitedge.converters.rewrites import hard_sigmoid
from vitedge.converters.rewrites.apply import is_exact

SHAPE = (1, 6, 4, 3)
SLOPE = "alpha = 0.16666667, beta = 0.5"
"""As PyTorch exports it."""


def gated(attributes: str = SLOPE) -> graphs.ir.Model:
    """A map times the gate that a convolution makes of it."""
    body = f"wide = Mul(x, ten) c = Conv(wide, w) g = HardSigmoid<{attributes}>(c) y = Mul(x, g)"
    return graphs.model(SHAPE, body, w=random(6, 6, 1, 1), ten=np.asarray(10.0))


def test_a_clip_computes_the_same() -> None:
    graph = gated()
    assert hard_sigmoid.check(graph, PREPROCESSING) == ""
    places, difference = rewritten(hard_sigmoid, graph)
    assert is_exact(difference)
    assert (places.changed, dict(places.left)) == (1, {})
    assert kinds(graph) == ["Mul", "Conv", "Add", "Clip", "Mul", "Mul"]
    assert hard_sigmoid.check(graph, PREPROCESSING) == "there is no HardSigmoid"


@pytest.mark.parametrize("attributes", ["alpha = 0.2, beta = 0.5", "alpha = 0.16666667, beta = 0.4", "beta = 0.5"])
def test_another_line_stays(attributes: str) -> None:
    assert hard_sigmoid.check(gated(attributes), PREPROCESSING) == hard_sigmoid.OTHER_LINE


def test_openvino_computes_it_with_the_convolution() -> None:
    openvino = pytest.importorskip("openvino")

    def operators(graph: ir.Model) -> list[str]:
        model = openvino.Core().read_model(ir.to_proto(graph).SerializeToString())
        runtime = openvino.Core().compile_model(model, "CPU").get_runtime_model()
        return [node.get_rt_info()["layerType"].astype(str) for node in runtime.get_ordered_ops()]

    before, after = gated(), gated()
    rewritten(hard_sigmoid, after)
    if "Math" not in operators(before):
        pytest.skip("this OpenVINO has a faster kernel of HardSigmoid")
    assert "Math" not in operators(after)
