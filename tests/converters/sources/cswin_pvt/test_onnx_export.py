"""Both families through ``torch.onnx.export``: parity with ONNX Runtime, and what the graph is made of."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import SMALL_CSWIN, SMALL_PVT, fill, images, relative_error

from vitedge.converters.sources.cswin_pvt.cswin import CSWinTransformer
from vitedge.converters.sources.cswin_pvt.layers import ImageClassifier
from vitedge.converters.sources.cswin_pvt.pvt import PyramidVisionTransformer

TOLERANCE = 1e-4
NETWORKS = {
    "cswin": lambda: CSWinTransformer(SMALL_CSWIN, 10, (64, 128)),
    "pvt": lambda: PyramidVisionTransformer(SMALL_PVT, 10, (64, 96)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest) -> tuple[ImageClassifier, onnx.ModelProto]:
    network = fill(NETWORKS[request.param]())
    program = torch.onnx.export(network, (images(*network.input_size),), dynamo=True, opset_version=20, verbose=False)
    return network, program.model_proto


def run(graph: onnx.ModelProto, frame: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: frame.numpy()})
    return torch.from_numpy(np.asarray(outputs[0]))


def test_onnx_runtime_computes_the_same_logits(exported):
    network, graph = exported
    frame = images(*network.input_size)
    with torch.no_grad():
        reference = network(frame)
    assert relative_error(reference, run(graph, frame)) <= TOLERANCE


def test_the_comparison_fails_on_doubled_and_on_zero_output(exported):
    network, graph = exported
    frame = images(*network.input_size)
    logits = run(graph, frame)
    with torch.no_grad():
        reference = network(frame)
    assert relative_error(reference, logits * 2) > TOLERANCE
    assert relative_error(reference, logits * 0) > TOLERANCE


def test_the_graph_is_static_and_keeps_its_layers_whole(exported):
    network, graph = exported
    operators = [node.op_type for node in graph.graph.node]
    layers = [type(module) for module in network.modules()]
    assert operators.count("LayerNormalization") == layers.count(torch.nn.LayerNorm)
    assert operators.count("Gelu") == layers.count(torch.nn.GELU)
    assert not {"If", "Loop", "Scan", "Shape", "NonZero", "Resize", "Erf", "Pow"} & set(operators)
    dimensions = [axis for value in graph.graph.value_info for axis in value.type.tensor_type.shape.dim]
    assert dimensions
    assert all(axis.HasField("dim_value") for axis in dimensions)
