"""Small ONNX graphs from text, with random weights, and what they compute."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_ir.passes.common import IdentityEliminationPass, LiftConstantsToInitializersPass, NameFixPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places
from vitedge.metrics import Parity, parity

Array = NDArray[np.generic]

PREPROCESSING = Preprocessing(input_size=(8, 8), resize_size=(8, 8))
TOKENS, HEADS, WIDTH = 5, 2, 4
CHANNELS = HEADS * WIDTH
SIDE = 12
PHOTOS = Preprocessing(
    input_size=(SIDE, SIDE), resize_size=(SIDE, SIDE), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
"""For the graphs that :func:`classifier` makes."""


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Normal noise."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def model(shape: tuple[int, ...], body: str, **constants: Array) -> ir.Model:
    """A graph from ``x`` of that shape to ``y``.

    Args:
        shape: of ``x``.
        body: lines of ONNX's text form.
        constants: that the lines may read; int64 ones keep their type, all others are float32.
    """
    sizes = ",".join(map(str, shape))
    header = f'<ir_version: 10, opset_import: ["" : 20]> g (float[{sizes}] x) => (float y)'
    proto = onnx.parser.parse_model(f"{header} {{ {body} }}")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    read = set(_read(proto.graph))
    for name in (each for each in constants if each in read):
        values = constants[name]
        kept = values if values.dtype == np.int64 else values.astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(kept, name))
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    return graph


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """The names that nodes read, and nodes within branches."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _read(attribute.g)


def noise() -> NDArray[np.uint8]:
    """Four frames for them."""
    return np.random.default_rng(3).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)


def classifier(stem: str, **constants: Array) -> onnx.ModelProto:
    """A graph from an image ``x`` to the means over the pixels of ``maps``, which the given lines make."""
    graph: onnx.ModelProto = ir.to_proto(
        model((1, 3, SIDE, SIDE), f"{stem} pooled = GlobalAveragePool(maps) y = Flatten(pooled)", **constants)
    )
    return graph


def outputs(graph: ir.Model, *, images: int = 4) -> NDArray[np.float32]:
    """What a graph makes of noise, ``(images, values of all outputs)``."""
    NameFixPass()(graph)
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    made = [session.run(None, {entry.name: random(*entry.shape, seed=image)}) for image in range(images)]
    return np.stack([np.concatenate([each.ravel() for each in image]) for image in made])


def rewritten(rule: ModuleType, graph: ir.Model) -> tuple[Places, Parity]:
    """Rewrite in place, whatever the rule's check says; how far the outputs moved."""
    before = outputs(graph)
    places = rule.rewrite(graph, PREPROCESSING)
    return places, parity(before, outputs(graph))


def kinds(graph: ir.Model) -> list[str]:
    """The operators, in order."""
    return [node.op_type for node in graph.graph]


def forget_shape(graph: ir.Model, name: str) -> None:
    """Leave the shape of a value open, as exporters do."""
    (value,) = (each for node in graph.graph for each in node.outputs if each.name == name)
    value.shape = None


def attention(
    *,
    scale: str = "queries",
    fused: bool = True,
    bias: bool = True,
    mask: bool = False,
    between: str = "",
    softmax: str = "a = Softmax<axis = -1>(scores)",
    factor: Array | float = 0.5,
    seed: int = 0,
) -> ir.Model:
    """Multi-head attention with its output projection, on ``(1, 5, 8)``.

    Args:
        scale: where it is: ``queries``, ``keys``, ``both``, ``scores``, ``divided`` (the scores), ``none``.
        fused: queries, keys and values from one layer, or each from its own.
        bias: of those layers.
        mask: whether a constant is added to the scores.
        between: lines put before the product of queries and keys; may redefine nothing, but read ``q``, ``k``, ``v``.
        softmax: the line that makes the weights ``a``.
        factor: the scale.
        seed: of the weights.
    """
    body = [*(_fused(bias) if fused else _separate(bias)), between]
    body += {
        "queries": ["qs = Mul(q, s)", "ks = Identity(kt)", "scored = MatMul(qs, ks)"],
        "keys": ["qs = Identity(q)", "ks = Mul(s, kt)", "scored = MatMul(qs, ks)"],
        "both": ["qs = Mul(q, s)", "ks = Mul(kt, s)", "scored = MatMul(qs, ks)"],
        "scores": ["raw = MatMul(q, kt)", "scored = Mul(raw, s)"],
        "divided": ["raw = MatMul(q, kt)", "scored = Div(raw, s)"],
        "none": ["scored = MatMul(q, kt)"],
    }[scale]
    body += ["scores = Add(scored, mask)" if mask else "scores = Identity(scored)", softmax, "o = MatMul(a, v)"]
    body += ["ot = Transpose<perm = [0, 2, 1, 3]>(o)", "joined = Reshape(ot, whole)"]
    body += ["projected = MatMul(joined, wp)", "y = Add(projected, bp)"]
    layers = {"w": (CHANNELS, 3 * CHANNELS)} if fused else {f"w{each}": (CHANNELS, CHANNELS) for each in "qkv"}
    constants: dict[str, Array] = {name: random(*shape, seed=seed) for name, shape in layers.items()}
    for index, (name, shape) in enumerate(layers.items()):
        constants |= {f"b{name[1:]}": random(shape[1], seed=seed + 10 + index)} if bias else {}
        constants[name] = random(*shape, seed=seed + index)
    constants |= {"wp": random(CHANNELS, CHANNELS, seed=seed + 20), "bp": random(CHANNELS, seed=seed + 21)}
    constants |= {"s": np.asarray(factor, np.float32), "mask": random(1, HEADS, TOKENS, TOKENS, seed=seed)}
    constants |= {"whole": np.array([1, TOKENS, CHANNELS]), "heads": np.array([1, TOKENS, HEADS, WIDTH])}
    constants |= {"parts": np.array([1, TOKENS, 3, HEADS, WIDTH]), "first": np.array([0])}
    graph = model((1, TOKENS, CHANNELS), "\n".join(body), **constants)
    IdentityEliminationPass()(graph)
    return graph


attentions = st.builds(
    attention,
    scale=st.sampled_from(["none", "queries", "scores", "divided"]),
    fused=st.booleans(),
    mask=st.booleans(),
    seed=st.integers(0, 100),
)
"""Graphs of attention whose queries, keys and values have biases."""


def _fused(bias: bool) -> list[str]:
    return [
        "product = MatMul(x, w)",
        "linear = Add(product, b)" if bias else "linear = Identity(product)",
        "split = Reshape(linear, parts)",
        "moved = Transpose<perm = [2, 0, 3, 1, 4]>(split)",
        "q1, k1, v1 = Split<axis = 0, num_outputs = 3>(moved)",
        *(f"{each} = Squeeze({each}1, first)" for each in "qkv"),
        "kt = Transpose<perm = [0, 1, 3, 2]>(k)",
    ]


def _separate(bias: bool) -> list[str]:
    lines = []
    for each in "qkv":
        lines += [
            f"{each}product = MatMul(x, w{each})",
            f"{each}linear = Add({each}product, b{each})" if bias else f"{each}linear = Identity({each}product)",
            f"{each}split = Reshape({each}linear, heads)",
            f"{each} = Transpose<perm = [0, 2, 1, 3]>({each}split)",
        ]
    return [*lines, "kt = Transpose<perm = [0, 1, 3, 2]>(k)"]
