"""Labels of a classifier: from a file, from a configuration, or ImageNet's.

White space within a label, including line breaks, becomes one space. A label with another control character is refused.
Labels that several classes share are told apart when the model card is completed (``identified``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitedge.bundle.model_card import ModelCard
from vitedge.counts import counted
from vitedge.errors import CheckpointError
from vitedge.safety.files import read_lines
from vitedge.safety.limits import LABEL_CHARACTERS, LABELS, TEXT_BYTES

IMAGENET_CLASSES = 1000
IMAGENET_SUBSETS: Mapping[int, str] = {
    1000: "imagenet-1k",
    11221: "imagenet-21k-miil",
    11821: "imagenet-12k",
    21841: "imagenet-22k",
    21842: "imagenet-22k-ms",
    21843: "imagenet-21k-goog",
}
"""timm's names of the orders of ImageNet's classes, by their number."""
IMAGENET_SHARE = 0.95
"""Share of the labels that must name ImageNet's class at their index. Published lists differ in a few names."""
NAMES_SHOWN = 4
"""Number of labels or indices that an error or a step lists."""

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a text file with one label a line; ignore empty lines at the end.

    The file is UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Raises:
        CheckpointError: the file is missing, no regular file, in another encoding or empty, or exceeds a limit; or a
            label is empty, too long or has a control character.
    """
    try:
        lines = read_lines(path, limit=TEXT_BYTES, lines=LABELS)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the labels {path} cannot be read: {error}", expected="a UTF-8 text file, one label a line"
        ) from error
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    return tuple(_label(line, f"line {number} of the labels {path}") for number, line in enumerate(lines, 1))


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
    if not any(each.isprintable() and not each.isspace() for each in label):
        raise CheckpointError(
            f"{where} is empty", expected="a name for every class", fix="labels=FILE, one label a line, replaces them"
        )
    return label


def configured_labels(config: Mapping[str, Any], *, key: str = "label_names") -> tuple[str, ...] | None:
    """Return the labels of a configuration; None if it has none.

    They are ``label_names`` of timm, replaced by ``label_descriptions`` if there are any, or ``id2label`` of
    Transformers. A list holds them in the order of the logits, an object by index. A label may be an integer, which
    becomes its digits.

    Args:
        config: the configuration.
        key: key of the labels.

    Raises:
        CheckpointError: the labels are neither a list nor an object from index to string; an index is missing; or a
            label is empty, too long, no text, or has a control character.
    """
    names = config.get(key)
    if not names:
        return None
    listed = _by_index(names, key) if isinstance(names, Mapping) else names
    if not isinstance(listed, (list, tuple)):
        raise CheckpointError(
            f"{key} of the configuration is {names!r:.60}",
            expected="a list of strings, or an object with one string for each index",
        )
    if len(listed) > LABELS:
        raise CheckpointError(
            f"{key} of the configuration has {counted(len(listed), 'label')}", expected=f"at most {LABELS}"
        )
    texts = [_text(name, f"{key} {index} of the configuration") for index, name in enumerate(listed)]
    described = _described(texts, config.get("label_descriptions"))
    return tuple(_label(text, f"{key} {index} of the configuration") for index, text in enumerate(described))


def _text(name: object, where: str) -> str:
    if isinstance(name, str):
        return name
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    raise CheckpointError(
        f"{where} is {name!r:.60}", expected="a string", fix="labels=FILE, one label a line, replaces them"
    )


def _described(names: Sequence[str], descriptions: object) -> list[str]:
    if not descriptions:
        return list(names)
    if isinstance(descriptions, (list, tuple)) and len(descriptions) == len(names):
        descriptions = dict(zip(names, descriptions, strict=True))
    if not isinstance(descriptions, Mapping) or not all(isinstance(each, str) for each in descriptions.values()):
        raise CheckpointError(
            f"label_descriptions of the configuration is {descriptions!r:.60}",
            expected="an object from labels to strings",
        )
    return [descriptions.get(name, name) for name in names]


def _by_index(names: Mapping[Any, Any], key: str) -> list[Any]:
    """Return the values in the order of their keys, which are the indices from 0."""
    by_index = {index: name for text, name in names.items() if (index := _index(text)) is not None}
    missing = [index for index in range(len(names)) if index not in by_index]
    if not missing:
        return [by_index[index] for index in range(len(names))]
    beyond = [str(text) for text in names if (index := _index(text)) is None or index >= len(names)]
    raise CheckpointError(
        f"{key} of the configuration has {counted(len(names), 'label')}, but none for index {_some(missing)}"
        + (f"; it names {_some(beyond)} instead" if beyond else ", because an index is written twice"),
        expected=f"one label for each logit, from 0 to {len(names) - 1}",
        fix="labels=FILE, one label a line, replaces them",
    )


def _index(text: object) -> int | None:
    """Return an index as Transformers reads it; None for anything else."""
    digits = str(text)
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else None


def _some(values: Sequence[object]) -> str:
    rest = f" and {len(values) - NAMES_SHOWN} more" if len(values) > NAMES_SHOWN else ""
    return f"{', '.join(f'{value!s:.60}' for value in values[:NAMES_SHOWN])}{rest}"


def identified(card: ModelCard) -> ModelCard:
    """Complete a card: ``class_ids`` where the labels are ImageNet's, and labels that differ from each other.

    A label that several classes have gets the class's ID in parentheses, else its index: ``crane (n02012849)`` and
    ``crane (n03126707)``, ``bolt (3)`` and ``bolt (7)``.
    """
    class_ids = imagenet_ids(card.labels)
    return replace(card, labels=_distinct(card.labels, class_ids), class_ids=class_ids)


def _distinct(labels: tuple[str, ...], class_ids: tuple[str, ...]) -> tuple[str, ...]:
    counted, taken = Counter(labels), set(labels)
    if len(counted) == len(labels):
        return labels
    found = []
    for index, label in enumerate(labels):
        name = label
        while counted[label] > 1 and name in taken:
            name = f"{name} ({class_ids[index] if class_ids else index})"
        taken.add(name)
        found.append(name)
    return tuple(found)


def imagenet_ids(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the WordNet ID of each class, such as ``n01440764``; empty unless the labels are ImageNet's in its order.

    They are if 95 % of them name ImageNet's class at their index: by all its names, by the first of them, by its
    ID, or by ID and names.
    """
    subset = IMAGENET_SUBSETS.get(len(labels))
    if subset is None:
        return ()
    from timm.data import ImageNetInfo

    info = ImageNetInfo(subset)
    ids = tuple(info.label_names())
    same = sum(map(_names_class, labels, ids, info.label_descriptions()))
    return ids if same >= IMAGENET_SHARE * len(labels) else ()


