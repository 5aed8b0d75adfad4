"""``vitedge models``: timm names to start from."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

EPILOG = """\
examples:
  vitedge models
"""


@dataclass(frozen=True)
class KnownModel:
    """A timm classifier that this version converts.

    Attributes:
        name: timm's architecture name.
        input_size: height and width in pixels.
        parameters: millions.
        gmacs: billions of multiply-accumulates for one image.
    """

    name: str
    input_size: int
    parameters: float
    gmacs: float


MODELS: tuple[KnownModel, ...] = (
    KnownModel("deit_tiny_patch16_224", 224, 5.72, 1.25),
    KnownModel("deit_small_patch16_224", 224, 22.05, 4.60),
    KnownModel("deit_base_patch16_224", 224, 86.57, 17.56),
    KnownModel("vit_tiny_patch16_224", 224, 5.72, 1.25),
    KnownModel("vit_small_patch16_224", 224, 22.05, 4.60),
    KnownModel("vit_base_patch16_224", 224, 86.57, 17.56),
    KnownModel("mobilevit_xxs", 256, 1.27, 0.41),
    KnownModel("mobilevit_xs", 256, 2.32, 1.03),
    KnownModel("mobilevit_s", 256, 5.58, 2.00),
)


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "models", help="timm names to start from", description="List models that convert.", epilog=EPILOG
    )
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    """Print a line per model."""
    sys.stdout.write(f"{'timm name':<24} {'input':>7} {'parameters':>12} {'GMACs':>7}\n")
    for model in MODELS:
        size = f"{model.input_size}x{model.input_size}"
        sys.stdout.write(f"{model.name:<24} {size:>7} {model.parameters:>10.2f} M {model.gmacs:>7.2f}\n")
    sys.stdout.write(
        "\nOther timm classifiers usually convert too; each conversion verifies itself. Fine-tuned checkpoints of any\n"
        "of them convert from their folder, or with --weights.\n"
    )
    return 0
