"""``input_size``: timm interpolates what depends on the size, or the family is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from vitedge.converters.sources.parse import HubFolder, TimmName
from vitedge.converters.sources.timm import models as timm_models
from vitedge.converters.sources.timm.models import load_timm, load_timm_folder
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import CheckpointError, UsageError, VitedgeError
from vitedge.metrics import sqnr_db

SWIN_ARGS = {"img_size": 56, "embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)}


def filled(name: str, **options: Any) -> nn.Module:
    """A network whose position tables are smooth maps, far from zero, so that interpolating them shows."""
    torch.manual_seed(0)
    module: nn.Module = timm.create_model(name, **options).eval()
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if "pos_embed" in key or "bias_table" in key or "attention_biases" in key:
                parameter.copy_(torch.linspace(-2, 2, parameter.numel()).reshape(parameter.shape))
    return module


def save(module: nn.Module, path: Path) -> Path:
    torch.save(module.state_dict(), path)
    return path


def named(name: str, weights: Path | None, size: tuple[int, int] | None, **options: Any) -> TorchModel:
    whole = {"labels": None, "random_weights": False, **options}
    return load_timm(TimmName(name), weights=weights, input_size=size, **whole)


def timms_own(name: str, module: nn.Module, size: tuple[int, int], **options: Any) -> nn.Module:
    """timm's model at that size, with the weights loaded by timm."""
    overlay = {"state_dict": dict(module.state_dict()), "num_classes": module.num_classes, "custom_load": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's interpolation of tables indexes with lists
        built: nn.Module = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            num_classes=module.num_classes,
            **({"img_size": size} | options),
        )
    return built.eval()


