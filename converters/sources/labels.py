"""Labels of a classifier: from a file, from a configuration, or ImageNet's.

White space within a label, including line breaks, becomes one space. A label with another control character is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitedge.errors import CheckpointError
from vitedge.safety.files import read_lines
from vitedge.safety.limits import LABEL_CHARACTERS, LABELS, TEXT_BYTES

IMAGENET_CLASSES = 1000

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a text file with one label a line; ignore empty lines at the end.

    Raises:
        CheckpointError: the file is missing, no regular file, not UTF-8 or empty, or exceeds a limit; or a label is
            empty, too long or has a control character.
    """
    try:
        lines = read_lines(path, limit=TEXT_BYTES, lines=LABELS)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the labels {path} cannot be read: {error}", expected="a UTF-8 text file, one label a line"
        ) from error
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    labels = tuple(_label(line, f"line {number} of the labels {path}") for number, line in enumerate(lines, 1))
    if not all(labels):
        raise CheckpointError(f"line {labels.index('') + 1} of the labels {path} is empty", expected="one label a line")
    return labels


def _label(text: str, where: str) -> str:
    label = " ".join(text.split())
    if len(label) > LABEL_CHARACTERS:
        raise CheckpointError(f"{where} has {len(label)} characters", expected=f"a label of at most {LABEL_CHARACTERS}")
    control = _CONTROLS.search(label)
    if control is not None:
        raise CheckpointError(
            f"{where} has the control character U+{ord(control[0]):04X}",
            expected="a label that can be printed",
            fix="remove the character; labels=FILE replaces a checkpoint's labels",
        )
    return label


def configured_labels(config: Mapping[str, Any], *, key: str = "label_names") -> tuple[str, ...] | None:
    """Return the labels of a configuration; None if it has none.

    They are ``label_names`` of timm, replaced by ``label_descriptions`` if there are any, or ``id2label`` of
    Transformers.

    Args:
        config: the configuration.
        key: key of the labels.

    Raises:
        CheckpointError: the labels are neither a list of strings nor an object from index to string, or a label is too
            long or has a control character.
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
    if len(listed) > LABELS:
        raise CheckpointError(f"{key} of the configuration has {len(listed)} labels", expected=f"at most {LABELS}")
    described = _described(listed, config.get("label_descriptions"))
    return tuple(_label(text, f"{key} {index} of the configuration") for index, text in enumerate(described))


def _described(names: Sequence[str], descriptions: object) -> list[str]:
    if not descriptions:
        return list(names)
    if not isinstance(descriptions, Mapping) or not all(isinstance(each, str) for each in descriptions.values()):
        raise CheckpointError(
            f"label_descriptions of the configuration is {descriptions!r:.60}",
            expected="an object from labels to strings",
        )
    return [descriptions.get(name, name) for name in names]


def _by_index(names: Mapping[Any, Any]) -> list[Any] | None:
    by_text = {str(index): name for index, name in names.items()}
    if set(by_text) != {str(index) for index in range(len(names))}:
        return None
    return [by_text[str(index)] for index in range(len(names))]


def imagenet_labels() -> tuple[str, ...]:
    """Return short names of the 1000 ImageNet classes, in order: the first lemma of each synset, from timm."""
    from timm.data import ImageNetInfo

    return tuple(lemmas.split(",")[0] for lemmas in ImageNetInfo("imagenet-1k").label_descriptions())


def numbered_labels(count: int) -> tuple[str, ...]:
    """Return ``class_0``, ``class_1``, … for classes without names."""
    return tuple(f"class_{index}" for index in range(count))


def check_label_count(labels: tuple[str, ...], logits: int, *, where: str) -> tuple[str, ...]:
    """Return the labels if there is one for each logit.

    Args:
        labels: labels in order.
        logits: number of logits.
        where: origin of the labels, for the error.

    Raises:
        CheckpointError: the numbers differ.
    """
    if len(labels) != logits:
        raise CheckpointError(
            f"{where} has {len(labels)} labels, the network has {logits} logits",
            expected="one label for each logit, in their order",
            fix="give the right list: labels=FILE, one label a line",
        )
    return labels


def choose_labels(
    logits: int, *, file: Path | None, configured: tuple[str, ...] | None, where: str, imagenet: bool = False
) -> tuple[str, ...]:
    """Choose the labels of a file, else of the configuration, else ImageNet's for 1000 classes, else numbers.

    Args:
        logits: number of logits.
        file: file of labels; None if the user gave none.
        configured: labels of the source's configuration; None if it has none.
        where: origin of the configured labels, for errors.
        imagenet: whether 1000 classes without labels are ImageNet's.

    Raises:
        CheckpointError: the file cannot be read, or the number of labels differs from the number of logits.
    """
    if file is not None:
        return check_label_count(read_labels(file), logits, where=str(file))
    if configured is not None:
        return check_label_count(configured, logits, where=where)
    return imagenet_labels() if imagenet and logits == IMAGENET_CLASSES else numbered_labels(logits)
