"""Check a bundle's folder: it holds the files that the manifest lists, and files that vitedge itself adds."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from vitedge.bundle.manifest import FileRecord
from vitedge.bundle.signatures import SIGNATURES
from vitedge.counts import counted
from vitedge.errors import BundleIntegrityError, UsageError
from vitedge.files import check_report_path, is_partial
from vitedge.safety.escape import shell
from vitedge.safety.files import folded_path, kind_of, read_bytes
from vitedge.safety.limits import BUNDLE_FILES, MANIFEST_BYTES

MANIFEST = "manifest.json"
UNLISTED = (MANIFEST, SIGNATURES)
"""Files of a bundle that the manifest does not list."""
TENSORRT = "tensorrt"
BUILDING = ".tensorrt-"
"""Prefix of the folders in which ``tensorrt`` is built, and from which it is restored after a killed build."""

DISTRUST = "copy the bundle again from a source that you trust"


def check_output_file(path: Path) -> None:
    """Refuse a path that no file can be written to, and a path inside a bundle, before the work begins.

    Raises:
        UsageError: as of ``check_report_path`` and ``refuse_inside_bundle``.
        OutputError: as of ``check_report_path``.
    """
    check_report_path(path)
    refuse_inside_bundle(path)


def refuse_inside_bundle(path: Path) -> None:
    """Refuse to write at a path inside a bundle: with a file that its manifest does not list, no bundle can be opened.

    Raises:
        UsageError: a folder on the way to the path is a bundle.
    """
    for folder in Path(os.path.realpath(path)).parents:
        if _is_bundle(folder):
            raise UsageError(
                f"{path} lies in the bundle {folder.name}, which could not be opened any more",
                expected="a path outside of bundles",
            )


def _is_bundle(folder: Path) -> bool:
    """Decide whether a folder holds a manifest of vitedge; other programs have files of that name as well."""
    try:
        return b'"schema_version"' in read_bytes(folder / MANIFEST, limit=MANIFEST_BYTES)
    except OSError:
        return False


def check_listed(where: Path, files: Mapping[str, FileRecord]) -> None:
    """Refuse names that a manifest must not list.

    Args:
        where: path of the manifest, for errors.
        files: the listed files.

    Raises:
        BundleIntegrityError: there are too many files; or a name leads out of the bundle, is invalid on some file
            system, differs from another only in case or normalization, or belongs to an unlisted file of vitedge.
    """
    if len(files) > BUNDLE_FILES:
        raise BundleIntegrityError(
            f"{where} lists {counted(len(files), 'file')}",
            expected=f"at most {BUNDLE_FILES}",
            fix="convert the model again",
        )
    seen: dict[str, str] = {}
    for name in files:
        expected = _expected(name, seen)
        if expected:
            raise BundleIntegrityError(f"{where} lists {name!r:.200}", expected=expected, fix=DISTRUST)
        seen[folded_path(name)] = name


def _expected(name: str, seen: Mapping[str, str]) -> str:
    """Describe the names that are allowed instead of this one; empty if the name is allowed."""
    if not _is_inside(name):
        return "paths inside the bundle"
    if not name.isprintable() or "\\" in name:
        return "names of printable characters, with / between folders"
    if any(part.startswith(".") for part in PurePosixPath(name).parts):
        return "no hidden files"
    folded = folded_path(name)
    if folded in map(folded_path, UNLISTED) or folded.split("/")[0] == TENSORRT:
        return f"neither {', '.join(UNLISTED)} nor what a device builds into {TENSORRT}/"
    if folded in seen:
        return f"each file once; {seen[folded]!r:.200} is listed too"
    return ""


def _is_inside(name: str) -> bool:
    """Return whether a listed name stays in the bundle, as a POSIX path and as a Windows path."""
    return all(".." not in kind(name).parts and not kind(name).anchor for kind in (PurePosixPath, PureWindowsPath))


def check_folder(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Compare a folder with the manifest's list, without reading contents.

    The folder may also hold ``tensorrt``, which a device builds, and leftovers of killed programs of vitedge: partly
    written files, and folders in which ``tensorrt`` was built. The next program that writes there removes them.

    Raises:
        BundleIntegrityError: a file is missing or has another size, the folder holds something unlisted, or an entry is
            neither a file nor a folder, such as a link.
        OSError: the folder cannot be read.
    """
    for name, record in files.items():
        _check_file(folder / name, record)
    folders = {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
    for number, (name, entry) in enumerate(_entries(folder, folders)):
        if number >= BUNDLE_FILES:
            raise BundleIntegrityError(f"{folder} holds more than {BUNDLE_FILES} files", fix=DISTRUST)
        _check_entry(name, entry, files, folders)


def _check_file(path: Path, record: FileRecord) -> None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleIntegrityError(f"{path} is missing", fix="copy the bundle again, or convert again") from None
    if not stat.S_ISREG(status.st_mode):
        raise BundleIntegrityError(
            f"{path} is missing: {kind_of(status.st_mode)} is in its place",
            expected="a file",
            fix=f"copy a bundle of links with cp -rL; else {DISTRUST}",
        )
    check_size(path, status.st_size, record)


def check_size(path: Path, size: int, record: FileRecord) -> None:
    """Refuse a file whose size differs from the listed size.

    Raises:
        BundleIntegrityError: the sizes differ.
    """
    if size != record.bytes:
        raise BundleIntegrityError(
            f"{path} has {size} bytes",
            expected=f"{record.bytes} bytes",
            fix="the copy is cut off or altered: copy the bundle again",
        )


def _entries(folder: Path, folders: Collection[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the entries of a bundle with their relative paths; do not enter folders without listed files."""
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                yield name, entry
                if name in folders:
                    pending.append(name)


def _check_entry(name: str, entry: os.DirEntry[str], files: Mapping[str, FileRecord], folders: Collection[str]) -> None:
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:  # a build ended meanwhile
        return
    if stat.S_ISDIR(mode):
        known = name in folders or name == TENSORRT or name.startswith(BUILDING)
    else:
        known = stat.S_ISREG(mode) and (name in files or name in UNLISTED or is_partial(name, of=UNLISTED))
    if not known:
        what = "" if stat.S_ISREG(mode) else f", {kind_of(mode)}"
        raise BundleIntegrityError(
            f"{entry.path} is no part of the bundle{what}",
            expected=f"what {MANIFEST} lists, and nothing else",
            fix=f"if you put it there: rm -r {shell(entry.path)}; else {DISTRUST}",
        )
