"""Bundles appear whole or not at all: written beside their name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vitedge.bundle import MANIFEST, Bundle, sha256_of
from vitedge.converters.interrupts import undisturbed
from vitedge.errors import ConversionError, UsageError
from vitedge.manifest import FileRecord, Manifest, dump_manifest
from vitedge.safety.escape import shell

MIN_FREE_BYTES = 1 << 20


def check_output(output: Path) -> None:
    """Refuse an output that exists, or whose folder does not.

    Raises:
        UsageError: the message says which.
    """
    if output.exists() or output.is_symlink():
        raise UsageError(
            f"{output} exists already; vitedge never overwrites a bundle",
            expected="a name that is free",
            fix="choose another name with -o, or remove it first",
        )
    if not output.parent.is_dir():
        raise UsageError(f"the folder {output.parent} does not exist", fix=f"mkdir -p {shell(str(output.parent))}")


@contextlib.contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` to write a bundle into; it is removed unless ``publish`` renamed it.

    It is removed after any exception; ``vitedge.converters.interrupts`` makes Ctrl-C and SIGTERM into one. A process
    that is killed outright leaves it behind under a hidden name, which nothing reads.

    Raises:
        UsageError: ``output`` exists, or its folder is missing or not writable.
        ConversionError: the disk is full.
    """
    check_output(output)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    except OSError as error:
        raise UsageError(
            f"cannot write into {output.parent}: {error.strerror}", fix="choose another place with -o"
        ) from error
    try:
        with _disk_errors(partial, output):
            yield partial
    finally:
        with undisturbed():
            shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, output: Path, manifest: Manifest) -> Bundle:
    """Write the manifest last, flush everything to the disk, and rename the folder.

    Args:
        partial: from ``staged``; holds all files but the manifest.
        output: the bundle's name.
        manifest: its ``files`` are filled in here.
    """
    (partial / MANIFEST).write_text(dump_manifest(manifest), encoding="utf-8")
    for path in sorted(partial.rglob("*")):
        _flush(path)
    _flush(partial)
    check_output(output)
    partial.chmod(0o755)
    partial.rename(output)
    _flush(output.parent)
    return Bundle(path=output, manifest=manifest)


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Hash and size of every file of a bundle but its manifest, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): FileRecord(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in files
        if path.name != MANIFEST
    }


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(partial: Path, output: Path) -> Iterator[None]:
    """Name a full disk, which libraries report in many ways, or not at all until the file is read again."""
    try:
        yield
    except (OSError, RuntimeError, ConversionError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or shutil.disk_usage(partial).free < MIN_FREE_BYTES:
            raise ConversionError(
                f"the disk of {output.parent} is full", expected="room for the bundle", fix="free some space"
            ) from error
        raise
