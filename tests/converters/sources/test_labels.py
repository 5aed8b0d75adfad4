from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from timm.data import ImageNetInfo

from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.sources.labels import (
    IMAGENET_SUBSETS,
    check_label_count,
    configured_labels,
    identified,
    imagenet_ids,
    imagenet_labels,
    numbered_labels,
    read_labels,
)
from vitedge.errors import CheckpointError
from vitedge.safety.limits import LABEL_CHARACTERS, LABELS, MANIFEST_BYTES, TEXT_BYTES


def test_a_file_has_one_label_a_line(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("red fox\n  grey   wolf \nÄrmelschoner\n\n", encoding="utf-8")
    assert read_labels(file) == ("red fox", "grey wolf", "Ärmelschoner")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a\n\nb\n", "line 2 of .* is empty"),
        (b"\na\nb\n", "line 1 of .* is empty"),
        (b"", "line 1 of .* is empty"),
        (b"\n\n", "line 1 of .* is empty"),
        (b"\xff\xfe", "line 1 of .* is empty"),
        (b"\xff\xfea", "cannot be read"),
        ("gänse\nrose\n".encode("latin-1"), "cannot be read"),
        ("daisy\n\u200b\nrose\n".encode(), "line 2 of .* is empty"),
        ("daisy\n\u200e\u2060\nrose\n".encode(), "line 2 of .* is empty"),
        ("daisy\n\ufeffrose\n".encode(), r"line 2 of .* control character U\+FEFF"),
    ],
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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_declares_the_encoding(tmp_path: Path, encoding: str, end: str) -> None:
    (tmp_path / "labels.txt").write_bytes(end.join(["daisy", "Gänseblümchen", "雛菊", "🌷", ""]).encode(encoding))
    assert read_labels(tmp_path / "labels.txt") == ("daisy", "Gänseblümchen", "雛菊", "🌷")


def test_a_byte_order_mark_of_the_other_byte_order(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(codecs.BOM_UTF16_BE + "daisy\nrose".encode("utf-16-be"))
    assert read_labels(tmp_path / "labels.txt") == ("daisy", "rose")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_characters_without_a_byte_order_mark_are_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "labels.txt").write_bytes("daisy\nrose\n".encode(encoding))
    with pytest.raises(CheckpointError, match="UTF-16 or UTF-32 without a byte order mark"):
        read_labels(tmp_path / "labels.txt")


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


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ("daisy", "label_names of the configuration is 'daisy'"),
        ([1.0, 2.0], "label_names 0 of the configuration is 1.0"),
        (["a", None], "label_names 1 of the configuration is None"),
        (["a", True], "label_names 1 of the configuration is True"),
        ({"0": "a", "1": None}, "label_names 1 of the configuration is None"),
        ({"0": "a", "1": " "}, "label_names 1 of the configuration is empty"),
        ({"0": "a", "1": ""}, "label_names 1 of the configuration is empty"),
        ({"0": "a", "1": "b", "3": "d"}, "has 3 labels, but none for index 2; it names 3 instead"),
        ({"1": "a", "2": "b", "3": "c"}, "has 3 labels, but none for index 0; it names 3 instead"),
        ({"0": "a", "00": "b"}, "has 2 labels, but none for index 1, because an index is written twice"),
        ({"a": "b"}, "has 1 label, but none for index 0; it names a instead"),
        ({"0": "a", "-1": "b"}, "none for index 1; it names -1 instead"),
        ({str(2 * index): "a" for index in range(20)}, "none for index 1, 3, 5, 7 and 6 more; it names 20, 22, 24, 26"),
    ],
)
def test_names_that_are_no_list(names: object, problem: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(problem)):
        configured_labels({"label_names": names})


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ({"3": "d", "1": "b", "0": "a", "2": "c"}, ("a", "b", "c", "d")),
        ({"00": "a", "01": "b"}, ("a", "b")),
        ({"0": 7, "1": 9}, ("7", "9")),
        ([0, 1], ("0", "1")),
        (["crane", "b", "crane"], ("crane", "b", "crane")),
        ({str(index): f"n{index}" for index in sorted(range(12), key=str)}, tuple(f"n{index}" for index in range(12))),
    ],
)
def test_names_by_index(names: object, labels: tuple[str, ...]) -> None:
    assert configured_labels({"id2label": names}, key="id2label") == labels


def test_descriptions_in_a_list() -> None:
    assert configured_labels({"label_names": ["n0", "n1"], "label_descriptions": ["tench", "fish"]}) == (
        "tench",
        "fish",
    )


def card_of(labels: Sequence[str]) -> ModelCard:
    return ModelCard("m", "m", "m", tuple(labels), Preprocessing((8, 8), (8, 8)), "", pretrained=True)


def test_labels_of_several_classes_get_their_index() -> None:
    card = identified(card_of(["crane", "b", "crane", "crane (0)", "d"]))
    assert card.labels == ("crane (0) (0)", "b", "crane (2)", "crane (0)", "d")
    assert card.class_ids == ()
    assert identified(card_of("abc")) == card_of("abc")


def synsets(shared_data: Path) -> list[tuple[str, str]]:
    lines = (shared_data / "imagenet_synset.txt").read_text(encoding="utf-8").splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


@pytest.mark.parametrize("form", ["{names}", "{first}", "{wnid}", "{wnid} {names}", "{under}"])
def test_imagenets_labels_are_recognized_in_their_order(shared_data: Path, form: str) -> None:
    known = synsets(shared_data)
    labels = [
        form.format(wnid=wnid, names=names, first=names.split(",")[0], under=names.split(",")[0].replace(" ", "_"))
        for wnid, names in known
    ]
    labels[10:20] = ["otherwise named"] * 10
    assert imagenet_ids(labels) == tuple(wnid for wnid, _ in known)


def test_other_labels_are_not_imagenets(shared_data: Path) -> None:
    labels = [names for _, names in synsets(shared_data)]
    assert imagenet_ids(sorted(labels)) == ()
    assert imagenet_ids(labels[:-1]) == ()
    assert imagenet_ids(numbered_labels(1000)) == ()
    assert imagenet_ids([*labels[:500], *numbered_labels(500)]) == ()


def test_imagenets_cranes_and_maillots_are_told_apart() -> None:
    card = identified(card_of(imagenet_labels()))
    assert len(set(card.labels)) == 1000
    assert (card.labels[134], card.labels[517]) == ("crane (n02012849)", "crane (n03126707)")
    assert (card.labels[638], card.labels[639]) == ("maillot (n03710637)", "maillot (n03710721)")
    assert (card.labels[0], card.class_ids[0]) == ("tench", "n01440764")


@pytest.mark.parametrize(("subset", "classes"), [(name, count) for count, name in IMAGENET_SUBSETS.items()])
def test_the_larger_imagenets_are_recognized_and_fit_the_manifest(subset: str, classes: int) -> None:
    info = ImageNetInfo(subset)
    card = identified(card_of(info.label_descriptions()))
    assert len(card.class_ids) == classes
    assert card.class_ids == tuple(info.label_names())
    assert len(json.dumps([card.labels, card.class_ids], indent=3)) < 0.9 * MANIFEST_BYTES


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
