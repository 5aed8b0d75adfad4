"""The models of the matrix, by family. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Listed:
    """A model of the matrix.

    Attributes:
        name: source for ``vitedge.convert``; if ``trained``, the name of a folder in ``models`` of the test data.
        family: heading of its rows.
        trained: whether it is a trained checkpoint of the test data; other models get random weights.
        num_classes: number of classes for backbones without a classifier.
        input_size: in pixels, if devices run another size than the default of the family.
    """

    name: str
    family: str
    trained: bool = False
    num_classes: int | None = None
    input_size: int | None = None


def _family(family: str, *names: str) -> tuple[Listed, ...]:
    return tuple(Listed(name, family) for name in names)


FAMILIES: tuple[Listed, ...] = (
    Listed("vit_flowers", "trained", trained=True),
    Listed("mobilevit_xxs_flowers", "trained", trained=True),
    Listed("deit_tiny_imagenet", "trained", trained=True),
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
    # the largest come last: an interrupt costs the least
    *_family("DeiT", "deit_base_patch16_224"),
    *_family("ViT", "vit_base_patch16_224", "vit_small_patch16_384", "vit_base_patch16_384"),
)