def assert_same(module: nn.Module, theirs: nn.Module, size: tuple[int, int]) -> None:
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert sqnr_db(theirs(pixels).numpy(), module(pixels).numpy()) > 90


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_vit", (224, 224)),
        ("test_vit", (96, 192)),
        ("test_vit_relpos", (192, 128)),
        ("test_coatnet", (192, 224)),
        ("test_maxvit", (192, 256)),
    ],
)
def test_the_model_is_timms_own_at_that_size(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    module = filled(name, num_classes=5)
    model = named(name, save(module, tmp_path / "w.pth"), size)
    assert model.card.preprocessing.input_size == size
    assert model.card.preprocessing.resize_size == (int(size[0] / 0.95), int(size[1] / 0.95))
    assert_same(model.module, timms_own(name, module, size), size)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_convolutions_take_any_size_as_they_are(tmp_path: Path, name: str) -> None:
    module = filled(name, num_classes=5)
    model = named(name, save(module, tmp_path / "w.pth"), (165, 96))
    assert_same(model.module, module, (165, 96))


@pytest.mark.parametrize("size", [(224, 224), (96, 192), (64, 400)], ids=str)
def test_position_embeddings_are_interpolated_and_not_random(tmp_path: Path, size: tuple[int, int]) -> None:
    """The last has as many patches as the size of the training: 4x25 and 10x10."""
    module = filled("test_vit", num_classes=5)
    embeddings = named("test_vit", save(module, tmp_path / "w.pth"), size).module.pos_embed
    assert isinstance(embeddings, Tensor)
    grid = (size[0] // 16, size[1] // 16)
    before = module.pos_embed.detach()
    assert embeddings.shape[1] == 1 + grid[0] * grid[1]
    assert torch.equal(embeddings[:, 0], before[:, 0])
    # the embeddings rise evenly over the rows of the image, and so must the interpolated ones
    rows = embeddings[0, 1:].detach().reshape(*grid, -1).mean(dim=(1, 2))
    expected = before[0, 1:].reshape(10, 10, -1).mean(dim=(1, 2))
    inner = torch.nn.functional.interpolate(expected[None, None], grid[0], mode="linear")[0, 0]
    assert torch.allclose(rows[1:-1], inner[1:-1], atol=0.05)


def swin_folder(folder: Path) -> tuple[Path, nn.Module]:
    module = filled("swin_tiny_patch4_window7_224", num_classes=5, **SWIN_ARGS)
    config = checkpoints.config(architecture="swin_tiny_patch4_window7_224", model_args=SWIN_ARGS)
    config["pretrained_cfg"] |= {"input_size": [3, 56, 56], "first_conv": "patch_embed.proj", "classifier": "head.fc"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    safetensors.torch.save_file(module.state_dict(), folder / "model.safetensors")
    return folder, module


@pytest.mark.parametrize("size", [(112, 112), (112, 56), (64, 96)], ids=str)
def test_relative_position_tables_of_swin_are_interpolated(tmp_path: Path, size: tuple[int, int]) -> None:
    folder, module = swin_folder(tmp_path / "swin")
    model = load_timm_folder(HubFolder(folder), labels=None, input_size=size)
    arguments = {key: value for key, value in SWIN_ARGS.items() if key != "img_size"}
    assert_same(model.module, timms_own("swin_tiny_patch4_window7_224", module, size, **arguments), size)
    assert_same(load_timm_folder(HubFolder(folder), labels=None).module, module, (56, 56))


def test_a_grown_table_of_swin_holds_the_old_one(tmp_path: Path) -> None:
    """At 56 pixels the last stage has windows of 2x2, at 112 of 4x4; offsets that both have keep their sign."""
    folder, module = swin_folder(tmp_path / "swin")
    key = "layers.3.blocks.0.attn.relative_position_bias_table"
    table = load_timm_folder(HubFolder(folder), labels=None, input_size=(112, 112)).module.state_dict()[key]
    before = module.state_dict()[key].reshape(3, 3, 4).mean(dim=(1, 2))  # rises over the rows
    after = table.reshape(7, 7, 4).mean(dim=(1, 2))
    assert torch.allclose(after[[0, 3, 6]], before, atol=0.1)
    assert torch.all(after.diff() >= 0)


def test_a_folder_of_a_plain_vit(small_folder: Path) -> None:
    model = load_timm_folder(HubFolder(small_folder), labels=None, input_size=(48, 64))
    assert model.module.pos_embed.shape == (1, 1 + 6 * 8, 32)  # type: ignore[union-attr]
    assert model.card.preprocessing.resize_size == (53, 71)


def test_weights_that_were_trained_at_that_size(tmp_path: Path) -> None:
    """They fit as they are, also where timm would take their positions for a square."""
    for size in ((224, 224), (96, 192)):
        module = filled("test_vit", num_classes=5, img_size=size)
        model = named("test_vit", save(module, tmp_path / "w.pth"), size)
        assert torch.equal(model.module.pos_embed, module.pos_embed)  # type: ignore[arg-type]


def test_what_timm_downloads_is_interpolated_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = filled("test_vit")
    monkeypatch.setattr(timm_models, "_downloaded", lambda name, classes, progress: (module, "0" * 40))
    model = named("test_vit", None, (96, 192))
    assert_same(model.module, timms_own("test_vit", module, (96, 192)), (96, 192))
    assert model.card.pretrained
    assert model.card.labels[1] == "goldfish"


def test_random_weights_have_the_size_too() -> None:
    assert named("test_vit", None, (96, 192), random_weights=True).card.preprocessing.input_size == (96, 192)


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [
        ("test_vit", (165, 160), r"cannot take 165x160 images: its patches of 16x16 pixels do not tile them"),
        ("test_coatnet", (165, 165), "test_coatnet cannot take 165x165 images: RuntimeError"),
        ("test_maxvit", (160, 80), "test_maxvit cannot take 160x80 images: AssertionError: .* divisible by window"),
        ("twins_svt_small", (230, 224), "timm cannot build twins_svt_small .* for 230x224 images: .* divided by patch"),
        ("efficientformer_l1", (256, 256), "efficientformer_l1 cannot take 256x256 images"),
    ],
)
def test_sizes_that_a_family_cannot_take(name: str, size: tuple[int, int], problem: str) -> None:
    with pytest.raises(VitedgeError, match=problem) as caught:
        named(name, None, size, random_weights=True)
    assert caught.value.expected


def test_the_nearest_size_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        named("test_vit", None, (165, 5), random_weights=True)
    assert caught.value.fix == "input_size=(160, 16)"


def test_families_whose_tables_timm_does_not_interpolate(tmp_path: Path) -> None:
    weights = save(timm.create_model("levit_128s", num_classes=5), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"does not interpolate .* to images of 256x256 pixels: .*attention_b"):
        named("levit_128s", weights, (256, 256))


def test_weights_of_another_model_are_not_blamed_on_the_size(tmp_path: Path) -> None:
    weights = save(timm.create_model("test_vit", num_classes=5, embed_dim=128), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"does not fit the model: .* of the wrong shape \(cls_token"):
        named("test_vit", weights, (224, 224))
