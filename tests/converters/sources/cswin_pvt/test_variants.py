"""Published sizes: parameter names, counts and multiply-accumulates; ``build``."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch
from networks import fill, images
from torch.utils.flop_counter import FlopCounterMode

from vitedge.converters.sources.cswin_pvt.build import build
from vitedge.converters.sources.cswin_pvt.variants import VARIANTS
from vitedge.errors import UsageError

# Millions of parameters and GMACs ("FLOPs") as the papers and the authors' tables round them.
PAPER = {
    "cswin_tiny_224": (23, 4.3),
    "cswin_small_224": (35, 6.9),
    "cswin_base_224": (78, 15.0),
    "cswin_base_384": (78, 47.0),
    "pvt_tiny": (13.2, 1.9),
    "pvt_small": (24.5, 3.8),
    "pvt_medium": (44.2, 6.7),
    "pvt_large": (61.4, 9.8),
}

# Of the state dicts of the authors' own modules: entries, SHA-256 of the sorted "name shape" lines, parameters.
PUBLISHED = {
    "cswin_tiny_224": (418, "47709c83b54c3f418435ef00fc5add57416c95a8384c4d51ad44feb700ba6b43", 22_320_552),
    "cswin_small_224": (656, "ed38aac39a424ab7620900c190e0a5847b12f01ebd10389a75a869705071074d", 34_643_304),
    "cswin_base_224": (656, "577cd5e30d2083d76afbab7161d774c136ce3cb1f0d646b3c7c8a23f6ad5e271", 77_382_184),
    "cswin_base_384": (656, "577cd5e30d2083d76afbab7161d774c136ce3cb1f0d646b3c7c8a23f6ad5e271", 77_382_184),
    "pvt_tiny": (161, "6c0a80599b0de3da6f9ccd60603722e7781dc4516287eb1328166b49f27f0b3d", 13_229_288),
    "pvt_small": (301, "cdc9ca7437667593b407cb698ded2ee8272c18351c889272a7cf25ec7b0ea77f", 24_485_864),
    "pvt_medium": (517, "f3d3c1eafc324e6167e192326ddff0d96df4b4b766df6fb284375e3d745093f8", 44_208_104),
    "pvt_large": (751, "d83b13af3b638dc005b41a4b1abb182cbca27ff18fd23109d7f98085728882a5", 61_369_320),
}

CSWIN_TINY_SHAPES = {
    "stage1_conv_embed.0.weight": (64, 3, 7, 7),
    "stage1_conv_embed.2.weight": (64,),
    "stage1.0.norm1.weight": (64,),
    "stage1.0.qkv.weight": (192, 64),
    "stage1.0.qkv.bias": (192,),
    "stage1.0.attns.1.get_v.weight": (32, 1, 3, 3),
    "stage2.1.mlp.fc1.weight": (512, 128),
    "merge2.conv.weight": (256, 128, 3, 3),
    "merge2.norm.bias": (256,),
    "stage3.20.attns.0.get_v.bias": (128,),
    "stage4.0.attns.0.get_v.weight": (512, 1, 3, 3),
    "stage4.0.proj.weight": (512, 512),
    "norm.weight": (512,),
    "head.weight": (1000, 512),
}
PVT_TINY_SHAPES = {
    "pos_embed1": (1, 3136, 64),
    "pos_embed3": (1, 196, 320),
    "pos_embed4": (1, 50, 512),
    "cls_token": (1, 1, 512),
    "patch_embed1.proj.weight": (64, 3, 4, 4),
    "patch_embed4.proj.weight": (512, 320, 2, 2),
    "patch_embed2.norm.weight": (128,),
    "block1.0.attn.sr.weight": (64, 64, 8, 8),
    "block1.0.attn.norm.weight": (64,),
    "block1.1.attn.q.weight": (64, 64),
    "block2.1.attn.kv.bias": (256,),
    "block3.0.mlp.fc2.weight": (320, 1280),
    "block4.1.attn.proj.weight": (512, 512),
    "norm.bias": (512,),
    "head.bias": (1000,),
}

# The first logits that the authors' code computes, in float64, for the weights and the image of ``networks``.
AUTHORS_LOGITS = {
    "cswin_tiny_224": [-1.13164, -1.85567, -2.57601, -0.96392, -1.12453, -0.88344],
    "pvt_tiny": [2.21342, 1.60464, -1.63359, -0.7886, -0.02933, 2.48272],
}


def on_meta(name: str) -> torch.nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build(name)


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_the_tables_here_cover_every_variant():
    assert set(PAPER) == set(PUBLISHED) == set(VARIANTS)
    assert all(variant.name == name for name, variant in VARIANTS.items())


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_names_and_shapes_are_the_published_ones(name):
    lines = sorted(f"{parameter} {shape}" for parameter, shape in shapes(on_meta(name)).items())
    entries, sha256, _ = PUBLISHED[name]
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()) == (entries, sha256)


@pytest.mark.parametrize(("name", "expected"), [("cswin_tiny_224", CSWIN_TINY_SHAPES), ("pvt_tiny", PVT_TINY_SHAPES)])
def test_representative_shapes(name, expected):
    actual = shapes(on_meta(name))
    assert {parameter: actual[parameter] for parameter in expected} == expected


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_count_is_the_authors_and_near_the_papers(name):
    count = sum(parameter.numel() for parameter in on_meta(name).parameters())
    assert count == PUBLISHED[name][2]
    assert count / 1e6 == pytest.approx(PAPER[name][0], rel=0.03)


@pytest.mark.parametrize("name", VARIANTS)
def test_multiply_accumulates_are_near_the_papers(name):
    network = on_meta(name)
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, *VARIANTS[name].input_size, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(PAPER[name][1], rel=0.02)


@pytest.mark.parametrize("name", AUTHORS_LOGITS)
def test_logits_are_those_of_the_authors_code(name):
    network = fill(on_meta(name).to_empty(device="cpu"))
    with torch.no_grad():
        logits = network(images(224, 224))[0, :6]
    assert logits.tolist() == pytest.approx(AUTHORS_LOGITS[name], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "resize"), [("cswin_tiny_224", 248), ("cswin_base_384", 384), ("pvt_tiny", 256), ("pvt_large", 256)]
)
def test_preprocessing_is_the_authors_evaluation(name, resize):
    preprocessing = VARIANTS[name].preprocessing()
    assert preprocessing.input_size == VARIANTS[name].input_size
    assert preprocessing.resize_size == (resize, resize)
    assert (preprocessing.resize_mode, preprocessing.interpolation) == ("shortest", "bicubic")
    assert (preprocessing.mean, preprocessing.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert preprocessing.channel_order == "RGB"


def test_build_sets_head_size_and_evaluation_mode():
    network = build("pvt_tiny", num_classes=5, input_size=(64, 96))
    assert (network.num_classes, network.head.out_features, network.input_size) == (5, 5, (64, 96))
    assert network.preprocessing == VARIANTS["pvt_tiny"].preprocessing((64, 96))
    assert not network.training
    with torch.no_grad():
        assert network(images(64, 96, batch=2)).shape == (2, 5)


def test_fresh_weights_are_initialized_as_the_authors_do():
    network = build("pvt_tiny", input_size=(64, 64))
    assert network.head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert network.pos_embed1.std().item() == pytest.approx(0.02, rel=0.05)
    assert network.block1[0].attn.q.bias.abs().max() == 0


def test_unknown_name_suggests_a_known_one():
    with pytest.raises(UsageError, match="there is no model cswin_tiny") as caught:
        build("cswin_tiny")
    assert "cswin_tiny_224" in caught.value.fix


def test_a_head_without_classes_is_refused():
    with pytest.raises(UsageError, match="pvt_tiny was asked for 0 classes"):
        build("pvt_tiny", num_classes=0)


@pytest.mark.parametrize("name", ["cswin_tiny_224", "pvt_tiny"])
def test_images_of_another_size_are_refused(name):
    with pytest.raises(UsageError, match=r"\(1, 3, 448, 448\)") as caught:
        on_meta(name)(torch.empty(1, 3, 448, 448, device="meta"))
    assert caught.value.expected == "(batch, 3, 224, 224)"


def test_the_table_can_be_read_without_torch():
    variants = "vitedge.converters.sources.cswin_pvt.variants"
    code = f"import sys; from {variants} import VARIANTS; assert VARIANTS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
