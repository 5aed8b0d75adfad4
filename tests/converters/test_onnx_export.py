from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import onnx
import pytest
import timm
import torch
from torch import nn

from vitedge.converters.onnx_export import export
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import ConversionError


def test_one_static_image_in_and_logits_out(small_export: onnx.ModelProto) -> None:
    (pixels,), (logits,) = small_export.graph.input, small_export.graph.output
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [dim.dim_value for dim in pixels.type.tensor_type.shape.dim] == [1, 3, 32, 32]
    assert logits.name == "logits"
    assert [dim.dim_value for dim in logits.type.tensor_type.shape.dim] == [1, 5]


def test_norms_and_activations_stay_whole(small_export: onnx.ModelProto) -> None:
    kinds = Counter(node.op_type for node in small_export.graph.node)
    assert (kinds["LayerNormalization"], kinds["Gelu"], kinds["Softmax"], kinds["Conv"]) == (5, 2, 2, 1)
    assert not {"Pow", "Erf", "Sqrt", "ReduceMean"} & set(kinds)


def test_the_module_is_not_changed(small_model: TorchModel) -> None:
    before = {key: tensor.clone() for key, tensor in small_model.module.state_dict().items()}
    export(small_model.module, (32, 32))
    after = small_model.module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not small_model.module.training


def test_it_is_silent(small_model: TorchModel, capfd: pytest.CaptureFixture[str]) -> None:
    export(small_model.module, (32, 32))
    assert capfd.readouterr() == ("", "")


def test_a_size_that_the_model_does_not_take(small_model: TorchModel) -> None:
    with pytest.raises(ConversionError, match="cannot be exported") as caught:
        export(small_model.module, (48, 48))
    assert "48x48" in caught.value.expected


def test_a_model_that_no_graph_can_hold() -> None:
    class Branches(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.flatten(1)[:, :2] if pixels.sum() > 0 else pixels.flatten(1)[:, :3]

    with pytest.raises(ConversionError, match="cannot be exported"):
        export(Branches(), (8, 8))


@pytest.mark.parametrize("outputs", [lambda maps: (maps.mean((2, 3)), maps.amax((2, 3))), lambda maps: maps])
def test_outputs_that_are_no_logits(outputs: Callable[[torch.Tensor], object]) -> None:
    class Model(nn.Module):
        def forward(self, pixels: torch.Tensor) -> object:
            return outputs(torch.relu(pixels))

    with pytest.raises(ConversionError, match=r"outputs?, of shape") as caught:
        export(Model(), (8, 8))
    assert "one output" in caught.value.expected


def test_layers_are_named_after_their_modules() -> None:
    network = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2, img_size=32, num_classes=3)
    names = [node.name for node in export(network.eval(), (32, 32)).graph.node]
    assert len(set(names)) == len(names)
    layers = (
        "patch_embed.proj",
        *(f"blocks.0.{each}" for each in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
        "head",
    )
    assert set(layers) <= set(names)
    assert "blocks.0.attn.scaled_dot_product_attention" in names


def test_a_module_that_runs_twice_names_its_operators_apart() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.inner(self.inner(pixels.mean(dim=(2,)).flatten(1)[:, :4]))

    names = [node.name for node in export(Twice().eval(), (8, 8)).graph.node]
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith("inner")] == ["inner.linear", "inner.linear_1"]


def test_what_does_not_depend_on_the_image_is_computed_once() -> None:
    class Position(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((1, 2)) + torch.arange(8.0).sin()

    graph = export(Position(), (8, 8)).graph
    assert {node.op_type for node in graph.node} == {"ReduceMean", "Add"}
    assert len(graph.initializer) == 2
