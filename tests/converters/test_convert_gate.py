"""A bundle that differs from fp32 is not published."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import onnx
import pytest
from photos import write_smooth

import vitedge
from vitedge.bundle.bundle import Bundle
from vitedge.cli.convert import summary
from vitedge.cli.inspect import as_text
from vitedge.converters import precision_gate
from vitedge.converters.openvino import backend as openvino
from vitedge.errors import ConversionError
from vitedge.progress import Terminal
from vitedge.verbs.inspect import inspect


class TestGate:
    def test_a_bundle_is_compared_with_fp32_on_images_that_calibration_has_not_used(
        self, quick: None, small_folder: Path, tmp_path: Path
    ) -> None:
        images = write_smooth(tmp_path / "images", [(40, 40)] * 72)
        bundle = vitedge.convert(small_folder, target="cpu", precision="int8", calib=images, output=tmp_path / "b")
        manifest = Bundle.open(bundle.path).manifest
        verified, gate, calibration = manifest.verification, manifest.verification.gate, manifest.calibration
        assert gate is not None
        assert calibration is not None
        assert (gate.inputs, verified.precision_against_fp32.images, calibration.images) == ("held_out", 9, 63)
        assert verified.precision_against_fp32.sqnr_db > gate.noise_sqnr_db - 20
        assert "on 100.0 % of 9 images that calibration has not used" in summary(bundle)

    def test_a_broken_layer_is_not_published(
        self, quick: None, small_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = openvino.quantized

        def broken(*arguments: Any) -> Any:
            found, record = original(*arguments)
            weights = [each for each in found.graph.graph.initializer if each.data_type == onnx.TensorProto.INT8]
            largest = max(weights, key=lambda each: len(each.raw_data))
            largest.raw_data = bytes(len(largest.raw_data))
            return found, record

        monkeypatch.setattr(openvino, "quantized", broken)
        with pytest.raises(ConversionError, match="int8 differs from the fp32 graph: SQNR") as caught:
            vitedge.convert(small_folder, target="cpu", precision="int8", calib=photos, output=tmp_path / "b")
        assert "precision='fp16'" in caught.value.fix
        assert not list(tmp_path.iterdir())

    def test_what_the_noise_explains_is_a_warning(
        self, quick: None, small_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(precision_gate, "LEAST_AGREEING_DB", 150.0)
        monkeypatch.setattr(precision_gate, "EXPLAINED_DB", 150.0)
        stream = io.StringIO()
        vitedge.convert(
            small_folder,
            target="cpu",
            precision="fp16",
            calib=photos,
            output=tmp_path / "b",
            progress=Terminal(stream),
        )
        assert "warning: fp16 differs from the fp32 graph: SQNR" in stream.getvalue()

    def test_synthetic_frames_say_nothing_about_the_best_class(
        self, quick: None, small_folder: Path, tmp_path: Path
    ) -> None:
        bundle = vitedge.convert(small_folder, target="cpu", precision="fp16", output=tmp_path / "b")
        gate = bundle.manifest.verification.gate
        assert gate is not None
        assert gate.inputs == "synthetic"
        for text in (summary(bundle), as_text(inspect(bundle.path))):
            assert "dB on 8 synthetic frames, whose best class means nothing" in text
            assert "the same best class" not in text
