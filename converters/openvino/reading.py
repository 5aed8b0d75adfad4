"""Read an ONNX graph into OpenVINO, whatever its size."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import openvino

from vitedge.bundle.bundle import MODEL_ONNX
from vitedge.graph.files import is_beyond_protobuf, write_graph


def read_model(graph: onnx.ModelProto) -> openvino.Model:
    """Read a graph; a graph beyond 2 GB goes through files, which OpenVINO keeps mapped after they are deleted.

    Raises:
        RuntimeError: OpenVINO cannot read the graph.
    """
    if not is_beyond_protobuf(graph):
        return openvino.Core().read_model(graph.SerializeToString())
    with tempfile.TemporaryDirectory(prefix="vitedge-openvino-") as folder:
        path = Path(folder, MODEL_ONNX)
        write_graph(path, graph)
        return openvino.Core().read_model(path)
