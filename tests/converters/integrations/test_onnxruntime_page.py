"""The script of ``docs/export.md`` that classifies a photo without vitedge gives vitedge's answer."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vitedge
from vitedge.bundle.accuracy_records import ConfidenceRecord
from vitedge.bundle.bundle import Bundle

pytest.importorskip("onnxruntime")
import bundles

ROOT = Path(__file__).resolve().parents[3]
TEMPERATURE = ConfidenceRecord(2.0, 0.0, None, 100.0, 90.0, 5.0, 1.0, 100, "0" * 64)
CROPPED = replace(bundles.PREPROCESSING, resize_size=(39, 39), interpolation="bicubic")
"""Half of the margin of 7 is rounded up to 4, or down to 3."""


def script() -> str:
    """Return the one block of the page that reads its arguments."""
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    (found,) = (block for block in blocks if "sys.argv" in block)
    return str(found)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "int8"},
        {"activation": "sigmoid"},
        {"confidence": TEMPERATURE},
        {"preprocessing": CROPPED},
        {"preprocessing": replace(CROPPED, crop_rounding="floor", exif_orientation=True)},
        {"preprocessing": replace(CROPPED, resize_mode="squash", resize_size=(39, 32), interpolation="box")},
    ],
)
def test_it_answers_as_vitedge(
    make_bundle: Callable[..., Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
) -> None:
    bundle = make_bundle(tmp_path / "colour.bundle", **changes)
    photo = tmp_path / "photo.png"
    Image.fromarray(_photo()).save(photo, exif=_turned())
    monkeypatch.setattr(sys, "argv", ["classify.py", str(bundle.path), str(photo)])
    exec(compile(script(), "docs/export.md", "exec"), {})
    label, score = capsys.readouterr().out.split()
    with vitedge.load(bundle) as classifier:
        ours = classifier.classify(photo)
    assert label == ours.label
    assert float(score) == pytest.approx(ours.score, abs=1e-2 if changes.get("precision") == "int8" else 1e-3)


def _photo() -> NDArray[np.uint8]:
    """Coarse noise, a little greener than red and blue: its score follows the filter and each pixel of the crop."""
    photo = np.random.default_rng(0).integers(0, 200, (61, 93, 3), dtype=np.uint8)
    photo[..., 1] += 20
    return photo


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_a_border_is_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "colour.bundle", preprocessing=replace(CROPPED, resize_mode="border"))
    Image.fromarray(_photo()).save(tmp_path / "photo.png")
    monkeypatch.setattr(sys, "argv", ["classify.py", str(bundle.path), str(tmp_path / "photo.png")])
    with pytest.raises(SystemExit, match="adds no border"):
        exec(compile(script(), "docs/export.md", "exec"), {})
