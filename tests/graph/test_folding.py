"""Folding of constants, and the rules that simplify operators."""

from __future__ import annotations

from collections import Counter

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from vitedge.graph.folding import fold_constants


def folded(body: str, **constants: object) -> Counter[str]:
    """Count the operators that are left of a classifier."""
    model = ir.from_proto(graphs.classifier(body, **constants))
    before = len(model.graph)
    fold_constants(model)
    assert len(model.graph) <= before
    return Counter(node.op_type for node in model.graph)


PLAIN = folded("maps = Relu(x)")
ONE, ZERO, CHANNELS = np.float32(1), np.float32(0), np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("same = Mul(x, one) maps = Relu(same)", {"one": ONE}),
        ("same = Mul(one, x) maps = Relu(same)", {"one": ONE}),
        ("same = Div(x, one) maps = Relu(same)", {"one": ONE}),
        ("same = Add(zero, x) maps = Relu(same)", {"zero": ZERO}),
        ("same = Sub(x, zero) maps = Relu(same)", {"zero": ZERO}),
        ("same = Dropout(x) maps = Relu(same)", {}),
        ("same = Cast<to = 1>(x) maps = Relu(same)", {}),
        ("same = Expand(x, size) maps = Relu(same)", {"size": np.array([1, 3, 12, 12])}),
        ("same = Transpose<perm = [0, 1, 2, 3]>(x) maps = Relu(same)", {}),
        (
            "there = Transpose<perm = [0, 2, 3, 1]>(x) same = Transpose<perm = [0, 3, 1, 2]>(there) maps = Relu(same)",
            {},
        ),
        ("once = Relu(x) maps = Relu(once)", {}),
    ],
)
def test_operators_that_do_nothing_go(body: str, constants: dict[str, object]) -> None:
    assert folded(body, **constants) == PLAIN


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("some = Clip(x, zero, two) maps = Clip(some, zero, one)", "Clip"),
        ("some = Relu(x) maps = Clip(some, zero, one)", "Clip"),
        ("some = Clip(x, zero, two) maps = Relu(some)", "Clip"),
        ("some = Max(x, zero) maps = Max(some, one)", "Max"),
        ("some = Min(x, two) maps = Min(some, one)", "Min"),
        ("some = Max(x, zero) maps = Min(some, one)", "Clip"),
        ("some = Min(x, one) maps = Max(some, zero)", "Clip"),
        ("some = Slice(x, first, all, last, step) maps = Relu(some)", "Relu"),
        ("some = ScatterND(x, whole, x) maps = Relu(some)", "Relu"),
    ],
)
def test_two_operators_become_one(body: str, kept: str) -> None:
    numbers = {"zero": ZERO, "one": ONE, "two": np.float32(2)}
    bounds = {"first": np.array([0]), "all": np.array([12]), "last": np.array([3]), "step": np.array([1])}
    left = folded(body, **numbers, **bounds, whole=np.array([[0]]))
    assert left == PLAIN - Counter(["Relu"]) + Counter([kept])


@pytest.mark.parametrize(
    "body",
    [
        "rows = Reshape(x, flat) product = MatMul(rows, w) maps = Reshape(product, image)",
        "a = Reshape(x, planes) b = Reshape(x, planes) product = MatMul(a, b) maps = Reshape(product, image)",
    ],
)
def test_matrices_are_multiplied_without_reshapes(body: str) -> None:
    sizes = {"flat": np.array([36, 12]), "planes": np.array([3, 12, 12]), "image": np.array([1, 3, 12, 12])}
    assert folded(body, w=graphs.random(12, 12), **sizes) == PLAIN - Counter(["Relu"]) + Counter(["MatMul"])


def test_normalization_becomes_part_of_the_matrix() -> None:
    same = "rows = Reshape(x, flat) product = Gemm(rows, w, b) same = BatchNormalization(product, c, c, c, c)"
    body = f"{same} maps = Reshape(same, image)"
    sizes = {"flat": np.array([36, 12]), "image": np.array([1, 3, 12, 12])}
    numbers = {"w": graphs.random(12, 12), "b": graphs.random(12), "c": np.ones(12, np.float32)}
    assert folded(body, **numbers, **sizes)["BatchNormalization"] == 0


def test_two_unsqueezes_become_one() -> None:
    body = "one = Unsqueeze(x, first) two = Unsqueeze(one, last) maps = Squeeze(two, both)"
    kinds = folded(body, first=np.array([0]), last=np.array([5]), both=np.array([0, 5]))
    assert kinds["Unsqueeze"] == 1


def test_convolutions_spell_their_padding_out() -> None:
    model = ir.from_proto(graphs.classifier('maps = Conv<auto_pad = "SAME_UPPER">(x, w)', w=graphs.random(3, 3, 3, 3)))
    fold_constants(model)
    (convolution,) = (node for node in model.graph if node.op_type == "Conv")
    assert convolution.attributes.get_ints("pads") == (1, 1, 1, 1)


@pytest.mark.parametrize(("operator", "bias"), [("Conv", "b"), ("Gemm", "c")])
def test_a_bias_of_zeros_goes(operator: str, bias: str) -> None:
    body = "rows = Conv(x, w, b) flat = Reshape(rows, size) wide = Gemm(flat, u, c) maps = Reshape(wide, image)"
    model = ir.from_proto(
        graphs.classifier(
            body,
            w=graphs.random(3, 3, 1, 1),
            b=np.zeros(3),
            u=graphs.random(12, 12),
            c=np.zeros(12),
            size=np.array([36, 12]),
            image=np.array([1, 3, 12, 12]),
        )
    )
    fold_constants(model)
    (node,) = (each for each in model.graph if each.op_type == operator)
    assert bias not in [value.name for value in node.inputs if value is not None]


def test_batch_normalization_and_padding_become_part_of_the_convolution() -> None:
    body = "wide = Pad(x, pads) rows = Conv(wide, w, b) maps = BatchNormalization(rows, one, one, one, one)"
    pads, weights = np.array([0, 0, 1, 1, 0, 0, 1, 1]), graphs.random(3, 3, 3, 3)
    kinds = folded(body, pads=pads, w=weights, b=CHANNELS, one=CHANNELS)
    assert kinds == PLAIN - Counter(["Relu"]) + Counter(["Conv"])


def test_halves_of_a_tensor_stay_slices() -> None:
    """The rule that splits it compares each operator with all others."""
    body = "right = Slice(x, half, all, last) left = Slice(x, none, half, last) maps = Concat<axis = 1>(left, right)"
    bounds = {"none": np.array([0]), "half": np.array([6]), "all": np.array([12]), "last": np.array([3])}
    kinds = folded(body, **bounds)
    assert (kinds["Slice"], kinds["Split"]) == (2, 0)
