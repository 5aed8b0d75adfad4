"""Files that ``torch.save`` wrote, read without PyTorch's unpickler: archives, and the format before PyTorch 1.6."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeGuard

import torch
from torch import Tensor

from vitedge.converters.sources.weights.pickles import Call, ForeignObjectError, Name, Persistent, Pickle, read_pickle
from vitedge.runtime.system.machine import read_memory
from vitedge.safety.archives import Entry, read_entry, stored_entries
from vitedge.safety.limits import (
    CHECKPOINT_SHARING,
    CHECKPOINT_SPARE,
    CHECKPOINT_TENSORS,
    PICKLE_BYTES,
    TENSOR_DIMENSIONS,
)

DTYPES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
WIDTHS: Mapping[str, int] = {
    **{name: dtype.itemsize for name, dtype in DTYPES.items()},
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QInt32Storage": 4,
    "UntypedStorage": 1,
}
"""Bytes of an element, of other types too, whose storages lie between those that are read."""
SUPPORTED = "tensors of float16, bfloat16, float32, float64, integers or booleans, dense, with their values"
KINDS: Mapping[str, str] = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values (device meta)",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_tensor_v3": "a tensor of a type that vitedge does not read",
}
UNKNOWN_KIND = "a tensor of a kind that vitedge does not read"

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_PLAIN_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_COUNT = struct.Struct("<q")


class UnsupportedTensorError(ValueError):
    """A tensor that vitedge does not read, or whose sizes do not fit what the file has of it.

    Args:
        key: the tensor's name.
        problem: continues "KEY is …" or "KEY has …".
    """

    def __init__(self, key: object, problem: str) -> None:
        super().__init__(f"{key!s:.200} {problem}")


@dataclass(frozen=True)
class Saved:
    """A file of ``torch.save``, of which the numbers are still in the file.

    Attributes:
        value: what was saved, as ``read_pickle`` gives it.
        stream: the file.
        storages: where the numbers of each storage lie.
        size: of the file, in bytes.
    """

    value: Any
    stream: BinaryIO
    storages: Mapping[str, Entry]
    size: int

    def tensors(self, named: Mapping[object, Any]) -> dict[str, Tensor]:
        """Read the tensors of a state dict, and leave its other values out.

        Raises:
            UnsupportedTensorError: a tensor is sparse, quantized, complex, without values, has no name, or has other
                sizes than its numbers.
            ValueError: the file is cut off, or there are more than ``CHECKPOINT_TENSORS``.
            MemoryError: they take more memory than is free.
        """
        described = ((key, _tensor_of(key, value)) for key, value in named.items())
        found = {_name(key): tensor for key, tensor in described if tensor is not None}
        if len(found) > CHECKPOINT_TENSORS:
            raise ValueError(f"it has {len(found)} tensors; the limit is {CHECKPOINT_TENSORS}")
        self._check_sizes(found)
        self._check_memory({tensor.storage: self._entry(key, tensor).size for key, tensor in found.items()})
        storages: dict[str, Tensor] = {}
        for key, tensor in found.items():
            if tensor.storage not in storages:
                storages[tensor.storage] = _read(self.stream, self._entry(key, tensor))
        return {key: tensor.view(storages[tensor.storage]) for key, tensor in found.items()}

    def _check_sizes(self, found: Mapping[str, _Tensor]) -> None:
        """Refuse more than the file can have, before anything of it is read."""
        total, most = 0, CHECKPOINT_SHARING * self.size + CHECKPOINT_SPARE
        for key, tensor in found.items():
            if tensor.end > self._entry(key, tensor).size:
                raise UnsupportedTensorError(
                    key, f"has the shape {tensor.shape}, which is more than the file holds of it"
                )
            total += math.prod(size or 1 for size in tensor.shape) * tensor.dtype.itemsize
            if total > most:
                raise UnsupportedTensorError(
                    key,
                    f"has the shape {tensor.shape}; the tensors up to it repeat the numbers of a file of {self.size} "
                    f"bytes, and would take {total}",
                )

    def _check_memory(self, sizes: Mapping[str, int]) -> None:
        wanted, free = sum(sizes.values()), read_memory().available
        if free is not None and wanted > free:
            raise MemoryError(f"its tensors take {wanted} bytes of memory, of which {free} are free")

    def _entry(self, key: str, tensor: _Tensor) -> Entry:
        if tensor.storage not in self.storages:
            raise UnsupportedTensorError(key, "has its numbers in a storage that the file does not have")
        return self.storages[tensor.storage]


@dataclass(frozen=True)
class _Tensor:
    """How a tensor lies in its storage; the offset and the strides count elements."""

    storage: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def end(self) -> int:
        """First byte of the storage after the last element."""
        if 0 in self.shape:
            return 0
        last: int = self.offset + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )
        return (last + 1) * int(self.dtype.itemsize)

    def view(self, storage: Tensor) -> Tensor:
        """The tensor itself, of the bytes of its storage."""
        whole = storage[: storage.numel() // self.dtype.itemsize * self.dtype.itemsize].view(self.dtype)
        if 0 in self.shape:
            return whole.new_empty(self.shape)
        return whole.as_strided(self.shape, self.strides, self.offset)


def read_saved(stream: BinaryIO, size: int) -> Saved:
    """Read what ``torch.save`` wrote, but for the numbers of its tensors.

    Args:
        stream: of the file, at its beginning; it has to stay open while tensors are read.
        size: of the file, in bytes.

    Raises:
        ForeignObjectError: it wants objects made that no state dict needs, or is a pickle that torch did not write.
        ValueError: it is no such file, or cut off.
        OSError: it cannot be read.
    """
    if stream.read(4) == b"PK\x03\x04":
        return _read_archive(stream, size)
    stream.seek(0)
    return _read_legacy(stream, size)


def _read_archive(stream: BinaryIO, size: int) -> Saved:
    entries = stored_entries(stream)
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise ValueError("it has no data.pkl")
    (root,) = roots
    order = entries.get(f"{root}byteorder")
    if order is not None and read_entry(stream, order, limit=16) != b"little":
        raise ValueError("it was saved on a big-endian machine")
    pickle = read_pickle(read_entry(stream, entries[f"{root}data.pkl"], limit=PICKLE_BYTES))
    prefix = f"{root}data/"
    storages = {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}
    return Saved(pickle.value, stream, storages, size)


def _read_legacy(stream: BinaryIO, size: int) -> Saved:
    """Five pickles (magic number, version, machine, the object, the keys of its storages), then the storages."""
    content = stream.read(PICKLE_BYTES)
    magic = read_pickle(content)
    if magic.value != _LEGACY_MAGIC:
        raise ForeignObjectError("it is a pickle that torch.save did not write")
    version = read_pickle(content, magic.end)
    machine = read_pickle(content, version.end)
    if not isinstance(machine.value, dict) or machine.value.get("little_endian") is not True:
        raise ValueError("it was saved on a big-endian machine")
    saved = read_pickle(content, machine.end)
    keys = read_pickle(content, saved.end)
    widths = dict(map(_key_and_width, reversed(saved.persistent)))  # as the first tensor of a storage has it
    return Saved(saved.value, stream, _legacy_storages(stream, keys, widths, size), size)


def _legacy_storages(stream: BinaryIO, keys: Pickle, widths: Mapping[str, int], size: int) -> dict[str, Entry]:
    """Find the storages: a count of elements before each one."""
    found: dict[str, Entry] = {}
    offset = keys.end
    for key in keys.value if isinstance(keys.value, list) else ():
        if not isinstance(key, str):
            raise ValueError("a storage's key is no text")  # noqa: TRY004
        stream.seek(offset)
        (count,) = _COUNT.unpack(stream.read(_COUNT.size).ljust(_COUNT.size, b"\xff"))
        entry = Entry(offset + _COUNT.size, count * widths.get(key, 0))
        offset = entry.offset + entry.size
        if count < 0 or offset > size:
            raise ValueError("it is cut off")
        found[key] = entry
    return found


def _key_and_width(persistent: Persistent) -> tuple[str, int]:
    storage = _Storage.of(persistent)
    return storage.key, WIDTHS.get(storage.kind, 1)


@dataclass(frozen=True)
class _Storage:
    """Numbers of one type that tensors share.

    Attributes:
        kind: name of its class, without the module.
        key: by which the file knows it.
        count: of its elements.
    """

    kind: str
    key: str
    count: int

    @classmethod
    def of(cls, value: object) -> _Storage:
        """Read a storage's identity.

        Raises:
            ValueError: it is none that ``torch.save`` writes.
        """
        match value:
            case Persistent(("storage", Name(text), str(key), _, int(count))):
                return cls(text.rpartition(".")[2], key, count)
            case Persistent(("storage", Name(text), str(key), _, int(count), None)):
                return cls(text.rpartition(".")[2], key, count)
        raise ValueError("it has something outside that is no storage of numbers")


def _name(key: object) -> str:
    if not isinstance(key, str):
        raise UnsupportedTensorError(repr(key), "is the key of a tensor; the name of a parameter is a text")
    if not key.isascii() and any("\ud800" <= character <= "\udfff" for character in key):
        raise UnsupportedTensorError(repr(key), "has half of a surrogate pair")
    return key


def _tensor_of(key: object, value: object) -> _Tensor | None:
    """How a value of a state dict lies in the file; None for what is no tensor."""
    call = _without_class(key, value)
    if call is None:
        return None
    match call.function, call.arguments:
        case "torch._utils._rebuild_tensor_v2", (_, _, _, _, _, _, metadata) if metadata:
            raise UnsupportedTensorError(key, "is a conjugated or negated view")
        case "torch._utils._rebuild_tensor_v2", (storage, offset, shape, strides, _, _, *_):
            return _dense(key, storage, offset, shape, strides)
        case "torch._utils._rebuild_tensor", (storage, offset, shape, strides):
            return _dense(key, storage, offset, shape, strides)
    if "._rebuild_" in call.function:
        raise UnsupportedTensorError(key, f"is {KINDS.get(call.function, UNKNOWN_KIND)}")
    return None


def _without_class(key: object, value: object) -> Call | None:
    """The call that makes a tensor, without those that make it a parameter or give it attributes."""
    while isinstance(value, Call):
        match value.function, value.arguments:
            case function, (inner, *_) if function in _PARAMETERS:
                value = inner
            case "torch._tensor._rebuild_from_type_v2", (Name(function), Name(kind), tuple(arguments), _):
                if kind not in _PLAIN_TYPES:
                    raise UnsupportedTensorError(key, f"is a tensor of the class {kind:.80}")
                value = Call(function, arguments)
            case _:
                return value
    return None


def _dense(key: object, storage: object, offset: object, shape: object, strides: object) -> _Tensor:
    where = _Storage.of(storage)
    dtype = DTYPES.get(where.kind)
    if dtype is None:
        raise UnsupportedTensorError(key, f"is a tensor in a {where.kind:.80}, whose type vitedge does not read")
    if not (_is_size(offset) and _are_sizes(shape) and _are_sizes(strides) and len(shape) == len(strides)):
        raise UnsupportedTensorError(key, "has sizes that are none")
    return _Tensor(where.key, dtype, offset, shape, strides)


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 63


def _are_sizes(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and len(values) <= TENSOR_DIMENSIONS and all(map(_is_size, values))


def _read(stream: BinaryIO, entry: Entry) -> Tensor:
    """The bytes of a storage."""
    storage = torch.empty(entry.size, dtype=torch.uint8)
    stream.seek(entry.offset)
    if stream.readinto(memoryview(storage.numpy())) != entry.size:  # type: ignore[attr-defined]
        raise ValueError("it is cut off")
    return storage
