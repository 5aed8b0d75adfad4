"""CSWin and PVT v1 as sources: weights of a file, random ones, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import SMALL_CSWIN, SMALL_PVT, fill, images

import vitedge
from vitedge.bundle.bundle import sha256_of
from vitedge.converters.reference import module_logits
from vitedge.converters.sources.cswin_pvt.build import build
from vitedge.converters.sources.cswin_pvt.models import load_variant
from vitedge.converters.sources.cswin_pvt.variants import VARIANTS
from vitedge.converters.sources.parse import CswinPvtName
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import CheckpointError, UsageError
from vitedge.metrics import sqnr_db

PVT, CSWIN = SMALL_PVT.name, SMALL_CSWIN.name


@pytest.fixture(autouse=True)
def small_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more variants, which are quick to build."""
    known = {**VARIANTS, PVT: SMALL_PVT, CSWIN: SMALL_CSWIN}
    for module in ("cswin_pvt.build", "cswin_pvt.models", "parse"):
        monkeypatch.setattr(f"vitedge.converters.sources.{module}.VARIANTS", known)


def load(name: str, **options: Any) -> TorchModel:
    whole = {"weights": None, "labels": None, "random_weights": False, **options}
    return load_variant(CswinPvtName(name), **whole)


@pytest.fixture
def published(small_variants: None, tmp_path: Path) -> Path:
    """A PVT with three classes, as its authors save one."""
    torch.save({"model": fill(build(PVT, 3)).state_dict(), "epoch": 299}, tmp_path / "pvt.pth")
    return tmp_path / "pvt.pth"


def test_weights_of_a_file(published: Path) -> None:
    model = load(PVT, weights=published)
    assert (model.card.name, model.card.source, model.card.architecture) == (PVT,) * 3
    assert model.card.labels == ("class_0", "class_1", "class_2")
    assert model.card.weights_sha256 == sha256_of(published)
    assert model.card.preprocessing.resize_size == (73, 73)
    with torch.no_grad():
        assert torch.equal(model.module(images(64, 64)), fill(build(PVT, 3))(images(64, 64)))


def test_positions_are_interpolated_to_another_size(published: Path) -> None:
    model = load(PVT, weights=published, input_size=(96, 160))
    assert model.card.preprocessing.input_size == (96, 160)
    assert model.card.preprocessing.resize_size == (109, 182)
    before = fill(build(PVT, 3)).pos_embed2.detach().reshape(1, 8, 8, -1).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(before, (12, 20), mode="bilinear").flatten(2).transpose(1, 2)
    assert torch.allclose(model.module.pos_embed2, expected, atol=1e-6)  # type: ignore[arg-type]


def test_random_weights_and_classes(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
    model = load(CSWIN, random_weights=True, labels=tmp_path / "labels.txt")
    assert (model.card.labels, model.card.pretrained) == (("a", "b"), False)
    assert load(CSWIN, random_weights=True, num_classes=7).card.num_classes == 7
    assert load(CSWIN, random_weights=True).card.labels[1] == "goldfish"


@pytest.mark.parametrize(("name", "place"), [("cswin_tiny_224", "microsoft/CSWin"), ("pvt_tiny", "whai362/PVT")])
def test_without_weights_the_authors_are_named(name: str, place: str) -> None:
    with pytest.raises(UsageError, match="does not download") as caught:
        load(name)
    assert place in caught.value.expected
    assert "weights=FILE" in caught.value.fix


def test_what_is_refused(published: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pvt\.pth has a classifier of 3 classes, not of 7"):
        load(PVT, weights=published, num_classes=7)
    with pytest.raises(CheckpointError, match=r"pvt\.pth does not fit the model"):
        load(CSWIN, weights=published)
    with pytest.raises(UsageError, match="do not tile its feature maps"):
        load(CSWIN, random_weights=True, input_size=(40, 64))
    described = {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bicubic", "crop_pct": 0.9}
    whole = json.dumps({**described, "input_size": [3, 32, 32]})
    (published.parent / "pre.json").write_text(whole, encoding="utf-8")
    with pytest.raises(CheckpointError, match="for images of 32x32, the network takes 64x64"):
        load(PVT, weights=published, preprocessing=str(published.parent / "pre.json"))


def test_it_converts(published: Path, tmp_path: Path) -> None:
    bundle = vitedge.convert(
        PVT, weights=published, target="cpu", precision="fp32", input_size=96, output=tmp_path / "b"
    )
    assert bundle.manifest.model.preprocessing.input_size == (96, 96)
    assert bundle.manifest.verification.fp32_against_source is not None
    module, golden = load(PVT, weights=published, input_size=(96, 96)).module, bundle.golden()
    expected = module_logits(module, golden.frames, bundle.manifest.model.preprocessing)
    assert sqnr_db(expected, golden.logits) > 80


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("head.weight", torch.ones(())),
        ("head.weight", torch.ones(4)),
        ("head.weight", torch.ones(10_000_000, 1, dtype=torch.float16)),
        ("head.weight", torch.ones(0, 0)),
        ("pos_embed1", torch.ones(1, 0, 32)),
        ("pos_embed1", torch.ones(1, 4, 0)),
        ("pos_embed4", torch.ones(1, 0, 64)),
        ("pos_embed4", torch.ones(0, 5, 64)),
    ],
)
def test_tensors_of_impossible_shapes(published: Path, name: str, tensor: torch.Tensor) -> None:
    saved = torch.load(published, weights_only=True)
    saved["model"][name] = tensor
    torch.save(saved, published)
    with pytest.raises(CheckpointError, match=r"does not fit|position embeddings"):
        load(PVT, weights=published)
