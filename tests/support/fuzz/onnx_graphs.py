"""What a fuzzer does to ONNX graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random

import onnx
from onnx import TensorProto, helper

from fuzz import mutations
from fuzz.mutations import Mutation

OPERATORS = (
    *(
        "Relu",
        "Identity",
        "Softmax",
        "Expand",
        "Tile",
        "Pad",
        "Resize",
        "ConstantOfShape",
        "Loop",
        "If",
        "Scan",
        "Range",
    ),
    *(
        "MatMul",
        "Gemm",
        "Reshape",
        "Transpose",
        "Concat",
        "Split",
        "Gather",
        "OneHot",
        "RandomNormal",
        "Einsum",
        "Nope",
    ),
)
DIMENSIONS = (0, 1, -1, 2, 3, 4, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))

Edit = Callable[[Random, onnx.ModelProto], None]


def mutate_graph(marker: str) -> Mutation:
    """Change nodes, tensors, types, functions or opsets of a graph, or its bytes."""
    words = [each for each in mutations.texts(marker) if "\ud800" not in each]

    def rename(random: Random, model: onnx.ModelProto) -> None:
        node = random.choice(model.graph.node)
        word = random.choice(words)
        random.choice(
            (
                lambda: setattr(node, "name", word),
                lambda: setattr(node, "domain", word),
                lambda: setattr(node, "op_type", word),
                lambda: node.output.__setitem__(0, word),
                lambda: setattr(model.graph.input[0], "name", word),
                lambda: model.metadata_props.add(key=word, value=word),
            )
        )()

    edits: tuple[Edit, ...] = (
        rename,
        _replace,
        _reshape,
        _retype,
        _outside,
        _rewire,
        _grow,
        _attribute,
        _recurse,
        _opset,
    )

    def mutate(random: Random, data: bytes) -> bytes:
        if random.random() < 0.25:
            return mutations.any_bytes(random, data)
        model = onnx.load_from_string(data)
        for _ in range(random.choice((1, 1, 2))):
            random.choice(edits)(random, model)
        return bytes(model.SerializeToString())

    return mutate


def _replace(random: Random, model: onnx.ModelProto) -> None:
    node = random.choice(model.graph.node)
    node.op_type = random.choice(OPERATORS)
    if random.random() < 0.5:
        node.domain = ""
    if node.op_type in ("Loop", "If", "Scan"):
        body = helper.make_graph(
            [helper.make_node("Identity", ["again"], ["more"])],
            "body",
            [
                helper.make_tensor_value_info("step", TensorProto.INT64, []),
                helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            ],
            [helper.make_tensor_value_info("more", TensorProto.BOOL, [])],
        )
        node.attribute.append(helper.make_attribute("body", body))


def _reshape(random: Random, model: onnx.ModelProto) -> None:
    tensor = random.choice(model.graph.initializer)
    if tensor.name == "shape" and random.random() < 0.5:
        values = [random.choice(DIMENSIONS) for _ in range(2)]
        tensor.CopyFrom(helper.make_tensor("shape", TensorProto.INT64, [2], values))
    elif tensor.dims and random.random() < 0.7:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice(DIMENSIONS)
    else:
        tensor.dims.extend([random.choice(DIMENSIONS)] * random.choice((1, 9, 2_000)))


def _retype(random: Random, model: onnx.ModelProto) -> None:
    kind = random.choice((0, 2, 6, 7, 8, 9, 10, 11, 14, 15, 16, 17, 22, 23, 99, -1))
    if random.random() < 0.5:
        random.choice(model.graph.initializer).data_type = kind
    else:
        value = random.choice([*model.graph.input, *model.graph.output])
        value.type.tensor_type.elem_type = kind
        if random.random() < 0.3:
            value.type.tensor_type.shape.dim[0].dim_value = random.choice(DIMENSIONS)


def _outside(random: Random, model: onnx.ModelProto) -> None:
    tensor = random.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    place = random.choice(
        ("/etc/passwd", "../up", "/dev/zero", "model.onnx", "config.json", "", ".", "missing", "\x00")
    )
    entries = {
        "location": place,
        "offset": str(random.choice(DIMENSIONS)),
        "length": random.choice(("8", "-1", "x", "1" * 40)),
    }
    for key, value in entries.items():
        if random.random() < 0.8:
            tensor.external_data.add(key=key, value=value)


def _rewire(random: Random, model: onnx.ModelProto) -> None:
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    node = random.choice(model.graph.node)
    if node.input and random.random() < 0.7:
        node.input[random.randrange(len(node.input))] = random.choice((*names, "", "nowhere"))
    else:
        node.output[0] = random.choice(names)


def _grow(random: Random, model: onnx.ModelProto) -> None:
    last = model.graph.node[-1]
    count = random.choice((1, 100, 3_000))
    name = last.output[0]
    kind = random.choice(("Add", "Concat"))
    last.output[0] = "grown_0"
    for index in range(count):
        made = name if index == count - 1 else f"grown_{index + 1}"
        attributes = {"axis": 1} if kind == "Concat" else {}
        model.graph.node.append(helper.make_node(kind, [f"grown_{index}"] * 2, [made], **attributes))


def _attribute(random: Random, model: onnx.ModelProto) -> None:
    node = random.choice(model.graph.node)
    if node.attribute and random.random() < 0.7:
        attribute = random.choice(node.attribute)
        if attribute.ints:
            attribute.ints[random.randrange(len(attribute.ints))] = random.choice(DIMENSIONS)
        else:
            attribute.i = random.choice(DIMENSIONS)
    else:
        name = random.choice(("axis", "axes", "perm", "group", "to", "value", "body", "pads", "equation"))
        node.attribute.append(helper.make_attribute(name, random.choice(([1, 2], 7, 0.5, "x", [1 << 62] * 3))))


def _recurse(random: Random, model: onnx.ModelProto) -> None:
    if not model.functions:
        return
    (first, *_) = model.functions
    kind = random.randrange(3)
    if kind == 0:
        first.node[0].domain, first.node[0].op_type = first.domain, first.name
    elif kind == 1:
        for level in range(40):
            deeper = copy.deepcopy(first)
            deeper.name = f"Twice{level}"
            for node in deeper.node:
                node.domain, node.op_type = "local", f"Twice{level + 1}" if level < 39 else "Twice"
            deeper.node.append(helper.make_node(deeper.node[0].op_type, ["x"], ["z"], domain="local"))
            model.functions.append(deeper)
        model.graph.node[1].op_type = "Twice0"
    else:
        first.opset_import[0].version = random.choice((1, 7, 99, -1))


def _opset(random: Random, model: onnx.ModelProto) -> None:
    random.choice(model.opset_import).version = random.choice((0, 1, 6, 7, 11, 12, 13, 26, 999, -1, 1 << 62))
    if random.random() < 0.3:
        model.ir_version = random.choice((0, 3, 99, -1))
