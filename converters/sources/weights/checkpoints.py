"""Read checkpoints into state dicts, without running code from them."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import safetensors
import safetensors.torch
from timm.models import clean_state_dict
from torch import Tensor

from vitedge.converters.sources.weights.pickles import DisallowedGlobalError
from vitedge.converters.sources.weights.safetensors_files import check_header
from vitedge.converters.sources.weights.torch_files import SUPPORTED, UnsupportedTensorError, read_torch_file
from vitedge.errors import CheckpointError, first_line
from vitedge.safety.files import is_file, is_unicode, open_regular
from vitedge.safety.limits import CHECKPOINT_BYTES, FOLDER_ENTRIES

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)

NESTED_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
SHARD = re.compile(r"(?:model|pytorch_model)-\d+-of-(\d+)\.(?:safetensors|bin)")
HUB_LAYOUT = "model.safetensors, its shards, or pytorch_model.bin"
EXPORTS = ("model.onnx", "onnx/model.onnx")
SAVE_ALONE = "save the weights alone: torch.save(model.state_dict(), 'weights.pth'), or safetensors.torch.save_file"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        state_dict: parameters and buffers by name, on the CPU.
        sha256: hash of the file; for several shards, hash of the shards' hashes in order.
    """

    state_dict: Mapping[str, Tensor]
    sha256: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of safetensors or ``torch.save``, without running code from it.

    Wrappers of training scripts (``{"model": …}``, averaged weights first) and prefixes of ``torch.compile`` and
    ``DistributedDataParallel`` are removed.

    Raises:
        CheckpointError: the file is missing, no regular file, cut off or no checkpoint, is a pickle that would run
            code, or has tensors that vitedge does not read.
    """
    with _opened(path) as stream:
        tensors = _tensors(stream, path)
        if not tensors:
            raise CheckpointError(
                f"{path} holds no tensors by name", expected="the state dict of a model", fix=SAVE_ALONE
            )
        return Checkpoint(clean_state_dict(tensors), _sha256(stream))


def weight_files(names: Collection[str]) -> tuple[str, ...]:
    """Select the files of the weights in a folder in the hub's layout.

    Args:
        names: names of the folder's files.

    Returns:
        One file or all shards, in order; safetensors before pickles. Empty if there are no weights or shards are
        missing.
    """
    for whole in WHOLE_FILES:
        if whole in names:
            return (whole,)
        shards = sorted(name for name in names if SHARD.fullmatch(name) and name.endswith(Path(whole).suffix))
        if shards and f"-of-{len(shards):05}" in shards[0]:
            return tuple(shards)
    return ()


def read_checkpoint_folder(folder: Path) -> Checkpoint:
    """Read the weights of a folder in the hub's layout: one file, or all shards.

    Raises:
        CheckpointError: there are no weights, a shard is missing, or ``read_checkpoint`` refuses a file.
    """
    files = weight_files(_names(folder))
    if not files:
        exported = next((name for name in EXPORTS if is_file(folder / name)), None)
        raise CheckpointError(
            f"{folder} has no weights, or not all of them",
            expected=HUB_LAYOUT,
            fix=f"convert the exported graph: {folder / exported}" if exported else "",
        )
    first, *others = (read_checkpoint(folder / name) for name in files)
    if not others:
        return first
    tensors: dict[str, Tensor] = {}
    for name, part in zip(files, (first, *others), strict=True):
        repeated = next((key for key in part.state_dict if key in tensors), None)
        if repeated is not None:
            raise CheckpointError(
                f"{folder / name} has {repeated}, as another shard does", expected="shards of one checkpoint"
            )
        tensors.update(part.state_dict)
    hashes = "".join(part.sha256 for part in (first, *others))
    return Checkpoint(tensors, hashlib.sha256(hashes.encode()).hexdigest())


def _names(folder: Path) -> set[str]:
    """List the names in a folder."""
    try:
        return {path.name for path in itertools.islice(folder.iterdir(), FOLDER_ENTRIES)}
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be listed: {error}", expected=f"a folder with {HUB_LAYOUT}") from error


def _opened(path: Path) -> BinaryIO:
    try:
        if path.is_dir() or not path.exists():
            raise CheckpointError(f"{path} does not exist", expected="a file of weights", fix="check the path")
        if path.suffix not in SUFFIXES:
            raise CheckpointError(f"{path} is not a weight file", expected=f"a file that ends in {', '.join(SUFFIXES)}")
        return open_regular(path, limit=CHECKPOINT_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", expected="a file of weights") from error


def _library_name(path: Path, stream: BinaryIO) -> str:
    """Return a name in UTF-8, which safetensors demands, of an open file."""
    return str(path) if is_unicode(str(path)) else f"/proc/self/fd/{stream.fileno()}"


def _tensors(stream: BinaryIO, path: Path) -> dict[str, Tensor]:
    """Read the tensors of an open file by their names in the file."""
    size = os.fstat(stream.fileno()).st_size
    try:
        if path.suffix == ".safetensors":
            check_header(stream, size)
            return safetensors.torch.load_file(_library_name(path, stream))
        saved = read_torch_file(stream, size)
        return saved.tensors(_state_dict(saved.value))
    except DisallowedGlobalError as error:
        raise _refused(path, error) from error
    except UnsupportedTensorError as error:
        raise CheckpointError(f"{path} cannot be converted: {error}", expected=SUPPORTED, fix=SAVE_ALONE) from error
    except MemoryError as error:
        raise CheckpointError(
            f"{path} does not fit into memory: {first_line(error)}", fix="close other programs"
        ) from error
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error


def _state_dict(saved: object) -> Mapping[object, object]:
    """Return the state dict inside the object that a training script saved."""
    if not isinstance(saved, dict):
        return {}
    return next((saved[key] for key in NESTED_KEYS if isinstance(saved.get(key), dict) and saved[key]), saved)


def _sha256(stream: BinaryIO) -> str:
    """Return the hex SHA-256 of an open file."""
    digest = hashlib.sha256()
    stream.seek(0)
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _refused(path: Path, error: DisallowedGlobalError) -> CheckpointError:
    return CheckpointError(
        f"{path} holds Python objects that run code when they are loaded; vitedge never runs code from a checkpoint: "
        f"{error}",
        expected="tensors only, as torch.load(weights_only=True) reads them",
        fix=SAVE_ALONE,
    )


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    kind, writer = (
        ("safetensors file", "safetensors") if path.suffix == ".safetensors" else ("PyTorch checkpoint", "torch.save")
    )
    return CheckpointError(
        f"{path} is cut off, or not a {kind}: {first_line(error)}",
        expected=f"a file that {writer} wrote",
        fix=f"download or copy the file again, or {SAVE_ALONE}",
    )
