"""Train the checkpoint of the demo: ``python -m vitedge.demo.train -o FOLDER``, with the ``demo`` extra; takes minutes.

Every epoch renders each training digit anew, in a random scene. The checkpoint holds the exponential moving average of
the weights, in float16, in timm's hub layout. The seed fixes data, initialization and order; floating-point sums differ
between processors, so another machine gets close to the committed weights, not the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from timm.utils import ModelEmaV3

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.demo import photos
from vitedge.demo.digits import LABELS, Digits, load_split
from vitedge.demo.scenes import random_scene, render
from vitedge.progress import Progress, Terminal

ARCHITECTURE = "vit_tiny_patch16_224"
SIDE = 48
MODEL_ARGS = {"img_size": SIDE, "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3}
MEAN = STD = (0.5, 0.5, 0.5)
RENDER_HEIGHT = 64
HELD_OUT_SEEDS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the training.

    Attributes:
        epochs: passes over the training digits.
        batch: images a step.
        learning_rate: AdamW's, after a linear warm-up over the first tenth of the steps; then it falls as a cosine.
        weight_decay: AdamW's.
        smoothing: label smoothing.
        ema_decay: of the averaged weights.
        widening: share of the epochs over which scenes widen from plain to random; from the start, nothing is learned.
        seed: of everything random.
    """

    epochs: int = 300
    batch: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    smoothing: float = 0.05
    ema_decay: float = 0.998
    widening: float = 0.3
    seed: int = 0


def network_input(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Apply timm's evaluation transform up to the pixels: ``H×W×3`` BGR to ``48×48×3`` RGB."""
    geometry = Preprocessing(input_size=(SIDE, SIDE), resize_size=(SIDE, SIDE)).geometry(*frame.shape[:2])
    height, width = geometry.resized
    resized = Image.fromarray(frame[..., ::-1]).resize((width, height), Image.Resampling.BICUBIC)
    top, left = geometry.offset
    return np.array(resized.crop((left, top, left + SIDE, top + SIDE)))


def rendered(digits: Digits, random: np.random.Generator, *, height: int, spread: float = 1.0) -> NDArray[np.uint8]:
    """Render each digit in a random scene as network input: ``N×48×48×3`` RGB."""
    scenes = (random_scene(random, spread=spread) for _ in range(len(digits)))
    frames = (
        render(scan, scene, height=height, random=random) for scan, scene in zip(digits.scans, scenes, strict=True)
    )
    return np.stack([network_input(frame) for frame in frames])


def normalized(images: NDArray[np.uint8]) -> torch.Tensor:
    """Normalize ``N×H×W×3`` uint8 to the ``N×3×H×W`` float32 of the training."""
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
    return (scaled - MEAN[0]) / STD[0]


def train(training: Digits, recipe: Recipe, progress: Progress) -> torch.nn.Module:
    """Train, and return the averaged network after all epochs."""
    torch.manual_seed(recipe.seed)
    random = np.random.default_rng(recipe.seed)
    steps = -(-len(training) // recipe.batch)
    trainee = _Trainee(recipe, total_steps=recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        batches = progress.track(_batches(training, recipe, epoch, random), total=steps, unit="steps")
        loss = np.mean([trainee.step(batch) for batch in batches])
        progress.step(f"epoch {epoch + 1} of {recipe.epochs}: loss {loss:.3f}")
    averaged: torch.nn.Module = trainee.average.module
    return averaged.eval()


class _Trainee:
    """A network, the average of its weights, and its optimizer."""

    def __init__(self, recipe: Recipe, *, total_steps: int) -> None:
        self.network = timm.create_model(ARCHITECTURE, num_classes=len(LABELS), drop_path_rate=0.05, **MODEL_ARGS)
        self.average = ModelEmaV3(self.network, decay=recipe.ema_decay, use_warmup=True)
        self._loss = torch.nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            max_lr=recipe.learning_rate,
            total_steps=total_steps,
            pct_start=0.1,
            cycle_momentum=False,
        )

    def step(self, batch: _Batch) -> float:
        """Learn from a batch, and return its loss."""
        loss = self._loss(self.network(normalized(batch.images)), torch.from_numpy(batch.labels))
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        self.average.update(self.network)
        return float(loss.item())


@dataclass(frozen=True)
class _Batch:
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def _batches(training: Digits, recipe: Recipe, epoch: int, random: np.random.Generator) -> Iterator[_Batch]:
    spread = min(1.0, epoch / (recipe.widening * recipe.epochs))
    order = random.permutation(len(training))
    for start in range(0, len(order), recipe.batch):
        digits = training.take(order[start : start + recipe.batch])
        yield _Batch(images=rendered(digits, random, height=RENDER_HEIGHT, spread=spread), labels=digits.labels)


def top1(network: torch.nn.Module, held_out: Digits) -> float:
    """Measure the top-1 accuracy on held-out digits in percent: the mean over scenes drawn by ``HELD_OUT_SEEDS``."""
    right = []
    for seed in HELD_OUT_SEEDS:
        images = rendered(held_out, np.random.default_rng(seed), height=photos.HEIGHT, spread=photos.SPREAD)
        with torch.inference_mode():
            right.append(network(normalized(images)).argmax(dim=1).numpy() == held_out.labels)
    return 100.0 * float(np.mean(right))


def save(network: torch.nn.Module, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` (float16), as ``timm.create_model("local-dir:…")`` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: tensor.detach().half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config(), indent=1) + "\n", encoding="utf-8")


def config() -> dict[str, Any]:
    """Return the ``config.json`` that timm reads."""
    return {
        "architecture": ARCHITECTURE,
        "num_classes": len(LABELS),
        "num_features": MODEL_ARGS["embed_dim"],
        "label_names": list(LABELS),
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "input_size": [3, SIDE, SIDE],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(MEAN),
            "std": list(STD),
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "num_classes": len(LABELS),
        },
    }


def main() -> None:
    """Train, save, and print the held-out accuracy of the saved checkpoint."""
    parser = argparse.ArgumentParser(description="Train the demo's digits ViT.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    arguments = parser.parse_args()
    split = load_split()
    save(train(split.training, Recipe(epochs=arguments.epochs), Terminal()), arguments.output)
    saved = timm.create_model(f"local-dir:{arguments.output}", pretrained=True).eval()
    sys.stdout.write(f"{arguments.output}: held-out top-1 {top1(saved, split.held_out):.2f} %\n")


if __name__ == "__main__":
    main()
