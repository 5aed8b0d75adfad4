"""Exact forms of operators that OpenVINO's CPU plug-in computes otherwise than ONNX says, and rightly in that form.

Each form names the fault that it works around. ``tests/converters/openvino/test_faults.py`` holds a minimal graph of
each fault, and says when a version of OpenVINO has mended it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.graph.attributes import integers
from vitedge.graph.edit import add_tensor
from vitedge.graph.session import open_part
from vitedge.graph.values import constant_array, present, producer_of

Shapes = Mapping[str, tuple[int, ...]]
"""Static shapes of the values of a graph, by name."""
MOST_DIMENSIONS = 5
"""The plug-in fuses attention of three or four dimensions."""
SWAPPED = {(0, 2, 1, 3): 4, (1, 0, 2): 3}
"""Transposes of heads and tokens that it fuses into the attention before them."""


@dataclass(frozen=True)
class Form:
    """An exact form of an operator.

    Attributes:
        name: of the form, for people.
        operator: which operator has it, for people.
        fault: what the engine does wrong with the usual form.
        sites: finds the nodes that can take it.
        rewrite: gives a node the form, in place.
    """

    name: str
    operator: str
    fault: str
    sites: Callable[[ir.Model, Shapes], Iterator[ir.Node]]
    rewrite: Callable[[ir.Model, ir.Node, Shapes], None]


def signature(node: ir.Node, shapes: Shapes) -> tuple[object, ...]:
    """Describe a node by its operator and its shapes: the engine treats equal ones alike."""
    return (node.op_type, *(shapes.get(str(value.name)) if value else None for value in (*node.inputs, *node.outputs)))


def _swapped_heads(model: ir.Model, shapes: Shapes) -> Iterator[ir.Node]:
    for node in model.graph:
        if node.op_type == "Transpose" and tuple(integers(node, "perm", 0, 0)) in SWAPPED:
            product = producer_of(node.inputs[0], "MatMul")
            if product is not None and producer_of(product.inputs[0], "Softmax") and _known(node.outputs, shapes):
                yield node


def _swap_in_five_dimensions(model: ir.Model, node: ir.Node, shapes: Shapes) -> None:
    source, target = present(node.inputs[0]), node.outputs[0]
    perm = integers(node, "perm", 0, 0)
    extra = MOST_DIMENSIONS - len(perm)
    before, after = shapes[str(source.name)], shapes[str(target.name)]
    wide = _reshaped(model, node, source, (1,) * extra + before, "in five dimensions")
    turned = _inserted(
        model,
        node,
        "Transpose",
        [wide],
        f"{target.name}_turned",
        {"perm": [*range(extra), *(each + extra for each in perm)]},
    )
    _give(model, node, _reshaped(model, node, turned, after, "again"))


def _attended(model: ir.Model, shapes: Shapes) -> Iterator[ir.Node]:
    for node in model.graph:
        if node.op_type == "MatMul" and producer_of(node.inputs[0], "Softmax"):
            known = _known([*node.inputs, *node.outputs], shapes)
            if known and len(shapes[str(node.outputs[0].name)]) in (3, 4):
                yield node


def _multiply_in_five_dimensions(model: ir.Model, node: ir.Node, shapes: Shapes) -> None:
    wide = []
    for value in (present(node.inputs[0]), present(node.inputs[1])):
        shape = shapes[str(value.name)]
        wide.append(_reshaped(model, node, value, (1,) * (MOST_DIMENSIONS - len(shape)) + shape, "in five dimensions"))
    output = node.outputs[0]
    product = _inserted(model, node, "MatMul", wide, f"{output.name}_wide", {})
    _give(model, node, _reshaped(model, node, product, shapes[str(output.name)], "again"))


def _masked(model: ir.Model, shapes: Shapes) -> Iterator[ir.Node]:
    for node in model.graph:
        scores = producer_of(node.inputs[0], "Add") if node.op_type == "Softmax" else None
        if scores is not None and _known([*scores.inputs, *scores.outputs], shapes):
            full = shapes[str(scores.outputs[0].name)]
            if any(shapes[str(present(each).name)] != full for each in scores.inputs):
                yield scores


def _mask_every_head(model: ir.Model, node: ir.Node, shapes: Shapes) -> None:
    full = shapes[str(node.outputs[0].name)]
    for index, value in enumerate(map(present, node.inputs)):
        if shapes[str(value.name)] != full:
            node.replace_input_with(index, _expanded(model, node, value, full))


def _scaled(model: ir.Model, shapes: Shapes) -> Iterator[ir.Node]:
    for node in model.graph:
        factors = constant_array(node.inputs[1]) if node.op_type in ("Mul", "Div") else None
        if factors is not None and factors.size > 1 and _known(node.outputs, shapes):
            full = shapes[str(node.outputs[0].name)]
            read_by_conv = any(use.node.op_type == "Conv" for use in node.outputs[0].uses())
            if read_by_conv and factors.shape != full and factors.ndim >= 1 and factors.shape[-1] > 1:
                yield node


def _scale_every_channel(model: ir.Model, node: ir.Node, shapes: Shapes) -> None:
    node.replace_input_with(1, _expanded(model, node, present(node.inputs[1]), shapes[str(node.outputs[0].name)]))


def _nearest(model: ir.Model, shapes: Shapes) -> Iterator[ir.Node]:
    for node in model.graph:
        if node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") == "nearest":
            given = [each for each in node.inputs[1:] if each is not None]
            if all(constant_array(each) is not None for each in given) and _known(
                [node.inputs[0], *node.outputs], shapes
            ):
                yield node


def _gather_pixels(model: ir.Model, node: ir.Node, shapes: Shapes) -> None:
    source, after = present(node.inputs[0]), shapes[str(node.outputs[0].name)]
    before, value = shapes[str(source.name)], source
    for axis in (axis for axis in range(len(before)) if before[axis] != after[axis]):
        ramp = np.arange(before[axis], dtype=np.float32).reshape(
            [-1 if each == axis else 1 for each in range(len(before))]
        )
        resized = _alone(model, node, np.broadcast_to(ramp, before).copy())
        taken = np.moveaxis(resized, axis, 0).reshape(after[axis], -1)[:, 0].astype(np.int64)
        indices = add_tensor(model.graph, f"{node.outputs[0].name}_pixels_{axis}", taken)
        value = _inserted(
            model, node, "Gather", [value, indices], f"{node.outputs[0].name}_along_{axis}", {"axis": axis}
        )
    _give(model, node, value)


def _pooled(model: ir.Model, shapes: Shapes) -> Iterator[ir.Node]:
    for node in model.graph:
        plain = node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        uneven = node.attributes.get_int("ceil_mode", 0) or any(integers(node, "pads", 0, 0))
        if node.op_type == "AveragePool" and plain and uneven and _known([node.inputs[0], *node.outputs], shapes):
            yield node


def _pool_padded(model: ir.Model, node: ir.Node, shapes: Shapes) -> None:
    """Pad, take the mean of whole windows, and correct each mean by the number of pixels that count."""
    source, target = present(node.inputs[0]), node.outputs[0]
    before, after = shapes[str(source.name)], shapes[str(target.name)]
    kernel = integers(node, "kernel_shape", 0, 0)
    axes = len(kernel)
    strides, dilations = integers(node, "strides", 1, axes), integers(node, "dilations", 1, axes)
    begin = integers(node, "pads", 0, 2 * axes)[:axes]
    needed = [
        (size - 1) * step + (width - 1) * apart + 1
        for size, step, width, apart in zip(after[2:], strides, kernel, dilations, strict=True)
    ]
    end = [max(0, total - size - first) for total, size, first in zip(needed, before[2:], begin, strict=True)]
    pads = np.array([0, 0, *begin, 0, 0, *end], dtype=np.int64)
    padded = _inserted(
        model, node, "Pad", [source, add_tensor(model.graph, f"{target.name}_pads", pads)], f"{target.name}_padded", {}
    )
    windows = {"kernel_shape": list(kernel), "strides": list(strides)} | (
        {"dilations": list(dilations)} if max(dilations) > 1 else {}
    )
    mean = _inserted(model, node, "AveragePool", [padded], f"{target.name}_of_windows", windows)
    ones = np.ones(before, dtype=np.float32)
    spread = np.pad(ones, [(0, 0), (0, 0), *zip(begin, end, strict=True)])
    counted = _alone(model, node, ones) / np.maximum(_window_means(spread, kernel, strides, dilations, after), 1e-30)
    factors = add_tensor(model.graph, f"{target.name}_counts", counted.astype(np.float32))
    _give(model, node, _inserted(model, node, "Mul", [mean, factors], f"{target.name}_corrected", {}))


def _window_means(
    values: NDArray[Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    shape: tuple[int, ...],
) -> NDArray[Any]:
    """Return the mean of each window of an array, of the given shape."""
    total = np.zeros(shape, dtype=np.float64)
    for offset in np.ndindex(*kernel):
        window = tuple(
            slice(first * apart, first * apart + (size - 1) * step + 1, step)
            for first, apart, size, step in zip(offset, dilations, shape[2:], strides, strict=True)
        )
        places = (slice(None), slice(None), *window)
        total += values[places]
    return total / math.prod(kernel)


def _known(values: Sequence[ir.Value | None], shapes: Shapes) -> bool:
    return all(value is not None and str(value.name) in shapes for value in values)


def _alone(model: ir.Model, node: ir.Node, values: NDArray[np.float32]) -> NDArray[Any]:
    """Run one node on values, with ONNX Runtime."""
    source, target = str(present(node.inputs[0]).name), str(node.outputs[0].name)
    session = open_part(model, [node], {source: values}, [target])
    return np.asarray(session.run([target], {source: values})[0])


def _expanded(model: ir.Model, node: ir.Node, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """Repeat a value to a shape: a constant at once, any other when it runs."""
    values = constant_array(value)
    if values is not None:
        return add_tensor(model.graph, f"{value.name}_expanded", np.broadcast_to(values, shape).copy())
    sizes = add_tensor(model.graph, f"{value.name}_sizes", np.array(shape, dtype=np.int64))
    return _inserted(model, node, "Expand", [value, sizes], f"{value.name}_expanded", {})


def _reshaped(model: ir.Model, node: ir.Node, value: ir.Value, shape: tuple[int, ...], how: str) -> ir.Value:
    name = f"{value.name} {how}".replace(" ", "_")
    sizes = add_tensor(model.graph, f"{name}_sizes", np.array(shape, dtype=np.int64))
    return _inserted(model, node, "Reshape", [value, sizes], name, {})


def _inserted(
    model: ir.Model, node: ir.Node, operator: str, inputs: Sequence[ir.Value], name: str, attributes: Mapping[str, Any]
) -> ir.Value:
    """Put an operator before a node; return its output."""
    output = ir.val(name, inputs[0].dtype)
    model.graph.insert_before(node, ir.node(operator, inputs, dict(attributes), outputs=[output], name=name))
    return output


def _give(model: ir.Model, node: ir.Node, value: ir.Value) -> None:
    """Let a value take the place, and the name, of a node's output."""
    name = node.outputs[0].name
    ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    value.name = name


