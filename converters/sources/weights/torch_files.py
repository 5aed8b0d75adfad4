"""Read files of ``torch.save`` without PyTorch's unpickler: zip archives, and the format before PyTorch 1.6."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeGuard

import torch
from torch import Tensor

from vitedge.converters.sources.weights.pickles import (
    Call,
    DisallowedGlobalError,
    Global,
    Persistent,
    Pickle,
    read_pickle,
)
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
"""Bytes of an element by storage type, including unsupported types, whose storages must be skipped."""
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
    """A tensor that vitedge does not read, or whose shape does not fit the file.

    Args:
        key: name of the tensor.
        problem: continues "KEY is …" or "KEY has …".
    """

    def __init__(self, key: object, problem: str) -> None:
        super().__init__(f"{key!s:.200} {problem}")


@dataclass(frozen=True)
class TorchFile:
    """A file of ``torch.save`` whose tensors have not been read yet.

    Attributes:
        value: the saved object, as ``read_pickle`` returns it.
        stream: the file.
        storages: position of each storage in the file.
        size: size of the file in bytes.
    """

    value: Any
    stream: BinaryIO
    storages: Mapping[str, Entry]
    size: int

    def tensors(self, named: Mapping[object, Any]) -> dict[str, Tensor]:
        """Read the tensors of a state dict, and ignore other values.

        Raises:
            UnsupportedTensorError: a tensor is sparse, quantized, complex or without values, has no name, or its shape
                does not fit its storage.
            ValueError: the file is cut off, or there are more than ``CHECKPOINT_TENSORS``.
            MemoryError: the tensors take more memory than is free.
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
        """Refuse tensors that are larger than the file allows, before they are read."""
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
    """Layout of a tensor in its storage; offset and strides count elements."""

    storage: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def end(self) -> int:
        """Return the position in the storage after the last element, in bytes."""
        if 0 in self.shape:
            return 0
        last: int = self.offset + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )
        return (last + 1) * int(self.dtype.itemsize)

    def view(self, storage: Tensor) -> Tensor:
        """Return the tensor as a view of its storage's bytes."""
        whole = storage[: storage.numel() // self.dtype.itemsize * self.dtype.itemsize].view(self.dtype)
        if 0 in self.shape:
            return whole.new_empty(self.shape)
        return whole.as_strided(self.shape, self.strides, self.offset)


def read_torch_file(stream: BinaryIO, size: int) -> TorchFile:
    """Read a file of ``torch.save``, except the data of its tensors.

    Args:
        stream: the file, at its beginning; it must stay open while tensors are read.
        size: size of the file in bytes.

    Raises:
        DisallowedGlobalError: the pickle names a class or function that no state dict needs, or torch did not write it.
        ValueError: the file is no such file, or is cut off.
        OSError: the file cannot be read.
    """
    if stream.read(4) == b"PK\x03\x04":
        return _read_archive(stream, size)
    stream.seek(0)
    return _read_legacy(stream, size)


def _read_archive(stream: BinaryIO, size: int) -> TorchFile:
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
    return TorchFile(pickle.value, stream, storages, size)


def _read_legacy(stream: BinaryIO, size: int) -> TorchFile:
    """Read five pickles (magic number, version, machine, object, keys of the storages); the storages follow them."""
    content = stream.read(PICKLE_BYTES)
    magic = read_pickle(content)
    if magic.value != _LEGACY_MAGIC:
        raise DisallowedGlobalError("it is a pickle that torch.save did not write")
    version = read_pickle(content, magic.end)
    machine = read_pickle(content, version.end)
    if not isinstance(machine.value, dict) or machine.value.get("little_endian") is not True:
        raise ValueError("it was saved on a big-endian machine")
    saved = read_pickle(content, machine.end)
    keys = read_pickle(content, saved.end)
    widths = dict(map(_key_and_width, reversed(saved.persistent)))  # the first tensor of a storage decides
    return TorchFile(saved.value, stream, _legacy_storages(stream, keys, widths, size), size)


def _legacy_storages(stream: BinaryIO, keys: Pickle, widths: Mapping[str, int], size: int) -> dict[str, Entry]:
    """Find the storages; a count of elements precedes each of them."""
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
    """A storage that tensors share.

    Attributes:
        kind: name of its class, without the module.
        key: key of the storage in the file.
        count: number of elements.
    """

    kind: str
    key: str
    count: int

    @classmethod
    def of(cls, value: object) -> _Storage:
        """Read a storage's identity.

        Raises:
            ValueError: the value is no storage of ``torch.save``.
        """
        match value:
            case Persistent(("storage", Global(text), str(key), _, int(count))):
                return cls(text.rpartition(".")[2], key, count)
            case Persistent(("storage", Global(text), str(key), _, int(count), None)):
                return cls(text.rpartition(".")[2], key, count)
        raise ValueError("it refers to something that is no storage")


def _name(key: object) -> str:
    if not isinstance(key, str):
        raise UnsupportedTensorError(repr(key), "is the key of a tensor; the name of a parameter is a text")
    if not key.isascii() and any("\ud800" <= character <= "\udfff" for character in key):
        raise UnsupportedTensorError(repr(key), "has half of a surrogate pair")
    return key


def _tensor_of(key: object, value: object) -> _Tensor | None:
    """Return the layout of a state dict's value; None if the value is no tensor."""
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
    """Return the call that builds a tensor, without the calls that turn it into a parameter or add attributes."""
    while isinstance(value, Call):
        match value.function, value.arguments:
            case function, (inner, *_) if function in _PARAMETERS:
                value = inner
            case "torch._tensor._rebuild_from_type_v2", (Global(function), Global(kind), tuple(arguments), _):
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
        raise UnsupportedTensorError(key, "has an invalid offset, shape or strides")
    return _Tensor(where.key, dtype, offset, shape, strides)


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 63


def _are_sizes(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and len(values) <= TENSOR_DIMENSIONS and all(map(_is_size, values))


def _read(stream: BinaryIO, entry: Entry) -> Tensor:
    """Read the bytes of a storage."""
    storage = torch.empty(entry.size, dtype=torch.uint8)
    stream.seek(entry.offset)
    if stream.readinto(memoryview(storage.numpy())) != entry.size:  # type: ignore[attr-defined]
        raise ValueError("it is cut off")
    return storage
