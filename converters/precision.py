"""The precision asked for, written into the graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.metrics import sqnr_db

MIN_SQNR_DB = 60.0
MATRIX_RANK = 2


def half_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Store weight matrices in float16, each followed by a Cast to float32, which engines fold or fuse.

    The graph computes in float32 unless the engine chooses a 16-bit type, so that one file suits CPUs with bf16, with
    f16 and with neither. Vectors (biases, LayerNorm) stay: they are small. So does a matrix that half precision
    represents with less than 60 dB, because its values are too large or too small.

    Args:
        graph: float32 weights as initializers.

    Returns:
        A new graph; half the size.
    """
    model = ir.from_proto(graph)
    for weight in list(model.graph.initializers.values()):
        if weight.dtype == ir.DataType.FLOAT and len(weight.shape or ()) >= MATRIX_RANK:
            _store_half(model, weight)
    halved: onnx.ModelProto = ir.to_proto(model)
    return halved


def _store_half(model: ir.Model, weight: ir.Value) -> None:
    full: NDArray[np.float32] = weight.const_value.numpy()  # type: ignore[union-attr]
    with np.errstate(over="ignore"):
        half = full.astype(np.float16)
    if np.any(full) and sqnr_db(full, half) < MIN_SQNR_DB:
        return
    name = str(weight.name)
    stored = ir.val(f"{name}.half", const_value=ir.tensor(half, name=f"{name}.half"))
    full_again = ir.val(f"{name}.float")
    cast = ir.node("Cast", [stored], {"to": int(ir.DataType.FLOAT)}, outputs=[full_again], name=f"{name}.cast")
    model.graph.register_initializer(stored)
    model.graph.insert_before(model.graph[0], cast)
    ir.convenience.replace_all_uses_with(weight, full_again)
    model.graph.initializers.pop(name)
