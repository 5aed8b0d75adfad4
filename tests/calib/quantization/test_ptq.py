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
pytest.importorskip("onnxruntime")
pytest.importorskip("timm")
pytest.importorskip("torch")

import layers as graphs  # noqa: E402 - needs onnx
import networks  # noqa: E402 - needs torch
from onnx import helper, numpy_helper  # noqa: E402
from qdq_graphs import Frames, changed, constants, dequantized_inputs, layers, run_onnxruntime  # noqa: E402 - needs onnx
from timm.models.mobilevit import MobileVitBlock  # noqa: E402 - needs timm
from torch import nn  # noqa: E402

from vitedge.bundle.preprocessing import Preprocessing  # noqa: E402
from vitedge.calib.quantization import ptq, range_search  # noqa: E402
from vitedge.calib.quantization.affine import Scheme  # noqa: E402
from vitedge.calib.quantization.ptq import QuantizedGraph, quantize  # noqa: E402
from vitedge.calib.quantization.search_budget import SearchBudget  # noqa: E402
from vitedge.converters.onnx_export import export  # noqa: E402
from vitedge.converters.rewrites.apply import apply_rewrites  # noqa: E402
from vitedge.converters.verify import synthetic_frames  # noqa: E402
from vitedge.errors import UsageError  # noqa: E402
from vitedge.graph.operators import LAYOUT_OPERATORS  # noqa: E402
from vitedge.metrics import sqnr_db  # noqa: E402
from vitedge.progress import Silent  # noqa: E402

MIN_SQNR_DB = 25.0

Item = TypeVar("Item")


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


def run_openvino(graph: Any, frames: Frames, folder: Path) -> NDArray[np.float32]:
    openvino = pytest.importorskip("openvino")
    onnx.save(graph, folder / "model.onnx")
    model = openvino.Core().compile_model(folder / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([model(each[None])[0].copy() for each in frames])


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
    assert len(quantized_layers) == len(layers(hybrid)) - 1  # its stem pads, and is int8 all the same
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


def test_one_quantizer_serves_all_that_read_a_tensor() -> None:
    result = quantize(attention_layers(), graphs.frames()).graph
    steps = [node for node in result.graph.node if node.op_type == "QuantizeLinear"]
    assert [node.input[0] for node in steps] == ["moved_scaled", "n", "o"]
    readers = [node.output[0] for node in result.graph.node if steps and "n_dequantized" in node.input]
    assert [name.removesuffix("_unbiased") for name in readers] == ["q", "k", "v"]


def test_layers_stay_float_on_demand_and_undo_the_equalization_that_their_neighbours_need() -> None:
    graph, images = attention_layers(), graphs.frames(16)
    (keys,) = [node.name for node in graph.graph.node if "wk" in node.input]
    kept = quantize(graph, images, keep_float=[keys])
    assert [len(dequantized_inputs(kept.graph, node.name)) for node in layers(graph)] == [2, 2, 0, 2, 2, 0]
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


@pytest.mark.parametrize(
    "part",
    [
        "few = Slice(norm, first, last, axis) a = MatMul(few, half)",
        "both = Concat<axis=-1>(norm, x) a = MatMul(both, twice)",
        "both = Concat<axis=-1>(x, norm) a = MatMul(both, twice)",
    ],
)
def test_a_layernorm_is_not_equalized_behind_the_back_of_a_layer_that_cannot_undo_it(part: str) -> None:
    width = graphs.WIDTH
    constants = {
        "gamma": np.geomspace(0.05, 20, width), "beta": np.linspace(-0.3, 0.3, width),
        "first": np.array([0]), "last": np.array([6]), "axis": np.array([2]),
        "half": graphs.weights(6, width), "twice": graphs.weights(2 * width, width, seed=1),
        "full": graphs.weights(width, width, seed=2), "hidden_weight": graphs.weights(width, width),
        "head": graphs.weights(width, 5),
    }  # fmt: skip
    body = f"""norm = LayerNormalization<axis=-1>(x, gamma, beta) {part} b = MatMul(norm, full) c = Add(a, b)
        hidden = MatMul(c, hidden_weight) logits = MatMul(hidden, head)"""
    graph, images = graphs.model(body, **constants), graphs.frames(16)
    (exact,) = graphs.answers(graph, images)
    (found,) = graphs.answers(quantize(graph, images).graph, images)
    assert sqnr_db(exact, found) > MIN_SQNR_DB


def test_an_output_that_a_layer_reads_is_allowed() -> None:
    graph = graphs.block()
    graph.graph.output.add().CopyFrom(next(each for each in graph.graph.value_info if each.name == "norm1"))
    images = graphs.frames(16)
    exact, found = (graphs.answers(each, images)[0] for each in (graph, quantize(graph, images).graph))
    assert sqnr_db(exact, found) > MIN_SQNR_DB


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


@pytest.mark.parametrize(("share", "searched"), [(1e9, 0), (0.0, 3)])
def test_tensors_are_searched_unless_their_noise_is_negligible(
    share: float, searched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = []
    closest = range_search._Errors.closest

    def counted(self: Any, *arguments: Any) -> list[int]:
        searches.append(self)
        return closest(self, *arguments)

    monkeypatch.setattr(range_search._Errors, "closest", counted)
    monkeypatch.setattr(ptq, "NEGLIGIBLE", share)
    quantize(graphs.block(), graphs.frames(8))
    assert len(set(searches)) == searched


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
