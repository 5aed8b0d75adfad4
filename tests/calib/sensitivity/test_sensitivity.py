"""What each int8 layer costs: the layer that was planted to cost most is found, and figures are those of the graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import layers as graphs
import numpy as np
import onnx
import photos
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.quantization.ptq import quantize
from vitedge.calib.sensitivity.paired_graphs import PairedGraphs, mixed, pair_graphs
from vitedge.calib.sensitivity.result import Sensitivity
from vitedge.calib.sensitivity.sensitivity import LAYER_IMAGES, layer_frames, measure_sensitivity
from vitedge.metrics import binary_kl_divergence, kl_divergence, sqnr_db
from vitedge.progress import Silent

Item = TypeVar("Item")


@pytest.fixture(scope="module")
def images() -> graphs.Frames:
    """Eight frames."""
    return graphs.frames(8)


@pytest.fixture(scope="module")
def pair(images: graphs.Frames) -> PairedGraphs:
    """Three blocks in int8, of which the second's last layer has weights of two bits."""
    full = graphs.block(depth=3)
    quantized = quantize(full, images).graph
    (levels,) = [each for each in quantized.graph.initializer if each.name == "narrow1_unbiased_weight_int8"]
    coarse = np.rint(numpy_helper.to_array(levels) / 127.0).astype(np.int8) * 127
    levels.CopyFrom(numpy_helper.from_array(coarse, levels.name))
    return pair_graphs(full, quantized)


@pytest.fixture(scope="module")
def sensitivity(pair: PairedGraphs, images: graphs.Frames) -> Sensitivity:
    return measure_sensitivity(pair, images)


def test_the_planted_layer_comes_first_and_quantizing_all_but_it_helps(
    pair: PairedGraphs, sensitivity: Sensitivity
) -> None:
    assert sensitivity.images == 8
    assert [layer.name for layer in sensitivity.layers] == [layer.name for layer in pair.layers]
    worst, second, *_ = sensitivity.worst_first()
    assert worst.name == next(layer.name for layer in pair.layers if layer.result == "narrow1")
    assert worst.only.sqnr_db < second.only.sqnr_db - 10
    assert worst.output_sqnr_db < min(each.output_sqnr_db for each in sensitivity.layers if each is not worst) - 10
    assert worst.all_but.sqnr_db > sensitivity.whole.sqnr_db + 10
    assert max(each.all_but.sqnr_db for each in sensitivity.layers) == worst.all_but.sqnr_db
    assert worst.all_but.kl < sensitivity.whole.kl / 10


def test_the_figures_of_a_multilabel_model_are_those_of_its_sigmoids(
    pair: PairedGraphs, sensitivity: Sensitivity, images: graphs.Frames
) -> None:
    found = measure_sensitivity(pair, images, activation="sigmoid").whole
    (reference,), (quantized,) = logits(pair.full, images), logits(pair.quantized, images)
    assert found.kl == pytest.approx(float(binary_kl_divergence(reference, quantized).mean()), rel=0.05)
    assert found.flips == int(((quantized >= 0) != (reference >= 0)).any(axis=1).sum())
    assert found.sqnr_db == sensitivity.whole.sqnr_db
    assert found.kl != pytest.approx(sensitivity.whole.kl, rel=0.05)


def test_the_divergence_is_of_scores_with_the_temperature_of_the_bundle(
    pair: PairedGraphs, sensitivity: Sensitivity, images: graphs.Frames
) -> None:
    found = measure_sensitivity(pair, images, temperature=3.0).whole
    (reference,), (quantized,) = logits(pair.full, images), logits(pair.quantized, images)
    assert found.kl == pytest.approx(float(kl_divergence(reference / 3, quantized / 3).mean()), rel=0.05)
    assert found.kl != pytest.approx(sensitivity.whole.kl, rel=0.05)
    assert (found.flips, found.sqnr_db) == (sensitivity.whole.flips, sensitivity.whole.sqnr_db)


