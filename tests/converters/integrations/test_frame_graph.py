"""OpenVINO's operators preprocess as vitedge does: the same sizes, and pixels that are off by one at most."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Interpolation, Preprocessing
from vitedge.runtime.preprocess.preprocessor import Preprocessor

openvino = pytest.importorskip("openvino")
from vitedge.converters.integrations.frame_graph import EXACT, frame_of  # noqa: E402

SIZES = [(96, 144), (144, 96), (100, 73), (75, 130), (64, 64), (57, 57), (30, 160)]
PREPROCESSINGS = {
    "shortest": Preprocessing((64, 64), (73, 73)),
    "shortest, crop rounded down": Preprocessing((64, 64), (73, 73), crop_rounding="floor", channel_order="BGR"),
    "shortest, two sides": Preprocessing((64, 48), (73, 55)),
    "shortest, smaller than the window": Preprocessing((64, 64), (51, 51)),
    "squash": Preprocessing((64, 48), (70, 61), resize_mode="squash", interpolation="bilinear"),
    "border": Preprocessing((64, 48), (64, 48), resize_mode="border", mean=(0.2, 0.5, 0.8)),
    "border and crop": Preprocessing((64, 48), (70, 61), resize_mode="border", mean=(0.2, 0.5, 0.8)),
    "border, rounded down": Preprocessing((64, 48), (70, 61), resize_mode="border", crop_rounding="floor"),
}


def compiled(preprocessing: Preprocessing) -> Any:
    image = openvino.op.Parameter(openvino.Type.u8, openvino.PartialShape([1, -1, -1, 3]))
    model = openvino.Model([frame_of(image.output(0), preprocessing)], [image], "preprocessing")
    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})


def smooth_image(height: int, width: int) -> NDArray[np.uint8]:
    """Ramps and waves that differ in every channel, so that a shift of one pixel shows."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 7 + channel) * np.cos(columns / (5 + channel)) for channel in range(3)]
    return np.ascontiguousarray(np.rint(127 + 110 * np.stack(waves, axis=-1)).astype(np.uint8))


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_any_size_becomes_the_frame_of_vitedge(name: str) -> None:
    preprocessing = PREPROCESSINGS[name]
    graph, preprocess = compiled(preprocessing), Preprocessor(preprocessing)
    for height, width in SIZES:
        image = smooth_image(height, width)
        frame = graph([image[None]])[0][0].astype(np.int64)
        difference = np.abs(frame - preprocess(image, order="BGR").astype(np.int64))
        assert difference.max() <= 2, (height, width)
        assert (difference > 0).mean() < 0.2, (height, width)


@pytest.mark.parametrize("interpolation", EXACT)
def test_the_filters_that_openvino_has(interpolation: Interpolation) -> None:
    preprocessing = Preprocessing((64, 64), (64, 64), resize_mode="squash", interpolation=interpolation)
    image = smooth_image(150, 190)
    frame = compiled(preprocessing)([image[None]])[0][0].astype(np.int64)
    assert np.abs(frame - Preprocessor(preprocessing)(image, order="BGR")).mean() < 0.1
