"""Bundles appear whole or not at all: written beside their name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
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
from vitedge.bundle.folder import BUILDING, TENSORRT, refuse_inside_bundle
from vitedge.bundle.manifest import FileRecord, Manifest, dump_manifest, parse_manifest
from vitedge.bundle.signatures import SIGNATURES
from vitedge.converters.interrupts import postponed, undisturbed
from vitedge.errors import ConversionError, UsageError
from vitedge.files import holding, is_partial, partial_prefix, remove_abandoned, replace_folder
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
BUNDLE_NAMES = frozenset({*NAMES, SIGNATURES, TENSORRT})
"""Names that a bundle may hold on a device."""
NAMES_SHOWN = 3


def check_output(output: Path, *, overwrite: bool = False, names: Collection[str] | None = None) -> None:
    """Refuse an output that exists, or whose folder does not.

    Args:
        output: path of the new folder.
        overwrite: allow a folder, which is to be replaced.
        names: what that folder may hold; files that vitedge has not written there are not to be lost. None for any.

    Raises:
        UsageError: the message says which.
    """
    if os.path.lexists(output):
        if not overwrite:
            raise UsageError(
                f"{output} exists already",
                expected="a name that is free",
                fix="choose another name with output=, or replace it with overwrite=True",
            )
        _check_replaceable(output, names)
    if not is_folder(output.parent):
        raise UsageError(f"the folder {output.parent} does not exist", fix=f"mkdir -p {shell(str(output.parent))}")
    refuse_inside_bundle(output)


def _check_replaceable(output: Path, names: Collection[str] | None) -> None:
    if output.is_symlink() or not output.is_dir():
        raise UsageError(f"{output} is no folder, so nothing replaces it", expected="a folder that vitedge wrote")
    others = [] if names is None else sorted(each.name for each in output.iterdir() if not _is_known(each.name, names))
    if others:
        raise UsageError(
            f"{output} holds what would be lost: {', '.join(others[:NAMES_SHOWN])}",
            expected="a folder that vitedge wrote, and nothing else in it",
            fix="choose another name with output=",
        )


def _is_known(name: str, names: Collection[str]) -> bool:
    return name in names or name.startswith(BUILDING) or is_partial(name)


@contextlib.contextmanager
def staged(output: Path, *, overwrite: bool = False, names: Collection[str] | None = None) -> Iterator[Path]:
    """Make a folder beside ``output`` to write a bundle into, and remove it unless ``publish`` renamed it.

    It is removed after any exception; ``vitedge.converters.interrupts`` turns Ctrl-C and SIGTERM into exceptions. A
    killed process leaves the folder behind, and the next conversion into the same folder removes it.

    Raises:
        UsageError: ``output`` cannot be written, as ``check_output`` says, or its folder is not writable.
        ConversionError: the disk is full.
    """
    check_output(output, overwrite=overwrite, names=names)
    remove_abandoned(output.parent, lambda name: _is_ours(output.parent / name))
    with contextlib.ExitStack() as held:
        partial = _made_partial(output, held)
        with _disk_errors(partial, output):
            yield partial


def _made_partial(output: Path, held: contextlib.ExitStack) -> Path:
    """Make a folder that other processes see to be in use until ``held`` closes, which also removes it."""
    while True:
        with postponed():
            try:
                folder = Path(tempfile.mkdtemp(prefix=partial_prefix(output), dir=output.parent))
            except OSError as error:
                raise UsageError(
                    f"cannot write into {output.parent}: {error.strerror}", fix="choose another place with output="
                ) from error
            is_held = held.enter_context(holding(folder))
            if is_held:
                held.callback(_remove, folder)
        if is_held:
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


def publish(partial: Path, output: Path, manifest: Manifest, *, overwrite: bool = False) -> Bundle:
    """Write the manifest last, flush everything to the disk, and rename the folder.

    Args:
        partial: from ``staged``; holds all files but the manifest.
        output: the bundle's name.
        manifest: lists the others.
        overwrite: replace a bundle of that name.

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
    check_output(output, overwrite=overwrite, names=BUNDLE_NAMES)
    put_in_place(partial, output)
    return Bundle(path=output, manifest=manifest, manifest_sha256=hashlib.sha256(text.encode()).hexdigest())


def put_in_place(partial: Path, output: Path) -> None:
    """Give a finished folder its name, in place of the folder that has it."""
    partial.chmod(0o755)
    if os.path.lexists(output):
        replace_folder(partial, output)
    else:
        partial.rename(output)
    _flush(output.parent)


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
