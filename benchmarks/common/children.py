"""Models that are measured one by one, each in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.families import Listed
from vitedge.calib.data.image_folder import ImageFolder


class ChildFailedError(Exception):
    """The process of a model failed; the text is the reason."""


def run_in_child(script: str, model: str, data: Path, images: int, *, seconds: int, options: Sequence[str] = ()) -> Any:
    """Run a script for one model in a process of its own, and parse the JSON that it prints.

    Args:
        script: the file.
        model: argument of ``--child``.
        data: folder with the photos.
        images: number of photos.
        seconds: time limit.
        options: further arguments.

    Raises:
        ChildFailedError: the process took longer, or ended with an error.
    """
    command = [sys.executable, script, "--data", str(data), "--images", str(images), "--child", model, *options]
    try:
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ChildFailedError(f"took more than {seconds} s") from error
    if child.returncode != 0:
        raise ChildFailedError(f"the process ended with {child.returncode}")
    return json.loads(child.stdout.splitlines()[-1])


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of every package."""
    return {name: importlib.metadata.version(name) for name in packages}


def first_line(error: BaseException) -> str:
    """Shorten an error for a table, without the places in OpenVINO's source that its errors begin with."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from ")]
    return (lines or [type(error).__name__])[0].strip()[:300]


def link_photos(source: Path, folder: Path, images: int) -> Path:
    """Fill a folder with links to some of the photos, equally many of each class."""
    for file in ImageFolder.open(source, limit=images).files:
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.name).symlink_to(file.path.resolve())
    return folder


def conversion_arguments(listed: Listed, data: Path, folder: Path) -> dict[str, Any]:
    """Return the arguments of ``vitedge.convert`` for a model.

    Args:
        listed: the model.
        data: folder of the test data.
        folder: folder for a checkpoint with random weights, written once.
    """
    if listed.trained:
        return {"source": data / "models" / listed.name}
    if listed.transformers:
        from common.untrained import write_classifier

        checkpoint = folder / "checkpoint"
        return {"source": checkpoint if checkpoint.is_dir() else write_classifier(listed, checkpoint)}
    options = {"num_classes": listed.num_classes, "input_size": listed.input_size}
    return {"source": listed.name, "random_weights": True, **{key: value for key, value in options.items() if value}}
