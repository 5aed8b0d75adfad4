"""Outliers planted into a trained model: from the smallest to the largest value fails, this quantizer holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("timm")
pytest.importorskip("sklearn")
pytest.importorskip("cv2")

import outliers  # noqa: E402 - needs onnx

from vitedge.calib.quantization.ptq import quantize  # noqa: E402
from vitedge.converters.onnx_export import export  # noqa: E402
from vitedge.converters.rewrites.apply import apply_rewrites  # noqa: E402
from vitedge.converters.sources.parse import HubFolder  # noqa: E402
from vitedge.converters.sources.timm.models import load_timm_folder  # noqa: E402
from vitedge.demo.demo import CALIBRATION_SEED, CHECKPOINT, HELD_OUT_SEED  # noqa: E402
from vitedge.demo.digits import Digits, load_split  # noqa: E402
from vitedge.demo.photos import SPREAD, sample  # noqa: E402
from vitedge.demo.scenes import random_scene, render  # noqa: E402
from vitedge.runtime.preprocess.preprocessor import Preprocessor  # noqa: E402

CALIBRATION_IMAGES = 32
Frames = NDArray[np.uint8]


class Trained:
    """The digits of the demo as network inputs, and its graph."""

    def __init__(self) -> None:
        split, model = load_split(), load_timm_folder(HubFolder(CHECKPOINT), labels=None)
        self._preprocess = Preprocessor(model.card.preprocessing)
        self.labels = split.held_out.labels
        self.held_out = self._frames(split.held_out, HELD_OUT_SEED)
        self.calibration = self._frames(
            sample(split.training, CALIBRATION_IMAGES, seed=CALIBRATION_SEED), CALIBRATION_SEED
        )
        exported = export(model.module, model.card.preprocessing.input_size)
        self.graph = apply_rewrites(exported, self.calibration[:8], model.card.preprocessing).graph

    def _frames(self, digits: Digits, seed: int) -> Frames:
        random = np.random.default_rng(seed)
        scenes = [render(scan, random_scene(random, spread=SPREAD), height=96, random=random) for scan in digits.scans]
        return np.stack([self._preprocess(scene, order="BGR").copy() for scene in scenes])

    def answers(self, graph: Any) -> NDArray[np.float32]:
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {"frame": frame[None]})[0] for frame in self.held_out])

    def top1(self, graph: Any) -> float:
        """Percent."""
        return 100.0 * float(np.mean(self.answers(graph).argmax(axis=1) == self.labels))


@pytest.fixture(scope="module")
def digits() -> Trained:
    return Trained()


@pytest.fixture(scope="module")
def planted(digits: Trained) -> Any:
    graph, changed = outliers.planted(digits.graph)
    assert changed == 9  # two in each of four blocks, and the last
    return graph


def test_planting_leaves_the_function_as_it_is(digits: Trained, planted: Any) -> None:
    before, after = digits.answers(digits.graph), digits.answers(planted)
    np.testing.assert_allclose(after, before, atol=1e-3 * np.abs(before).max())
    assert digits.top1(digits.graph) > 95


def test_from_the_smallest_to_the_largest_value_it_collapses(digits: Trained, planted: Any) -> None:
    assert digits.top1(outliers.min_max_quantized(digits.graph, digits.calibration)) > 95
    assert digits.top1(outliers.min_max_quantized(planted, digits.calibration)) < 60


def test_this_quantizer_does_not_notice_them(digits: Trained, planted: Any) -> None:
    plain, rough = (digits.top1(quantize(each, digits.calibration).graph) for each in (digits.graph, planted))
    assert abs(plain - rough) <= 0.3
    assert digits.top1(digits.graph) - rough <= 0.5
