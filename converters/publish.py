"""Bundles appear whole or not at all: written beside their name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vitedge.bundle.bundle import (
    GOLDEN,
    LABELS,
    MANIFEST,
    MODEL_FP16_ONNX,
    MODEL_ONNX,
    OPENVINO_XML,
    REPORT_HTML,
    REPORT_JSON,
    Bundle,
    data_of,
    sha256_of,
)
from vitedge.bundle.manifest import FileRecord, Manifest, dump_manifest, parse_manifest
from vitedge.converters.interrupts import undisturbed
from vitedge.errors import ConversionError, UsageError
from vitedge.files import holding, is_partial, partial_prefix, remove_abandoned
from vitedge.safety.escape import shell
from vitedge.safety.files import is_folder

MIN_FREE_BYTES = 1 << 20
NAMES = (
    MODEL_ONNX,
    data_of(MODEL_ONNX),
    MODEL_FP16_ONNX,
    data_of(MODEL_FP16_ONNX),
    PurePosixPath(OPENVINO_XML).parent.name,
    LABELS,
    GOLDEN,
    REPORT_HTML,
    REPORT_JSON,
    MANIFEST,
)
"""Names that a partial bundle may hold."""
CANDIDATES = "candidates-"
"""Prefix of the folder in which the precision ``auto`` compiles its candidates."""


def check_output(output: Path) -> None:
    """Refuse an output that exists, or whose folder does not.

    Raises:
        UsageError: the message says which.
    """
    if os.path.lexists(output):
        raise UsageError(
            f"{output} exists already; vitedge never overwrites a bundle",
            expected="a name that is free",
            fix="choose another name with output=, or remove it first",
        )
    if not is_folder(output.parent):
        raise UsageError(f"the folder {output.parent} does not exist", fix=f"mkdir -p {shell(str(output.parent))}")


@contextlib.contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Make a folder beside ``output`` to write a bundle into, and remove it unless ``publish`` renamed it.

    It is removed after any exception; ``vitedge.converters.interrupts`` turns Ctrl-C and SIGTERM into exceptions. A
    killed process leaves the folder behind, and the next conversion into the same folder removes it.

    Raises:
        UsageError: ``output`` exists, or its folder is missing or not writable.
        ConversionError: the disk is full.
    """
    check_output(output)
    remove_abandoned(output.parent, lambda name: _is_ours(output.parent / name))
    with contextlib.ExitStack() as held:
        partial = _made_partial(output, held)
        with _disk_errors(partial, output):
            yield partial


def _made_partial(output: Path, held: contextlib.ExitStack) -> Path:
    """Make a folder that other processes see to be in use until ``held`` closes, which also removes it."""
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=partial_prefix(output), dir=output.parent))
        except OSError as error:
            raise UsageError(
                f"cannot write into {output.parent}: {error.strerror}", fix="choose another place with output="
            ) from error
        if held.enter_context(holding(folder)):
            held.callback(_remove, folder)
            return folder


def _remove(folder: Path) -> None:
    with undisturbed():
        shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Tell whether a folder has the name of a partial bundle, and holds only files of one."""
    if not is_partial(folder.name):
        return False
    with contextlib.suppress(OSError):
        return all(each.name in NAMES or each.name.startswith(CANDIDATES) for each in folder.iterdir())
    return False


def publish(partial: Path, output: Path, manifest: Manifest) -> Bundle:
    """Write the manifest last, flush everything to the disk, and rename the folder.

    Args:
        partial: from ``staged``; holds all files but the manifest.
        output: the bundle's name.
        manifest: lists the others.

    Raises:
        UsageError: ``output`` exists by now, or the manifest is larger than the limit for reading.
        BundleSchemaError: the manifest cannot be read again.
    """
    text = dump_manifest(manifest)
    parse_manifest(text, where=str(output / MANIFEST))
    (partial / MANIFEST).write_text(text, encoding="utf-8")
    for path in sorted(partial.rglob("*")):
        _flush(path)
    _flush(partial)
    check_output(output)
    partial.chmod(0o755)
    partial.rename(output)
    _flush(output.parent)
    return Bundle(path=output, manifest=manifest, manifest_sha256=hashlib.sha256(text.encode()).hexdigest())


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Hash every file of a bundle but its manifest, by relative path."""
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
    """Turn the errors of a full disk into one; libraries report it in many ways, or only when they read the file."""
    try:
        yield
    except (OSError, RuntimeError, ConversionError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or shutil.disk_usage(partial).free < MIN_FREE_BYTES:
            raise ConversionError(
                f"the disk of {output.parent} is full", expected="room for the bundle", fix="free some space"
            ) from error
        raise
