"""Strongly typed graphs: exact where float16 holds, and float32 where it does not."""

from __future__ import annotations

from collections import Counter

import layers
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.quantization.affine import Scheme
from vitedge.calib.quantization.ptq import quantize
from vitedge.converters.reference import graph_logits
from vitedge.converters.tensorrt.casts import counts
from vitedge.converters.tensorrt.emulation import rounded
from vitedge.converters.tensorrt.float32_placement import QUANTIZERS
from vitedge.converters.tensorrt.typed import Typed, half_graph
from vitedge.converters.tensorrt.value_ranges import peaks
from vitedge.errors import CalibrationError, ConversionError
from vitedge.metrics import sqnr_db
from vitedge.progress import Silent

FRAMES = layers.frames(6)
PREPROCESSING = Preprocessing(input_size=(layers.SIDE, layers.SIDE), resize_size=(layers.SIDE, layers.SIDE))
HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT


def shaped(graph: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True)


def typed(graph: onnx.ModelProto) -> Typed:
    """Typed by its own ranges, and checked."""
    found = half_graph(shaped(graph), peaks(shaped(graph), FRAMES, Silent()))
    onnx.checker.check_model(found.graph, full_check=True)
    return found


def logits(graph: onnx.ModelProto) -> NDArray[np.float32]:
    return graph_logits(graph, FRAMES, PREPROCESSING)


def kinds(graph: onnx.ModelProto) -> dict[str, int]:
    """Types of all values, by name."""
    inferred = shaped(graph).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    found = {each.name: each.type.tensor_type.elem_type for each in values}
    return found | {each.name: each.data_type for each in inferred.initializer}


def computes_in(graph: onnx.ModelProto, *operators: str) -> Counter[int]:
    """What the outputs of some operators are."""
    found = kinds(graph)
    return Counter(found[node.output[0]] for node in graph.graph.node if node.op_type in operators)


def stream(factor: float) -> onnx.ModelProto:
    """A block, whose residual stream a layer makes ``factor`` times as large, and a head behind a norm."""
    body = (
        "norm0 = LayerNormalization<axis=-1>(x, ones, zeros) wide0 = MatMul(norm0, first) sum0 = Add(x, wide0) "
        "norm1 = LayerNormalization<axis=-1>(sum0, ones, zeros) wide1 = MatMul(norm1, second) gelu = Gelu(wide1) "
        "narrow = MatMul(gelu, third) sum1 = Add(sum0, narrow) "
        "norm2 = LayerNormalization<axis=-1>(sum1, ones, zeros) logits = MatMul(norm2, head)"
    )
    width = layers.WIDTH
    return layers.model(
        body,
        ones=np.ones(width),
        zeros=np.zeros(width),
        first=factor * layers.weights(width, width),
        second=layers.weights(width, width, seed=1),
        third=layers.weights(width, width, seed=2),
        head=layers.weights(width, 5),
    )


@pytest.fixture(scope="module")
def full() -> onnx.ModelProto:
    """A network in int8, all else in float32."""
    return quantize(layers.block(depth=3), FRAMES, scheme=Scheme.SHIFTED).graph


@pytest.fixture(scope="module")
def found(full: onnx.ModelProto) -> Typed:
    """Typed."""
    return typed(full)


@pytest.fixture(scope="module")
def eighths() -> onnx.ModelProto:
    """The network in float8, all else in float32."""
    return quantize(layers.block(depth=3), FRAMES, scheme=Scheme.FLOAT8).graph


