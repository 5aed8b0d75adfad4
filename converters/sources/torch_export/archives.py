"""Rewrite an untrusted ``.pt2`` archive before PyTorch loads it.

``torch.export.load`` unpickles what ``weights_only`` refuses, evaluates texts of the archive, and opens compiled
kernels. Therefore it never gets an untrusted archive. The data of the weights is copied, the JSON is checked against
``schema`` and rewritten, and everything else is dropped. This module uses only the standard library.
"""

from __future__ import annotations

import math
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitedge.converters.sources.torch_export.readers import (
    MalformedError,
    StructureError,
    UnknownOperatorError,
    UnsafeError,
    to_json,
)
from vitedge.converters.sources.torch_export.schema import read_payloads, read_program
from vitedge.errors import CheckpointError
from vitedge.safety.archives import stored_entries
from vitedge.safety.files import open_regular
from vitedge.safety.limits import (
    CHECKPOINT_BYTES,
    CHECKPOINT_SHARING,
    CHECKPOINT_SPARE,
    CHECKPOINT_TENSORS,
    PROGRAM_BYTES,
    TENSOR_DIMENSIONS,
)

CONTRACT = "one image (1,3,H,W), normalized float32, to logits (1,classes); sizes may be dynamic"
ROOT = "program"
PROGRAM = "models/model.json"
WEIGHTS = "data/weights/"
CONSTANTS = "data/constants/"
PAYLOADS = {
    f"{WEIGHTS}model_weights_config.json": (WEIGHTS, re.compile(r"weight_[0-9]{1,9}", re.ASCII)),
    f"{CONSTANTS}model_constants_config.json": (CONSTANTS, re.compile(r"tensor_[0-9]{1,9}", re.ASCII)),
}
WRITTEN = {
    "archive_format": b"pt2",
    "archive_version": b"0",
    "byteorder": b"little",
    ".data/version": b"6\n",
    "data/sample_inputs/model.pt": b"",  # empty: PyTorch then unpickles none
}
IGNORED = re.compile(r"extra/.*|version|\.data/serialization_id|.*\.format_version", re.DOTALL)
COMPILED = "data/aotinductor/"
ITEM_BYTES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2, 28: 2, 29: 1, 30: 1, 31: 1,
    32: 1, 33: 1, 34: 4, 35: 8,
}  # fmt: skip
"""Bytes of an element, by ``torch._export.serde.schema.ScalarType``."""
CHUNK = 1 << 20
SAVE_AGAIN = "save it again: torch.export.save(torch.export.export(model.eval(), (image,)), 'model.pt2')"


def rewrite_archive(path: Path, target: Path, *, name: str) -> frozenset[str]:
    """Write an archive with the same program, but without anything that PyTorch could run.

    Args:
        path: path of an untrusted archive.
        target: file to write, of about the same size.
        name: name of the archive, for errors.

    Returns:
        The operators of the program's graph.

    Raises:
        CheckpointError: the file is cut off or no archive of ``torch.export.save``, or holds pickled objects, compiled
            code, names that are no identifiers, operators outside ATen, or expressions beyond arithmetic.
    """
    try:
        with open_regular(path, limit=CHECKPOINT_BYTES) as stream:
            stored_entries(stream)
            with zipfile.ZipFile(stream) as archive:
                return _rewrite(archive, target)
    except UnsafeError as error:
        raise _refused(name, str(error)) from None
    except UnknownOperatorError as error:
        raise CheckpointError(
            f"no backend has the operator {error} of {name}",
            expected="operators of ATen",
            fix="write that layer with PyTorch's own operators, and export again",
        ) from None
    except StructureError as error:
        raise CheckpointError(
            f"{name} takes or returns {error}", expected=CONTRACT, fix="export a module that returns the logits alone"
        ) from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{name} is cut off, or not a program of torch.export: {error}",
            expected="a file that torch.export.save of torch 2.9 or newer wrote",
            fix=SAVE_AGAIN,
        ) from error


def _refused(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{name} {what}: PyTorch would run code from the file to load it; vitedge never does",
        expected="a graph of ATen operators and plain tensors",
        fix=SAVE_AGAIN,
    )


