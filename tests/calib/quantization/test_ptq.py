"""Quantization of small networks: what becomes int8, what stays, and how close it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")

import bundles  # noqa: E402 - needs onnx
import checkpoints  # noqa: E402 - needs torch
import layers as graphs  # noqa: E402 - needs onnx
import networks  # noqa: E402 - needs torch
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from timm.models.mobilevit import MobileVitBlock  # noqa: E402 - needs timm
from torch import nn  # noqa: E402

from vitedge.bundle.preprocessing import Preprocessing  # noqa: E402
from vitedge.calib.quantization.affine import Scheme  # noqa: E402
from vitedge.calib.quantization.ptq import QuantizedGraph, quantize  # noqa: E402
from vitedge.calib.quantization.search_budget import SearchBudget  # noqa: E402
from vitedge.calib.quantization.smoothquant import RATIOS  # noqa: E402
from vitedge.converters.onnx_export import export  # noqa: E402
from vitedge.converters.rewrites.apply import apply_rewrites  # noqa: E402
from vitedge.converters.sources.parse import HubFolder  # noqa: E402
from vitedge.converters.sources.timm.models import load_timm_folder  # noqa: E402
from vitedge.converters.verify import synthetic_frames  # noqa: E402
from vitedge.errors import CalibrationError, ConversionError, UsageError  # noqa: E402
from vitedge.graph.operators import LAYOUT_OPERATORS  # noqa: E402
from vitedge.metrics import sqnr_db  # noqa: E402
from vitedge.progress import Silent  # noqa: E402

MIN_SQNR_DB = 25.0
INTEGERS = (Scheme.ASYMMETRIC, Scheme.SYMMETRIC, Scheme.SHIFTED)
Frames = NDArray[np.uint8]
Item = TypeVar("Item")


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Eight 32×32 frames."""
    return synthetic_frames((checkpoints.SIDE, checkpoints.SIDE))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, frames: Frames) -> Any:
    """A ViT of two blocks; do not change it."""
    folder = checkpoints.write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "shapes_vit")
    model = load_timm_folder(HubFolder(folder), labels=None)
    exported = export(model.module, (checkpoints.SIDE, checkpoints.SIDE))
    return apply_rewrites(exported, frames, model.card.preprocessing).graph


@pytest.fixture(scope="module")
def quantized(graph: Any, frames: Frames) -> QuantizedGraph:
    """The ViT in int8; do not change it."""
    return quantize(graph, frames)


@pytest.fixture(scope="module")
def hybrid(frames: Frames) -> Any:
    """Convolutions and a block of MobileViT, of which each has convolutions and attention; do not change it."""
    stem = [nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.SiLU()]
    depthwise = [nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.SiLU(), nn.Conv2d(16, 24, 1)]
    block = MobileVitBlock(24, transformer_dim=32, transformer_depth=1, num_heads=2)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)]
    module = networks.fill(nn.Sequential(*stem, *depthwise, block, *head))
    return apply_rewrites(
        export(module, (64, 64)), synthetic_frames((64, 64), 2), Preprocessing((64, 64), (64, 64))
    ).graph


