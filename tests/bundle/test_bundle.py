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

import vitedge
from vitedge.bundle.bundle import GOLDEN, LABELS, MANIFEST, MODEL_ONNX, OPENVINO_BIN, OPENVINO_XML, Bundle, sha256_of
from vitedge.bundle.manifest import dump_manifest, parse_manifest
from vitedge.bundle.verification_records import LEAST_DEMANDED_DB
from vitedge.errors import BundleError, BundleIntegrityError, BundleSchemaError
from vitedge.safety.limits import MANIFEST_BYTES

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
    edit_manifest(copied, lambda document: document.update(schema_version=4))
    with pytest.raises(BundleSchemaError, match="schema version 4") as caught:
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


@pytest.mark.parametrize(
    ("make", "lacks"),
    [
        (lambda path: None, "there is no such folder"),
        (lambda path: path.mkdir(), "it has no manifest.json"),
        (lambda path: path.write_text("x"), "it has no manifest.json"),
    ],
)
def test_what_is_not_a_bundle_says_how_to_make_one(tmp_path: Path, make: Callable[[Path], object], lacks: str) -> None:
    path = tmp_path / "no.bundle"
    make(path)
    with pytest.raises(BundleError, match=f"is not a bundle: {lacks}") as caught:
        Bundle.open(path)
    assert "vitedge.convert(" in caught.value.fix


def test_a_mistyped_bundle_is_suggested(copied: Path) -> None:
    with pytest.raises(BundleError) as caught:
        Bundle.open(copied.with_name(f"{copied.name}s"))
    assert caught.value.fix.startswith(f"did you mean {copied.name}? vitedge.convert(")


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


def with_golden(folder: Path, **changes: Any) -> None:
    """Change arrays of the golden vectors; None leaves one out."""
    with np.load(folder / GOLDEN) as found:
        arrays = {name: found[name] for name in found.files} | changes
    np.savez(folder / GOLDEN, **{name: each for name, each in arrays.items() if each is not None})
    accept_as_it_is(folder, GOLDEN)


def one_nan(logits: Any) -> Any:
    spoiled = -7 * logits
    spoiled[0, 0] = np.nan
    return spoiled


FREE: dict[str, Callable[[Any], Any]] = {
    "NaN": lambda logits: np.full_like(logits, np.nan),
    "infinity": lambda logits: np.full_like(logits, np.inf),
    "one NaN": one_nan,
    "zeros": np.zeros_like,
    "one number throughout": lambda logits: np.full_like(logits, 7.0),
    "no vectors": lambda logits: logits[:0],
    "fewer": lambda logits: logits[:1],
    "no classes": lambda logits: logits[:, :0],
    "another number of classes": lambda logits: logits[:, :2],
    "float64": lambda logits: logits.astype(np.float64),
    "numbers beyond float32": lambda logits: np.full(logits.shape, 1e300),
    "complex": lambda logits: logits.astype(np.complex64),
    "integers": lambda logits: logits.astype(np.int64),
    "truth values": lambda logits: logits > 0,
    "text": lambda logits: logits.astype("U8"),
    "bytes": lambda logits: logits.astype("S8"),
    "dates": lambda logits: logits.astype("datetime64[s]"),
    "objects": lambda logits: logits.astype(object),
    "another axis": lambda logits: logits[None],
    "absent": lambda logits: None,
}


@pytest.mark.parametrize("change", FREE.values(), ids=FREE)
def test_golden_logits_that_any_or_no_engine_would_pass_are_refused(copied: Path, change: Callable[[Any], Any]) -> None:
    with_golden(copied, logits=change(Bundle.open(copied).golden().logits))
    with pytest.raises(BundleIntegrityError, match="cannot be read") as caught:
        Bundle.open(copied).golden()
    assert caught.value.fix
    with pytest.raises(BundleError):
        vitedge.load(copied)


