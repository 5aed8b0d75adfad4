"""The ONNX graph of a bundle, checked against its hash and read."""

from __future__ import annotations

import onnx

from vitedge.bundle.bundle import Bundle
from vitedge.converters.sources.onnx.files import parse_graph
from vitedge.errors import BundleIntegrityError
from vitedge.graph.files import with_data


def read_graph(bundle: Bundle, name: str) -> onnx.ModelProto:
    """Read a graph with its weights.

    Args:
        bundle: its files must have the hashes of the manifest.
        name: file of the graph in the bundle.

    Raises:
        BundleIntegrityError: the file was altered, or it is no graph.
    """
    try:
        checked, data = parse_graph(bundle.read_graph(name)).model, bundle.graph_data(name)
        return checked if data is None else with_data(checked, data.data)
    except ValueError as error:
        raise BundleIntegrityError(
            f"{bundle.file(name)} is no graph that can be exported: {error}", fix="convert the model again"
        ) from error