def _names_class(label: str, class_id: str, names: str) -> bool:
    first = names.split(",")[0]
    known = (class_id, names, first, f"{class_id} {names}", f"{class_id} {first}")
    return _plain(label) in map(_plain, known)


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("_", " ").split())


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
            f"{where} has {counted(len(labels), 'label')}, the network has {counted(logits, 'logit')}",
            expected="one label for each logit, in their order",
            fix="give the right list: labels=FILE, one label a line",
        )
    return labels


def choose_labels(
    logits: int, *, file: Path | None, configured: tuple[str, ...] | None, where: str, imagenet: bool = False
) -> tuple[str, ...]:
    """Choose the labels of a file, else of the configuration, else ImageNet's for 1000 classes, else numbers.

    One logit has two labels, its two answers: two names stand for a low and a high logit; one name ``x`` stands for a
    high logit, and ``not x`` for a low one.

    Args:
        logits: number of logits.
        file: file of labels; None if the user gave none.
        configured: labels of the source's configuration; None if it has none.
        where: origin of the configured labels, for errors.
        imagenet: whether 1000 classes without labels are ImageNet's.

    Raises:
        CheckpointError: the file cannot be read, or the number of labels differs from the number of logits.
    """
    if logits == 1:
        return _two_answers(configured or numbered_labels(1) if file is None else read_labels(file))
    if file is not None:
        return check_label_count(read_labels(file), logits, where=str(file))
    if configured is not None:
        return check_label_count(configured, logits, where=where)
    return imagenet_labels() if imagenet and logits == IMAGENET_CLASSES else numbered_labels(logits)


def _two_answers(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) > 2:
        raise CheckpointError(
            f"there are {counted(len(names), 'label')}, and the network has one logit",
            expected="two labels, for a low and a high logit; or one, for a high logit",
            fix="labels=FILE, one label a line",
        )
    return names if len(names) == 2 else (f"not {names[0]}", names[0])