def changed(graph: Any) -> Any:
    """A copy, to change."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def constants(graph: Any) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def producers(graph: Any) -> dict[str, Any]:
    return {name: node for node in graph.graph.node for name in node.output}


def layers(graph: Any) -> list[Any]:
    """Convolutions and products with weights, in order."""
    known = constants(graph)
    return [n for n in graph.graph.node if n.op_type in ("Conv", "Gemm", "MatMul") and set(n.input[:2]) & set(known)]


def run_onnxruntime(graph: Any, frames: Frames) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"frame": each[None]})[0] for each in frames])


def run_openvino(graph: Any, frames: Frames, folder: Path) -> NDArray[np.float32]:
    openvino = pytest.importorskip("openvino")
    onnx.save(graph, folder / "model.onnx")
    model = openvino.Core().compile_model(folder / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([model(each[None])[0].copy() for each in frames])


def dequantized_inputs(graph: Any, name: str) -> list[Any]:
    """The DequantizeLinear nodes before the node ``name``, with nothing between but layout operators."""
    made_by = producers(graph)
    (node,) = [each for each in graph.graph.node if each.name == name]
    before = [made_by[each] for each in node.input if each in made_by]
    while any(each.op_type in LAYOUT_OPERATORS for each in before):
        before = [made_by[each.input[0]] if each.op_type in LAYOUT_OPERATORS else each for each in before]
    return [each for each in before if each.op_type == "DequantizeLinear"]


def test_all_layers_but_those_of_the_class_token_carry_q_dq(graph: Any, quantized: QuantizedGraph) -> None:
    names = [layer.name for layer in layers(graph)]
    # a patch embedding, four linear layers in a block, five in the last (q apart from k and v), a classifier
    assert len(names) == 11
    counts = [len(dequantized_inputs(quantized.graph, name)) for name in names]
    assert counts.count(2) == 6
    assert counts[0] == 2  # the patch embedding
    assert counts[-3:] == [0, 0, 0]


def test_everything_else_stays_float(graph: Any, quantized: QuantizedGraph) -> None:
    inner = {layer.name for layer in layers(graph)}
    others = [node for node in graph.graph.node if node.name not in inner and node.op_type not in LAYOUT_OPERATORS]
    assert {"Add", "LayerNormalization", "Softmax", "Gelu", "MatMul"} <= {node.op_type for node in others}
    assert Counter(node.op_type for node in others)["MatMul"] == 4  # attention: two in each block
    for node in others:
        assert dequantized_inputs(quantized.graph, node.name) == [], node.name


def test_a_hybrid_comes_close(hybrid: Any) -> None:
    frames = synthetic_frames((64, 64), 4)
    result = quantize(hybrid, frames, budget=SearchBudget(first=1, images=2)).graph
    quantized_layers = [layer for layer in layers(hybrid) if len(dequantized_inputs(result, layer.name)) == 2]
    assert len(quantized_layers) == len(layers(hybrid)) - 2  # its stem pads, and is int8 all the same
    assert sqnr_db(run_onnxruntime(hybrid, frames), run_onnxruntime(result, frames)) > 35.0


def test_activations_are_uint8_with_one_scale(quantized: QuantizedGraph) -> None:
    known = constants(quantized.graph)
    steps = [node for node in quantized.graph.graph.node if node.op_type == "QuantizeLinear"]
    assert len(steps) == 6
    for node in steps:
        scale, zero_point = known[node.input[1]], known[node.input[2]]
        assert (scale.shape, zero_point.shape) == ((), ())
        assert (scale.dtype, zero_point.dtype) == (np.float32, np.uint8)
        assert scale > 0
        assert not [each for each in node.attribute if each.name == "output_dtype"]


def test_weights_are_int8_symmetric_with_a_scale_for_each_output_channel(graph: Any, quantized: QuantizedGraph) -> None:
    known, original = constants(quantized.graph), constants(graph)
    linear = [each for each in layers(graph)[1:] if dequantized_inputs(quantized.graph, each.name)]
    assert len(linear) == 5
    for layer in linear:
        (node,) = [each for each in dequantized_inputs(quantized.graph, layer.name) if each.input[0] in known]
        weights, scales, zero_points = (known[name] for name in node.input)
        assert weights.dtype == zero_points.dtype == np.int8
        assert scales.dtype == np.float32
        assert weights.shape == original[layer.input[1]].shape
        assert scales.shape == zero_points.shape == (weights.shape[1],)
        assert not zero_points.any()
        assert np.all(np.abs(weights.astype(int)).max(axis=0) >= 100)  # each channel uses its range


def test_inputs_outputs_and_opset_stay_and_the_checker_accepts_it(graph: Any, quantized: QuantizedGraph) -> None:
    onnx.checker.check_model(quantized.graph, full_check=True)
    assert list(quantized.graph.opset_import) == list(graph.opset_import)
    assert [str(each) for each in quantized.graph.graph.input] == [str(each) for each in graph.graph.input]
    assert [each.name for each in quantized.graph.graph.output] == ["logits"]


def test_the_graph_that_it_is_given_does_not_change_and_twice_gives_the_same(
    graph: Any, frames: Frames, quantized: QuantizedGraph
) -> None:
    before = graph.SerializeToString(deterministic=True)
    again = quantize(graph, frames)
    assert graph.SerializeToString(deterministic=True) == before
    assert again.recipe == quantized.recipe
    assert again.graph.SerializeToString(deterministic=True) == quantized.graph.SerializeToString(deterministic=True)


def test_it_comes_close_in_both_engines(graph: Any, quantized: QuantizedGraph, frames: Frames, tmp_path: Path) -> None:
    reference = run_onnxruntime(graph, frames)
    answers = [run_onnxruntime(quantized.graph, frames), run_openvino(quantized.graph, frames, tmp_path)]
    for answer in answers:
        assert sqnr_db(reference, answer) > MIN_SQNR_DB
        assert not np.array_equal(reference, answer)  # int8 at all
        assert sqnr_db(reference, 2 * answer) < 1.0
        assert sqnr_db(reference, 0 * answer) < 1.0


def test_the_recipe_says_what_was_done(quantized: QuantizedGraph) -> None:
    counts = Counter(node.name.endswith("scale_channels") for node in quantized.graph.graph.node)
    assert quantized.recipe == (
        "vitedge: 5 layers and the first convolution int8, weights per channel, activations uint8; 3 "
        f"LayerNormalizations equalized, {counts[True]} other tensors scaled by channel, their ranges by the outputs "
        "of 8 images; rounding and biases corrected on 8"
    )


@pytest.mark.parametrize("scheme", [Scheme.SYMMETRIC, Scheme.SHIFTED])
def test_symmetric_activations_for_engines_without_zero_points(graph: Any, frames: Frames, scheme: Scheme) -> None:
    result = quantize(graph, frames, scheme=scheme).graph
    known = constants(result)
    steps = [node for node in result.graph.node if node.op_type == "QuantizeLinear"]
    inner = [known[node.input[2]] for node in steps if "frame" not in node.name]
    assert len(inner) == 5
    assert all(each.dtype == np.int8 and not each.any() for each in inner)
    assert sqnr_db(run_onnxruntime(graph, frames), run_onnxruntime(result, frames)) > MIN_SQNR_DB


def one_sided(layer: str) -> Any:
    """A layer behind an activation function whose values are hardly ever negative."""
    body = f"wide = Mul(pixels, ten) x0 = Gelu(wide) y0 = {layer} y = GlobalAveragePool(y0) flat = Flatten(y) "
    body += "hidden = MatMul(flat, wide_head) logits = MatMul(hidden, head)"
    square = (graphs.WIDTH, graphs.WIDTH)
    return graphs.model(
        body,
        ten=np.full(1, 10.0),
        point=graphs.weights(*square, 1, 1),
        dense=graphs.weights(*square, 3, 3),
        wide_head=graphs.weights(*square),
        head=graphs.weights(graphs.WIDTH, 5),
    )


def test_a_shift_brings_back_what_zero_points_of_zero_cost() -> None:
    """Twice as many levels for the values that there are: 6 dB where these quantizers make the noise."""
    graph, images, held_out = one_sided("Conv(x0, point)"), graphs.frames(24), graphs.frames(24, seed=1)
    (reference,) = graphs.answers(graph, held_out)
    reached = {}
    for scheme in INTEGERS:
        made = quantize(graph, images, scheme=scheme).graph
        reached[scheme] = sqnr_db(reference.reshape(24, -1), graphs.answers(made, held_out)[0].reshape(24, -1))
        shifts = [node for node in made.graph.node if node.op_type == "Sub"]
        assert [node.input[0] for node in shifts] == ["x0_scaled"] * (scheme is Scheme.SHIFTED)
    assert reached[Scheme.SHIFTED] > reached[Scheme.SYMMETRIC] + 3
    assert reached[Scheme.SHIFTED] > reached[Scheme.ASYMMETRIC] - 3


def test_what_a_convolution_pads_with_zeros_is_not_shifted() -> None:
    padded, valid = one_sided("Conv<pads=[1,1,1,1]>(x0, dense)"), one_sided("Conv(x0, dense)")
    made = [quantize(graph, graphs.frames(), scheme=Scheme.SHIFTED).graph for graph in (padded, valid)]
    assert [sum(node.op_type == "Sub" for node in graph.graph.node) for graph in made] == [0, 1]


def attention_layers() -> Any:
    """Queries, keys and values of one LayerNormalization, and two layers behind them."""
    body = (
        "n = LayerNormalization<axis=-1>(x, gamma) q = MatMul(n, wq) k = MatMul(n, wk) v = MatMul(n, wv) "
        "t = Transpose<perm=[0,2,1]>(k) s = MatMul(q, t) p = Softmax(s) o = MatMul(p, v) z = MatMul(o, wz) "
        "logits = MatMul(z, wl)"
    )
    names = ("wq", "wk", "wv", "wz", "wl")
    known = {name: graphs.weights(graphs.WIDTH, graphs.WIDTH, seed=index) for index, name in enumerate(names)}
    return graphs.model(body, gamma=np.ones(graphs.WIDTH), **known)


def uneven(makers: str, layer: str) -> Any:
    """A tensor ``x0`` with channels of very different sizes, which operators make of ``wide``, before a layer."""
    sizes = 10 ** np.linspace(-1.5, 0, graphs.WIDTH)
    body = f"wide = Mul(pixels, sizes) {makers} y0 = {layer} y = GlobalAveragePool(y0) flat = Flatten(y) "
    body += "hidden = MatMul(flat, wide_head) logits = MatMul(hidden, head)"
    square = (graphs.WIDTH, graphs.WIDTH)
    return graphs.model(
        body,
        sizes=sizes.reshape(1, -1, 1, 1),
        dense=graphs.weights(*square, 3, 3) / sizes[:, None, None],
        deep=graphs.weights(graphs.WIDTH, 1, 3, 3) / sizes.reshape(-1, 1, 1, 1),
        wide_head=graphs.weights(*square),
        head=graphs.weights(graphs.WIDTH, 5),
        same=np.array([0, 0, 0, 0], np.int64),
    )


DENSE, DEPTHWISE = "Conv<pads=[1,1,1,1]>(x0, dense)", "Conv<pads=[1,1,1,1], group=12>(x0, deep)"


@pytest.mark.parametrize("scheme", INTEGERS)
@pytest.mark.parametrize("layer", [DENSE, DEPTHWISE])
def test_channels_are_scaled_where_the_engine_takes_it_up(
    layer: str, scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, images = uneven("x0 = Relu(wide)", layer), graphs.frames(16)
    scaled = quantize(graph, images, scheme=scheme).graph
    (reference,), (reached,) = (graphs.answers(each, images) for each in (graph, scaled))
    (factors,) = [node for node in scaled.graph.node if node.name == "x0_scale_channels"]
    assert constants(scaled)[factors.input[1]].shape == (graphs.WIDTH, 1, 1)
    monkeypatch.setattr("vitedge.calib.quantization.ptq.fuses_channel_scaling", lambda _: False)
    (without,) = graphs.answers(quantize(graph, images, scheme=scheme).graph, images)
    rows = [each.reshape(16, -1) for each in (reference, reached, without)]
    assert sqnr_db(rows[0], rows[1]) > sqnr_db(rows[0], rows[2]) + 3


@pytest.mark.parametrize(
    "makers",
    [
        "x0 = Reshape(wide, same)",
        "product = MatMul(wide, wide) x0 = Add(product, sizes)",
        "product = MatMul(wide, wide) gate = Sigmoid(product) x0 = Mul(product, gate)",
    ],
)
def test_channels_are_not_scaled_elsewhere(makers: str) -> None:
    result = quantize(uneven(makers, DENSE), graphs.frames()).graph
    assert not [node for node in result.graph.node if "scale_channels" in node.name]


@pytest.mark.parametrize("scheme", INTEGERS)
def test_channels_behind_an_activation_function_come_closer(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few channels that reach far, as behind GELU in a vision transformer, in range and in what reads them."""
    sizes = np.where(np.arange(graphs.WIDTH) % 6, 1.0, 8.0)
    graph = graphs.model(
        "wide = Mul(x, sizes) gelu = Gelu(wide) narrow = MatMul(gelu, second) "
        "hidden = MatMul(narrow, hidden_weight) logits = MatMul(hidden, head)",
        sizes=sizes,
        second=graphs.weights(graphs.WIDTH, graphs.WIDTH) / sizes[:, None],
        hidden_weight=graphs.weights(graphs.WIDTH, graphs.WIDTH),
        head=graphs.weights(graphs.WIDTH, 5),
    )
    images = graphs.frames(24)
    scaled = quantize(graph, images, scheme=scheme).graph
    (factors,) = [node for node in scaled.graph.node if node.name == "gelu_scale_channels"]
    values = constants(scaled)[factors.input[1]]
    assert values.shape == (graphs.WIDTH,)
    assert values.min() == 1 < values.max() <= max(RATIOS)
    monkeypatch.setattr("vitedge.calib.quantization.engine_fusion.ACTIVATIONS", frozenset())
    without = quantize(graph, images, scheme=scheme).graph
    held_out = graphs.frames(24, seed=1)
    rows = [graphs.answers(each, held_out)[0].reshape(24, -1) for each in (graph, scaled, without)]
    assert sqnr_db(rows[0], rows[1]) > sqnr_db(rows[0], rows[2]) + 2


