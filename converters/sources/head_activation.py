"""Find the activation at the end of a graph, and cut it off, so that the graph gives logits.

    logits ─▶ Softmax or Sigmoid, in whatever form ─▶ layout, casts, percent, bounds ─▶ output
    logits ───────────────────────────────────────▶ layout, casts                    ─▶ output

A cut must be proved: ``Cut.scores`` of the new output must be the old output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.bundle.model_card import Activation
from vitedge.graph.operators import LAYOUT_OPERATORS, is_standard
from vitedge.graph.values import bodies, constant_or_initializer, values_read
from vitedge.metrics import log_sigmoid, log_softmax, sqnr_db

Form: TypeAlias = Literal["softmax", "log_softmax", "sigmoid", "log_sigmoid"]
Floats: TypeAlias = NDArray[np.float32]

MIN_SQNR_DB = 50.0
"""Float16 reaches 65 dB; scores over other axes or groups of classes reach less than 10 dB."""
SCALES = (1.0, 100.0)
"""Factors behind an activation that keep its meaning: none, and percent."""
ROUNDING = 1e-5
"""Bounds that leave out this much of 0…1 only keep a logarithm finite."""
NEUTRAL = LAYOUT_OPERATORS | {"Cast", "Dropout", "Flatten", "Identity"}
"""Operators behind an activation that stay in the graph, because logits pass them as probabilities do."""
LAYERS = frozenset(
    {
        "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "Einsum", "Gemm", "GlobalAveragePool",
        "GlobalLpPool", "GlobalMaxPool", "GRU", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
        "LSTM", "LpPool", "MatMul", "MaxPool", "RMSNormalization", "RNN",
    }
)  # fmt: skip
"""Operators before which an activation belongs to the network, and not to its head."""
BOUNDED = frozenset(
    {"ArgMax", "ArgMin", "Exp", "HardSigmoid", "Hardmax", "LogSoftmax", "Sigmoid", "Softmax", "Softplus", "TopK"}
)
"""Operators that leave no logits behind."""
FUSED = ("BiasSoftmax",)
"""Operators of ONNX Runtime that leave no logits behind."""
GATES = ("Sigmoid", "HardSigmoid")


class NoLogitsError(ValueError):
    """The output of a graph is computed from logits in a way that vitedge does not know.

    Attributes:
        node: the operator that leaves no logits behind.
    """

    def __init__(self, node: ir.Node) -> None:
        super().__init__(f"made by {node.op_type}")
        self.node = node


@dataclass(frozen=True)
class Cut:
    """An activation that can be cut off.

    Attributes:
        form: of the activation; the logarithm of a score counts as its activation.
        scale: by which its scores are multiplied: 1, or 100 for percent.
        logits: the logits, in the shape and type of the output.
        node: the last operator of the activation.
    """

    form: Form
    scale: float
    logits: ir.Value
    node: ir.Node

    @property
    def activation(self) -> Activation:
        """Return the activation that turns logits into scores."""
        return "softmax" if self.form.endswith("softmax") else "sigmoid"

    def scores(self, logits: Floats) -> Floats:
        """Compute the output that the activation gives for ``(N, classes)`` logits."""
        logarithms = log_softmax(logits) if self.activation == "softmax" else log_sigmoid(logits)
        values = logarithms if self.form.startswith("log_") else self.scale * np.exp(logarithms)
        return np.asarray(values, dtype=np.float32)

    def is_proved(self, logits: NDArray[Any], scores: NDArray[Any]) -> bool:
        """Return whether the activation turns logits into scores, up to the rounding of float16.

        Args:
            logits: of one image or more, one row or shape an image.
            scores: of the same images, in the same shape.
        """
        if logits.shape != scores.shape or {logits.dtype.kind, scores.dtype.kind} != {"f"} or not logits.size:
            return False
        rows = logits.reshape(len(logits), -1)
        return sqnr_db(scores.reshape(len(scores), -1), self.scores(rows.astype(np.float32))) >= MIN_SQNR_DB


def find_activation(model: ir.Model) -> Cut | None:
    """Find the activation of the only output; None if there is none.

    The logits are added to the graph where operators lie behind the activation. No output is changed.

    Raises:
        NoLogitsError: the output is computed by an operator that leaves no logits, in a form that is not known.
    """
    (output,) = model.graph.outputs
    tail, value = _tail(output)
    found, scale = _match(value), math.prod(_factor(node) or 1.0 for node in tail)
    if found is None:
        node = _bounded(model, output)
        if node is not None:
            raise NoLogitsError(node)
        return None
    form, logits = found
    last = value.producer()
    assert last is not None
    if not _keeps_meaning(form, scale) or _bounded(model, logits) is not None:
        raise NoLogitsError(last)
    return Cut(form, scale, _led_through(model.graph, tail, logits), last)


def _keeps_meaning(form: Form, scale: float) -> bool:
    allowed = SCALES[:1] if form.startswith("log_") else SCALES
    return any(math.isclose(scale, each, rel_tol=1e-6) for each in allowed)


def _tail(output: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """Return the operators between an activation and the output, the last one first, and the value before them."""
    tail, value = list[ir.Node](), output
    while (node := _standard(value)) is not None and (
        node.op_type in NEUTRAL or _factor(node) is not None or _is_bound_of_scores(node)
    ):
        tail.append(node)
        value = _image_input(node)
    return tail, value


def _led_through(graph: ir.Graph, tail: list[ir.Node], logits: ir.Value) -> ir.Value:
    """Lead the logits through copies of the operators behind the activation, but for factors and bounds of scores."""
    value = logits
    for node in reversed(tail):
        if node.op_type in NEUTRAL:
            copy = ir.Node(node.domain, node.op_type, [value, *node.inputs[1:]], node.attributes.values())
            graph.append(copy)
            value = copy.outputs[0]
            value.shape, value.type = node.outputs[0].shape, node.outputs[0].type
    return value


def _image_input(node: ir.Node) -> ir.Value:
    """Return the input that is no constant: the first one, or the second one of a product."""
    first = node.inputs[0]
    other = node.inputs[1] if node.op_type == "Mul" and _scalar(first) is not None else first
    assert other is not None
    return other


def _factor(node: ir.Node) -> float | None:
    """Return the constant number by which an operator multiplies; None if it does something else."""
    if node.op_type not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    first, second = map(_scalar, node.inputs)
    if node.op_type == "Div":
        return 1.0 / second if second else None
    return first if second is None else second


def _is_bound_of_scores(node: ir.Node) -> bool:
    """Return whether an operator bounds values to 0…1, which changes no score; bounds within it only avoid log(0)."""
    if node.op_type != "Clip":
        return False
    low, high = _bounds(node)
    return low <= ROUNDING and high >= 1.0 - ROUNDING


def _is_within_scores(node: ir.Node) -> bool:
    """Return whether an operator bounds values to a part of 0…1."""
    if node.op_type != "Clip":
        return False
    low, high = _bounds(node)
    return low >= 0.0 and high <= 1.0


def _bounds(node: ir.Node) -> tuple[float, float]:
    """Return the bounds of a Clip: of its inputs, or of its attributes before opset 11; NaN where one is computed."""
    values = []
    for place, name in ((1, "min"), (2, "max")):
        if len(node.inputs) > place and node.inputs[place] is not None:
            found = _scalar(node.inputs[place])
            values.append(math.nan if found is None else found)
        else:
            attribute = node.attributes.get(name)
            unbounded = -math.inf if name == "min" else math.inf
            values.append(unbounded if attribute is None else attribute.as_float())
    return values[0], values[1]


def _match(value: ir.Value | None) -> tuple[Form, ir.Value] | None:
    """Return form and logits of the activation that computes a value; None if it is no activation that is known."""
    node = _standard(value)
    if node is None or not node.inputs or node.inputs[0] is None:
        return None
    first = node.inputs[0]
    simple: dict[str, Form] = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
    if node.op_type in simple:
        return simple[node.op_type], first
    match node.op_type:
        case "Log" | "Exp":
            return _of_logarithm(node.op_type, first)
        case "Div":
            return _of_quotient(first, node.inputs[1])
        case "Reciprocal":
            return _of_quotient(None, first)
        case "Mul":
            return _of_product(first, node.inputs[1])
        case "Sub":
            return _of_difference(first, node.inputs[1])
        case "Neg":
            return _of_softplus(first)
    return None


def _of_logarithm(operator: str, value: ir.Value) -> tuple[Form, ir.Value] | None:
    """Match the logarithm of a probability, and the exponential of such a logarithm."""
    found = _match(value)
    forms: dict[tuple[str, str], Form] = {
        ("Log", "softmax"): "log_softmax",
        ("Log", "sigmoid"): "log_sigmoid",
        ("Exp", "log_softmax"): "softmax",
        ("Exp", "log_sigmoid"): "sigmoid",
    }
    form = None if found is None else forms.get((operator, found[0]))
    return None if form is None or found is None else (form, found[1])


def _of_product(first: ir.Value, second: ir.Value | None) -> tuple[Form, ir.Value] | None:
    """Match ``a · (1/b)``, as ``a/b``."""
    for value, other in ((first, second), (second, first)):
        reciprocal = _standard(other, "Reciprocal")
        if reciprocal is not None:
            return _of_quotient(value, reciprocal.inputs[0])
    return None


def _of_quotient(above: ir.Value | None, below: ir.Value | None) -> tuple[Form, ir.Value] | None:
    """Match ``eˣ/Σeˣ``, ``1/(1+e⁻ˣ)`` and ``eˣ/(1+eˣ)``; ``above`` is None for 1."""
    exponential, total = _standard(above, "Exp"), _standard(below, "ReduceSum")
    if exponential is not None and total is not None and total.inputs[0] is above:
        return "softmax", _unshifted(exponential.inputs[0])
    raised = _without_one(below)
    if raised is None:
        return None
    exponent = raised.inputs[0]
    if above is raised.outputs[0]:
        return ("sigmoid", exponent) if exponent is not None else None
    negated = _standard(exponent, "Neg")
    if (above is None or _scalar(above) == 1.0) and negated is not None and negated.inputs[0] is not None:
        return "sigmoid", negated.inputs[0]
    return None


def _without_one(value: ir.Value | None) -> ir.Node | None:
    """Return the Exp of ``1 + eˣ``."""
    node = _standard(value, "Add")
    if node is None:
        return None
    pairs = ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0]))
    return next((_standard(other, "Exp") for one, other in pairs if _scalar(one) == 1.0), None)


def _of_difference(value: ir.Value, subtracted: ir.Value | None) -> tuple[Form, ir.Value] | None:
    """Match ``x − ln Σeˣ``."""
    node = _standard(subtracted, "ReduceLogSumExp")
    if node is not None and node.inputs[0] is value:
        return "log_softmax", _unshifted(value)
    logarithm = _standard(subtracted, "Log")
    total = None if logarithm is None else _standard(logarithm.inputs[0], "ReduceSum")
    exponential = None if total is None else _standard(total.inputs[0], "Exp")
    if exponential is not None and exponential.inputs[0] is value:
        return "log_softmax", _unshifted(value)
    return None


def _of_softplus(value: ir.Value) -> tuple[Form, ir.Value] | None:
    """Match ``−softplus(−x)``."""
    softplus = _standard(value, "Softplus")
    negated = None if softplus is None else _standard(softplus.inputs[0], "Neg")
    logits = None if negated is None else negated.inputs[0]
    return None if logits is None else ("log_sigmoid", logits)


def _unshifted(value: ir.Value | None) -> ir.Value:
    """Return ``x`` of ``x − max x``, which a softmax subtracts so that nothing overflows."""
    assert value is not None
    node = _standard(value, "Sub")
    largest = None if node is None else _standard(node.inputs[1], "ReduceMax")
    if node is None or largest is None or largest.inputs[0] is not node.inputs[0] or node.inputs[0] is None:
        return value
    return node.inputs[0]


def _bounded(model: ir.Model, value: ir.Value) -> ir.Node | None:
    """Find an operator that leaves no logits, between a value and the last layers of the network."""
    computed = _depends_on_image(model)
    seen, waiting = set[ir.Value](), [value]
    while waiting:
        each = waiting.pop()
        node = each.producer()
        if node is None or each in seen or each not in computed:
            continue
        seen.add(each)
        if _has_fused_activation(node):
            return node
        if _is_layer(node):
            continue
        if node.op_type in BOUNDED or _is_within_scores(node):
            return node
        if not _is_gated(node):
            waiting.extend(found for found in node.inputs if found is not None)
            waiting.extend(output for body in bodies(node) for output in body.outputs)
    return None


def _has_fused_activation(node: ir.Node) -> bool:
    """Return whether ONNX Runtime's optimizer put an activation that leaves no logits into a layer."""
    activation = node.attributes.get("activation")
    named = activation is not None and activation.type == ir.AttributeType.STRING and activation.as_string() in BOUNDED
    return not is_standard(node.domain) and (named or node.op_type in FUSED)


