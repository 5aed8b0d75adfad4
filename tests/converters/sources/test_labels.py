from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vitedge.converters.sources.labels import (
    check_label_count,
    configured_labels,
    imagenet_labels,
    numbered_labels,
    read_labels,
)
from vitedge.errors import CheckpointError
from vitedge.safety.limits import LABEL_CHARACTERS, LABELS, TEXT_BYTES


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


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("\ufeffa\nb", ("a", "b")),
        ("a\rb\r\nc", ("a", "b", "c")),
        ("a\x0bb\nc\x1cd\ne\u2028f\ng\x85h\ni\tj", ("a b", "c d", "e f", "g h", "i j")),
        ("a\na\n \n\t\n", ("a", "a")),
        ("\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645\n\U0001f469\u200d\U0001f33e", None),
    ],
    ids=["byte order mark", "line breaks", "separators that break no line", "blank end", "joiners"],
)
def test_only_line_breaks_separate_labels(tmp_path: Path, content: str, labels: tuple[str, ...] | None) -> None:
    (tmp_path / "labels.txt").write_bytes(content.encode())
    assert read_labels(tmp_path / "labels.txt") == (labels or tuple(content.split("\n")))


@pytest.mark.parametrize("character", ["\0", "\x07", "\x08", "\x1b", "\x7f", "\x80", "\x9b"])
def test_control_characters_are_refused(tmp_path: Path, character: str) -> None:
    (tmp_path / "labels.txt").write_bytes(f"tench\nred{character}fox\n".encode())
    with pytest.raises(CheckpointError, match=rf"line 2 of .* control character U\+00{ord(character):02X}"):
        read_labels(tmp_path / "labels.txt")
    with pytest.raises(CheckpointError, match=rf"label_names 1 .* control character U\+00{ord(character):02X}"):
        configured_labels({"label_names": ["tench", f"red{character}fox"]})


def test_half_of_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"control character U\+D800"):
        configured_labels({"label_names": ["\ud800"]})
    (tmp_path / "labels.txt").write_bytes(b"\xed\xa0\x80\n")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_labels(tmp_path / "labels.txt")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "folder", "sparse", "bytes", "lines", "characters"])
def test_labels_have_bounds(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "labels.txt"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 100 << 30)
    elif kind == "bytes":
        path.write_bytes(b"a" * (TEXT_BYTES + 1))
    elif kind == "lines":
        path.write_bytes(b"a\n" * (LABELS + 1))
    elif kind == "characters":
        path.write_bytes(b"a\n" + b"b" * (LABEL_CHARACTERS + 1))
    else:
        path.symlink_to(kind)
    with pytest.raises(CheckpointError, match=r"cannot be read: it (is|has)|line 2 of .* has 1001 characters"):
        read_labels(path)


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