@pytest.fixture(scope="module")
def in_float8(graph: Any, frames: Frames) -> QuantizedGraph:
    """The ViT in float8; do not change it."""
    return quantize(graph, frames, scheme=Scheme.FLOAT8)


def test_float8_is_as_onnx_defines_it_in_the_layers_of_int8(
    in_float8: QuantizedGraph, quantized: QuantizedGraph
) -> None:
    onnx.checker.check_model(in_float8.graph, full_check=True)
    known = {each.name: each.data_type for each in in_float8.graph.graph.initializer}
    pairs = [node for node in in_float8.graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {known[node.input[2]] for node in pairs} == {TensorProto.FLOAT8E4M3FN}
    assert {known[node.input[0]] for node in pairs if node.input[0] in known} == {TensorProto.FLOAT8E4M3FN}
    for layer in layers(in_float8.graph)[1:]:
        assert len(dequantized_inputs(in_float8.graph, layer.name)) == len(
            dequantized_inputs(quantized.graph, layer.name)
        )
    assert in_float8.recipe.startswith(
        "vitedge: 5 layers float8 (e4m3), weights per channel, activations float8 (e4m3);"
    )


def test_float8_comes_close(graph: Any, in_float8: QuantizedGraph, frames: Frames) -> None:
    assert sqnr_db(run_onnxruntime(graph, frames), run_onnxruntime(in_float8.graph, frames)) > MIN_SQNR_DB


def test_float8_keeps_values_that_no_calibration_image_held() -> None:
    """Planted: images whose values are three times larger than those of calibration, which int8 clips."""
    graph, held_out = one_sided("Conv(x0, point)"), (graphs.frames(24, seed=1) * 0.75).astype(np.uint8)
    (reference,), reached = graphs.answers(graph, held_out), {}
    for scheme in (Scheme.SHIFTED, Scheme.FLOAT8):
        made = quantize(graph, graphs.frames(24) // 4, scheme=scheme).graph
        reached[scheme] = sqnr_db(reference.reshape(24, -1), graphs.answers(made, held_out)[0].reshape(24, -1))
    assert reached[Scheme.FLOAT8] > reached[Scheme.SHIFTED] + 6


def test_float8_centres_what_an_activation_function_makes_and_no_convolution_pads() -> None:
    padded, valid = one_sided("Conv<pads=[1,1,1,1]>(x0, dense)"), one_sided("Conv(x0, dense)")
    made = [quantize(graph, graphs.frames(), scheme=Scheme.FLOAT8).graph for graph in (padded, valid)]
    centres = [[node for node in graph.graph.node if node.op_type == "Sub"] for graph in made]
    assert [len(each) for each in centres] == [0, 1]
    assert constants(made[1])[centres[1][0].input[1]].shape == (graphs.WIDTH, 1, 1)
    assert not [node for graph in made for node in graph.graph.node if "scale_channels" in node.name]


def test_centred_channels_are_finer_in_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: channels that hardly change, and lie far from 0."""
    graph = graphs.model(
        "far = Add(x, ten) wide = Gelu(far) narrow = MatMul(wide, second) "
        "hidden = MatMul(narrow, hidden_weight) logits = MatMul(hidden, head)",
        ten=np.full(graphs.WIDTH, 10.0),
        second=graphs.weights(graphs.WIDTH, graphs.WIDTH),
        hidden_weight=graphs.weights(graphs.WIDTH, graphs.WIDTH),
        head=graphs.weights(graphs.WIDTH, 5),
    )
    images, held_out = graphs.frames(24), graphs.frames(24, seed=1)
    centred = quantize(graph, images, scheme=Scheme.FLOAT8).graph
    monkeypatch.setattr("vitedge.calib.quantization.ptq.is_activation", lambda _: False)
    without = quantize(graph, images, scheme=Scheme.FLOAT8).graph
    rows = [graphs.answers(each, held_out)[0].reshape(24, -1) for each in (graph, centred, without)]
    assert sqnr_db(rows[0], rows[1]) > sqnr_db(rows[0], rows[2]) + 6


def test_one_quantizer_serves_all_that_read_a_tensor() -> None:
    result = quantize(attention_layers(), graphs.frames()).graph
    steps = [node for node in result.graph.node if node.op_type == "QuantizeLinear"]
    assert [node.input[0] for node in steps] == ["moved_scaled", "n"]
    readers = [node.output[0] for node in result.graph.node if steps and "n_dequantized" in node.input]
    assert [name.removesuffix("_unbiased") for name in readers] == ["q", "k", "v"]


def test_layers_stay_float_on_demand_and_undo_the_equalization_that_their_neighbours_need() -> None:
    graph, images = attention_layers(), graphs.frames(16)
    (keys,) = [node.name for node in graph.graph.node if "wk" in node.input]
    kept = quantize(graph, images, keep_float=[keys])
    assert [len(dequantized_inputs(kept.graph, node.name)) for node in layers(graph)] == [2, 2, 0, 2, 0, 0]
    assert "1 LayerNormalizations equalized" in kept.recipe
    reference, whole = graphs.answers(graph, images)[0], quantize(graph, images).graph
    reached, least = (sqnr_db(reference, graphs.answers(each, images)[0]) for each in (kept.graph, whole))
    assert reached > least - 0.5


def test_the_patch_embedding_stays_float_on_demand(graph: Any, frames: Frames) -> None:
    first = layers(graph)[0].name
    assert dequantized_inputs(quantize(graph, frames, keep_float=[first]).graph, first) == []


def test_a_layer_to_keep_that_is_not_there(graph: Any, frames: Frames) -> None:
    name = layers(graph)[1].name
    with pytest.raises(UsageError, match="no layer") as caught:
        quantize(graph, frames, keep_float=[f"{name}x"])
    assert name in caught.value.fix


def test_planted_outliers_do_not_matter() -> None:
    """LayerNormalizations' channels up to a hundred times larger, and their readers' weights smaller: the same."""
    sizes = 10 ** np.random.default_rng(1).permutation(np.linspace(0, 2, graphs.WIDTH))
    images = graphs.frames(16)
    plain, planted = graphs.block(), graphs.block(channels=sizes)
    (reference,), (same,) = graphs.answers(plain, images), graphs.answers(planted, images)
    np.testing.assert_allclose(same, reference, rtol=1e-3, atol=1e-3)
    reached = [
        sqnr_db(reference.reshape(16, -1), graphs.answers(quantize(each, images).graph, images)[0].reshape(16, -1))
        for each in (plain, planted)
    ]
    collapsed = sqnr_db(reference.reshape(16, -1), min_max_answers(planted, images).reshape(16, -1))
    assert reached[0] > 30
    assert abs(reached[0] - reached[1]) < 1.5
    assert collapsed < reached[1] - 10


def min_max_answers(graph: Any, images: Frames) -> NDArray[np.float32]:
    """Of a graph whose LayerNormalizations' outputs are quantized from their smallest to their largest value."""
    from vitedge.calib.quantization.affine import activation_quantizer

    copy = changed(graph)
    for node in list(copy.graph.node):
        if node.op_type != "LayerNormalization":
            continue
        name = node.output[0]
        (values,) = graphs.answers(graph, images, [name])
        quantizer = activation_quantizer(float(values.min()), float(values.max()), Scheme.ASYMMETRIC)
        copy.graph.initializer.append(numpy_helper.from_array(np.float32(quantizer.scale), f"{name}_s"))
        copy.graph.initializer.append(numpy_helper.from_array(np.uint8(quantizer.zero_point), f"{name}_z"))
        node.output[0] = f"{name}_float"
        parameters, place = [f"{name}_s", f"{name}_z"], list(copy.graph.node).index(node)
        steps = [
            helper.make_node("QuantizeLinear", [f"{name}_float", *parameters], [f"{name}_levels"]),
            helper.make_node("DequantizeLinear", [f"{name}_levels", *parameters], [name]),
        ]
        for offset, step in enumerate(steps):
            copy.graph.node.insert(place + 1 + offset, step)
    return graphs.answers(copy, images)[0]


def test_a_single_image_is_enough_to_run(graph: Any, frames: Frames) -> None:
    result = quantize(graph, frames[:1]).graph
    assert sqnr_db(run_onnxruntime(graph, frames[:1]), run_onnxruntime(result, frames[:1])) > MIN_SQNR_DB


def test_an_activation_that_never_changes_is_named() -> None:
    body = (
        "zeros = Mul(x, zero) a = MatMul(zeros, wa) b = MatMul(x, wb) ab = Add(a, b) z = MatMul(ab, wz) "
        "logits = MatMul(z, wl)"
    )
    square = {name: graphs.weights(graphs.WIDTH, graphs.WIDTH) for name in ("wa", "wb", "wz", "wl")}
    graph, steps = graphs.model(body, zero=np.zeros(1), **square), []

    class Listening(Silent):
        def step(self, text: str) -> None:
            steps.append(text)

    result = quantize(graph, graphs.frames(), progress=Listening()).graph
    (layer,) = [node.name for node in graph.graph.node if node.output[0] == "a"]
    assert steps == [f"warning: what the layer {layer!r} reads is the same in all calibration images"]
    assert np.isfinite(graphs.answers(result, graphs.frames())[0]).all()


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize(
    "same",
    [
        "same = Mul(x, zero)",
        "y = Mul(x, zero) y1 = Add(y, one) same = Gelu(y1)",
        "y = Mul(x, zero) y1 = Add(y, one) same = LayerNormalization<axis=-1>(y1, gamma, beta)",
    ],
)
def test_a_tensor_that_is_the_same_in_every_image_costs_nothing(same: str, scheme: Scheme) -> None:
    square = {
        name: graphs.weights(graphs.WIDTH, graphs.WIDTH, seed=index) for index, name in enumerate(("wa", "wb", "wz"))
    }
    graph = graphs.model(
        f"{same} a = MatMul(same, wa) b = MatMul(x, wb) ab = Add(a, b) z = MatMul(ab, wz) logits = MatMul(z, head)",
        zero=np.zeros(1),
        one=np.ones(graphs.WIDTH),
        gamma=np.ones(graphs.WIDTH),
        beta=np.linspace(-1, 1, graphs.WIDTH),
        head=graphs.weights(graphs.WIDTH, 5),
        **square,
    )
    images = graphs.frames(8)
    result = quantize(graph, images, scheme=scheme).graph
    reference, found = (graphs.answers(each, images)[0].reshape(8, -1) for each in (graph, result))
    assert sqnr_db(reference, found) > 20


def test_a_search_budget_replaces_what_the_size_of_the_network_allows(graph: Any, frames: Frames) -> None:
    assert "outputs of 1 image" in quantize(graph, frames, budget=SearchBudget(first=1, images=1)).recipe
    assert "outputs of 8 images" in quantize(graph, frames, budget=SearchBudget(first=1, images=9)).recipe


def test_progress_is_told_of_every_image(graph: Any, frames: Frames) -> None:
    class Counting(Silent):
        def __init__(self) -> None:
            self.passes: list[tuple[str, int]] = []

        def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
            self.passes.append((unit, total))
            yield from items

    progress = Counting()
    quantize(graph, frames[:3], progress=progress)
    assert progress.passes == [("images", 3), ("layers", 5)]


def test_a_graph_that_is_quantized_already(quantized: QuantizedGraph, frames: Frames) -> None:
    with pytest.raises(ConversionError, match="quantized already"):
        quantize(quantized.graph, frames)
    with pytest.raises(ConversionError, match="quantized already"):
        quantize(bundles.colour_graph("int8"), frames)


def test_no_images(graph: Any, frames: Frames) -> None:
    with pytest.raises(CalibrationError, match="no calibration images"):
        quantize(graph, frames[:0])


def test_nothing_to_quantize(frames: Frames) -> None:
    with pytest.raises(ConversionError, match="no layer to quantize"):
        quantize(bundles.colour_graph(), frames)  # a first convolution and a classifier
    nothing = helper.make_graph(
        [
            helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT, name="cast"),
            helper.make_node("ReduceMean", ["float"], ["logits"], keepdims=0, name="mean"),
        ],
        "nothing",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [])],
    )
    with pytest.raises(ConversionError, match="no layer to quantize"):
        quantize(helper.make_model(nothing, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), frames)


