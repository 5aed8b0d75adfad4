"""Every image classifier of the installed Transformers: the logits that it gives, or a refusal with its reason."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("transformers")

import transformers
import transformers_checkpoints as checkpoints
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from vitedge.converters.reference import module_logits
from vitedge.converters.sources.parse import HubFolder
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.sources.transformers.families import OUTPUTS, REFUSED, families, find_classifier
from vitedge.converters.sources.transformers.models import LogitsOnly, is_transformers_folder, load_transformers
from vitedge.converters.sources.transformers.processor_classes import PROCESSORS
from vitedge.errors import CheckpointError
from vitedge.metrics import sqnr_db
from vitedge.runtime.preprocess.preprocessor import Preprocessor

WITHOUT_PROCESSOR = {"donut-swin", "hgnet_v2", "pp_lcnet", "timm_wrapper"}
"""Types whose own processor vitedge does not follow, or that have none; they run with any other processor."""

WRAPPED = checkpoints.SMALL["timm wrapper"].options["model_args"]


def load(folder: Path) -> TorchModel:
    return load_transformers(HubFolder(folder), labels=None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folders(name)`` is a small checkpoint; do not write into it."""
    root = tmp_path_factory.mktemp("checkpoints")

    def write(name: str) -> Path:
        folder = root / name
        return folder if folder.exists() else checkpoints.write_checkpoint(folder, name)

    return write


def photo(height: int = 100, width: int = 140) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(3).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def their_logits(name: str, pixels: torch.Tensor) -> NDArray[np.float32]:
    """Logits of the module that was saved, which no loader has touched."""
    small = checkpoints.SMALL[name]
    with torch.no_grad():
        returned = checkpoints.small_model(name)(pixel_values=pixels)
    logits: NDArray[np.float32] = returned[OUTPUTS.get(small.classifier, "logits")].numpy()
    return logits