class TestFloat16:
    def test_everything_is_float16_but_input_and_output(self) -> None:
        graph = typed(layers.block()).graph
        assert kinds(graph)["frame"] == TensorProto.UINT8
        assert kinds(graph)["logits"] == FULL
        assert computes_in(graph, "Conv", "MatMul", "LayerNormalization", "Gelu", "Add").keys() == {HALF}
        assert {each.data_type for each in graph.graph.initializer} == {HALF, TensorProto.INT64}
        assert counts(graph).casts == 1  # the logits

    def test_it_is_as_exact_as_float16(self) -> None:
        assert sqnr_db(logits(layers.block()), logits(rounded(typed(layers.block()).graph))) > 55

    def test_a_value_read_in_both_types_is_cast_once(self) -> None:
        body = (
            "a = MatMul(x, w) m1 = ReduceMean<keepdims=1>(a, axes) m2 = ReduceL2<keepdims=1>(a, axes) m = Add(m1, m2) "
            "b = Add(a, m) c = ReduceMean<keepdims=0>(b, tokens) logits = MatMul(c, head)"
        )
        constants = {"axes": np.array([-1]), "tokens": np.array([1]), "head": layers.weights(layers.WIDTH, 5)}
        found = typed(layers.model(body, w=layers.weights(layers.WIDTH, layers.WIDTH), **constants))
        assert computes_in(found.graph, "ReduceMean", "ReduceL2").keys() == {FULL}
        assert set(found.full.values()) == {"sums outside a matrix unit"}
        casts = Counter(node.input[0] for node in found.graph.graph.node if node.op_type == "Cast")
        assert casts["a"] == 1
        assert (
            sqnr_db(
                logits(layers.model(body, w=layers.weights(layers.WIDTH, layers.WIDTH), **constants)),
                logits(rounded(found.graph)),
            )
            > 50
        )

    def test_the_mean_of_the_frame_is_subtracted_in_float32(self) -> None:
        graph = layers.block()
        planes = next(node for node in graph.graph.node if node.op_type == "Conv").input[0]
        graph.graph.initializer.append(
            numpy_helper.from_array(np.array([123.675, 116.28, 103.53], np.float32).reshape(1, 3, 1, 1), "mean")
        )
        conv = next(index for index, node in enumerate(graph.graph.node) if node.op_type == "Conv")
        graph.graph.node[conv].input[0] = "centered"
        graph.graph.node.insert(conv, onnx.helper.make_node("Sub", [planes, "mean"], ["centered"], "center"))
        found = typed(graph)
        assert found.full["center"] == "normalizes the frame"
        assert kinds(found.graph)[planes] == FULL
        assert counts(found.graph).casts == 2

    def test_constants_that_float16_does_not_hold(self) -> None:
        body = "a = MatMul(x, w) b = Add(a, tiny) c = Div(b, b) d = MatMul(c, v) logits = MatMul(d, head)"
        width = layers.WIDTH
        found = typed(
            layers.model(
                body,
                w=layers.weights(width, width),
                tiny=np.full(1, 1e-12),
                v=1e-9 * layers.weights(width, width),
                head=layers.weights(width, 5),
            )
        )
        reasons = {name: why for name, why in found.full.items() if why == "a constant that float16 does not hold"}
        assert len(reasons) == 2

    @pytest.mark.parametrize(("size", "exactly"), [(layers.WIDTH, False), (1, True)], ids=["biases", "an epsilon"])
    def test_what_vanishes_in_a_sum_is_missed_only_if_it_stands_alone(self, size: int, exactly: bool) -> None:
        body = "a = MatMul(x, w) b = Add(a, tiny) logits = MatMul(b, head)"
        width = layers.WIDTH
        constants = {"w": layers.weights(width, width), "tiny": np.full(size, 1e-9), "head": layers.weights(width, 5)}
        assert bool(typed(layers.model(body, **constants)).full) == exactly

    def test_biases_that_overflow_do_not_vanish(self) -> None:
        body = "a = MatMul(x, w) b = Add(a, huge) logits = MatMul(b, head)"
        width = layers.WIDTH
        constants = {"w": layers.weights(width, width), "huge": np.full(width, 1e5), "head": layers.weights(width, 5)}
        found = typed(layers.model(body, **constants))
        assert kinds(found.graph)["b"] == FULL

    def test_the_graph_given_is_not_changed(self) -> None:
        graph = shaped(layers.block())
        before = graph.SerializeToString(deterministic=True)
        half_graph(graph, {})
        assert graph.SerializeToString(deterministic=True) == before

    def test_equal_graphs_give_equal_bytes(self) -> None:
        first, second = (typed(layers.block()).graph.SerializeToString(deterministic=True) for _ in range(2))
        assert first == second

    def test_control_flow_is_refused(self) -> None:
        graph = layers.block()
        graph.graph.node.append(
            onnx.helper.make_node(
                "If",
                ["yes"],
                ["late"],
                "branch",
                then_branch=onnx.helper.make_graph([], "a", [], []),
                else_branch=onnx.helper.make_graph([], "b", [], []),
            )
        )
        with pytest.raises(ConversionError, match=r"'branch' is a If, a branch or loop"):
            half_graph(graph, {})


