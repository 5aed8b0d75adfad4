"""What ``torch.save`` wrote is read as ``torch.load`` reads it; what is no dense tensor is refused by name."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vitedge.converters.sources.weights import torch_files
from vitedge.converters.sources.weights.checkpoints import read_checkpoint
from vitedge.converters.sources.weights.pickles import read_pickle
from vitedge.converters.sources.weights.torch_files import DTYPES
from vitedge.errors import CheckpointError
from vitedge.runtime.system.machine import Memory

pytestmark = pytest.mark.timeout(60)

GOOD = {"fc.weight": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture(params=["archive", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[object], Path]:
    """Write an object in either format; the file."""

    def write(value: object) -> Path:
        torch.save(value, tmp_path / "weights.pth", _use_new_zipfile_serialization=request.param == "archive")
        return tmp_path / "weights.pth"

    return write


def assert_like_torch(file: Path) -> None:
    wanted, found = torch.load(file, weights_only=True), read_checkpoint(file).state_dict
    assert list(found) == list(wanted)
    for key, tensor in wanted.items():
        assert (found[key].dtype, found[key].shape, found[key].stride()) == (
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
        assert torch.equal(found[key], tensor.detach()), key


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_types(save: Callable[[object], Path], dtype: torch.dtype) -> None:
    assert_like_torch(save({"a": torch.randint(0, 100, (3, 5)).to(dtype), "b": torch.ones((), dtype=dtype)}))


def test_views_and_shared_storages(save: Callable[[object], Path]) -> None:
    whole = torch.randn(4, 6)
    values = {"whole": whole, "row": whole[2], "turned": whole.T, "stepped": whole[::2, 1::3], "one": whole[3, 5]}
    file = save({**values, "none": whole[:0], "repeated": torch.ones(1).expand(7, 3), "twice": whole})
    assert_like_torch(file)
    found = read_checkpoint(file).state_dict
    assert found["twice"].data_ptr() == found["whole"].data_ptr()


def test_parameters_and_tensors_with_attributes(save: Callable[[object], Path]) -> None:
    marked = torch.ones(2)
    marked.scale = 3  # type: ignore[attr-defined]
    parameter = torch.nn.Parameter(torch.randn(3))
    parameter.decay = False  # type: ignore[attr-defined]
    assert_like_torch(save({"a": torch.nn.Parameter(torch.randn(2, 2)), "b": marked, "c": parameter}))


def test_a_state_dict_of_a_module(save: Callable[[object], Path]) -> None:
    assert_like_torch(save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4)).state_dict()))


def test_values_that_are_no_tensors_are_left_out(save: Callable[[object], Path]) -> None:
    assert set(read_checkpoint(save({**GOOD, "epoch": 3, "name": "x", "best": None, "sizes": [1]})).state_dict) == set(
        GOOD
    )


def test_a_training_script_with_its_optimizer(save: Callable[[object], Path]) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    found = read_checkpoint(save(saved)).state_dict
    assert torch.equal(found["weight"], module.weight)


class Subclass(Tensor):
    """A class of a stranger's own."""