def test_all_but_it_is_what_the_mixed_graph_computes(
    pair: PairedGraphs, sensitivity: Sensitivity, images: graphs.Frames
) -> None:
    (reference,) = logits(pair.full, images)
    for layer in sensitivity.layers:
        (found,) = logits(mixed(pair, [layer.name]), images)
        assert layer.all_but.sqnr_db == pytest.approx(sqnr_db(reference, found), abs=0.2)
        assert layer.all_but.kl == pytest.approx(float(kl_divergence(reference, found).mean()), rel=0.05)
        assert layer.all_but.flips == int((found.argmax(axis=1) != reference.argmax(axis=1)).sum())


def test_only_it_is_the_network_with_all_others_exchanged(
    pair: PairedGraphs, sensitivity: Sensitivity, images: graphs.Frames
) -> None:
    (reference,) = logits(pair.full, images)
    names = [layer.name for layer in sensitivity.layers]
    for layer in sensitivity.layers:
        (found,) = logits(mixed(pair, [name for name in names if name != layer.name]), images)
        assert layer.only.sqnr_db == pytest.approx(sqnr_db(reference, found), abs=0.2)


def logits(graph: Any, images: graphs.Frames) -> list[NDArray[np.float32]]:
    (made,) = graphs.answers(graph, images)
    return [made.reshape(len(images), -1)]


def test_multiplications_are_counted(sensitivity: Sensitivity) -> None:
    stem, first, second, *_ = sensitivity.layers
    tokens, width = graphs.TOKENS, graphs.WIDTH
    assert stem.multiplications == tokens * width * 3
    assert first.multiplications == second.multiplications == tokens * width * 2 * width


def test_progress_is_told_of_every_layer_twice(pair: PairedGraphs, images: graphs.Frames) -> None:
    told: list[tuple[int, str]] = []

    class Told(Silent):
        def track(self, items: Iterable[Item], *, total: int, unit: str) -> Iterator[Item]:
            told.append((total, unit))
            yield from items

    measure_sensitivity(pair, images[:1], Told())
    assert told == [(2 * len(pair.layers), "layers")]


def test_a_quantized_last_layer(images: graphs.Frames) -> None:
    """What other quantizers do: nothing is left to run behind it."""
    full = graphs.block(depth=1)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(quantize(full, images).graph)
    (head,) = [
        node for node in quantized.graph.node if node.output[0].startswith("logits") and node.op_type == "MatMul"
    ]
    for name, value in (("s", np.float32(0.1)), ("z", np.uint8(128))):
        quantized.graph.initializer.append(numpy_helper.from_array(value, name))
    place = list(quantized.graph.node).index(head)
    for offset, kind in enumerate(("QuantizeLinear", "DequantizeLinear")):
        node = onnx.helper.make_node(kind, [(head.input[0], "levels")[offset], "s", "z"], [("levels", "read")[offset]])
        quantized.graph.node.insert(place + offset, node)
    quantized.graph.node[place + 2].input[0] = "read"
    last = measure_sensitivity(pair_graphs(full, quantized), images).layers[-1]
    assert last.operator == "MatMul"
    assert last.only.sqnr_db == pytest.approx(last.output_sqnr_db)


def test_frames_are_spread_over_the_images(tmp_path: Path) -> None:
    images = ImageFolder.open(photos.write_photos(tmp_path / "photos", ("red", "blue"), each=20))
    preprocessing = Preprocessing(input_size=(8, 8), resize_size=(8, 8))
    every = images.load(preprocessing).frames
    frames = layer_frames(images, preprocessing)
    assert len(frames) == LAYER_IMAGES
    np.testing.assert_array_equal(frames[[0, -1]], every[[0, -1]])
    np.testing.assert_array_equal(layer_frames(images.subset(images.files[:3]), preprocessing), every[:3])
