"""The names of a classifier's classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitedge.errors import CheckpointError

IMAGENET_CLASSES = 1000


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a text file with one label a line; empty lines at its end are ignored.

    Raises:
        CheckpointError: the file is missing, not UTF-8, empty, or has an empty line among the labels.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"the labels {path} cannot be read: {error}", expected="a UTF-8 text file, one label a line"
        ) from error
    lines = [" ".join(line.split()) for line in text.rstrip().splitlines()]
    if not lines or not all(lines):
        number = lines.index("") + 1 if lines else 1
        raise CheckpointError(f"line {number} of the labels {path} is empty", expected="one label a line")
    return tuple(lines)


def configured_labels(config: Mapping[str, Any], *, key: str = "label_names") -> tuple[str, ...] | None:
    """``label_names`` of a timm configuration, described by its ``label_descriptions``; None if it names none.

    Args:
        config: the configuration.
        key: where it has them, if not under timm's name.

    Raises:
        CheckpointError: they are not a list of strings, nor an object from index to string.
    """
    names = config.get(key)
    if not names:
        return None
    listed = _by_index(names) if isinstance(names, Mapping) else names
    if not isinstance(listed, (list, tuple)) or not all(isinstance(name, str) for name in listed):
        raise CheckpointError(
            f"{key} of the configuration is {names!r:.60}",
            expected="a list of strings, or an object with one string for each index",
        )
    descriptions = config.get("label_descriptions") or {}
    return tuple(" ".join(str(descriptions.get(name, name)).split()) for name in listed)


def _by_index(names: Mapping[Any, Any]) -> list[Any] | None:
    by_text = {str(index): name for index, name in names.items()}
    if set(by_text) != {str(index) for index in range(len(names))}:
        return None
    return [by_text[str(index)] for index in range(len(names))]


def imagenet_labels() -> tuple[str, ...]:
    """Short names of the 1000 ImageNet classes, in order: the first lemma of each synset, from timm."""
    from timm.data import ImageNetInfo

    return tuple(lemmas.split(",")[0] for lemmas in ImageNetInfo("imagenet-1k").label_descriptions())


def numbered_labels(count: int) -> tuple[str, ...]:
    """``class_0`` … for classes without names."""
    return tuple(f"class_{index}" for index in range(count))


def check_label_count(labels: tuple[str, ...], logits: int, *, where: str) -> tuple[str, ...]:
    """The labels, if there is one for each logit.

    Args:
        labels: names of classes, in order.
        logits: outputs of the network.
        where: what gave the labels, for the error.

    Raises:
        CheckpointError: the numbers differ.
    """
    if len(labels) != logits:
        raise CheckpointError(
            f"{where} has {len(labels)} labels, the network has {logits} logits",
            expected="one label for each logit, in their order",
            fix="give the right list: --labels FILE, one label a line",
        )
    return labels


def choose_labels(
    logits: int, *, file: Path | None, configured: tuple[str, ...] | None, where: str, imagenet: bool = False
) -> tuple[str, ...]:
    """Those of a file, else those of a configuration, else ImageNet's where there are 1000, else numbers.

    Args:
        logits: outputs of the network.
        file: ``--labels``.
        configured: labels that the source names.
        where: what names them, for errors.
        imagenet: whether 1000 classes without names are ImageNet's.

    Raises:
        CheckpointError: the file cannot be read, or the number of labels is not that of the logits.
    """
    if file is not None:
        return check_label_count(read_labels(file), logits, where=str(file))
    if configured is not None:
        return check_label_count(configured, logits, where=where)
    return imagenet_labels() if imagenet and logits == IMAGENET_CLASSES else numbered_labels(logits)
