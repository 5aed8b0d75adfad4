"""Every verb of the command line, on small inputs: for tests of what a whole process does."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import checkpoints
from bundles import COLOURS, colour_frame, make_bundle
from PIL import Image
from tensorrt_bundles import make_tensorrt_bundle

from vitedge.bundle.signing import new_key

CONSOLE = (str(Path(sys.executable).with_name("vitedge")),)
MODULE = (sys.executable, "-m", "vitedge")
PHOTOS = 4


@dataclass(frozen=True)
class Inputs:
    """What the verbs are given.

    Attributes:
        checkpoint: a folder in timm's layout.
        bundle: for CPUs.
        jetson: a bundle for TensorRT, of which nothing is compiled.
        signed: the first bundle again, to be signed.
        key: a private key.
        photos: a folder for each label of the bundles.
    """

    checkpoint: Path
    bundle: Path
    jetson: Path
    signed: Path
    key: Path
    photos: Path


def write_inputs(folder: Path) -> Inputs:
    """Make them, in a folder that is there."""
    for colour in COLOURS:
        (folder / "photos" / colour).mkdir(parents=True)
        for number in range(PHOTOS):
            frame = colour_frame(colour, seed=number, order="RGB")
            Image.fromarray(frame).save(folder / "photos" / colour / f"{number}.png")
    new_key(folder / "fleet.pem")
    return Inputs(
        checkpoint=checkpoints.write_checkpoint(folder / "shapes_vit"),
        bundle=make_bundle(folder / "tiny.bundle").path,
        jetson=make_tensorrt_bundle(folder / "orin.bundle").path,
        signed=make_bundle(folder / "signed.bundle").path,
        key=folder / "fleet.pem",
        photos=folder / "photos",
    )


def arguments(inputs: Inputs) -> dict[str, list[str]]:
    """What follows ``vitedge``, by verb. Outputs go to the current folder."""
    bundle, photos = str(inputs.bundle), str(inputs.photos)
    return {
        "convert": [
            str(inputs.checkpoint), "--target", "cpu", "--precision", "int8", "--calib", photos, "-o", "made.bundle",
        ],
        "build": [str(inputs.jetson)],
        "eval": [bundle, "--data", photos, "--html", "eval.html"],
        "run": [bundle, "--source", photos, "--save", "run.mp4"],
        "bench": [bundle, "--seconds", "0.2", "--html", "bench.html"],
        "inspect": [bundle],
        "sign": [str(inputs.signed), "--key", str(inputs.key)],
        "export": [bundle, "--for", "triton", "-o", "repository"],
        "doctor": [],
        "targets": [],
        "models": [],
        "demo": ["--help"],
        "completion": ["bash"],
    }  # fmt: skip
