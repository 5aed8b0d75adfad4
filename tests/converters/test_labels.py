from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitedge.converters.labels import (
    check_label_count,
    configured_labels,
    imagenet_labels,
    numbered_labels,
    read_labels,
)
from vitedge.errors import CheckpointError


def test_a_file_has_one_label_a_line(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("red fox\n  grey   wolf \nÄrmelschoner\n\n", encoding="utf-8")
    assert read_labels(file) == ("red fox", "grey wolf", "Ärmelschoner")


@pytest.mark.parametrize(
    ("content", "problem"), [(b"a\n\nb\n", "line 2"), (b"", "line 1"), (b"\n\n", "line 1"), (b"\xff\xfe", "cannot be")]
)
def test_a_file_that_is_not_a_list_of_labels(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=problem):
        read_labels(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.txt"):
        read_labels(tmp_path / "nowhere.txt")


def test_configuration_with_a_list() -> None:
    assert configured_labels({"label_names": ["tench", "gold\nfish"]}) == ("tench", "gold fish")


def test_configuration_with_an_object_as_json_gives_it() -> None:
    names = json.loads(json.dumps({"label_names": {10: "k", **{index: chr(97 + index) for index in range(10)}}}))
    assert configured_labels(names) == tuple("abcdefghijk")


def test_descriptions_replace_names_that_have_one() -> None:
    config = {"label_names": ["n01440764", "other"], "label_descriptions": {"n01440764": "tench, Tinca tinca"}}
    assert configured_labels(config) == ("tench, Tinca tinca", "other")


@pytest.mark.parametrize("config", [{}, {"label_names": None}, {"label_names": []}])
def test_configuration_without_names(config: dict[str, object]) -> None:
    assert configured_labels(config) is None


@pytest.mark.parametrize("names", ["daisy", [1, 2], {"0": "a", "2": "c"}, {"a": "b"}])
def test_names_that_are_no_list(names: object) -> None:
    with pytest.raises(CheckpointError, match="label_names"):
        configured_labels({"label_names": names})


def test_imagenet_labels_are_short_and_in_order(shared_data: Path) -> None:
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert (labels[0], labels[1], labels[999]) == ("tench", "goldfish", "toilet tissue")
    lines = (shared_data / "imagenet_synset.txt").read_text(encoding="utf-8").splitlines()
    assert labels == tuple(line.split(" ", 1)[1].split(",")[0] for line in lines)


def test_numbered_labels() -> None:
    assert numbered_labels(3) == ("class_0", "class_1", "class_2")


def test_counts_must_match() -> None:
    assert check_label_count(("a", "b"), 2, where="file") == ("a", "b")
    with pytest.raises(CheckpointError, match="file has 2 labels, the network has 3 logits"):
        check_label_count(("a", "b"), 3, where="file")
