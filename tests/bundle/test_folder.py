"""What lies in a bundle: the files that the manifest lists, and nothing that anybody put beside them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitedge.bundle.bundle import GOLDEN, LABELS, MANIFEST, MODEL_ONNX, OPENVINO_XML, Bundle, sha256_of
from vitedge.bundle.folder import check_folder, check_listed, refuse_inside_bundle
from vitedge.bundle.manifest import FileRecord
from vitedge.errors import BundleIntegrityError, UsageError
from vitedge.files import write_atomic
from vitedge.safety.limits import BUNDLE_FILES

RECORD = FileRecord(sha256="0" * 64, bytes=0)


@pytest.fixture
def copied(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """The tiny bundle, to be spoiled."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy.bundle"))


def listing(folder: Path, name: str, **changes: Any) -> None:
    """Have the manifest list one more file, with its true hash where it is one."""
    document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    path = folder / name
    record = {"sha256": sha256_of(path), "bytes": path.stat().st_size} if path.is_file() else {}
    document["files"][name] = {"sha256": "0" * 64, "bytes": 0} | record | changes
    (folder / MANIFEST).write_text(json.dumps(document), encoding="utf-8")


def bind(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


STRANGERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda path: path.write_text("x"), "is no part of the bundle"),
    "an empty file": (lambda path: path.touch(), "is no part of the bundle"),
    "a folder": (Path.mkdir, "is no part of the bundle, a folder"),
    "a FIFO": (os.mkfifo, "is no part of the bundle, a FIFO"),
    "a socket": (bind, "is no part of the bundle, a socket"),
    "a link to a file": (lambda path: path.symlink_to(MANIFEST), "is no part of the bundle"),
    "a link to a folder": (lambda path: path.symlink_to(".."), "is no part of the bundle"),
    "a link to nothing": (lambda path: path.symlink_to("none"), "is no part of the bundle"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is no part of the bundle"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("make", "problem"), STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("name", ["weights.bin", ".DS_Store", "vitedge.py", "openvino/plugins.xml", "tensorrt.py"])
def test_what_is_not_listed_is_refused_by_name(
    copied: Path, name: str, make: Callable[[Path], object], problem: str
) -> None:
    make(copied / name)
    with pytest.raises(BundleIntegrityError, match=problem) as caught:
        Bundle.open(copied)
    assert str(copied / name) in caught.value.problem
    assert "rm -r" in caught.value.fix


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("make", "_"), list(STRANGERS.values())[2:], ids=list(STRANGERS)[2:])
@pytest.mark.parametrize("name", [MODEL_ONNX, LABELS, OPENVINO_XML, GOLDEN])
def test_what_is_in_the_place_of_a_file_is_refused(
    copied: Path, name: str, make: Callable[[Path], object], _: str
) -> None:
    (copied / name).unlink()
    make(copied / name)
    with pytest.raises(BundleIntegrityError, match="is missing: ") as caught:
        Bundle.open(copied)
    assert name in caught.value.problem


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, bind, lambda path: path.symlink_to("/dev/zero")])
def test_a_manifest_that_is_no_file_is_one_clear_error(copied: Path, make: Callable[[Path], object]) -> None:
    (copied / MANIFEST).unlink()
    make(copied / MANIFEST)
    with pytest.raises(Exception, match=r"cannot be read|is not a bundle"):
        Bundle.open(copied)


def test_a_link_to_a_file_outside_is_refused_even_with_its_true_hash(copied: Path) -> None:
    outside = copied.parent / "labels.txt"
    (copied / LABELS).rename(outside)
    (copied / LABELS).symlink_to(outside)
    with pytest.raises(BundleIntegrityError, match="is missing: a link") as caught:
        Bundle.open(copied)
    assert "cp -rL" in caught.value.fix


def test_a_folder_of_links_is_opened_through_a_link(copied: Path, tmp_path: Path) -> None:
    """``current`` leads to the version that is deployed."""
    (tmp_path / "current").symlink_to(copied)
    assert Bundle.open(tmp_path / "current").manifest == Bundle.open(copied).manifest


def test_what_vitedge_puts_there_is_no_stranger(copied: Path) -> None:
    """Built engines, signatures, and what killed programs left."""
    for folder in ("tensorrt", ".tensorrt-previous", ".tensorrt-x1y2z3_4"):
        (copied / folder).mkdir()
        (copied / folder / "model.plan").write_bytes(b"plan")
    (copied / "manifest.sig").write_text("{}", encoding="utf-8")
    for name in (MANIFEST, "manifest.sig"):
        (copied / f".{name}.partial-0a1b2c3d").write_text("{", encoding="utf-8")
    assert set(Bundle.open(copied).manifest.files) == {MODEL_ONNX, OPENVINO_XML, "openvino/model.bin", LABELS, GOLDEN}
    write_atomic(copied / MANIFEST, (copied / MANIFEST).read_text(encoding="utf-8"))
    assert not (copied / f".{MANIFEST}.partial-0a1b2c3d").exists()


