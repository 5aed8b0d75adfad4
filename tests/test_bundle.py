"""Bundles on disk: what is intact opens, and nothing else does."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitedge.bundle import GOLDEN, LABELS, MANIFEST, MODEL_ONNX, OPENVINO_BIN, OPENVINO_XML, Bundle, sha256_of
from vitedge.errors import BundleError, BundleIntegrityError, BundleSchemaError

FILES = (MODEL_ONNX, OPENVINO_XML, OPENVINO_BIN, LABELS, GOLDEN)


@pytest.fixture
def copied(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """The tiny bundle, to be spoiled."""
    folder = tmp_path / "copy.bundle"
    shutil.copytree(tiny_bundle.path, folder)
    return folder


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / MANIFEST
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def accept_as_it_is(folder: Path, name: str) -> None:
    """Make the manifest agree with a spoiled file."""
    record = {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
    edit_manifest(folder, lambda document: document["files"].update({name: record}))


def test_an_intact_bundle_opens_and_gives_its_files(tiny_bundle: Bundle) -> None:
    bundle = Bundle.open(str(tiny_bundle.path))
    assert bundle == tiny_bundle
    assert set(bundle.manifest.files) == set(FILES)
    assert bundle.file(MODEL_ONNX).is_file()
    assert bundle.size_bytes == sum((bundle.path / name).stat().st_size for name in FILES)


def test_golden_vectors_have_the_shapes_that_the_docstring_gives(tiny_bundle: Bundle) -> None:
    golden = tiny_bundle.golden()
    assert (golden.frames.shape, golden.frames.dtype) == ((3, 32, 32, 3), np.uint8)
    assert (golden.logits.shape, golden.logits.dtype) == ((3, 3), np.float32)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(BundleIntegrityError, match="is missing") as caught:
        Bundle.open(copied)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named_with_both_sizes(copied: Path, name: str) -> None:
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[:-1])
    with pytest.raises(BundleIntegrityError, match=f"has {len(content) - 1} bytes") as caught:
        Bundle.open(copied)
    assert name in str(caught.value)
    assert caught.value.expected == f"{len(content)} bytes"


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(BundleIntegrityError, match="was altered") as caught:
        Bundle.open(copied)
    assert name in str(caught.value)


def test_a_folder_in_the_place_of_a_file_is_missing_that_file(copied: Path) -> None:
    (copied / LABELS).unlink()
    (copied / LABELS).mkdir()
    with pytest.raises(BundleIntegrityError, match="is missing"):
        Bundle.open(copied)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt",
        "openvino/../../secret.txt",
        "/etc/hostname",
        "..",
        "..\\secret.txt",
        "C:\\secret.txt",
        "C:x",
        "\\x",
    ],
)
def test_a_path_that_leaves_the_bundle_is_refused_even_with_its_true_hash(copied: Path, name: str) -> None:
    outside = copied.parent / "secret.txt"
    outside.write_text("secret", encoding="utf-8")
    record = {"sha256": sha256_of(outside), "bytes": outside.stat().st_size}
    edit_manifest(copied, lambda document: document["files"].update({name: record}))
    with pytest.raises(BundleIntegrityError, match="lists") as caught:
        Bundle.open(copied)
    assert caught.value.expected == "paths inside the bundle"


@pytest.mark.parametrize("name", ["", ".", "openvino"])
def test_a_listed_folder_is_not_a_file(copied: Path, name: str) -> None:
    record = {"sha256": "0" * 64, "bytes": 0}
    edit_manifest(copied, lambda document: document["files"].update({name: record}))
    with pytest.raises(BundleIntegrityError, match="is missing"):
        Bundle.open(copied)


def test_a_bundle_from_a_newer_vitedge_says_upgrade(copied: Path) -> None:
    edit_manifest(copied, lambda document: document.update(schema_version=3))
    with pytest.raises(BundleSchemaError, match="schema version 3") as caught:
        Bundle.open(copied)
    assert "upgrade vitedge" in caught.value.fix


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[]", b"null", b"{}"])
def test_a_manifest_that_is_not_one_is_a_schema_error_that_names_the_file(copied: Path, content: bytes) -> None:
    (copied / MANIFEST).write_bytes(content)
    with pytest.raises(BundleSchemaError) as caught:
        Bundle.open(copied)
    assert MANIFEST in caught.value.problem
    assert caught.value.fix


def test_a_truncated_manifest_is_a_schema_error(copied: Path) -> None:
    text = (copied / MANIFEST).read_text(encoding="utf-8")
    (copied / MANIFEST).write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(BundleSchemaError, match="is not JSON"):
        Bundle.open(copied)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_what_is_not_a_bundle_says_how_to_make_one(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "no.bundle"
    make(path)
    with pytest.raises(BundleError, match="is not a bundle") as caught:
        Bundle.open(path)
    assert "vitedge convert" in caught.value.fix


def test_a_bundle_that_the_system_will_not_read_is_one_clear_error(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *args: object, **kwargs: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BundleError, match=r"cannot be read.*Permission denied"):
        Bundle.open(copied)


def test_a_file_that_the_bundle_does_not_have_is_named(tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"has no tensorrt/model\.plan") as caught:
        tiny_bundle.file("tensorrt/model.plan")
    assert MODEL_ONNX in caught.value.expected


def test_a_file_that_is_not_listed_is_refused_by_name(copied: Path) -> None:
    (copied / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BundleIntegrityError, match=r"notes\.txt is no part of the bundle"):
        Bundle.open(copied)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off", b"\x93NUMPY\x01"])
def test_golden_vectors_that_numpy_cannot_read_are_one_clear_error(copied: Path, content: bytes) -> None:
    (copied / GOLDEN).write_bytes(content)
    accept_as_it_is(copied, GOLDEN)
    with pytest.raises(BundleIntegrityError, match="cannot be read"):
        Bundle.open(copied).golden()


@pytest.mark.parametrize(
    "arrays",
    [
        {"frames": np.zeros((1, 2, 2, 3), np.uint8)},
        {"frames": np.array([print], dtype=object), "logits": np.zeros((1, 3), np.float32)},
    ],
)
def test_golden_vectors_that_lack_an_array_or_want_code_are_refused(copied: Path, arrays: dict[str, Any]) -> None:
    np.savez(copied / GOLDEN, **arrays)
    accept_as_it_is(copied, GOLDEN)
    with pytest.raises(BundleIntegrityError, match="cannot be read"):
        Bundle.open(copied).golden()


def test_a_bundle_cannot_be_changed_in_memory(tiny_bundle: Bundle) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_bundle.path = Path("elsewhere")  # type: ignore[misc]
