"""Weight files to tensors, without running code from them."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import pickletools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from timm.models import clean_state_dict
from torch import Tensor

from vitedge.bundle import sha256_of
from vitedge.converters.quiet import quiet
from vitedge.errors import CheckpointError

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)

NESTED_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
SHARD = re.compile(r"(?:model|pytorch_model)-\d+-of-(\d+)\.(?:safetensors|bin)")
HUB_LAYOUT = "model.safetensors, its shards, or pytorch_model.bin"
SAVE_ALONE = "save the weights alone: torch.save(model.state_dict(), 'weights.pth'), or safetensors.torch.save_file"


@dataclass(frozen=True)
class Weights:
    """Tensors of a checkpoint by name.

    Attributes:
        tensors: parameters and buffers, on the CPU.
        sha256: hash of the file; of the shards' hashes in their order, where there are several.
    """

    tensors: Mapping[str, Tensor]
    sha256: str


def read_weights(path: Path) -> Weights:
    """Read a ``.safetensors`` file, or a PyTorch one through ``torch.load(weights_only=True)``.

    Wrappers of training scripts (``{"model": …}``, averaged weights first) and prefixes of ``torch.compile`` and
    ``DistributedDataParallel`` are taken off.

    Raises:
        CheckpointError: missing, cut off, not a checkpoint, or a pickle that wants to run code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist", expected="a file of weights", fix="check the path")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path} is not a weight file", expected=f"a file that ends in {', '.join(SUFFIXES)}")
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return Weights(tensors=clean_state_dict(_unwrapped(loaded, path)), sha256=sha256_of(path))


def weight_files(names: Collection[str]) -> tuple[str, ...]:
    """Which files of a folder in the hub's layout hold its weights.

    Args:
        names: of its files.

    Returns:
        One file or all shards, in order; safetensors rather than pickles. Empty if there are none, or some are missing.
    """
    for whole in WHOLE_FILES:
        if whole in names:
            return (whole,)
        shards = sorted(name for name in names if SHARD.fullmatch(name) and name.endswith(Path(whole).suffix))
        if shards and f"-of-{len(shards):05}" in shards[0]:
            return tuple(shards)
    return ()


def read_folder_weights(folder: Path) -> Weights:
    """Read the weights of a folder in the hub's layout: one file, or all shards.

    Raises:
        CheckpointError: there are none, a shard is missing, or a file cannot be read (``read_weights``).
    """
    files = weight_files({path.name for path in folder.iterdir()})
    if not files:
        raise CheckpointError(f"{folder} has no weights, or not all of them", expected=HUB_LAYOUT)
    parts = [read_weights(folder / name) for name in files]
    if len(parts) == 1:
        return parts[0]
    tensors = {key: tensor for part in parts for key, tensor in part.tensors.items()}
    return Weights(tensors, hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest())


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path} is cut off, or not a safetensors file: {error}",
            fix="download or copy the file again",
        ) from error


def _read_torch(path: Path) -> object:
    try:
        with quiet(), torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise _unreadable(path) from error


def _refused(path: Path, error: pickle.UnpicklingError) -> CheckpointError:
    if "unsupported global" not in str(error).lower() and not _is_pickle(path):
        return _unreadable(path)
    return CheckpointError(
        f"{path} holds Python objects that run code when they are loaded; vitedge never runs code from a checkpoint",
        expected="tensors only, as torch.load(weights_only=True) reads them",
        fix=SAVE_ALONE,
    )


def _is_pickle(path: Path) -> bool:
    """Whether the whole file is one pickle, told from its opcodes without loading it."""
    try:
        with path.open("rb") as stream:
            for _ in pickletools.genops(stream):
                pass
    except (ValueError, EOFError):
        return False
    return True


def _unreadable(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is cut off, or not a PyTorch checkpoint",
        expected="a file that torch.save wrote",
        fix="download or copy the file again",
    )


def _unwrapped(loaded: object, path: Path) -> dict[str, Tensor]:
    nested = next((loaded[key] for key in NESTED_KEYS if loaded.get(key)), loaded) if isinstance(loaded, dict) else None
    tensors = {} if not isinstance(nested, dict) else {k: v for k, v in nested.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name", expected="the state dict of a model", fix=SAVE_ALONE)
    return tensors