def test_frames_of_another_size(graph: Any) -> None:
    with pytest.raises(ConversionError, match="ONNX Runtime cannot run the graph"):
        quantize(graph, np.zeros((2, 16, 16, 3), np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(graph: Any, frames: Frames, value: float) -> None:
    broken = changed(graph)
    layer = layers(broken)[3]
    (tensor,) = [each for each in broken.graph.initializer if each.name == layer.input[1]]
    weights = numpy_helper.to_array(tensor).copy()
    weights[5, 7] = value
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    with pytest.raises(ConversionError, match="not finite") as caught:
        quantize(broken, frames)
    assert layer.name in caught.value.problem
    assert tensor.name in caught.value.problem


@pytest.mark.parametrize("value", [np.nan, np.float32(3e38)])
def test_activations_that_are_not_finite_name_the_layer_where_it_begins(
    graph: Any, frames: Frames, value: float
) -> None:
    broken = changed(graph)
    (norm,) = [each for each in broken.graph.node if each.name == "blocks.0.norm2"]
    broken.graph.initializer.append(numpy_helper.from_array(np.full(32, value, np.float32), "gamma"))
    norm.input[1] = "gamma"  # the original is shared by all LayerNorms
    with pytest.raises(CalibrationError, match="calibration image 1 is not finite") as caught:
        quantize(broken, frames)
    assert "from the layer 'blocks.0.norm2' on" in caught.value.problem
    assert caught.value.fix


def test_only_an_image_that_breaks_it_is_named(graph: Any, frames: Frames) -> None:
    """A black frame's logarithm is −∞; the frames before it are fine."""
    broken = changed(graph)
    (convolution,) = [each for each in broken.graph.node if each.op_type == "Conv"]
    logarithm = helper.make_node("Log", [convolution.input[0]], ["logarithm"], name="node_log")
    convolution.input[0] = "logarithm"
    broken.graph.node.insert(list(broken.graph.node).index(convolution), logarithm)
    bright = np.maximum(frames[:3], 1)
    bright[2] = 0
    with pytest.raises(CalibrationError, match="calibration image 3 is not finite from the layer 'node_log' on"):
        quantize(broken, bright)


@pytest.mark.parametrize("phase", ["images", "layers"])
def test_ctrl_c_passes_in_every_phase_and_the_next_run_is_as_if_nothing_had_been(
    graph: Any, frames: Frames, quantized: QuantizedGraph, phase: str
) -> None:
    class Interrupted(Silent):
        def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
            for number, item in enumerate(items):
                if unit == phase and number == total // 2:
                    raise KeyboardInterrupt
                yield item

    with pytest.raises(KeyboardInterrupt):
        quantize(graph, frames, progress=Interrupted())
    again = quantize(graph, frames).graph
    assert again.SerializeToString(deterministic=True) == quantized.graph.SerializeToString(deterministic=True)
