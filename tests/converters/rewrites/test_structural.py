"""The rules that change the structure of a graph: each exact on small modules, and refusing what it does not fit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitedge.converters.rewrites import class_token_only, distilled_heads, fold_batchnorm, fuse_gelu, fuse_layernorm
from vitedge.converters.rewrites.regions import extent, relative, reshaped, whole, worth_computing
from vitedge.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(input_size=(8, 8), resize_size=(8, 8))
EPSILON = 1e-5


def parsed(body: str, source: str, result: str, weights: dict[str, list[int]] | None = None) -> onnx.ModelProto:
    """A graph from ``x`` to ``logits`` in ONNX's text form, with random weights."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[{source}] x) => (float[{result}] logits) {{ {body} }}'
    )
    for name, shape in (weights or {}).items():
        values = np.asarray(0.5 + rng.random(shape), np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return onnx.shape_inference.infer_shapes(proto)


def lifted(proto: onnx.ModelProto) -> ir.Model:
    model = ir.from_proto(proto)
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model


def rewritten(rule: Any, proto: onnx.ModelProto) -> Counter[str]:
    """Apply a rule, prove that it is exact; the operators that are left."""
    model = lifted(proto)
    assert rule.check(model, PREPROCESSING) == ""
    assert rule.rewrite(model, PREPROCESSING).changed > 0
    ir.passes.common.NameFixPass()(model)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    (expected,), (reached,) = (onnx.reference.ReferenceEvaluator(each).run(None, feeds) for each in (proto, after))
    np.testing.assert_allclose(reached, expected, rtol=1e-4, atol=1e-5)
    return Counter(node.op_type for node in model.graph)


def refused(rule: Any, proto: onnx.ModelProto) -> str:
    return str(rule.check(lifted(proto), PREPROCESSING))


SQUARES = ["q = Mul(d, d)", "two = Constant<value = float {2.0}>() q = Pow(d, two)"]
QUOTIENTS = ["n = Div(d, s)", "i = Reciprocal(s) n = Mul(d, i)"]
AFFINES = ["logits = Identity(n)", "logits = Mul(g, n)", "m = Mul(n, g) logits = Add(b, m)"]


def layernorm(square: str, quotient: str, affine: str, axis: int = -1) -> onnx.ModelProto:
    body = f"""axes = Constant<value = int64[1] {{{axis}}}>() u = ReduceMean(x, axes) d = Sub(x, u) {square}
        v = ReduceMean(q, axes) e = Constant<value = float {{{EPSILON}}}>() w = Add(v, e) s = Sqrt(w)
        {quotient} {affine}"""
    return parsed(body, "1,5,8", "1,5,8", {"g": [8], "b": [8]})


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("quotient", QUOTIENTS)
@pytest.mark.parametrize("affine", AFFINES)
def test_layernorm_becomes_one_operator(square: str, quotient: str, affine: str) -> None:
    kinds = rewritten(fuse_layernorm, layernorm(square, quotient, affine))
    assert kinds["LayerNormalization"] == 1
    assert kinds.total() <= 2  # Identity


def test_layernorm_over_other_axes_is_left() -> None:
    assert refused(fuse_layernorm, layernorm(SQUARES[0], QUOTIENTS[0], AFFINES[0], axis=1)) == fuse_layernorm.OTHER_AXES


GELUS = {
    "x(1+erf)/2": "e = Erf(k) p = Add(e, one) m = Mul(x, p) logits = Mul(m, half)",
    "x((1+erf)/2)": "e = Erf(k) p = Add(one, e) m = Mul(half, p) logits = Mul(x, m)",
    "(x/2)(1+erf)": "h = Mul(x, half) e = Erf(k) p = Add(e, one) logits = Mul(p, h)",
}
CONSTANTS = """one = Constant<value = float {1.0}>() half = Constant<value = float {0.5}>()
    root = Constant<value = float {1.4142135}>() inverse = Constant<value = float {0.70710677}>()
    c = Constant<value = float {0.044715}>() three = Constant<value = float {3.0}>()
    t = Constant<value = float {0.7978846}>() """
TANH = {
    "pow": "q = Pow(x, three) r = Mul(c, q) a = Add(x, r) u = Mul(a, t)",
    "products": "xx = Mul(x, x) q = Mul(xx, x) r = Mul(c, q) a = Add(r, x) u = Mul(t, a)",
    "factored": "xx = Mul(x, x) r = Mul(xx, c) a = Add(r, one) y = Mul(x, a) u = Mul(y, t)",
}


@pytest.mark.parametrize("argument", ["k = Div(x, root)", "k = Mul(inverse, x)"])
@pytest.mark.parametrize("form", GELUS)
def test_gelu_becomes_one_operator(argument: str, form: str) -> None:
    kinds = rewritten(fuse_gelu, parsed(f"{CONSTANTS} {argument} {GELUS[form]}", "1,5,8", "1,5,8"))
    assert kinds == {"Gelu": 1}


@pytest.mark.parametrize("form", TANH)
def test_gelu_by_tanh_becomes_one_operator(form: str) -> None:
    tail = "e = Tanh(u) p = Add(e, one) m = Mul(x, p) logits = Mul(m, half)"
    assert rewritten(fuse_gelu, parsed(f"{CONSTANTS} {TANH[form]} {tail}", "1,5,8", "1,5,8")) == {"Gelu": 1}


@pytest.mark.parametrize("argument", ["k = Div(x, half)", "k = Identity(x)"])
def test_erf_of_something_else_is_left(argument: str) -> None:
    graph = parsed(f"{CONSTANTS} {argument} {GELUS['x(1+erf)/2']}", "1,5,8", "1,5,8")
    assert refused(fuse_gelu, graph) == fuse_gelu.NO_GELU


def test_batchnorm_goes_into_the_layer_before_it() -> None:
    body = "c = Conv<pads = [1,1,1,1]>(x, w) logits = BatchNormalization(c, g, b, m, v)"
    weights = {"w": [6, 3, 3, 3], "g": [6], "b": [6], "m": [6], "v": [6]}
    assert rewritten(fold_batchnorm, parsed(body, "1,3,8,8", "1,6,8,8", weights)) == {"Conv": 1}


HEAD = {"g": [3], "b": [3], "m": [3], "v": [3], "w": [4, 3, 1, 1]}


def test_batchnorm_goes_into_the_layers_after_it() -> None:
    body = "n = BatchNormalization(x, g, b, m, v) logits = Conv(n, w)"
    assert rewritten(fold_batchnorm, parsed(body, "1,3,8,8", "1,4,8,8", HEAD)) == {"Conv": 1}


def test_batchnorm_goes_through_the_mean_into_both_heads() -> None:
    body = """n = BatchNormalization(x, g, b, m, v) p = GlobalAveragePool(n) f = Flatten(p)
        one = Gemm<transB = 1>(f, w) two = Gemm<transB = 1>(f, k) logits = Add(one, two)"""
    weights = HEAD | {"w": [4, 3], "k": [4, 3]}
    assert rewritten(fold_batchnorm, parsed(body, "1,3,8,8", "1,4", weights))["BatchNormalization"] == 0


@pytest.mark.parametrize(
    "body",
    [
        "n = BatchNormalization(x, g, b, m, v) logits = Conv<pads = [1,1,1,1]>(n, w)",
        "n = BatchNormalization(x, g, b, m, v) r = Relu(n) logits = Conv(r, w)",
    ],
)
def test_batchnorm_stays_where_it_would_change_the_padding_or_an_activation(body: str) -> None:
    padded = "10,10" if "pads" in body else "8,8"
    assert refused(fold_batchnorm, parsed(body, "1,3,8,8", f"1,4,{padded}", HEAD)) == fold_batchnorm.NO_LAYER


ADDED = "s = Add(one, two) h = Constant<value = float {2.0}>() logits = Div(s, h)"
HEADS = {"w": [4, 8], "k": [4, 8], "b": [4]}


def test_distilled_heads_become_one() -> None:
    body = f"""i = Constant<value = int64 {{0}}>() j = Constant<value = int64 {{1}}>()
        f = Gather<axis = 1>(x, i) d = Gather<axis = 1>(x, j)
        one = Gemm<transB = 1>(f, w, b) two = Gemm<transB = 1>(d, k) {ADDED}"""
    assert rewritten(distilled_heads, parsed(body, "1,5,8", "1,4", HEADS)) == {"Gather": 2, "Concat": 1, "Gemm": 1}


def test_heads_of_the_same_features_add_up() -> None:
    body = f"one = Gemm<transB = 1>(x, w, b) two = Gemm<transB = 1>(x, k) {ADDED}"
    assert rewritten(distilled_heads, parsed(body, "1,8", "1,4", HEADS)) == {"Gemm": 1}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("logits = Gemm<transB = 1>(x, w)", "there is one head"),
        ("a = Gemm<transB = 1>(x, w) logits = Relu(a)", "the logits are not a sum of linear layers"),
        ("a = Gemm<transB = 1>(x, w) r = Relu(a) logits = Add(r, a)", "the logits are not a sum of linear layers"),
    ],
)
def test_other_heads_are_left(body: str, reason: str) -> None:
    assert refused(distilled_heads, parsed(body, "1,8", "1,4", HEADS)) == reason


