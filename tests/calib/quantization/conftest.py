"""A small network that several files quantize, and what it becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vitedge.calib.quantization.ptq import QuantizedGraph

Frames = NDArray[np.uint8]


@pytest.fixture(scope="session")
def frames() -> Frames:
    """Eight 32×32 frames."""
    for package in ("onnx", "torch", "timm"):
        pytest.importorskip(package)
    import checkpoints

    from vitedge.converters.verify import synthetic_frames

    return synthetic_frames((checkpoints.SIDE, checkpoints.SIDE))


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory, frames: Frames) -> Any:
    """A ViT of two blocks; do not change it."""
    import checkpoints

    from vitedge.converters.onnx_export import export
    from vitedge.converters.rewrites.apply import apply_rewrites
    from vitedge.converters.sources.parse import HubFolder
    from vitedge.converters.sources.timm.models import load_timm_folder

    folder = checkpoints.write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "shapes_vit")
    model = load_timm_folder(HubFolder(folder), labels=None)
    exported = export(model.module, (checkpoints.SIDE, checkpoints.SIDE))
    return apply_rewrites(exported, frames, model.card.preprocessing).graph


@pytest.fixture(scope="session")
def quantized(graph: Any, frames: Frames) -> QuantizedGraph:
    """The ViT in int8; do not change it."""
    from vitedge.calib.quantization.ptq import quantize

    return quantize(graph, frames)