class TestEveryFamily:
    def test_every_class_has_a_small_network(self) -> None:
        classifiers = {name for family in families().values() for name in family.classifiers}
        assert classifiers == {small.classifier for small in checkpoints.SMALL.values()}

    def test_every_type_of_transformers_converts_or_is_refused_with_a_reason(self) -> None:
        known = families()
        assert set(known) | set(REFUSED) == set(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
        assert not set(known) & set(REFUSED)

    def test_its_default_processor_is_one_that_vitedge_follows(self) -> None:
        unknown = {name for name, family in families().items() if family.processor not in PROCESSORS}
        assert unknown == WITHOUT_PROCESSOR

    @pytest.mark.parametrize("name", checkpoints.SMALL)
    def test_a_photo_gets_the_logits_that_transformers_gives(self, folders: Callable[[str], Path], name: str) -> None:
        model = load(folders(name))
        processor = transformers.AutoImageProcessor.from_pretrained(folders(name), backend="pil")
        expected = their_logits(name, processor(photo(), return_tensors="pt")["pixel_values"])
        frame = Preprocessor(model.card.preprocessing)(photo(), order="RGB")
        logits = module_logits(model.module, frame[None], model.card.preprocessing)
        assert sqnr_db(expected, logits) > 50
        assert np.abs(expected - logits).max() < 0.01 * np.ptp(expected)
        assert np.ptp(expected) > 1e-3
        assert model.card.architecture == checkpoints.SMALL[name].classifier
        assert model.card.labels == checkpoints.CLASSES

    @pytest.mark.parametrize("name", checkpoints.SMALL)
    def test_its_module_is_the_one_that_was_saved(self, folders: Callable[[str], Path], name: str) -> None:
        side = checkpoints.SMALL[name].side
        pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            logits = load(folders(name)).module(pixels).numpy()
        expected = their_logits(name, pixels)
        assert sqnr_db(expected, logits) > 100
        assert np.abs(expected - logits).max() < 1e-5 * np.ptp(expected)

    @pytest.mark.parametrize("name", [name for name in checkpoints.SMALL if name != "timm wrapper"])
    def test_its_memory_is_known_before_it_is_built(self, name: str) -> None:
        """On PyTorch's device ``meta`` a model that looks at values stops, and would not be checked to its end."""
        small = checkpoints.SMALL[name]
        config = checkpoints.small_model(name).config
        with torch.device("meta"), torch.no_grad():
            module = LogitsOnly(
                getattr(transformers, small.classifier)(config), OUTPUTS.get(small.classifier, "logits")
            ).eval()
            logits = module(torch.zeros(1, 3, small.side, small.side))
        assert logits.shape == (1, len(checkpoints.CLASSES))

    def test_both_heads_are_averaged(self, folders: Callable[[str], Path]) -> None:
        model = load(folders("deit distilled"))
        pixels = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            both = model.module.model(pixel_values=pixels)  # type: ignore[operator, union-attr]
            expected = (both.cls_logits + both.distillation_logits) / 2
            assert torch.allclose(model.module(pixels), expected, rtol=0, atol=1e-5)


class TestRefusals:
    @pytest.mark.parametrize("model_type", REFUSED)
    def test_a_refused_type_says_why(self, model_type: str) -> None:
        named = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
        names = [named] if isinstance(named, str) else list(named)
        with pytest.raises(CheckpointError) as caught:
            find_classifier({"model_type": model_type, "architectures": names}, Path("config.json"))
        assert REFUSED[model_type] in caught.value.problem
        assert "did you mean" not in caught.value.fix

    @pytest.mark.parametrize(
        ("model_type", "reason"),
        [
            ("van", "which is installed, does not have it"),
            ("efficientformer", "which is installed, does not have it"),
            ("dinov3_vit", "has no image classifier of this type"),
            ("clip_vision_model", "has no image classifier of this type"),
            ("bert", "has no image classifier of this type"),
            (["vit"], "does not have it"),
            (None, "does not have it"),
        ],
    )
    def test_a_type_without_classifier_names_the_version(self, model_type: object, reason: str) -> None:
        with pytest.raises(CheckpointError, match=f"Transformers {re.escape(transformers.__version__)}.*{reason}"):
            find_classifier({"model_type": model_type}, Path("config.json"))


class TestPage:
    """The tables of docs/convert.md."""

    @pytest.fixture
    def rows(self) -> dict[str, str]:
        """The second cell of each type's row."""
        page = (Path(__file__).parents[4] / "docs/convert.md").read_text(encoding="utf-8")
        section = page.split("\n## Transformers\n")[1].split("\n## ")[0]
        lines = re.findall(r"^\| (`.*`) \| (.*) \|$", section, re.MULTILINE)
        told = {model_type: told for types, told in lines for model_type in re.findall(r"`([^`]*)`", types)}
        return {model_type: text for model_type, text in told.items() if model_type != "model_type"}

    def test_it_lists_every_family_with_its_processor(self, rows: Mapping[str, str]) -> None:
        assert set(rows) == {*families(), *REFUSED}
        for model_type, family in families().items():
            told = f"`{family.processor}`" if family.processor in PROCESSORS else "none that vitedge follows"
            assert rows[model_type].startswith("`pretrained_cfg`" if model_type == "timm_wrapper" else told)

    def test_it_lists_every_refusal_with_its_reason(self, rows: Mapping[str, str]) -> None:
        assert {model_type: rows[model_type] for model_type in REFUSED} == REFUSED


class TestTowers:
    """Classifiers that keep a configuration of the image model inside their own."""

    @pytest.fixture
    def clip(self, tmp_path: Path) -> Path:
        return checkpoints.write_checkpoint(tmp_path / "clip", "clip")

    @staticmethod
    def change(folder: Path, **changes: Any) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["vision_config"].update(changes)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    @pytest.mark.parametrize(
        "changes",
        [
            {"_attn_implementation": "owner/kernel", "attn_implementation": "owner/kernel"},
            {"torch_dtype": "float16", "dtype": "float16"},
            {"auto_map": {"AutoModel": "modeling.Model"}, "_name_or_path": "owner/name"},
            {"output_attentions": True, "output_hidden_states": True, "return_dict": False},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_it_does_not_say_how_a_model_is_loaded(
        self, clip: Path, changes: Mapping[str, Any], no_network: list[str]
    ) -> None:
        pixels = torch.randn(1, 3, 32, 32)
        expected = load(clip).module(pixels)
        self.change(clip, **changes)
        loaded = load(clip).module
        assert {each.dtype for each in loaded.parameters()} == {torch.float32}
        assert loaded.model.config.vision_config._attn_implementation == "eager"  # type: ignore[union-attr]
        assert torch.allclose(loaded(pixels), expected, rtol=0, atol=1e-5)
        assert no_network == []

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"num_hidden_layers": 10**7}, "num_hidden_layers of"),
            ({"hidden_size": 10**6, "num_attention_heads": 1}, "far more than its weights hold"),
            ({"image_size": 10**5}, "far more than its weights hold"),
            ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized"),
            ({"hidden_size": 64}, "of the wrong shape"),
            ({"num_hidden_layers": 3}, "missing"),
            ({"num_hidden_layers": 1}, "unexpected"),
        ],
        ids=str,
    )
    def test_configurations_of_strangers(self, clip: Path, changes: Mapping[str, Any], problem: str) -> None:
        self.change(clip, **changes)
        with pytest.raises(CheckpointError, match=problem):
            load(clip)