def _is_layer(node: ir.Node) -> bool:
    return node.op_type in LAYERS or not is_standard(node.domain)


def _is_gated(node: ir.Node) -> bool:
    """Return whether an operator is the product of SiLU or hard-swish, ``x · sigmoid(x)``: an activation of layers."""
    if node.op_type != "Mul":
        return False
    first, second = node.inputs
    gates = ((_standard(first, *GATES), second), (_standard(second, *GATES), first))
    return any(gate is not None and gate.inputs[0] is value for gate, value in gates)


def _depends_on_image(model: ir.Model) -> set[ir.Value]:
    """Return the values that depend on the input of the graph."""
    weights = set(model.graph.initializers.values())
    dependent = {value for value in model.graph.inputs if value not in weights}
    for node in model.graph:
        if any(value in dependent for value in values_read(node)):
            dependent.update(_values_made(node))
    return dependent


def _values_made(node: ir.Node) -> Iterator[ir.Value]:
    """Give the outputs of a node and of the nodes in its bodies."""
    yield from node.outputs
    for body in bodies(node):
        for inner in body:
            yield from _values_made(inner)


def _standard(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the standard operator that produces a value, of one of these types if there are any."""
    node = None if value is None else value.producer()
    if node is None or not is_standard(node.domain) or (op_types and node.op_type not in op_types):
        return None
    return node


def _scalar(value: ir.Value | None) -> float | None:
    """Return a constant of one element; None for anything else."""
    node = _standard(value, "Identity", "Cast")
    if node is not None:
        return _scalar(node.inputs[0])
    array = constant_or_initializer(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 and array.dtype.kind in "fiu" else None