@pytest.mark.parametrize(
    "change",
    [
        lambda frames: frames.astype(np.float32),
        lambda frames: frames[:, :16],
        lambda frames: frames[..., :1],
        lambda frames: frames[0],
        lambda frames: frames[:0],
        lambda frames: frames.transpose(0, 3, 1, 2),
    ],
    ids=["type", "size", "channels", "axes", "none", "order of axes"],
)
def test_golden_frames_of_another_kind_are_refused(copied: Path, change: Callable[[Any], Any]) -> None:
    with_golden(copied, frames=change(Bundle.open(copied).golden().frames))
    with pytest.raises(BundleIntegrityError, match="cannot be read"):
        Bundle.open(copied).golden()


def test_golden_logits_of_a_twin_are_held_to_the_same(copied: Path) -> None:
    logits = Bundle.open(copied).golden().logits
    with_golden(copied, logits_fp16=2 * logits)
    assert np.array_equal(Bundle.open(copied).golden().fp16_logits, 2 * logits)
    for bad in (np.full_like(logits, np.nan), 0 * logits, logits[:1], logits.astype(np.float16)):
        with_golden(copied, logits_fp16=bad)
        with pytest.raises(BundleIntegrityError, match="cannot be read"):
            Bundle.open(copied).golden()


@pytest.mark.timeout(30)
def test_golden_vectors_that_inflate_are_refused_before_they_do(copied: Path) -> None:
    np.savez_compressed(copied / GOLDEN, frames=np.zeros((30, 1000, 1000, 3), np.uint8), logits=np.ones((30, 3)))
    accept_as_it_is(copied, GOLDEN)
    with pytest.raises(BundleIntegrityError, match="the limit is"):
        Bundle.open(copied).golden()


def test_vectors_of_another_shape_than_the_input_are_refused(copied: Path) -> None:
    np.savez_compressed(copied / GOLDEN, frames=np.zeros((3, 8, 9, 3), np.uint8), logits=np.eye(3, dtype=np.float32))
    accept_as_it_is(copied, GOLDEN)
    with pytest.raises(BundleIntegrityError, match=r"have the shape \(8, 9, 3\); the network's input has the shape \("):
        Bundle.open(copied).golden()


def test_more_vectors_than_the_manifest_says_are_welcome_and_fewer_are_not(copied: Path) -> None:
    for count, refused in ((1, False), (3, False), (4, True), (10**30, True)):
        edit_manifest(copied, lambda document, count=count: document["golden"].update(count=count))  # type: ignore[misc]
        if refused:
            with pytest.raises(BundleIntegrityError, match="the manifest says"):
                Bundle.open(copied).golden()
        else:
            assert len(Bundle.open(copied).golden().frames) == 3


@pytest.mark.parametrize("count", [0, -1])
def test_no_vectors_at_all_are_refused(copied: Path, count: int) -> None:
    edit_manifest(copied, lambda document: document["golden"].update(count=count))
    with pytest.raises(BundleSchemaError, match=r"golden\.count"):
        Bundle.open(copied)


@pytest.mark.parametrize("key", ["min_sqnr_db", "fp16_min_sqnr_db"])
@pytest.mark.parametrize("demand", [4.99, 0.0, -1.0, -1e300, "-1e999", "NaN", "-Infinity"])
def test_a_demand_that_every_engine_meets_is_refused(copied: Path, key: str, demand: float | str) -> None:
    """An engine that gives zeros reaches 0 dB."""
    edit_manifest(copied, lambda document: document["golden"].update({key: "DEMAND"}))
    path = copied / MANIFEST
    path.write_text(path.read_text(encoding="utf-8").replace('"DEMAND"', str(demand)), encoding="utf-8")
    with pytest.raises(BundleSchemaError, match=r"golden\.|is not JSON"):
        Bundle.open(copied)


def test_the_least_demand_is_met(copied: Path) -> None:
    edit_manifest(copied, lambda document: document["golden"].update(min_sqnr_db=LEAST_DEMANDED_DB))
    assert Bundle.open(copied).manifest.golden.min_sqnr_db == LEAST_DEMANDED_DB


