"""Folders in Transformers' layout: the same logits as Transformers gives, and one clear error for what is not right."""

from __future__ import annotations

import json
import sys
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

import vitedge
from vitedge.bundle.bundle import sha256_of
from vitedge.converters.onnx_export import export
from vitedge.converters.sources.parse import HubFolder
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.sources.transformers.models import is_transformers_folder, load_transformers
from vitedge.errors import CheckpointError, MissingExtraError, UsageError
from vitedge.runtime.preprocess.preprocessor import Preprocessor


def load(folder: Path, **options: Any) -> TorchModel:
    return load_transformers(HubFolder(folder), **{"labels": None, **options})


def rewrite_json(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    values = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in values.items() if value is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A small ViT to spoil."""
    return checkpoints.write_checkpoint(tmp_path / "my_vit")


def photo(height: int = 100, width: int = 140) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(3).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class TestFolder:
    def test_everything_comes_from_the_folder(self, vit: Path) -> None:
        card = load(vit).card
        assert (card.name, card.source) == ("my_vit", str(vit))
        assert card.weights_sha256 == sha256_of(vit / "model.safetensors")
        assert card.pretrained
        assert card.preprocessing.input_size == (32, 32)
        assert card.preprocessing.resize_mode == "squash"
        assert card.revision == ""

    def test_shards_are_one_model(self, vit: Path, tmp_path: Path) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "sharded", shard="20KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
        assert not (folder / "model.safetensors").exists()
        pixels = torch.randn(1, 3, 32, 32)
        whole, sharded = load(vit), load(folder)
        with torch.no_grad():
            assert torch.allclose(whole.module(pixels), sharded.module(pixels), rtol=0, atol=1e-5)
        assert sharded.card.weights_sha256 not in ("", whole.card.weights_sha256)
        next(folder.glob("model-00002-of-*.safetensors")).unlink()
        with pytest.raises(CheckpointError, match="no weights, or not all of them"):
            load(folder)

    @pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx"])
    def test_a_folder_with_an_exported_graph_alone_names_it(self, vit: Path, name: str) -> None:
        (vit / "model.safetensors").unlink()
        (vit / name).parent.mkdir(exist_ok=True)
        (vit / name).write_bytes(b"graph")
        with pytest.raises(CheckpointError, match="no weights") as caught:
            load(vit)
        assert caught.value.fix == f"convert the exported graph: {vit / name}"

    def test_pytorch_weights(self, vit: Path) -> None:
        pixels = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            expected = load(vit).module(pixels)
            torch.save(safetensors.torch.load_file(vit / "model.safetensors"), vit / "pytorch_model.bin")
            (vit / "model.safetensors").unlink()
            assert torch.allclose(load(vit).module(pixels), expected, rtol=0, atol=1e-5)

    def test_names_of_other_versions_are_translated(self, vit: Path) -> None:
        """The files keep the names that checkpoints on the hub have; the modules of Transformers 5 have others."""
        tensors = safetensors.torch.load_file(vit / "model.safetensors")
        query = "vit.encoder.layer.1.attention.attention.query.weight"
        assert query in tensors
        parameters = load(vit).module.state_dict().values()
        assert any(each.shape == tensors[query].shape and torch.equal(each, tensors[query]) for each in parameters)

    def test_half_precision_weights_are_computed_in_full(self, vit: Path) -> None:
        tensors = safetensors.torch.load_file(vit / "model.safetensors")
        safetensors.torch.save_file({key: each.half() for key, each in tensors.items()}, vit / "model.safetensors")
        rewrite_json(vit / "config.json", dtype="float16")
        assert {parameter.dtype for parameter in load(vit).module.parameters()} == {torch.float32}

    def test_weights_that_the_classifier_does_not_use_may_stay(self, vit: Path) -> None:
        tensors = safetensors.torch.load_file(vit / "model.safetensors")
        safetensors.torch.save_file(
            {**tensors, "vit.pooler.dense.weight": torch.zeros(2, 2)}, vit / "model.safetensors"
        )
        assert load(vit).card.num_classes == 5

    def test_outputs_that_the_configuration_asks_for_are_left_out(self, vit: Path) -> None:
        rewrite_json(vit / "config.json", output_attentions=True, output_hidden_states=True, return_dict=False)
        model = load(vit)
        assert model.module(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
        assert [each.name for each in export(model.module, (32, 32)).graph.output] == ["logits"]

    def test_timms_layout_is_not_transformers(self, vit: Path, small_folder: Path) -> None:
        assert is_transformers_folder(vit)
        assert not is_transformers_folder(small_folder)
        with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
            is_transformers_folder(vit.parent)

    def test_a_configuration_of_both_layouts(self, vit: Path) -> None:
        rewrite_json(vit / "config.json", architecture="vit_tiny_patch16_224")
        with pytest.raises(
            CheckpointError, match=r"is of timm \(architecture\) and of Transformers \(model_type 'vit'"
        ):
            is_transformers_folder(vit)


class TestLabels:
    def test_placeholders_are_no_names(self, tmp_path: Path) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "vit", names=("LABEL_0", "LABEL_1"))
        assert load(folder).card.labels == ("class_0", "class_1")

    def test_a_file_replaces_them(self, vit: Path, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
        assert load(vit, labels=tmp_path / "labels.txt").card.labels == tuple("abcde")
        (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
        with pytest.raises(CheckpointError, match="2 labels, the network has 5 logits"):
            load(vit, labels=tmp_path / "labels.txt")

    def test_two_classes_without_names(self, tmp_path: Path) -> None:
        """Transformers leaves ``id2label`` out where there are two."""
        folder = checkpoints.write_checkpoint(tmp_path / "vit", names=("LABEL_0", "LABEL_1"))
        rewrite_json(folder / "config.json", id2label=None, label2id=None, num_labels=None)
        assert load(folder).card.labels == ("class_0", "class_1")

    def test_pvt_has_as_many_classes_as_names(self, tmp_path: Path) -> None:
        """Its configuration has ``num_labels`` since Transformers 5, and 1000 where an older version wrote the file."""
        folder = checkpoints.write_checkpoint(tmp_path / "pvt", "pvt")
        rewrite_json(folder / "config.json", num_labels=None)
        assert load(folder).card.labels == checkpoints.CLASSES

    @pytest.mark.parametrize(
        ("names", "problem"),
        [
            ({"0": "a", "2": "b"}, "none for index 1"),
            ({"0": 1.5}, "id2label 0 of"),
            (5, "id2label of the configuration is"),
        ],
    )
    def test_names_that_are_no_list(self, vit: Path, names: Any, problem: str) -> None:
        rewrite_json(vit / "config.json", id2label=names)
        with pytest.raises(CheckpointError, match=problem):
            load(vit)

    @pytest.mark.parametrize("names", [["a", "b", 3, "d", "e"], {"4": "e", "0": "a", "3": "d", "1": "b", "2": 3}])
    def test_a_list_or_integers(self, vit: Path, names: Any) -> None:
        rewrite_json(vit / "config.json", id2label=names)
        assert load(vit).card.labels == ("a", "b", "3", "d", "e")

    def test_fewer_names_than_the_classifier_has_rows(self, vit: Path) -> None:
        rewrite_json(vit / "config.json", id2label={"0": "a", "1": "b"}, label2id=None)
        with pytest.raises(CheckpointError, match=r"of the wrong shape \(classifier\.bias \(5,\) for \(2,\)"):
            load(vit)


class TestRefusals:
    def test_no_processor(self, vit: Path) -> None:
        (vit / "preprocessor_config.json").unlink()
        with pytest.raises(CheckpointError, match="does not say how images are preprocessed") as caught:
            load(vit)
        assert "preprocessor_config.json" in caught.value.expected
        assert "ViTImageProcessor" in caught.value.fix

    def test_preprocessing_of_the_users_own(self, vit: Path, tmp_path: Path) -> None:
        (vit / "preprocessor_config.json").unlink()
        own = {
            "input_size": [3, 32, 32],
            "crop_pct": 0.5,
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bilinear",
        }
        (tmp_path / "own.json").write_text(json.dumps(own), encoding="utf-8")
        assert load(vit, preprocessing=str(tmp_path / "own.json")).card.preprocessing.resize_size == (64, 64)

    def test_another_input_size(self, vit: Path) -> None:
        with pytest.raises(UsageError, match="input_size= does not apply to") as caught:
            load(vit, input_size=(64, 64))
        assert "preprocessor_config.json" in caught.value.fix

    def test_an_unknown_model_type(self, vit: Path) -> None:
        rewrite_json(vit / "config.json", model_type="swin2")
        with pytest.raises(CheckpointError, match="model_type 'swin2'") as caught:
            load(vit)
        assert "swinv2" in caught.value.fix
        assert "mobilevit" in caught.value.expected

    def test_code_of_the_checkpoint_never_runs(self, vit: Path) -> None:
        code = "raise SystemExit('ran')\nclass Model: pass\n"
        (vit / "modeling.py").write_text(code, encoding="utf-8")
        remote = {"AutoModelForImageClassification": "modeling.Model", "AutoImageProcessor": "modeling.Model"}
        rewrite_json(vit / "config.json", auto_map=remote)
        rewrite_json(vit / "preprocessor_config.json", auto_map=remote)
        assert load(vit).card.num_classes == 5
        rewrite_json(vit / "preprocessor_config.json", image_processor_type="Model")
        with pytest.raises(CheckpointError, match="image processor 'Model'"):
            load(vit)

    @pytest.mark.timeout(120)
    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"num_hidden_layers": 10**7}, "num_hidden_layers of"),
            ({"num_hidden_layers": 900_000}, "more than 5000 modules"),
            ({"hidden_size": 10**6, "num_attention_heads": 1}, "far more than its weights hold"),
            ({"intermediate_size": 10**6}, "far more than its weights hold"),
            ({"image_size": 10**5}, "far more than its weights hold"),
            ({"num_channels": 10**6}, "far more than its weights hold"),
            ({"id2label": {"0": "a\x1b[31m"}}, "control character"),
            ({"id2label": ["a", [5]]}, "id2label 1 of the configuration"),
            ({"id2label": 5}, "id2label of the configuration"),
            ({"num_hidden_layers": "2"}, "Transformers cannot build"),
            ({"hidden_size": [32]}, "Transformers cannot build"),
            ({"hidden_act": "nonsense"}, "Transformers cannot build"),
            ({"architectures": 5}, "has architectures 5"),
            ({"architectures": "ViTForImageClassification"}, "has architectures"),
            ({"model_type": ["vit"]}, "model_type"),
            ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized"),
            ({"to_dict": 5}, "Transformers cannot build"),
        ],
        ids=str,
    )
    def test_configurations_of_strangers(
        self, vit: Path, changes: dict[str, Any], problem: str, no_network: list[str]
    ) -> None:
        rewrite_json(vit / "config.json", **changes)
        with pytest.raises(CheckpointError, match=problem):
            load(vit)
        assert no_network == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"_attn_implementation": "owner/kernel", "attn_implementation": "owner/kernel"},
            {"attn_implementation": "flash_attention_2", "experts_implementation": "owner/kernel"},
            {"_name_or_path": "owner/name", "name_or_path": "owner/name"},
            {"torch_dtype": "float16", "dtype": "hub"},
            {"use_kernels": True, "kernel_config": {"kernel_mapping": {"ViTSelfAttention": "owner/kernel"}}},
            {"fusion_config": {"patch_embeddings": True}, "per_layer_config": {"0": {"hidden_size": 64}}},
            {"distributed_config": {"tp_size": 2}, "custom_pipelines": {"x": {"impl": "a.B"}}},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_how_a_model_is_loaded_is_not_for_its_configuration_to_say(
        self, vit: Path, changes: dict[str, Any], no_network: list[str]
    ) -> None:
        expected = load(vit).module.state_dict()
        rewrite_json(vit / "config.json", **changes)
        loaded = load(vit).module
        assert {each.dtype for each in loaded.parameters()} == {torch.float32}
        assert loaded.model.config._attn_implementation == "eager"
        assert all(torch.equal(expected[key], value) for key, value in loaded.state_dict().items())
        assert no_network == []

    def test_no_classifier(self, vit: Path) -> None:
        rewrite_json(vit / "config.json", architectures=["ViTModel"])
        with pytest.raises(CheckpointError, match=r"\['ViTModel'\]") as caught:
            load(vit)
        assert caught.value.expected == "ViTForImageClassification"

    def test_missing_weights(self, vit: Path) -> None:
        tensors = safetensors.torch.load_file(vit / "model.safetensors")
        del tensors["classifier.weight"]
        safetensors.torch.save_file(tensors, vit / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"1 missing \(classifier\.weight\)") as caught:
            load(vit)
        assert "fine-tuned" in caught.value.fix

    @pytest.mark.parametrize(
        ("name", "changes"), [("vit", {"num_hidden_layers": 1}), ("convnext", {"depths": [1, 1, 1, 0]})]
    )
    def test_layers_that_the_configuration_leaves_out(self, tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "deep", name)
        rewrite_json(folder / "config.json", **changes)
        with pytest.raises(CheckpointError, match=r"unexpected \("):
            load(folder)

    def test_missing_statistics(self, tmp_path: Path) -> None:
        folder = checkpoints.write_checkpoint(tmp_path / "resnet", "resnet")
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        kept = {key: tensor for key, tensor in tensors.items() if not key.endswith("running_mean")}
        safetensors.torch.save_file(kept, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"missing \(.*running_mean"):
            load(folder)

    def test_weights_of_another_width(self, vit: Path) -> None:
        rewrite_json(vit / "config.json", hidden_size=64)
        with pytest.raises(CheckpointError, match=r"of the wrong shape \(.*, …\)"):
            load(vit)

    def test_truncated_weights(self, vit: Path) -> None:
        (vit / "model.safetensors").write_bytes((vit / "model.safetensors").read_bytes()[:5000])
        with pytest.raises(CheckpointError, match="is cut off"):
            load(vit)

    def test_a_pickle_that_wants_code(self, vit: Path) -> None:
        (vit / "model.safetensors").unlink()
        torch.save({"weight": Path("x")}, vit / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="never runs code"):
            load(vit)

    def test_weights_that_are_no_numbers(self, vit: Path) -> None:
        tensors = safetensors.torch.load_file(vit / "model.safetensors")
        tensors["classifier.bias"][1] = torch.inf
        safetensors.torch.save_file(tensors, vit / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"classifier\.bias .* NaN or infinite"):
            load(vit)

    def test_no_weights(self, vit: Path) -> None:
        (vit / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match="has no weights"):
            load(vit)

    def test_quantized_weights(self, vit: Path) -> None:
        rewrite_json(vit / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
        with pytest.raises(CheckpointError, match="quantized"):
            load(vit)

    def test_images_of_another_size_than_the_model_reads(self, vit: Path) -> None:
        rewrite_json(vit / "preprocessor_config.json", size={"height": 48, "width": 48})
        with pytest.raises(CheckpointError, match=r"does not run on the 48x48 images of its image processor"):
            load(vit)

    @pytest.mark.parametrize("changes", [{"hidden_size": "wide"}, {"hidden_act": "no_such"}])
    def test_values_that_transformers_refuses(self, vit: Path, changes: dict[str, Any]) -> None:
        rewrite_json(vit / "config.json", **changes)
        with pytest.raises(CheckpointError, match=r"cannot build ViTForImageClassification from .*config\.json"):
            load(vit)

    def test_transformers_is_not_installed(self, vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(MissingExtraError) as caught:
            load(vit)
        assert caught.value.fix == 'pip install "vitedge[transformers]"'


def test_a_folder_becomes_an_int8_bundle(vit: Path, tmp_path: Path) -> None:
    """With MobileViT's processor: the channels are BGR, and the crop rounds as Transformers' does."""
    settings = {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}}
    transformers.MobileViTImageProcessor(**settings).save_pretrained(vit)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        Image.fromarray(photo(90 + number)).save(images / f"{number}.png")
    bundle = vitedge.convert(vit, target="cpu", precision="int8", calib=images, output=tmp_path / "vit.bundle")
    manifest = bundle.manifest
    assert manifest.precision.effective == "int8"
    assert manifest.model.preprocessing.channel_order == "BGR"
    assert manifest.model.preprocessing.crop_rounding == "floor"
    assert manifest.verification.fp32_against_source is not None
    assert manifest.verification.fp32_against_source.sqnr_db > 80
    assert manifest.tools["transformers"] == transformers.__version__
    frame = photo(120, 151)
    with vitedge.load(bundle) as classifier:
        preprocessor = Preprocessor(manifest.model.preprocessing)
        expected = classifier.infer(preprocessor(frame, order="RGB"))
        prediction = classifier.classify(Image.fromarray(frame))
    assert prediction.label == checkpoints.CLASSES[int(np.argmax(expected))]