FORMS: tuple[Form, ...] = (
    Form(
        "a constant with all channels",
        "Mul or Div before Conv",
        "factors of single pixels are folded into a convolution's weights where they fit the kernel's shape",
        _scaled,
        _scale_every_channel,
    ),
    Form(
        "heads and tokens swapped in five dimensions",
        "attention",
        "with as many heads as tokens, the swapped output is written over the queries before they are read",
        _swapped_heads,
        _swap_in_five_dimensions,
    ),
    Form(
        "a mask with all heads and rows",
        "attention",
        "a mask that is broadcast over heads is read wrongly in bfloat16",
        _masked,
        _mask_every_head,
    ),
    Form(
        "attention in five dimensions, which is not fused",
        "attention",
        "fused attention computes something else",
        _attended,
        _multiply_in_five_dimensions,
    ),
    Form(
        "pixels gathered by their indices",
        "nearest Resize",
        "round_prefer_floor with half-pixel coordinates takes the other pixel",
        _nearest,
        _gather_pixels,
    ),
    Form(
        "padding before the pooling",
        "AveragePool",
        "ceil_mode with count_include_pad divides by another number of pixels",
        _pooled,
        _pool_padded,
    ),
)
"""In the order in which they are tried: what costs nothing comes first, then the faster of two forms."""
