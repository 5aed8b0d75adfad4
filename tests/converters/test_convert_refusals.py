"""Requests that cannot be met are refused before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import vitedge
from vitedge.bundle.bundle import Bundle
from vitedge.converters import backends
from vitedge.converters.openvino import backend as openvino
from vitedge.converters.stages import drafting, exporting
from vitedge.errors import CalibrationError, CheckpointError, ConversionError, FrameSourceError, UsageError
from vitedge.runtime.engines.open import open_engine


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"precision": "int9"}, "no precision 'int9'"),
            ({"target": "gpu"}, "unknown target 'gpu'"),
            ({"precision": "int8"}, "int8 needs images"),
            ({"weights": "some.pth"}, "weights= is not for this source: shapes_vit has its own weights"),
            ({"random_weights": True}, "random_weights= is not for this source"),
            ({"num_classes": 3}, "num_classes= is not for this source: shapes_vit has its own number of classes"),
            ({"input_size": (0, 32)}, r"the input size is \(0, 32\)"),
            ({"abstain_error": 0.05}, "abstain_error= needs images with classes"),
            ({"abstain_error": 5.0, "eval_data": "val"}, "the share of wrong predictions is 5"),
        ],
    )
    def test_requests(self, small_folder: Path, tmp_path: Path, options: dict[str, Any], problem: str) -> None:
        whole = {"target": "cpu", "precision": "fp32", "output": tmp_path / "b", **options}
        with pytest.raises(UsageError, match=problem):
            vitedge.convert(small_folder, **whole)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
    def test_the_size_of_an_exported_graph_is_fixed(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"net{suffix}").touch()
        with pytest.raises(UsageError, match="export it again"):
            vitedge.convert(
                tmp_path / f"net{suffix}", target="cpu", precision="fp32", input_size=64, output=tmp_path / "b"
            )

    def test_a_number_of_classes_below_one(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="the number of classes is -1"):
            vitedge.convert("test_vit", target="cpu", precision="fp32", num_classes=-1, output=tmp_path / "b")

    def test_weights_and_random_weights(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="at most one"):
            vitedge.convert(
                "test_vit",
                target="cpu",
                precision="fp32",
                weights="w.pth",
                random_weights=True,
                output=tmp_path / "b",
            )

    @pytest.mark.parametrize("option", ["calib", "eval_data"])
    @pytest.mark.parametrize("kind", ["missing", "empty", "unreadable", "a file"])
    def test_folders_without_usable_images(
        self, quick: None, small_folder: Path, tmp_path: Path, option: str, kind: str
    ) -> None:
        images, place = tmp_path / "images", tmp_path / "place"
        place.mkdir()
        if kind == "a file":
            images.touch()
        elif kind != "missing":
            (images / "star").mkdir(parents=True)
        if kind == "unreadable":
            (images / "star" / "0.png").write_bytes(b"no image")
        with pytest.raises((CalibrationError, FrameSourceError)):
            vitedge.convert(small_folder, target="cpu", precision="fp32", output=place / "b", **{option: str(images)})
        assert not list(place.iterdir())

    def test_too_few_images_to_abstain_are_known_before_the_work(
        self, small_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(drafting, "load_model", lambda *_: pytest.fail("too late"))
        options = {"eval_data": photos, "abstain_error": 0.05, "output": tmp_path / "b"}
        with pytest.raises(CalibrationError, match="20 images are too few"):
            vitedge.convert(small_folder, target="cpu", precision="fp32", **options)

    def test_evaluation_folders_that_are_no_labels_are_known_before_the_work(
        self, small_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(photos / "star", tmp_path / "images" / "stars")
        monkeypatch.setattr(exporting, "export", lambda module, size: pytest.fail("too late"))
        with pytest.raises(CalibrationError, match="stars"):
            vitedge.convert(
                small_folder,
                target="cpu",
                precision="fp32",
                eval_data=tmp_path / "images",
                output=tmp_path / "b",
            )

    def test_labels_that_do_not_match(self, small_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
        with pytest.raises(CheckpointError, match="2 labels, the network has 5 logits"):
            vitedge.convert(
                small_folder,
                target="cpu",
                precision="fp32",
                labels=tmp_path / "labels.txt",
                output=tmp_path / "b",
            )

    def test_an_operator_that_openvino_lacks_is_named_before_calibration(
        self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        graph = onnx.parser.parse_model(
            """
            <ir_version: 10, opset_import: ["" : 20]>
            g (float[1,3,32,32] x) => (float[1,3] y)
            {
                pooled, places = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
                spread = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(pooled, places)
                mean = GlobalAveragePool(spread)
                y = Flatten(mean)
            }
            """
        )
        graph.graph.node[1].name = "decoder/unpool"
        source, place = tmp_path / "net", tmp_path / "place"
        for folder in (source, place):
            folder.mkdir()
        onnx.save(graph, source / "net.onnx")
        described = {**checkpoints.PRETRAINED_CFG, "label_names": ["a", "b", "c"]}
        (source / "config.json").write_text(json.dumps(described), encoding="utf-8")
        monkeypatch.setattr(backends, "quantize", lambda *arguments, **options: pytest.fail("too late"))
        with pytest.raises(ConversionError, match="the operator MaxUnpool, layer 'decoder/unpool'"):
            vitedge.convert(source / "net.onnx", target="cpu", precision="int8", calib=photos, output=place / "b")
        assert not list(place.iterdir())

    def test_an_engine_that_computes_something_else_is_not_published(
        self, quick: None, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Swapped:
            def __init__(self, bundle: Bundle) -> None:
                self.engine = open_engine(bundle)
                self.info = self.engine.info
                self.frame = np.empty_like(self.engine.frame)
                self.close = self.engine.close

            def run(self) -> NDArray[np.float32]:
                self.engine.frame[...] = self.frame[..., ::-1]
                return self.engine.run()

        monkeypatch.setattr(openvino, "open_engine", Swapped)
        with pytest.raises(ConversionError, match="engine differs from its graph"):
            vitedge.convert(small_folder, target="cpu", precision="fp32", output=tmp_path / "b")
        assert not list(tmp_path.iterdir())