BLOCK = """
    qkv = MatMul(x, w) shape = Constant<value = int64[5] {1, 6, 3, 2, 4}>() r = Reshape(qkv, shape)
    t = Transpose<perm = [2, 0, 3, 1, 4]>(r) q0, k0, v0 = Split<axis = 0, num_outputs = 3>(t)
    zero = Constant<value = int64[1] {0}>() q = Squeeze(q0, zero) k = Squeeze(k0, zero) v = Squeeze(v0, zero)
    kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, kt) a = Softmax<axis = -1>(s) o = MatMul(a, v)
    ot = Transpose<perm = [0, 2, 1, 3]>(o) flat = Constant<value = int64[3] {1, 6, 8}>() c = Reshape(ot, flat)
    p = MatMul(c, j) y = Add(x, p) n = LayerNormalization(y, g, b) m = MatMul(n, f) z = Add(y, m)
"""
BLOCK_WEIGHTS = {"w": [8, 24], "j": [8, 8], "g": [8], "b": [8], "f": [8, 8]}
CLASS_TOKEN = "i = Constant<value = int64 {0}>() logits0 = Gather<axis = 1>(z, i) logits = Relu(logits0)"


def test_only_the_class_token_is_computed() -> None:
    proto = parsed(BLOCK + CLASS_TOKEN, "1,6,8", "1,8", BLOCK_WEIGHTS)
    rewritten(class_token_only, proto)
    model = lifted(proto)
    places = class_token_only.rewrite(model, PREPROCESSING)
    products = [tuple(node.outputs[0].shape or ()) for node in model.graph if node.op_type == "MatMul"]
    assert sorted(products) == sorted([(1, 6, 16), (1, 1, 8), (1, 2, 1, 6), (1, 2, 1, 4), (1, 1, 8), (1, 1, 8)])
    assert places.changed == 5  # the merged layer is one of them