@pytest.mark.parametrize("name", ["tensorrt", ".tensorrt-x", "manifest.sig", ".manifest.json.partial-0a1b2c3d"])
def test_and_only_as_vitedge_puts_it_there(copied: Path, name: str) -> None:
    (copied.parent / "outside").mkdir()
    (copied / name).symlink_to(copied.parent / "outside")
    with pytest.raises(BundleIntegrityError, match="is no part of the bundle, a link"):
        Bundle.open(copied)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("manifest.json", "neither manifest.json"),
        ("MANIFEST.JSON", "neither manifest.json"),
        ("manifest.sig", "neither manifest.json"),
        ("./manifest.json", "neither manifest.json"),
        ("tensorrt/model.plan", "tensorrt/"),
        ("TensorRT/model.plan", "tensorrt/"),
        (".tensorrt-x/model.plan", "no hidden files"),
        (".bashrc", "no hidden files"),
        ("openvino/.hidden", "no hidden files"),
        ("LABELS.TXT", "each file once"),
        ("./labels.txt", "each file once"),
        ("openvino//model.xml", "each file once"),
        ("a\nb", "printable"),
        ("a\x1b[2J", "printable"),
        ("a\u202eb", "printable"),
        ("a\x00b", "printable"),
        ("openvino\\x", "printable"),
        ("../x", "inside"),
        ("/etc/passwd", "inside"),
    ],
)
def test_names_that_no_manifest_lists(copied: Path, name: str, expected: str) -> None:
    listing(copied, name)
    with pytest.raises(BundleIntegrityError, match="lists") as caught:
        Bundle.open(copied)
    assert expected in caught.value.expected
    assert caught.value.problem.isprintable()


def test_names_that_differ_in_normalization_alone() -> None:
    with pytest.raises(BundleIntegrityError, match="lists"):
        check_listed(Path(MANIFEST), {"é.txt": RECORD, "e\u0301.txt": RECORD})
    check_listed(Path(MANIFEST), {"é.txt": RECORD, "e.txt": RECORD})


def test_more_files_than_any_bundle_has(tmp_path: Path) -> None:
    files = {f"{number}.txt": RECORD for number in range(BUNDLE_FILES + 1)}
    with pytest.raises(BundleIntegrityError, match=f"lists {BUNDLE_FILES + 1} files"):
        check_listed(tmp_path / MANIFEST, files)


def test_more_leftovers_than_any_bundle_has(tmp_path: Path) -> None:
    for number in range(BUNDLE_FILES + 2):
        (tmp_path / f".tensorrt-{number}").mkdir()
    with pytest.raises(BundleIntegrityError, match="holds more than"):
        check_folder(tmp_path, {})


def test_a_build_that_ends_while_the_folder_is_read(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copied / ".tensorrt-x").mkdir()
    scandir = os.scandir

    def ending(path: Path) -> Any:
        with scandir(path) as entries:
            found = list(entries)
        if Path(path) == copied:
            (copied / ".tensorrt-x").rmdir()
        return contextlib.nullcontext(found)

    monkeypatch.setattr(os, "scandir", ending)
    assert Bundle.open(copied).manifest.files
    assert not (copied / ".tensorrt-x").exists()


@pytest.mark.parametrize("size", [10**30, -1, 2**63])
def test_a_size_that_no_file_has(copied: Path, size: int) -> None:
    listing(copied, LABELS, bytes=size)
    with pytest.raises(BundleIntegrityError, match="has 15 bytes"):
        Bundle.open(copied)


@pytest.mark.parametrize("name", ["key.pem", "openvino/key.pem", "new/deep/key.pem", MANIFEST])
def test_nothing_is_written_into_a_bundle(copied: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"lies in the bundle copy\.bundle"):
        refuse_inside_bundle(copied / name)
    link = tmp_path / "link"
    link.symlink_to(copied)
    with pytest.raises(UsageError, match="lies in the bundle"):
        refuse_inside_bundle(link / name)


def test_beside_a_bundle_and_beside_another_manifest_is_fine(copied: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    refuse_inside_bundle(copied)
    refuse_inside_bundle(key)
    (tmp_path / MANIFEST).write_text('{"name": "a web page", "icons": []}')
    refuse_inside_bundle(key)
    key.write_text("a key")
    assert Bundle.open(copied).path == copied
