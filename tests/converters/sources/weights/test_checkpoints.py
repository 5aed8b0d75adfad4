from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from vitedge.bundle.bundle import sha256_of
from vitedge.converters.sources.weights.checkpoints import read_checkpoint, read_checkpoint_folder, weight_files
from vitedge.errors import CheckpointError

TENSORS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}


class RunsCode:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


def assert_tensors(tensors: Any) -> None:
    assert set(tensors) == set(TENSORS)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(TENSORS, file)
    weights = read_checkpoint(file)
    assert_tensors(weights.state_dict)
    assert weights.sha256 == sha256_of(file)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_name_may_have_bytes_that_are_not_utf8(tmp_path: Path, suffix: str) -> None:
    plain, file = tmp_path / f"weights{suffix}", tmp_path / f"w\udcff%d:{suffix}"
    safetensors.torch.save_file(TENSORS, plain) if suffix == ".safetensors" else torch.save(TENSORS, plain)
    plain.rename(file)
    assert_tensors(read_checkpoint(file).state_dict)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_torch_files(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    torch.save(TENSORS, file)
    assert_tensors(read_checkpoint(file).state_dict)


@pytest.mark.parametrize(
    "saved",
    [
        {"model": TENSORS, "epoch": 3},
        {"state_dict": TENSORS},
        {"state_dict_ema": TENSORS, "state_dict": {"layer.weight": torch.zeros(1)}},
        {"model": TENSORS, "args": argparse.Namespace(lr=0.1)},
        {f"module.{name}": tensor for name, tensor in TENSORS.items()},
        {f"_orig_mod.{name}": tensor for name, tensor in TENSORS.items()},
    ],
    ids=["model", "state_dict", "averaged first", "timm's training script", "parallel", "compiled"],
)
def test_wrappers_of_training_scripts(tmp_path: Path, saved: object) -> None:
    torch.save(saved, tmp_path / "weights.pth")
    assert_tensors(read_checkpoint(tmp_path / "weights.pth").state_dict)


@pytest.mark.parametrize("write", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_wants_code_is_refused_and_runs_none(tmp_path: Path, write: Any) -> None:
    trace, file = tmp_path / "trace", tmp_path / "weights.pth"
    write({"layer.weight": RunsCode(trace)}, file)
    with pytest.raises(CheckpointError, match="never runs code from a checkpoint"):
        read_checkpoint(file)
    assert not trace.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "weights.pth")
    assert "state_dict()" in caught.value.fix


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, name: str, kept: float) -> None:
    file = tmp_path / name
    tensors = {"layer.weight": torch.randn(64, 64)}
    safetensors.torch.save_file(tensors, file) if name.endswith("safetensors") else torch.save(tensors, file)
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match="is cut off, or not a") as caught:
        read_checkpoint(file)
    assert str(file) in str(caught.value)


def test_a_truncated_legacy_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(TENSORS, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="is cut off, or not a"):
        read_checkpoint(file)


@pytest.mark.parametrize("content", [b"not a checkpoint", b"\x80\x02garbage", b"PK\x03\x04 nothing more"])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_of_something_else_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="is cut off, or not a"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("saved", [torch.ones(3), [1, 2], {}, {"epoch": 3}])
def test_a_checkpoint_without_named_tensors(tmp_path: Path, saved: object) -> None:
    torch.save(saved, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        read_checkpoint(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["missing.safetensors", "folder.pth"])
def test_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / name)


def test_an_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"weights\.npz is not a weight file"):
        read_checkpoint(tmp_path / "weights.npz")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pytorch_model.bin", "model.safetensors", "model-00001-of-00001.safetensors"], ["model.safetensors"]),
        (["pytorch_model.bin", "optimizer.bin"], ["pytorch_model.bin"]),
        (
            ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["model-00002-of-00002.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (["pytorch_model-00001-of-00001.bin"], ["pytorch_model-00001-of-00001.bin"]),
        (["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"], []),
        (["tf_model.h5", "flax_model.msgpack", "my_model.safetensors"], []),
    ],
)
def test_which_files_hold_the_weights(names: list[str], expected: list[str]) -> None:
    assert weight_files(names) == tuple(expected)


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    for number, key in ((1, "a"), (2, "b")):
        safetensors.torch.save_file({key: torch.ones(number)}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    weights = read_checkpoint_folder(tmp_path)
    assert {key: tuple(tensor.shape) for key, tensor in weights.state_dict.items()} == {"a": (1,), "b": (2,)}
    safetensors.torch.save_file({"b": torch.zeros(2)}, tmp_path / "model-00002-of-00002.safetensors")
    assert read_checkpoint_folder(tmp_path).sha256 != weights.sha256


def test_the_same_tensor_in_two_shards(tmp_path: Path) -> None:
    for number in (1, 2):
        safetensors.torch.save_file({"a": torch.ones(number)}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors has a, as another shard does"):
        read_checkpoint_folder(tmp_path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="it is a FIFO, not a file"):
        read_checkpoint_folder(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="it is a device, not a file"):
        read_checkpoint_folder(tmp_path)
    (tmp_path / name).unlink()
    with (tmp_path / name).open("wb") as stream:
        stream.truncate(10 << 30)
    with pytest.raises(CheckpointError, match="it is sparse"):
        read_checkpoint_folder(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(name)
    with pytest.raises(CheckpointError, match=r"does not exist|symbolic links"):
        read_checkpoint_folder(tmp_path)


def test_names_that_the_system_does_not_take(tmp_path: Path) -> None:
    for name in ("a" * 5_000, "a\0b", "\ud800"):
        with pytest.raises(CheckpointError, match=r"cannot be read|does not exist"):
            read_checkpoint(tmp_path / f"{name}.pth")


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be listed"):
        read_checkpoint_folder(tmp_path / "missing")