def test_a_target_of_a_newer_vitedge_says_upgrade(copied: Path) -> None:
    edit_manifest(copied, lambda document: document.update(target="jetson-orin-ultra"))
    with pytest.raises(BundleSchemaError, match="'jetson-orin-ultra', which this vitedge does not know") as caught:
        Bundle.open(copied)
    assert "upgrade vitedge" in caught.value.fix


@pytest.mark.timeout(30)
@pytest.mark.parametrize("levels", [60, 100_000])
def test_a_nested_manifest_is_one_clear_error(copied: Path, levels: int) -> None:
    (copied / MANIFEST).write_text('{"a":' * levels + "1" + "}" * levels, encoding="utf-8")
    with pytest.raises(BundleSchemaError, match="nested deeper"):
        Bundle.open(copied)


def test_a_large_manifest_is_not_read(copied: Path) -> None:
    with (copied / MANIFEST).open("a", encoding="utf-8") as stream:
        stream.write(" " * MANIFEST_BYTES)
    with pytest.raises(BundleError, match="vitedge reads at most"):
        Bundle.open(copied)


def test_the_labels_of_21_000_classes_fit_a_manifest(tiny_bundle: Bundle) -> None:
    """ImageNet-21k's take 26 bytes each with what is around them."""
    model = dataclasses.replace(tiny_bundle.manifest.model, labels=tuple(f"{n:05} {'x' * 22}" for n in range(21_843)))
    text = dump_manifest(dataclasses.replace(tiny_bundle.manifest, model=model))
    assert parse_manifest(text, where="it").model.num_classes == 21_843


@pytest.mark.parametrize("name", FILES)
def test_what_is_read_is_what_was_hashed(copied: Path, name: str) -> None:
    bundle = Bundle.open(copied)
    content = (copied / name).read_bytes()
    assert bundle.read(name) == content
    filled: list[Any] = []
    bundle.read_into(name, lambda size: filled.append(np.zeros(size, np.uint8)) or filled[0])
    assert filled[0].tobytes() == content
    (copied / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for read in (bundle.read, lambda name: bundle.read_into(name, lambda size: np.zeros(size, np.uint8))):
        with pytest.raises(BundleIntegrityError, match="was altered"):
            read(name)
    with pytest.raises(BundleIntegrityError, match="was altered"):
        Bundle.open(copied)
    assert Bundle.open(copied, contents=False) == bundle


def test_no_memory_is_asked_for_before_the_size_is_known(copied: Path) -> None:
    edit_manifest(copied, lambda document: document["files"][OPENVINO_BIN].update(bytes=1 << 50))
    with pytest.raises(BundleIntegrityError, match="has "):
        Bundle.open(copied)
    bundle = Bundle(copied, parse_manifest((copied / MANIFEST).read_text(encoding="utf-8"), where="it"))
    with pytest.raises(BundleIntegrityError, match="has "):
        bundle.read_into(OPENVINO_BIN, lambda size: pytest.fail(f"asked for {size} bytes"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: None])
def test_what_takes_the_place_of_a_file_later_is_refused(copied: Path, make: Callable[[Path], object]) -> None:
    bundle = Bundle.open(copied)
    (copied / GOLDEN).unlink()
    make(copied / GOLDEN)
    with pytest.raises(BundleIntegrityError, match=r"cannot be read|is missing"):
        bundle.golden()


def test_the_digest_is_that_of_the_bytes_that_were_read(copied: Path) -> None:
    bundle = Bundle.open(copied)
    assert bundle.digest == sha256_of(copied / MANIFEST)
    (copied / MANIFEST).write_text(json.dumps(json.loads((copied / MANIFEST).read_bytes())), encoding="utf-8")
    assert Bundle.open(copied) == bundle
    assert Bundle.open(copied).digest == sha256_of(copied / MANIFEST) != bundle.digest