class TestTimmWrapper:
    @pytest.fixture
    def wrapped(self, tmp_path: Path) -> Path:
        return checkpoints.write_checkpoint(tmp_path / "wrapped", "timm wrapper")

    @staticmethod
    def change(folder: Path, **changes: Any) -> None:
        config = {**json.loads((folder / "config.json").read_text(encoding="utf-8")), **changes}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def test_it_is_transformers_layout_although_timm_names_an_architecture(self, wrapped: Path) -> None:
        assert is_transformers_folder(wrapped)

    def test_transformers_is_not_needed(self, wrapped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        assert load(wrapped).card.labels == checkpoints.CLASSES

    def test_weights_have_a_prefix_or_not(self, wrapped: Path) -> None:
        pixels = torch.randn(1, 3, 32, 32)
        expected = load(wrapped).module(pixels)
        tensors = safetensors.torch.load_file(wrapped / "model.safetensors")
        assert all(key.startswith("timm_model.") for key in tensors)
        bare = {key.removeprefix("timm_model."): tensor for key, tensor in tensors.items()}
        safetensors.torch.save_file(bare, wrapped / "model.safetensors")
        assert torch.equal(load(wrapped).module(pixels), expected)

    def test_its_preprocessing_is_never_assumed(self, wrapped: Path) -> None:
        self.change(wrapped, pretrained_cfg={"input_size": [3, 32, 32]})
        with pytest.raises(CheckpointError, match="does not say how images are preprocessed: it has no mean, std"):
            load(wrapped)
        self.change(wrapped, pretrained_cfg=None)
        with pytest.raises(CheckpointError, match="does not say how images are preprocessed"):
            load(wrapped)

    def test_its_labels_are_label_names(self, wrapped: Path) -> None:
        self.change(wrapped, label_names=[f"LABEL_{index}" for index in range(5)])
        assert load(wrapped).card.labels == tuple(f"class_{index}" for index in range(5))
        self.change(wrapped, label_names=["a", "b"])
        with pytest.raises(CheckpointError, match="2 labels, the network has 5 logits"):
            load(wrapped)

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"architecture": "hf-hub:timm/resnet18.a1_in1k"}, "has architecture"),
            ({"architecture": "local-dir:/tmp/resnet18"}, "has architecture"),
            ({"architecture": "resnet18.a1:in1k"}, "has architecture"),
            ({"architecture": "no_such_network"}, "has architecture"),
            ({"architecture": ["resnet18"]}, "has architecture"),
            ({"architecture": "resnet18.no_such_tag"}, "timm cannot build"),
            ({"model_args": {"pretrained": True}}, "'pretrained', which says how a model is loaded"),
            ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "'checkpoint_path', which says how"),
            ({"model_args": {"pretrained_cfg": {"url": "http://example.com"}}}, "'pretrained_cfg', which says how"),
            ({"model_args": {"num_classes": 7}}, "'num_classes', which says how"),
            ({"model_args": {"depth": 900}}, "timm cannot build"),
            ({"model_args": {"no_such": 1}}, "timm cannot build"),
            ({"model_args": 5}, "has model_args 5"),
            ({"model_args": {**WRAPPED, "depth": 1}}, r"unexpected \(blocks\.1\."),
            ({"model_args": {**WRAPPED, "depth": 3}}, r"missing \(blocks\.2\."),
            ({"model_args": {**WRAPPED, "embed_dim": 64}}, "of the wrong shape"),
            ({"num_classes": "5"}, "has num_classes '5'"),
            ({"num_classes": 7}, "does not fit the model"),
            ({"pretrained_cfg": 5}, "has pretrained_cfg 5"),
            ({"architectures": ["TimmWrapperModel"]}, "which are no image classifiers"),
        ],
        ids=str,
    )
    def test_configurations_of_strangers(
        self, wrapped: Path, changes: Mapping[str, Any], problem: str, no_network: list[str]
    ) -> None:
        self.change(wrapped, **changes)
        with pytest.raises(CheckpointError, match=problem):
            load(wrapped)
        assert no_network == []
