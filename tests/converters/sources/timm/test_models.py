from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoints
import hub_server
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from torch import nn

from vitedge.bundle.bundle import sha256_of
from vitedge.converters.sources.parse import HubFolder, TimmName
from vitedge.converters.sources.timm.models import load_timm, load_timm_folder
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import CheckpointError, UsageError
from vitedge.metrics import sqnr_db

NAME = "test_vit"


def named(text: str, **options: Any) -> TorchModel:
    return load_timm(TimmName(text), **{"weights": None, "labels": None, "random_weights": False, **options})


def tiny(classes: int) -> nn.Module:
    module: nn.Module = timm.create_model(NAME, num_classes=classes)
    return module


def assert_same(module: nn.Module, theirs: nn.Module, pixels: torch.Tensor) -> None:
    """Equal but for the rounding of attention, which vitedge exports unfused."""
    with torch.no_grad():
        assert sqnr_db(theirs(pixels).numpy(), module(pixels).numpy()) > 100


class TestFolder:
    def test_everything_comes_from_the_folder(self, small_model: TorchModel, small_folder: Path) -> None:
        card = small_model.card
        assert (card.name, card.architecture) == ("shapes_vit", checkpoints.ARCHITECTURE)
        assert card.source == str(small_folder)
        assert card.labels == checkpoints.CLASSES
        assert card.preprocessing.input_size == (32, 32)
        assert card.preprocessing.resize_size == (35, 35)
        assert card.preprocessing.mean == (0.5, 0.4, 0.3)
        assert card.weights_sha256 == sha256_of(small_folder / "model.safetensors")
        assert card.pretrained
        assert not small_model.module.training

    def test_the_weights_are_those_of_the_file(self, small_model: TorchModel) -> None:
        expected = checkpoints.small_vit().state_dict()
        loaded = small_model.module.state_dict()
        assert all(torch.equal(expected[key], loaded[key]) for key in expected)

    @pytest.mark.parametrize("name", ["mobilevit_xxs_flowers", "vit_flowers", "deit_tiny_imagenet"])
    def test_trained_models_give_what_timm_gives(self, shared_data: Path, name: str) -> None:
        folder = shared_data / "models" / name
        model = load_timm_folder(HubFolder(folder), labels=None)
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        transform = create_transform(**resolve_data_config(model=theirs))
        photo = min((shared_data / "flowers" / "val").rglob("*.jpg"))
        pixels = transform(Image.open(photo).convert("RGB"))[None]
        assert_same(model.module, theirs, pixels)
        assert model.card.num_classes == theirs.num_classes

    def test_labels_of_a_file_replace_them(self, small_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
        assert load_timm_folder(HubFolder(small_folder), labels=tmp_path / "labels.txt").card.labels == tuple("abcde")

    def test_too_few_labels_in_the_file(self, small_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"labels\.txt has 2 labels, the network has 5 logits"):
            load_timm_folder(HubFolder(small_folder), labels=tmp_path / "labels.txt")

    def test_too_many_labels_in_the_configuration(self, tmp_path: Path) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit", label_names=list("abcdef"))
        with pytest.raises(CheckpointError, match="vit has 6 labels, the network has 5 logits"):
            load_timm_folder(HubFolder(folder), labels=None)

    def test_classes_without_names_are_numbered(self, tmp_path: Path) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit", label_names=None)
        assert load_timm_folder(HubFolder(folder), labels=None).card.labels[4] == "class_4"

    def test_no_configuration(self, small_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes((small_folder / "model.safetensors").read_bytes())
        with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
            load_timm_folder(HubFolder(tmp_path), labels=None)

    def test_no_weights(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(checkpoints.config()), encoding="utf-8")
        with pytest.raises(CheckpointError, match="has no weights") as caught:
            load_timm_folder(HubFolder(tmp_path), labels=None)
        assert "model.safetensors" in caught.value.expected

    def test_truncated_weights(self, tmp_path: Path) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit")
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:5000])
        with pytest.raises(CheckpointError, match="is cut off"):
            load_timm_folder(HubFolder(folder), labels=None)

    def test_an_architecture_that_timm_does_not_have(self, tmp_path: Path) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit", architecture="vit_tinny_patch16_224")
        with pytest.raises(CheckpointError, match="vit_tinny") as caught:
            load_timm_folder(HubFolder(folder), labels=None)
        assert "vit_tiny_patch16_224" in caught.value.fix

    @pytest.mark.parametrize("arguments", [{"depth": "two"}, {"patch_size": 7, "img_size": -1}, {"nonsense": 1}])
    def test_model_arguments_that_timm_refuses(self, tmp_path: Path, arguments: dict[str, Any]) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit", model_args={**checkpoints.MODEL_ARGS, **arguments})
        with pytest.raises(CheckpointError, match=r"timm cannot build .*config\.json"):
            load_timm_folder(HubFolder(folder), labels=None)

    @pytest.mark.timeout(120)
    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ({"depth": 10**7}, r"depth of .*config\.json is an integer of 24 bits"),
            ({"depth": 900_000}, "more than 5000 modules"),
            ({"embed_dim": 10**6, "num_heads": 1}, "far more than its weights hold"),
            ({"img_size": 10**5}, "far more than its weights hold"),
            ({"img_size": [10**5, 10**5]}, "far more than its weights hold"),
            ({"mlp_ratio": 10**6}, "far more than its weights hold"),
            ({"reg_tokens": 10**7}, "reg_tokens of"),
            ({"num_classes": 10**9}, "num_classes of"),
        ],
    )
    def test_model_arguments_that_ask_for_much(self, tmp_path: Path, arguments: dict[str, Any], problem: str) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit", model_args={**checkpoints.MODEL_ARGS, **arguments})
        with pytest.raises(CheckpointError, match=problem):
            load_timm_folder(HubFolder(folder), labels=None)

    @pytest.mark.timeout(120)
    @pytest.mark.parametrize(
        "changes",
        [
            {"num_classes": 10**9},
            {"num_classes": 10**6},
            {"pretrained_cfg": {"input_size": [3, 10**5, 10**5]}},
            {"pretrained_cfg": {"input_size": [3, 4096, 4096]}},
            {"pretrained_cfg": {"crop_pct": 10**400}},
            {"label_names": 5},
            {"label_names": {"a": "b"}},
            {"label_names": ["\x1b[31m"] * 5},
            {"label_descriptions": ["a"]},
            {"label_descriptions": {"circle": 5}},
            {"architecture": ["vit"]},
            {"architecture": 5},
            {"architecture": "hf-hub:owner/name"},
            {"architecture": "local-dir:/etc"},
            {"architecture": "vit_tiny_patch16_224/../x"},
            {"model_args": 5},
            {"model_args": ["depth"]},
            {"model_args": {"pretrained": True}},
            {"model_args": {"checkpoint_path": "/etc/passwd"}},
            {"pretrained_cfg": 5},
            {"pretrained_cfg": {"nonsense": 1}},
        ],
        ids=str,
    )
    def test_configurations_of_strangers(self, tmp_path: Path, changes: dict[str, Any], no_network: list[str]) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit")
        config = {**checkpoints.config(), **changes}
        if isinstance(changes.get("pretrained_cfg"), dict):
            config["pretrained_cfg"] = {**checkpoints.PRETRAINED_CFG, **changes["pretrained_cfg"]}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(CheckpointError):
            load_timm_folder(HubFolder(folder), labels=None)
        assert no_network == []

    @pytest.mark.parametrize(
        "pretrained_cfg",
        [
            {"url": "http://127.0.0.1:9/x.pth"},
            {"hf_hub_id": "owner/name", "hf_hub_filename": "x.bin", "source": "hf-hub"},
            {"file": "/etc/passwd", "source": ""},
            {"custom_load": True, "url": "http://127.0.0.1:9/x.npz"},
            {"custom_load": "hf", "hf_hub_id": "owner/name"},
        ],
        ids=str,
    )
    def test_weights_come_from_the_folder_whatever_the_configuration_names(
        self, tmp_path: Path, pretrained_cfg: dict[str, Any], no_network: list[str]
    ) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit", pretrained_cfg=pretrained_cfg)
        for size in (None, (40, 32)):
            model = load_timm_folder(HubFolder(folder), labels=None, input_size=size)
            assert torch.equal(model.module.head.weight, checkpoints.small_vit().head.weight)
        assert no_network == []

    def test_preprocessing_that_the_configuration_does_not_state(self, tmp_path: Path, no_network: list[str]) -> None:
        """timm would take ImageNet's mean, and the architecture's own is 0.5."""
        folder = checkpoints.write_checkpoint(tmp_path / "vit")
        config = checkpoints.config()
        config["pretrained_cfg"] = {key: value for key, value in config["pretrained_cfg"].items() if key != "mean"}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"config\.json does not say .* it has no mean") as caught:
            load_timm_folder(HubFolder(folder), labels=None)
        assert "preprocessing=FILE" in caught.value.fix
        given = tmp_path / "given.json"
        given.write_text(json.dumps(checkpoints.PRETRAINED_CFG), encoding="utf-8")
        model = load_timm_folder(HubFolder(folder), labels=None, preprocessing=str(given))
        assert model.card.preprocessing.mean == tuple(checkpoints.PRETRAINED_CFG["mean"])

    def test_a_folder_with_an_image_processor_of_transformers_too(self, tmp_path: Path) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit")
        processor = {
            "image_processor_type": "CLIPImageProcessor", "size": 35, "crop_size": 32, "resample": 3,
            "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3],
        }  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
        assert load_timm_folder(HubFolder(folder), labels=None).card.preprocessing.resize_size == (35, 35)
        (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "size": 32}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"of timm and .* of Transformers differ in resize_size") as caught:
            load_timm_folder(HubFolder(folder), labels=None)
        assert "preprocessing='" in caught.value.fix
        given = str(folder / "preprocessor_config.json")
        card = load_timm_folder(HubFolder(folder), labels=None, preprocessing=given).card
        assert (card.preprocessing.resize_size, card.preprocessing.crop_rounding) == ((32, 32), "floor")

    def test_weights_of_another_depth(self, tmp_path: Path) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit", model_args={**checkpoints.MODEL_ARGS, "depth": 3})
        with pytest.raises(CheckpointError, match=r"12 missing \(blocks\.2\.norm1\.weight, .*, …\)"):
            load_timm_folder(HubFolder(folder), labels=None)

    def test_weights_of_another_width(self, tmp_path: Path) -> None:
        arguments = {**checkpoints.MODEL_ARGS, "embed_dim": 64}
        folder = checkpoints.write_checkpoint(tmp_path / "vit", model_args=arguments)
        with pytest.raises(CheckpointError, match=r"of the wrong shape \(cls_token \(1, 1, 32\) for \(1, 1, 64\)"):
            load_timm_folder(HubFolder(folder), labels=None)

    def test_weights_that_are_no_numbers(self, tmp_path: Path) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit")
        tensors = checkpoints.small_vit().state_dict()
        tensors["head.weight"][0, 0] = torch.nan
        safetensors.torch.save_file(tensors, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"head\.weight .* NaN"):
            load_timm_folder(HubFolder(folder), labels=None)

    def test_features_are_no_classes(self, tmp_path: Path) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit", num_classes=0)
        module = timm.create_model(checkpoints.ARCHITECTURE, num_classes=0, **checkpoints.MODEL_ARGS)
        safetensors.torch.save_file(module.state_dict(), folder / "model.safetensors")
        with pytest.raises(CheckpointError, match="has no classifier"):
            load_timm_folder(HubFolder(folder), labels=None)


