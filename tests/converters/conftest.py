"""Fixtures of the converters' tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import checkpoints
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from photos import write_smooth
from torch.onnx._internal.exporter import _registration

from vitedge.converters.onnx_export import export
from vitedge.converters.rewrites.apply import Rewritten, apply_rewrites
from vitedge.converters.sources.parse import HubFolder
from vitedge.converters.sources.timm.models import load_timm_folder
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.stages import exporting
from vitedge.converters.verify import synthetic_frames


@pytest.fixture(scope="session", autouse=True)
def operators_listed_once() -> Iterator[None]:
    """Let the exporter read the sources of ONNX Script's operators once, not for each graph: it takes half a second."""
    with pytest.MonkeyPatch.context() as patch:
        apis = getattr(_registration, "onnxscript_apis", None)
        if hasattr(apis, "get_torchlib_ops"):  # they are PyTorch's own business: another version may not have them
            patch.setattr(apis, "get_torchlib_ops", cache(apis.get_torchlib_ops))
        yield


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT in timm's hub layout, five classes, 32×32; do not write into it."""
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "shapes_vit")


@pytest.fixture(scope="session")
def small_model(small_folder: Path) -> TorchModel:
    """That checkpoint, loaded."""
    return load_timm_folder(HubFolder(small_folder), labels=None)


@pytest.fixture(scope="session")
def frames() -> NDArray[np.uint8]:
    """Eight frames for it."""
    return synthetic_frames((checkpoints.SIDE, checkpoints.SIDE))


@pytest.fixture(scope="session")
def small_export(small_model: TorchModel) -> onnx.ModelProto:
    """Its graph, as the exporter gives it; do not change it."""
    return export(small_model.module, small_model.card.preprocessing.input_size)


@pytest.fixture(scope="session")
def small_graph(small_export: onnx.ModelProto, small_model: TorchModel, frames: NDArray[np.uint8]) -> Rewritten:
    """Its graph, rewritten to take uint8 frames; do not change it."""
    return apply_rewrites(small_export, frames, small_model.card.preprocessing)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuse connections and look-ups of hosts; those that were tried."""
    tried: list[str] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(repr(arguments))
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images in five folders, each of another size; do not write into it."""
    sizes = [(40 + number, 50) for number in range(20)]
    return write_smooth(tmp_path_factory.mktemp("photos"), sizes, checkpoints.CLASSES)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, small_export: onnx.ModelProto) -> None:
    """Spare the exporter, which takes seconds, where it is not what is tested."""
    monkeypatch.setattr(exporting, "export", lambda module, input_size: small_export)
