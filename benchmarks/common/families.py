"""The models of the matrix, by family. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Listed:
    """A model of the matrix.

    Attributes:
        name: source for ``vitedge.convert``; if ``trained``, the name of a folder in ``models`` of the test data; if
            ``transformers``, a ``model_type``.
        family: heading of its rows.
        trained: whether it is a trained checkpoint of the test data; other models get random weights.
        num_classes: number of classes for backbones without a classifier.
        input_size: in pixels, if devices run another size than the default of the family.
        transformers: whether it is a folder in Transformers' layout, written with random weights.
        options: of the configuration, where devices run another size than its default.
    """

    name: str
    family: str
    trained: bool = False
    num_classes: int | None = None
    input_size: int | None = None
    transformers: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


VIT_SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
EFFICIENTNET_B0 = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 224}


def _transformers(model_type: str, options: Mapping[str, Any] | None = None, *, input_size: int = 224) -> Listed:
    return Listed(
        model_type, "Transformers, by model_type", input_size=input_size, transformers=True, options=options or {}
    )


def _family(family: str, *names: str) -> tuple[Listed, ...]:
    return tuple(Listed(name, family) for name in names)


FAMILIES: tuple[Listed, ...] = (
    Listed("vit_flowers", "trained", trained=True),
    Listed("mobilevit_xxs_flowers", "trained", trained=True),
    Listed("deit_tiny_imagenet", "trained", trained=True),
    Listed("efficientvit_b0_flowers", "trained", trained=True),
    Listed("swin_flowers", "trained", trained=True),
    Listed("mobilevitv2_050_flowers", "trained", trained=True),
    *_family("ViT", "vit_tiny_patch16_224", "vit_small_patch16_224", "vit_small_patch32_224", "vit_base_patch32_224"),
    *_family("DeiT", "deit_tiny_patch16_224", "deit_small_patch16_224"),
    *_family("DeiT distilled", "deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224"),
    *_family("DeiT-III", "deit3_small_patch16_224"),
    *_family("Swin", "swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224"),
    *_family("SwinV2", "swinv2_tiny_window8_256"),
    *_family("PVT v2", "pvt_v2_b0", "pvt_v2_b1", "pvt_v2_b2"),
    *_family("PVT v1", "pvt_tiny"),
    *_family("Twins", "twins_svt_small", "twins_pcpvt_small"),
    *_family("TNT", "tnt_s_patch16_224"),
    *_family("CrossViT", "crossvit_9_240", "crossvit_15_240"),
    *_family("CSWin", "cswin_tiny_224", "cswin_small_224"),
    *_family("ViT with a ResNet stem", "vit_small_r26_s32_224"),
    *_family("LeViT", "levit_128s", "levit_128"),
    *_family("CoaT-Lite", "coat_lite_tiny"),
    *_family("Visformer", "visformer_tiny"),
    *_family("MobileViT", "mobilevit_xxs", "mobilevit_xs", "mobilevit_s"),
    *_family("MobileViT v2", "mobilevitv2_050", "mobilevitv2_075", "mobilevitv2_100"),
    *_family("EdgeNeXt", "edgenext_xx_small", "edgenext_small"),
    *_family("EfficientFormer", "efficientformer_l1"),
    *_family("EfficientFormer v2", "efficientformerv2_s0"),
    *_family("EfficientViT (MIT)", "efficientvit_b0", "efficientvit_b1"),
    *_family("EfficientViT (MSRA)", "efficientvit_m0", "efficientvit_m1", "efficientvit_m2"),
    *_family("FastViT", "fastvit_t8", "fastvit_sa12"),
    Listed("tiny_vit_5m_224", "TinyViT", num_classes=1000),
    *_family("RepViT", "repvit_m0_9"),
    *_family("SHViT", "shvit_s1"),
    Listed("vit_small_patch14_dinov2", "DINOv2", num_classes=1000, input_size=224),
    Listed("vit_small_patch16_dinov3", "DINOv3", num_classes=1000),
    Listed("vit_base_patch32_clip_224", "CLIP image tower", num_classes=1000),
    *_family("CNN baselines", "resnet18", "resnet50", "mobilenetv3_large_100", "mobilenetv4_conv_small"),
    *_family("CNN baselines", "efficientnet_b0"),
    _transformers("beit", VIT_SMALL),
    _transformers("bit"),
    _transformers("clip", {"vision_config": VIT_SMALL}),
    _transformers("convnext"),
    _transformers("convnextv2"),
    _transformers("cvt"),
    _transformers("data2vec-vision", VIT_SMALL),
    _transformers("deit", VIT_SMALL),
    _transformers("dinov2", {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14}),
    _transformers("dinov2_with_registers", {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14}),
    _transformers("donut-swin"),
    _transformers("efficientnet", EFFICIENTNET_B0),
    _transformers("focalnet"),
    _transformers("hgnet_v2"),
    _transformers("hiera", {"image_size": (224, 224)}),
    _transformers("ijepa", VIT_SMALL),
    _transformers("levit"),
    _transformers("metaclip_2", {"vision_config": VIT_SMALL}),
    _transformers("mobilenet_v1"),
    _transformers("mobilenet_v2"),
    _transformers("mobilevit", input_size=256),
    _transformers("mobilevitv2", input_size=256),
    _transformers("poolformer"),
    _transformers("pp_lcnet"),
    _transformers("pvt"),
    _transformers("pvt_v2"),
    _transformers("regnet"),
    _transformers("resnet"),
    _transformers("segformer"),
    _transformers("siglip", {"vision_config": VIT_SMALL}),
    _transformers("swiftformer"),
    _transformers("swin"),
    _transformers("swinv2"),
    _transformers("textnet"),
    _transformers("timm_wrapper", {"architecture": "resnet50"}),
    _transformers("vit", VIT_SMALL),
    _transformers("vit_msn", VIT_SMALL),
    # the largest come last: an interrupt costs the least
    *_family("DeiT", "deit_base_patch16_224"),
    *_family("ViT", "vit_base_patch16_224", "vit_small_patch16_384", "vit_base_patch16_384"),
)
