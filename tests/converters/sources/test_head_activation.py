"""A softmax or a sigmoid at the end of a graph, in any disguise, is found or refused, and never taken for logits."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass

from vitedge.converters.sources.head_activation import Cut, NoLogitsError, find_activation
from vitedge.graph.session import open_session

CLASSES = 4
CONSTANTS = (
    "float one = {1}, float[1] ones = {1}, float half = {0.5}, float hundred = {100}, float zero = {0}, "
    "float[4] each = {1, 2, 3, 4}, float tiny = {0.0000001}, float near = {0.9999999}, float minus = {-1}, "
    "int64[1] last = {1}, int64[2] row = {1, 4}, int64[4] maps = {1, 4, 1, 1}, int64[2] places = {2, 3}, "
    "int64[3] groups = {1, 2, 2}, int64[1] k = {2}, float sixth = {0.16666667}"
)
WEIGHTS = np.random.default_rng(0).normal(0, 0.4, (48, CLASSES)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(0, 1, (3, 1, 3, 4, 4)).astype(np.float32)


def graph_of(body: str, opset: int = 18) -> onnx.ModelProto:
    """A linear layer, ``l``, and what a body makes of it, ``y``."""
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        g (float[1,3,4,4] x) => (float[N,C] y) <{CONSTANTS}, float[48,4] w = {{{_numbers(WEIGHTS)}}}>
        {{ f = Flatten(x) l = MatMul(f, w) {body} }}
        """
    )
    onnx.checker.check_model(model)
    return model


def _numbers(values: NDArray[np.float32]) -> str:
    return ", ".join(f"{value:.6f}" for value in values.ravel())


def outputs_of(model: onnx.ModelProto) -> list[list[NDArray[np.float32]]]:
    session = open_session(model)
    return [session.run(None, {"x": image}) for image in IMAGES]


def cut(body: str, opset: int = 18) -> tuple[Cut | None, NDArray[np.float32]]:
    """Find the activation of a graph; return it, and the rows of logits that it gives, checked against its scores."""
    model = ir.from_proto(graph_of(body, opset))
    found = find_activation(model)
    if found is not None:
        model.graph.outputs.append(found.logits)
        NameFixPass()(model)
    rows = [[each.reshape(1, -1) for each in outputs] for outputs in outputs_of(ir.to_proto(model))]
    if found is None:
        return None, np.concatenate([outputs[0] for outputs in rows])
    scores, logits = (np.concatenate(each) for each in zip(*rows, strict=True))
    assert found.is_proved(logits, scores)
    return found, logits


LOGITS = np.concatenate([image.reshape(1, -1) @ np.round(WEIGHTS, 6) for image in IMAGES])

SOFTMAX = {
    "plain": "y = Softmax(l)",
    "axis 1": "y = Softmax<axis = 1>(l)",
    "identity": "s = Softmax(l) y = Identity(s)",
    "percent": "s = Softmax(l) y = Mul(s, hundred)",
    "percent, the other way": "s = Softmax(l) y = Mul(hundred, s)",
    "times one": "s = Softmax(l) y = Mul(s, one)",
    "divided by one": "s = Softmax(l) y = Div(s, ones)",
    "reshaped": "s = Softmax(l) r = Unsqueeze(s, last) q = Squeeze(r, last) y = Reshape(q, row)",
    "maps": "r = Reshape(l, maps) s = Softmax<axis = 1>(r) y = Flatten(s)",
    "squeezed maps": "r = Reshape(l, maps) s = Softmax<axis = 1>(r) y = Squeeze(s, places)",
    "cast": "s = Softmax(l) h = Cast<to = 11>(s) y = Cast<to = 1>(h)",
    "clipped": "s = Softmax(l) y = Clip(s, zero, one)",
    "clipped off 0": "s = Softmax(l) y = Clip(s, tiny, near)",
    "logarithm": "y = LogSoftmax(l)",
    "logarithm of softmax": "s = Softmax(l) y = Log(s)",
    "exponential of the logarithm": "s = LogSoftmax(l) y = Exp(s)",
    "written out": "e = Exp(l) t = ReduceSum(e, last) y = Div(e, t)",
    "written out, shifted": "m = ReduceMax(l, last) d = Sub(l, m) e = Exp(d) t = ReduceSum(e, last) y = Div(e, t)",
    "written out, reciprocal": "e = Exp(l) t = ReduceSum(e, last) r = Reciprocal(t) y = Mul(e, r)",
    "written out, logarithm": "e = Exp(l) t = ReduceSum(e, last) g = Log(t) y = Sub(l, g)",
    "log-sum-exp": "t = ReduceLogSumExp(l, last) y = Sub(l, t)",
    "everything": "s = Softmax(l) c = Clip(s, zero, one) m = Mul(c, hundred) r = Reshape(m, maps) i = Identity(r) "
    "y = Flatten(i)",
}
SIGMOID = {
    "plain": "y = Sigmoid(l)",
    "identity": "s = Sigmoid(l) y = Identity(s)",
    "percent": "s = Sigmoid(l) y = Mul(s, hundred)",
    "reshaped": "s = Sigmoid(l) r = Reshape(s, maps) y = Flatten(r)",
    "clipped": "s = Sigmoid(l) y = Clip(s, tiny, near)",
    "logarithm": "s = Sigmoid(l) y = Log(s)",
    "logarithm, written out": "n = Neg(l) p = Softplus(n) y = Neg(p)",
    "written out": "n = Neg(l) e = Exp(n) a = Add(one, e) y = Div(one, a)",
    "written out, the other way": "n = Neg(l) e = Exp(n) a = Add(e, one) y = Reciprocal(a)",
    "written out, exponential above": "e = Exp(l) a = Add(e, one) y = Div(e, a)",
}