def _rewrite(archive: zipfile.ZipFile, target: Path) -> frozenset[str]:
    members = _members(archive)
    _check_members(archive, members)
    program = read_program(_read(archive, members, PROGRAM))
    payloads = {config: read_payloads(_read(archive, members, config), PAYLOADS[config][1]) for config in PAYLOADS}
    tensors = _check_payloads(payloads, members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        texts = {**WRITTEN, PROGRAM: to_json(program), **{name: to_json(value) for name, value in payloads.items()}}
        for name, content in texts.items():
            copy.writestr(zipfile.ZipInfo(f"{ROOT}/{name}"), content)
        for name in tensors:
            with archive.open(members[name]) as source, copy.open(_entry(name, members[name]), "w") as sink:
                shutil.copyfileobj(source, sink, CHUNK)
    return frozenset(_operators(program["graph_module"]["graph"]))


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the files by their name below their common folder."""
    infos = archive.infolist()
    roots = {info.filename.partition("/")[0] for info in infos}
    if len(roots) != 1:
        raise MalformedError("its files do not lie in one folder")
    return {info.filename.partition("/")[2]: info for info in infos}


def _check_members(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> None:
    if any(name.startswith(COMPILED) for name in members):
        raise UnsafeError("holds compiled code")
    for name in members:
        if name not in (PROGRAM, *PAYLOADS, *WRITTEN) and not _is_tensor(name) and not IGNORED.fullmatch(name):
            raise UnsafeError(f"holds {name!r:.60}, and not one program as torch 2.9 or newer saves it")
    for name in ("archive_format", "archive_version", "byteorder"):
        if name in members and _read(archive, members, name) != WRITTEN[name]:
            raise MalformedError(f"its {name} is not {WRITTEN[name].decode()}")


def _is_tensor(name: str) -> bool:
    return any(name.startswith(folder) and files.fullmatch(name[len(folder) :]) for folder, files in PAYLOADS.values())


def _read(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str) -> bytes:
    if name not in members:
        raise MalformedError(f"it has no {name}")
    if members[name].file_size > PROGRAM_BYTES:
        raise MalformedError(f"{name} has {members[name].file_size} bytes; the limit is {PROGRAM_BYTES}")
    return archive.read(members[name])


def _entry(name: str, original: zipfile.ZipInfo) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(f"{ROOT}/{name}")
    entry.file_size = original.file_size
    return entry


def _check_payloads(payloads: Mapping[str, Any], members: Mapping[str, zipfile.ZipInfo]) -> list[str]:
    """Check that tensors fit their files, alone and together; return the files."""
    files: dict[str, int] = {}
    total = count = 0
    for config, value in payloads.items():
        for entry in value["config"].values():
            name = PAYLOADS[config][0] + entry["path_name"]
            files[name] = members[name].file_size
            total, count = total + _tensor_bytes(entry["tensor_meta"], files[name]), count + 1
    if total > CHECKPOINT_SHARING * sum(files.values()) + CHECKPOINT_SPARE or count > CHECKPOINT_TENSORS:
        raise MalformedError(f"its {count} tensors take {total} bytes, of files of {sum(files.values())}")
    return list(files)


def _tensor_bytes(meta: Mapping[str, Any], held: int) -> int:
    """Return the size of a tensor in bytes; refuse a tensor that is larger than its file."""
    sizes: list[int] = [each["as_int"] for each in meta["sizes"]]
    strides: list[int] = [each["as_int"] for each in meta["strides"]]
    offset, item = meta["storage_offset"]["as_int"], ITEM_BYTES[meta["dtype"]]
    if len(sizes) != len(strides) or len(sizes) > TENSOR_DIMENSIONS or min([0, offset, *sizes, *strides]) < 0:
        raise MalformedError(f"a tensor has the sizes {sizes!r:.60} and the strides {strides!r:.60}")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if math.prod(sizes) and (last + 1) * item > held:
        raise MalformedError(f"a tensor of the sizes {sizes!r:.60} is larger than its file of {held} bytes")
    return math.prod(sizes) * item


def _operators(graph: Mapping[str, Any]) -> set[str]:
    """Return the targets of all nodes of a graph and its subgraphs."""
    found = {node["target"] for node in graph["nodes"]}
    for node in graph["nodes"]:
        for each in node["inputs"]:
            if "as_graph" in each["arg"]:
                found |= _operators(each["arg"]["as_graph"]["graph"])
    return found