UNREADABLE: dict[str, Callable[[], Any]] = {
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a tensor without values": lambda: torch.ones(2, device="meta"),
    "a quantized tensor": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "a nested tensor": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
    "a conjugated or negated view": lambda: torch.ones(2, dtype=torch.complex64).conj(),
    "whose type vitedge does not read": lambda: torch.ones(2, dtype=torch.complex64),
    "of a type that vitedge does not read": lambda: torch.ones(2).to(torch.float8_e4m3fn),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_dense_tensor_is_refused_by_name(save: Callable[[object], Path], kind: str) -> None:
    with pytest.raises(CheckpointError, match=rf"fc\.bias is .*{kind}") as caught:
        read_checkpoint(save({**GOOD, "fc.bias": UNREADABLE[kind]()}))
    assert "float32" in caught.value.expected


@pytest.mark.filterwarnings("ignore")
def test_a_sparse_csr_tensor_is_refused(save: Callable[[object], Path]) -> None:
    with pytest.raises(CheckpointError, match=r"fc\.bias is a sparse tensor"):
        read_checkpoint(save({**GOOD, "fc.bias": torch.eye(3).to_sparse_csr()}))


def test_a_tensor_of_another_class_is_refused(save: Callable[[object], Path]) -> None:
    with pytest.raises(CheckpointError, match=r"run code when they are loaded.*Subclass"):
        read_checkpoint(save({**GOOD, "fc.bias": torch.ones(2).as_subclass(Subclass)}))


@pytest.mark.parametrize("key", [0, 3.5, None, True, ("a", "b")])
def test_keys_that_are_no_names(save: Callable[[object], Path], key: object) -> None:
    file = save({**GOOD, key: torch.ones(2)})
    if isinstance(key, int):
        with pytest.raises(
            CheckpointError, match=rf"{key!r} is the key of a tensor; the name of a parameter is a text"
        ):
            read_checkpoint(file)
    else:
        assert set(read_checkpoint(file).state_dict) == set(GOOD)


def test_control_characters_of_keys_are_escaped(save: Callable[[object], Path]) -> None:
    with pytest.raises(CheckpointError, match=r"fc\\x1b\[2J is a sparse tensor"):
        read_checkpoint(save({"fc\x1b[2J": torch.eye(2).to_sparse()}))


def test_half_of_a_surrogate_pair_in_a_key(save: Callable[[object], Path]) -> None:
    with pytest.raises(CheckpointError, match="half of a surrogate pair"):
        read_checkpoint(save({**GOOD, "a\ud800": torch.ones(1)}))


@pytest.mark.parametrize("size", [(1_250_000_000,), (1 << 40,), (1 << 20, 1 << 20)])
def test_a_small_file_of_gigabytes(save: Callable[[object], Path], size: tuple[int, ...]) -> None:
    file = save({**GOOD, "big": torch.ones(1).expand(size)})
    assert file.stat().st_size < 4_000
    with pytest.raises(CheckpointError, match=r"big has the shape .* the tensors up to it repeat the numbers"):
        read_checkpoint(file)


def test_many_views_of_a_few_numbers(save: Callable[[object], Path]) -> None:
    row = torch.ones(1 << 20)
    with pytest.raises(CheckpointError, match="repeat the numbers of a file"):
        read_checkpoint(save({str(index): row[index:] for index in range(64)}))


class Rebuilt:
    """A tensor of which a pickle says whatever is wanted."""

    def __init__(self, *, offset: Any = 0, shape: Any = (2,), strides: Any = (1,), extra: tuple[Any, ...] = ()) -> None:
        self.storage = torch.arange(6.0).storage()
        self.described = offset, shape, strides, False, OrderedDict(), *extra

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (self.storage, *self.described)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("described", "problem"),
    [
        ({"shape": (7,)}, "more than the file holds"),
        ({"shape": (2, 3), "strides": (4, 1)}, "more than the file holds"),
        ({"offset": 5}, "more than the file holds"),
        ({"offset": 1 << 62}, "more than the file holds"),
        ({"shape": (1 << 62, 1 << 62), "strides": (1, 1)}, "more than the file holds"),
        ({"shape": (0, 1 << 62, 1 << 62), "strides": (1, 1, 1)}, "repeat the numbers"),
        ({"shape": (1 << 40, 0), "strides": (1, 1)}, "repeat the numbers"),
        ({"shape": (-1,)}, "an invalid offset, shape or strides"),
        ({"shape": (2,), "strides": (-1,)}, "an invalid offset, shape or strides"),
        ({"shape": (2,), "strides": (1, 1)}, "an invalid offset, shape or strides"),
        ({"shape": (2.0,)}, "an invalid offset, shape or strides"),
        ({"shape": (True,)}, "an invalid offset, shape or strides"),
        ({"shape": [2]}, "an invalid offset, shape or strides"),
        ({"shape": (1 << 80,)}, "an invalid offset, shape or strides"),
        ({"shape": (1,) * 17, "strides": (1,) * 17}, "an invalid offset, shape or strides"),
        ({"shape": (1,) * 100_000, "strides": (1,) * 100_000}, "an invalid offset, shape or strides"),
        ({"shape": None}, "an invalid offset, shape or strides"),
        ({"offset": "0"}, "an invalid offset, shape or strides"),
    ],
)
def test_sizes_that_do_not_fit(save: Callable[[object], Path], described: dict[str, Any], problem: str) -> None:
    with pytest.raises(CheckpointError, match=rf"fc\.bias has .*{problem}"):
        read_checkpoint(save({**GOOD, "fc.bias": Rebuilt(**described)}))


