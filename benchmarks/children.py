"""What the matrices share: models measured one by one in processes of their own, and what they are converted from."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from families import Listed

from vitedge.calib.data.image_folder import ImageFolder


class ChildFailedError(Exception):
    """A model of which nothing came; its text is the reason."""


def answer_of_child(script: str, model: str, data: Path, images: int, *, seconds: int) -> Any:
    """What a script prints as JSON of one model, run in a process that takes nothing down with it.

    Args:
        script: the file.
        model: what it is called with behind ``--child``.
        data: with the photos.
        images: how many.
        seconds: after which it is ended.

    Raises:
        ChildFailedError: it took longer, or ended with an error.
    """
    command = [sys.executable, script, "--data", str(data), "--images", str(images), "--child", model]
    try:
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ChildFailedError(f"took more than {seconds} s") from error
    if child.returncode != 0:
        raise ChildFailedError(f"the process ended with {child.returncode}")
    return json.loads(child.stdout.splitlines()[-1])


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of every package that takes part."""
    return {name: importlib.metadata.version(name) for name in packages}


def first_line(error: BaseException) -> str:
    """What a table can show of an error."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def linked(source: Path, folder: Path, images: int) -> Path:
    """A folder of links to some of the photos, as many of each class."""
    for file in ImageFolder.open(source, limit=images).files:
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.name).symlink_to(file.path.resolve())
    return folder


def request(listed: Listed, data: Path) -> dict[str, Any]:
    """Source and options of the conversion."""
    if listed.trained:
        return {"source": data / "models" / listed.name}
    options = {"num_classes": listed.num_classes, "input_size": listed.input_size}
    return {"source": listed.name, "random_weights": True, **{key: value for key, value in options.items() if value}}