@pytest.mark.parametrize(
    "pooled", ["axes = Constant<value = int64[1] {1}>() logits = ReduceMean<keepdims = 0>(z, axes)"]
)
def test_pooled_tokens_are_all_computed(pooled: str) -> None:
    graph = parsed(BLOCK + pooled, "1,6,8", "1,8", BLOCK_WEIGHTS)
    assert refused(class_token_only, graph) == "every matrix product is read in full"


@given(st.data())
def test_a_reshaped_region_holds_the_same_elements(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=5))
    total = int(np.prod(sizes))
    cut = data.draw(st.sampled_from([size for size in range(1, total + 1) if total % size == 0]))
    old, new = (sizes, [cut, total // cut]) if data.draw(st.booleans()) else ([cut, total // cut], sizes)
    region = tuple(
        (first, data.draw(st.integers(first + 1, size)))
        for size in old
        for first in [data.draw(st.integers(0, size - 1))]
    )
    found = reshaped(region, old, new)
    if found is None:
        return
    tensor = np.arange(total)
    before = tensor.reshape(old)[tuple(slice(*span) for span in region)]
    after = tensor.reshape(new)[tuple(slice(*span) for span in found)]
    np.testing.assert_array_equal(before.ravel(), after.ravel())


def test_regions_are_joined_where_that_costs_nothing() -> None:
    assert worth_computing([((0, 1),), ((1, 2),), ((5, 6),)], [10]) == [((0, 2),), ((5, 6),)]
    assert worth_computing([((1, 10),)], [10]) == [whole([10])]
    assert worth_computing([((0, 1), (0, 3)), ((0, 5), (3, 9))], [5, 9]) == [((0, 1), (0, 3)), ((0, 5), (3, 9))]
    assert extent(relative(((3, 5),), ((2, 9),))) == [2]