class Nested:
    """A parameter of a parameter, thousands of times."""

    def __reduce__(self) -> tuple[Any, ...]:
        made: Any = torch.ones(1)
        for _ in range(400):
            made = Wrapped(made)
        return made.__reduce__()  # type: ignore[no-any-return]


class Wrapped:
    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_parameter, (self.inner, False, OrderedDict())


def test_parameters_within_parameters(save: Callable[[object], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.equal(read_checkpoint(save({"a": Nested()})).state_dict["a"], torch.ones(1))


def entries_of(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(file: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    torch.save(GOOD, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_a_compressed_archive_is_refused(archive: Path) -> None:
    entries = entries_of(archive)
    rewrite(archive, entries)
    assert torch.equal(read_checkpoint(archive).state_dict["fc.weight"], GOOD["fc.weight"])
    rewrite(archive, {**entries, "weights/data/0": bytes(1 << 24)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed"):
        read_checkpoint(archive)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"weights/data.pkl": None}, r"no data\.pkl"),
        ({"weights/data/0": None}, "storage that the file does not have"),
        ({"weights/data/0": b"1234"}, "more than the file holds"),
        ({"weights/byteorder": b"big"}, "big-endian"),
        ({"other/data.pkl": b"."}, r"no data\.pkl"),
        ({"weights/data.pkl": b"\x80\x02N."}, "no tensors by name"),
        ({"weights/data.pkl": b""}, "is cut off, or not a"),
    ],
)
def test_archives_with_other_entries(archive: Path, changes: dict[str, bytes | None], problem: str) -> None:
    changed = {**entries_of(archive), **changes}
    rewrite(archive, {name: content for name, content in changed.items() if content is not None})
    with pytest.raises(CheckpointError, match=problem):
        read_checkpoint(archive)


def test_a_legacy_file_of_storages_without_end(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(GOOD, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    count = (6).to_bytes(8, "little")
    assert content.count(count) == 1
    for lie in (7, 1 << 40, (1 << 64) - 1):
        file.write_bytes(content.replace(count, lie.to_bytes(8, "little")))
        with pytest.raises(CheckpointError, match="is cut off, or not a PyTorch"):
            read_checkpoint(file)


@pytest.mark.parametrize("keys", [[[1]], [{}], [(1, (2,))], [None], "0", {"0": 1}, 3])
def test_a_legacy_file_of_other_keys(tmp_path: Path, keys: object) -> None:
    file = tmp_path / "weights.pth"
    torch.save(GOOD, file, _use_new_zipfile_serialization=False)
    content, end = file.read_bytes(), 0
    for _ in range(4):
        end = read_pickle(content, end).end
    file.write_bytes(content[:end] + pickle.dumps(keys, protocol=2) + bytes(100))
    with pytest.raises(CheckpointError, match=r"key is no text|storage that the file does not have"):
        read_checkpoint(file)


def test_a_pickle_that_torch_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(pickle.dumps({"a": [1.0, 2.0]}))
    with pytest.raises(CheckpointError, match=r"a pickle that torch\.save did not write"):
        read_checkpoint(tmp_path / "weights.pth")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="is cut off, or not a PyTorch checkpoint") as caught:
        read_checkpoint(tmp_path / "weights.pt")
    assert "state_dict()" in caught.value.fix


def test_memory_is_asked_before_it_is_taken(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_files, "read_memory", lambda: Memory(total=1 << 30, available=23))
    with pytest.raises(
        CheckpointError, match="does not fit into memory: its tensors take 24 bytes of memory, of which 23 are free"
    ):
        read_checkpoint(archive)


def test_changed_bytes_give_tensors_or_errors(save: Callable[[object], Path]) -> None:
    """Every byte of the part that describes the tensors, with three other values."""
    file = save(GOOD)
    content = file.read_bytes()
    for position in range(0, len(content), 5):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(content)
            changed[position] ^= flip
            file.write_bytes(changed)
            try:
                assert read_checkpoint(file).state_dict
            except CheckpointError:
                continue


def test_a_stream_of_random_bytes(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    buffer = io.BytesIO()
    torch.save(GOOD, buffer)
    for length in range(0, len(buffer.getvalue()), 17):
        file.write_bytes(buffer.getvalue()[:length])
        with pytest.raises(CheckpointError):
            read_checkpoint(file)