class TestOverflow:
    """A residual stream beyond 65504, as large ViTs have."""

    def test_naive_float16_overflows(self) -> None:
        naive = half_graph(shaped(stream(40_000.0)), peaks={}).graph
        assert not np.isfinite(logits(rounded(naive))).all()

    def test_the_stream_stays_in_float32(self) -> None:
        graph = stream(40_000.0)
        found = typed(graph)
        assert sqnr_db(logits(graph), logits(rounded(found.graph))) > 50
        types = kinds(found.graph)
        assert types["sum0"] == types["sum1"] == FULL
        assert types["wide1"] == types["gelu"] == types["narrow"] == HALF
        assert all(reason.startswith("values up to") for reason in found.full.values())

    def test_a_stream_that_fits_does_not(self) -> None:
        assert not typed(stream(100.0)).full

    def test_unseen_images_have_a_margin(self) -> None:
        graph = shaped(stream(100.0))
        measured = peaks(graph, FRAMES, Silent())
        assert not half_graph(graph, measured | {"sum1": 16_000.0}).full
        assert half_graph(graph, measured | {"sum1": 17_000.0}).full

    def test_switches_are_counted(self) -> None:
        assert counts(typed(stream(100.0)).graph).casts == 1
        # x, norm0 into float32 and what leaves it, norm1, narrow, norm2 and the logits
        assert 5 <= counts(typed(stream(40_000.0)).graph).casts <= 7


class TestRounded:
    def test_onnxruntime_alone_leaves_rounding_out(self) -> None:
        """The reason why ``rounded`` exists: if this fails, ONNX Runtime computes float16 as it is written."""
        graph = layers.model(
            "a = MatMul(x, w) b = Add(a, large) c = Sub(b, large) logits = MatMul(c, head)",
            w=layers.weights(layers.WIDTH, layers.WIDTH),
            large=np.full(1, 8192.0),
            head=layers.weights(layers.WIDTH, 5),
        )
        found = typed(graph).graph
        assert sqnr_db(logits(graph), logits(found)) > 30
        assert sqnr_db(logits(graph), logits(rounded(found))) < 10

    def test_it_keeps_the_contract(self) -> None:
        session = onnxruntime.InferenceSession(rounded(typed(layers.block()).graph).SerializeToString())
        assert [(each.name, each.type) for each in session.get_inputs()] == [("frame", "tensor(uint8)")]
        assert [(each.name, each.type) for each in session.get_outputs()] == [("logits", "tensor(float)")]

    def test_of_a_float32_graph_it_is_the_graph(self) -> None:
        graph = layers.block()
        np.testing.assert_array_equal(logits(rounded(graph)), logits(graph))


class TestRanges:
    def test_peaks_are_those_of_the_values(self) -> None:
        graph = shaped(layers.block())
        found = peaks(graph, FRAMES, Silent())
        (sums,) = layers.answers(graph, FRAMES, ["sum1"])
        assert found["sum1"] == pytest.approx(float(np.abs(sums).max()))
        assert set(found) >= {"logits", "norm0", "x"}

    def test_infinity_is_no_overflow_and_what_is_no_number_is_refused(self) -> None:
        body = "{} logits = MatMul(masked, w)"
        mask, head = np.full(1, np.inf), layers.weights(layers.WIDTH, 5)
        added = shaped(
            layers.model(
                body.format("m = Add(x, mask) masked = Clip(m, low, high)"),
                mask=mask,
                low=np.float32(-9),
                high=np.float32(9),
                w=head,
            )
        )
        assert peaks(added, FRAMES, Silent())["m"] == 0.0
        twice = shaped(layers.model(body.format("m = Add(x, mask) masked = Sub(m, m)"), mask=mask, w=head))
        with pytest.raises(CalibrationError, match="'masked' is not a number"):
            peaks(twice, FRAMES, Silent())


