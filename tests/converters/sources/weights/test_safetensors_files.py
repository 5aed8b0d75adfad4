from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from vitedge.converters.sources.weights.checkpoints import read_checkpoint
from vitedge.errors import CheckpointError
from vitedge.safety.limits import JSON_BYTES

pytestmark = pytest.mark.timeout(60)


def entry(dtype: str = "F32", shape: Any = (4,), start: int = 0, end: int = 16) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def written(folder: Path, header: object, *, length: int | None = None, data: bytes = bytes(16)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = folder / "weights.safetensors"
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return file


def test_a_good_header(tmp_path: Path) -> None:
    tensors = {name: torch.ones(2, 3).to(dtype) for name, dtype in (("a", torch.bfloat16), ("b", torch.int64))}
    safetensors.torch.save_file({**tensors, "c": torch.zeros(())}, tmp_path / "w.safetensors", {"format": "pt"})
    found = read_checkpoint(tmp_path / "w.safetensors").state_dict
    assert torch.equal(found["a"], tensors["a"])
    assert torch.equal(found["b"], tensors["b"])


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F4", "C64", "U64", "U16", "F128", "", None, 3, ["F32"]])
def test_types_that_are_not_read(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(CheckpointError, match=r"a\\x1b is a tensor of the type"):
        read_checkpoint(written(tmp_path, {"a\x1b": entry(dtype)}))


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"", "not JSON|Expecting value"),
        (b"[]", "no JSON object"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"a":' * 100_000, "nested deeper"),
        (b"{}", "is cut off, or not a"),
        (b"\xff\xfe", "decode"),
        (b'{"\\ud800": 1}', "surrogate"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": 1' + b"0" * 5_000 + b"}", "digits|no shape"),
        ({"a": 1}, "gives a no shape"),
        ({"a": entry(shape=None)}, "gives a no shape"),
        ({"a": entry(shape=(-4,))}, "gives a no shape"),
        ({"a": entry(shape=(4.0,))}, "gives a no shape"),
        ({"a": entry(shape=(True,))}, "gives a no shape"),
        ({"a": entry(shape=(5,))}, "is cut off, or not a"),
        ({"a": entry(shape=(1 << 62, 4, 4))}, "has the shape"),
        ({"a": entry(shape=(1 << 40, 0), end=0), "b": entry()}, "has the shape"),
        ({"a": entry(shape=(1,) * 20 + (4,))}, "has the shape"),
        ({"a": {"dtype": "F32", "shape": [4]}}, "is cut off, or not a"),
        ({"a": entry(), "b": entry()}, "is cut off, or not a"),
        ({"a": entry(start=16, end=32)}, "is cut off, or not a"),
        ({"a": entry(start=16, end=0)}, "is cut off, or not a"),
        ({"a": entry(end=1 << 70)}, "is cut off, or not a"),
        (f'{{"a": {json.dumps(entry())}, "a": {json.dumps(entry())}}}'.encode(), "describes a tensor twice"),
        ({**{f"k{index}": entry(shape=(0,), end=0) for index in range(100_001)}}, "the limit is 100000"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, header: object, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        read_checkpoint(written(tmp_path, header))


@pytest.mark.parametrize("length", [1 << 20, JSON_BYTES + 1, 1 << 62, (1 << 64) - 1])
def test_a_header_that_is_longer_than_the_file(tmp_path: Path, length: int) -> None:
    with pytest.raises(CheckpointError, match=r"header is cut off|header has"):
        read_checkpoint(written(tmp_path, {"a": entry()}, length=length))


@pytest.mark.parametrize("size", [0, 3])
def test_a_file_without_a_header(tmp_path: Path, size: int) -> None:
    (tmp_path / "weights.safetensors").write_bytes(bytes(size))
    with pytest.raises(CheckpointError, match="has no header"):
        read_checkpoint(tmp_path / "weights.safetensors")