@pytest.mark.parametrize("body", SOFTMAX.values(), ids=SOFTMAX)
def test_a_softmax_in_any_form_gives_its_logits(body: str) -> None:
    found, logits = cut(body)
    assert found is not None
    assert found.activation == "softmax"
    np.testing.assert_allclose(logits, LOGITS, atol=1e-4)


@pytest.mark.parametrize("body", SIGMOID.values(), ids=SIGMOID)
def test_a_sigmoid_in_any_form_gives_its_logits(body: str) -> None:
    found, logits = cut(body)
    assert found is not None
    assert found.activation == "sigmoid"
    np.testing.assert_allclose(logits, LOGITS, atol=1e-4)


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("y = HardSigmoid(l)", "HardSigmoid"),
        ("y = Hardmax(l)", "Hardmax"),
        ("y = Clip(l, zero, one)", "Clip"),
        ("m = Mul(l, sixth) a = Add(m, half) y = Clip(a, zero, one)", "Clip"),
        ("s = Sigmoid(l) y = Mul(s, half)", "Sigmoid"),
        ("s = Sigmoid(l) y = Mul(s, each)", "Sigmoid"),
        ("s = Softmax(l) y = Sub(one, s)", "Softmax"),
        ("s = LogSoftmax(l) y = Mul(s, minus)", "LogSoftmax"),
        ("s = LogSoftmax(l) y = Neg(s)", "LogSoftmax"),
        ("s = Softmax(l) y = Softmax(s)", "Softmax"),
        ("s = Softmax(l) y = Sigmoid(s)", "Sigmoid"),
        ("a = Softmax(l) b = Sigmoid(l) y = Mul(a, b)", "Sigmoid"),
        ("a = Softmax(l) n = Neg(l) b = Softmax(n) c = Add(a, b) y = Mul(c, half)", "Softmax"),
        ("e = Exp(l) t = ReduceSumSquare(e, last) y = Div(e, t)", "Exp"),
        ("y = Exp(l)", "Exp"),
        ("y = Softplus(l)", "Softplus"),
        ("s = Softmax(l) q = Sqrt(s) y = Mul(q, q)", "Softmax"),
        ("a = ArgMax<axis = 1>(l) y = Cast<to = 1>(a)", "ArgMax"),
        ("s = Softmax(l) v, i = TopK(s, k) y = Identity(v)", "TopK"),
    ],
)
def test_an_output_that_is_neither_logits_nor_their_scores_is_refused(body: str, operator: str) -> None:
    with pytest.raises(NoLogitsError) as caught:
        find_activation(ir.from_proto(graph_of(body)))
    assert caught.value.node.op_type == operator


BRANCHES = """
    c = Cast<to = 9>(one) {before}
    y = If(c) <
        then_branch = a () => (float[N,C] p) {{ {branch} }}, else_branch = b () => (float[N,C] q) {{ q = Neg(l) }}
    >
"""
"""What torch.onnx.export makes of a squeeze: an If, whose branches may read values outside it."""


