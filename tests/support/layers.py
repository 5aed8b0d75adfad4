"""Small ONNX graphs that read a frame, for the modules of calibration; and what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE, WIDTH = 4, 12
TOKENS = SIDE * SIDE
Frames = NDArray[np.uint8]


def frames(count: int = 4, *, seed: int = 0) -> Frames:
    """``(count, 4, 4, 3)`` of noise."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def model(body: str, **constants: NDArray[Any]) -> Any:
    """A graph from ``frame`` ``(1,4,4,3)`` to ``logits``; ``x`` is ``(1,16,12)`` there, made from the frame."""
    header = f'<ir_version: 10, opset_import: ["" : 20]> g (uint8[1,{SIDE},{SIDE},3] frame) => (float logits)'
    stem = (
        "floats = Cast<to=1>(frame) moved = Transpose<perm=[0,3,1,2]>(floats) pixels = Conv(moved, stem) "
        "rows = Reshape(pixels, to_rows) x = Transpose<perm=[0,2,1]>(rows)"
    )
    proto = onnx.parser.parse_model(f"{header} {{ {stem} {body} }}")
    for index, node in enumerate(proto.graph.node):
        node.name = f"n{index}_{node.op_type}"
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    generator = np.random.default_rng(9)
    known = {
        "stem": generator.standard_normal((WIDTH, 3, 1, 1)) / 100,
        "to_rows": np.array([1, WIDTH, TOKENS]),
        **constants,
    }
    for name, values in known.items():
        kept = values if values.dtype == np.int64 else values.astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(kept, name))
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)


def weights(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    """Normal noise that keeps the variance."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape) / np.sqrt(shape[0])


def block(*, depth: int = 2, channels: NDArray[np.float64] | None = None) -> Any:
    """``depth`` times LayerNormalization, two layers with GELU between them, and a residual; then two layers more.

    Args:
        depth: how many.
        channels: what the LayerNormalizations' channels are multiplied with and their readers' weights divided by.
    """
    planted = np.ones(WIDTH) if channels is None else channels
    constants, body, last = dict[str, NDArray[Any]](), "", "x"
    for index in range(depth):
        constants[f"gamma{index}"] = np.linspace(0.5, 1.5, WIDTH) * planted
        constants[f"beta{index}"] = np.linspace(-0.3, 0.3, WIDTH) * planted
        constants[f"first{index}"] = weights(WIDTH, 2 * WIDTH, seed=index) / planted[:, None]
        constants[f"offset{index}"] = np.linspace(-0.1, 0.1, 2 * WIDTH)
        constants[f"second{index}"] = weights(2 * WIDTH, WIDTH, seed=index)
        body += (
            f"norm{index} = LayerNormalization<axis=-1>({last}, gamma{index}, beta{index}) "
            f"wide{index} = MatMul(norm{index}, first{index}) biased{index} = Add(wide{index}, offset{index}) "
            f"gelu{index} = Gelu(biased{index}) narrow{index} = MatMul(gelu{index}, second{index}) "
            f"sum{index} = Add({last}, narrow{index}) "
        )
        last = f"sum{index}"
    body += f"hidden = MatMul({last}, hidden_weight) logits = MatMul(hidden, head)"
    return model(body, **constants, hidden_weight=weights(WIDTH, WIDTH), head=weights(WIDTH, 5))


def answers(graph: Any, images: Frames, outputs: Sequence[str] = ("logits",)) -> list[NDArray[np.float32]]:
    """What ONNX Runtime makes of every image, ``(images, …)`` for each output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    known = {output.name for output in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs if n not in known
    )
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    made = [session.run(list(outputs), {"frame": image[None]}) for image in images]
    return [np.concatenate(each) for each in zip(*made, strict=True)]