class TestInt8:
    def test_all_levels_are_signed_and_all_zero_points_zero(self, found: Typed) -> None:
        constants = {each.name: numpy_helper.to_array(each) for each in found.graph.graph.initializer}
        quantizers = [node for node in found.graph.graph.node if node.op_type in QUANTIZERS]
        assert {node.op_type for node in quantizers} == {"QuantizeLinear", "DequantizeLinear"}
        for node in quantizers:
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()

    def test_scales_are_float16_and_equal_in_a_pair(self, found: Typed) -> None:
        constants = {each.name: numpy_helper.to_array(each) for each in found.graph.graph.initializer}
        makers = {node.output[0]: node for node in found.graph.graph.node}
        for node in found.graph.graph.node:
            if node.op_type == "DequantizeLinear":
                assert constants[node.input[1]].dtype == np.float16
                if node.input[0] in makers:
                    assert constants[node.input[1]] == constants[makers[node.input[0]].input[1]]

    def test_products_read_float16(self, found: Typed) -> None:
        assert computes_in(found.graph, "MatMul", "DequantizeLinear").keys() == {HALF}
        assert counts(found.graph).casts == 1

    def test_the_first_convolution_reads_the_frame_in_float16(self, found: Typed) -> None:
        makers = {name: node for node in found.graph.graph.node for name in node.output}
        (conv,) = (node for node in found.graph.graph.node if node.op_type == "Conv")
        assert makers[conv.input[0]].op_type == "Transpose"

    def test_typing_adds_little_to_quantizing(self, full: onnx.ModelProto, found: Typed) -> None:
        assert sqnr_db(logits(full), logits(rounded(found.graph))) > 35

    def test_a_float32_stream_needs_no_cast_before_its_quantizers(self) -> None:
        graph = quantize(stream(40_000.0), FRAMES, scheme=Scheme.SHIFTED).graph
        found = typed(graph)
        types = kinds(found.graph)
        quantizer = next(node for node in found.graph.graph.node if node.input[0] == "norm1")
        assert quantizer.op_type == "QuantizeLinear"
        assert (types["norm1"], types["wide1"]) == (FULL, HALF)
        assert sqnr_db(logits(graph), logits(rounded(found.graph))) > 30

    def test_layers_with_scales_that_float16_does_not_hold_stay_in_float32(self) -> None:
        graph = layers.block(depth=3)
        (weight,) = (each for each in graph.graph.initializer if each.name == "second0")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e-6), weight.name))
        quantized = quantize(graph, FRAMES, scheme=Scheme.SHIFTED).graph
        found = typed(quantized)
        types = kinds(found.graph)
        assert FULL in {types[node.output[0]] for node in found.graph.graph.node if node.op_type == "MatMul"}
        assert "quantized with a scale that float16 does not hold" in found.full.values()
        assert sqnr_db(logits(quantized), logits(rounded(found.graph))) > 35


class TestFloat8:
    def test_all_levels_are_float8(self, eighths: onnx.ModelProto) -> None:
        graph = typed(eighths).graph
        constants = {each.name: each for each in graph.graph.initializer}
        quantizers = [node for node in graph.graph.node if node.op_type in QUANTIZERS]
        assert {constants[node.input[2]].data_type for node in quantizers} == {TensorProto.FLOAT8E4M3FN}
        assert {constants[node.input[1]].data_type for node in quantizers} == {HALF}
        weights = [constants[node.input[0]] for node in quantizers if node.input[0] in constants]
        assert {each.data_type for each in weights} == {TensorProto.FLOAT8E4M3FN}
        assert not {each.data_type for each in graph.graph.initializer} & {TensorProto.INT8}

    def test_it_computes_nearly_what_the_network_does(self, eighths: onnx.ModelProto) -> None:
        graph = rounded(typed(eighths).graph)
        assert sqnr_db(logits(layers.block(depth=3)), logits(graph)) > 20
        assert sqnr_db(logits(eighths), logits(graph)) > 25

    def test_the_largest_values_do_not_saturate_and_larger_ones_have_room(self, eighths: onnx.ModelProto) -> None:
        scales = {each.name: numpy_helper.to_array(each) for each in eighths.graph.initializer}
        measured = peaks(shaped(eighths), FRAMES, Silent())
        for node in eighths.graph.node:
            if node.op_type == "QuantizeLinear":
                assert measured[node.input[0]] <= 448 * float(scales[node.input[1]]) / 2.1