@pytest.mark.parametrize(
    ("before", "branch"),
    [("s = Sigmoid(l)", "p = Identity(s)"), ("", "p = Sigmoid(l)"), ("", "s = Softmax(l) p = Neg(s)")],
)
def test_an_activation_in_or_before_a_branch_is_no_logits(before: str, branch: str) -> None:
    with pytest.raises(NoLogitsError):
        find_activation(ir.from_proto(graph_of(BRANCHES.format(before=before, branch=branch))))
    assert find_activation(ir.from_proto(graph_of(BRANCHES.format(before="", branch="p = Identity(l)")))) is None


@pytest.mark.parametrize(
    ("node", "is_bounded"),
    [
        ({"op_type": "FusedGemm", "activation": "Sigmoid"}, True),
        ({"op_type": "BiasSoftmax", "axis": 1}, True),
        ({"op_type": "FusedGemm", "activation": "LeakyRelu"}, False),
        ({"op_type": "FusedMatMul", "alpha": 2.0}, False),
    ],
)
def test_an_activation_that_onnx_runtime_fused_into_a_layer_is_no_logits(
    node: dict[str, object], is_bounded: bool
) -> None:
    model = graph_of("y = Identity(l)")
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.graph.node.pop()
    model.graph.node.append(onnx.helper.make_node(inputs=["l", "each"], outputs=["y"], domain="com.microsoft", **node))
    if is_bounded:
        with pytest.raises(NoLogitsError):
            find_activation(ir.from_proto(model))
    else:
        assert find_activation(ir.from_proto(model)) is None


@pytest.mark.parametrize(
    "body",
    [
        "y = Softmax<axis = 0>(l)",
        "r = Reshape(l, groups) s = Softmax(r) y = Flatten(s)",
        "e = Exp(l) t = ReduceSum(e) d = Div(e, t) r = Reshape(d, groups) s = Softmax<axis = 1>(r) y = Flatten(s)",
    ],
)
def test_a_softmax_that_is_not_over_all_classes_is_not_proved(body: str) -> None:
    model = ir.from_proto(graph_of(body))
    try:
        found = find_activation(model)
    except NoLogitsError:
        return
    assert found is not None
    model.graph.outputs.append(found.logits)
    NameFixPass()(model)
    for scores, logits in outputs_of(ir.to_proto(model)):
        assert not found.is_proved(logits.reshape(1, -1), scores.reshape(1, -1))


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity(l)",
        "y = Mul(l, half)",
        "y = Mul(l, each)",
        "y = Clip(l, minus, one)",
        "y = Tanh(l)",
        "s = Sigmoid(l) y = Mul(l, s)",
        "s = HardSigmoid(l) y = Mul(s, l)",
        "e = Exp(half) y = Mul(l, e)",
        "a = Softmax(f) p = MatMul(a, w) y = Add(p, l)",
    ],
)
def test_logits_are_left_alone(body: str) -> None:
    """The exponential of a constant scales CLIP's logits; a sigmoid that gates its own argument is SiLU."""
    before = graph_of(body)
    found, logits = cut(body)
    assert found is None
    assert np.array_equal(logits, np.concatenate([row.reshape(1, -1) for (row,) in outputs_of(before)]))


def test_an_activation_of_the_network_s_own_layers_is_not_its_head() -> None:
    """Attention and gates end in a Softmax or Sigmoid too; the layers behind them make logits of it."""
    found, _ = cut("s = Softmax(f) g = Mul(s, f) y = MatMul(g, w)")
    assert found is None


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_the_softmax_of_an_old_opset(opset: int) -> None:
    found, logits = cut("r = Reshape(l, maps) s = Softmax(r) y = Flatten(s)", opset)
    assert found is not None
    np.testing.assert_allclose(logits, LOGITS, atol=1e-4)


def test_the_bounds_of_an_old_opset() -> None:
    found, _ = cut("s = Sigmoid(l) y = Clip<min = 0.0, max = 1.0>(s)", 9)
    assert found is not None
    with pytest.raises(NoLogitsError):
        find_activation(ir.from_proto(graph_of("y = Clip<min = 0.0, max = 1.0>(l)", 9)))


def test_a_proof_fails_on_doubled_and_on_zero_logits() -> None:
    found, logits = cut("y = Softmax(l)")
    assert found is not None
    scores = found.scores(logits)
    assert found.is_proved(logits, scores)
    assert found.is_proved(logits, scores.astype(np.float16).astype(np.float32))
    for wrong in (2 * logits, np.zeros_like(logits), logits[:, ::-1]):
        assert not found.is_proved(wrong, scores)
    assert not found.is_proved(logits, scores[:, :2])
    assert not found.is_proved(logits, (100 * scores).astype(np.int64))