class TestName:
    def test_random_weights_are_always_the_same_and_leave_the_generator_alone(self) -> None:
        torch.manual_seed(7)
        state = torch.get_rng_state()
        first = named(NAME, random_weights=True)
        assert torch.equal(torch.get_rng_state(), state)
        second = named(NAME, random_weights=True)
        pairs = zip(first.module.parameters(), second.module.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
        assert not first.card.pretrained
        assert first.card.weights_sha256 == ""
        assert first.card.labels[1] == "goldfish"

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_a_file_of_weights_tells_how_many_classes(self, tmp_path: Path, suffix: str) -> None:
        module, file = tiny(classes=7), tmp_path / f"weights{suffix}"
        if suffix == ".pth":
            torch.save({"model": module.state_dict()}, file)
        else:
            safetensors.torch.save_file(module.state_dict(), file)
        model = named(NAME, weights=file)
        assert model.card.labels == tuple(f"class_{index}" for index in range(7))
        assert model.card.weights_sha256 == sha256_of(file)
        assert model.card.source == f"timm:{NAME}"
        assert_same(model.module, module.eval(), torch.randn(1, 3, 160, 160))

    def test_a_file_with_other_names_goes_through_timms_mapping(self, tmp_path: Path) -> None:
        """DINOv2 checkpoints have a mask token and no classification token of their own position."""
        module = tiny(classes=3)
        tensors = {**module.state_dict(), "mask_token": torch.zeros(1, 64)}
        torch.save(tensors, tmp_path / "dino.pth")
        model = named(NAME, weights=tmp_path / "dino.pth")
        assert torch.equal(model.module.head.weight, module.head.weight)  # type: ignore[union-attr, arg-type]
        assert model.card.num_classes == 3

    def test_the_number_of_classes_is_checked_against_the_weights(self, tmp_path: Path) -> None:
        torch.save(tiny(classes=7).state_dict(), tmp_path / "weights.pth")
        assert named(NAME, weights=tmp_path / "weights.pth", num_classes=7).card.num_classes == 7
        with pytest.raises(CheckpointError, match="has a classifier of 7 classes, not of 5"):
            named(NAME, weights=tmp_path / "weights.pth", num_classes=5)
        with pytest.raises(CheckpointError, match="has a classifier of 1000 classes, not of 5"):
            named(NAME, num_classes=5)

    def test_classes_of_random_weights(self, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
        assert named(NAME, random_weights=True, num_classes=5).card.num_classes == 5
        assert named(NAME, random_weights=True, labels=tmp_path / "labels.txt").card.labels == ("a", "b")
        with pytest.raises(CheckpointError, match="2 labels, the network has 5 logits"):
            named(NAME, random_weights=True, num_classes=5, labels=tmp_path / "labels.txt")

    def test_preprocessing_that_is_given(self, tmp_path: Path) -> None:
        described = {**checkpoints.PRETRAINED_CFG, "mean": [0.1, 0.2, 0.3], "crop_pct": 0.5}
        del described["input_size"]
        (tmp_path / "pre.json").write_text(json.dumps(described), encoding="utf-8")
        card = named(NAME, random_weights=True, preprocessing=str(tmp_path / "pre.json")).card
        assert (card.preprocessing.mean, card.preprocessing.resize_size) == ((0.1, 0.2, 0.3), (320, 320))

    def test_weights_of_another_model(self, tmp_path: Path) -> None:
        torch.save(timm.create_model("mobilevit_xxs").state_dict(), tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match=r"missing \(cls_token, .*unexpected \(stem\.conv\.weight") as caught:
            named(NAME, weights=tmp_path / "weights.pth")
        assert caught.value.fix

    def test_a_classifier_that_is_a_number(self, tmp_path: Path) -> None:
        tensors = {**tiny(5).state_dict(), "head.weight": torch.tensor(1.0)}
        safetensors.torch.save_file(tensors, tmp_path / "w.safetensors")
        with pytest.raises(CheckpointError, match="does not fit the model"):
            named(NAME, weights=tmp_path / "w.safetensors")

    def test_an_unknown_name(self) -> None:
        with pytest.raises(UsageError, match="no model 'deit_tinny_patch16_224', and there is no file") as caught:
            named("deit_tinny_patch16_224")
        assert "did you mean deit_tiny_patch16_224" in caught.value.fix

    def test_a_name_like_no_other(self) -> None:
        with pytest.raises(UsageError) as caught:
            named("xyzzy")
        assert "vitedge models" in caught.value.fix

    def test_an_unknown_tag(self) -> None:
        with pytest.raises(UsageError, match="tag") as caught:
            named("deit_tiny_patch16_224.fb_in1")
        assert "did you mean deit_tiny_patch16_224.fb_in1k" in caught.value.fix

    def test_a_download(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """From a hub on this machine, of the weights alone, with their commit; then from the cache."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        module = tiny(classes=1000)
        repo = get_pretrained_cfg(NAME).hf_hub_id
        with hub_server.serving() as hub:
            hub_server.use(monkeypatch, hub.url)
            hub.repos[repo] = tmp_path / "repo"
            hub.repos[repo].mkdir()
            (tmp_path / "repo" / "config.json").touch()
            safetensors.torch.save_file(module.state_dict(), tmp_path / "repo" / "model.safetensors")
            model = named(NAME)
            assert not [request for request in hub.requests if request.endswith("config.json")]
        assert torch.equal(model.module.head.weight, module.head.weight)  # type: ignore[union-attr, arg-type]
        assert model.card.revision == hub_server.COMMIT
        assert named(NAME).card == model.card

    @pytest.mark.parametrize("name", [NAME, "vit_small_patch16_18x2_224"], ids=["no network", "none published"])
    def test_no_download(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(CheckpointError, match=f"weights of {name} cannot be downloaded") as caught:
            named(name)
        assert "weights=" in caught.value.fix
        assert "random_weights=" in caught.value.fix
