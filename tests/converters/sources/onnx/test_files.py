"""Graphs and the weights beside them are read within what their files hold."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from vitedge.converters.sources.onnx.files import (
    MissingExternalDataError,
    external_data_files,
    has_external_data,
    load_external_data,
    read_graph,
)
from vitedge.converters.sources.onnx.graph_check import GraphError
from vitedge.safety.limits import GRAPH_DEPTH, GRAPH_FIELDS

pytestmark = pytest.mark.timeout(60)

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(*weights: TensorProto) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        list(weights),
    )
    return helper.make_model(graph)


def outside(location: str = "w.bin", name: str = "w", dims: tuple[int, ...] = (2, 3), **entries: object) -> TensorProto:
    tensor = TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def read(folder: Path, *weights: TensorProto) -> ModelProto:
    """Write a graph, read it and its weights."""
    (folder / "net.onnx").write_bytes(model(*weights).SerializeToString())
    found = read_graph(folder / "net.onnx").model
    load_external_data(found, folder / "net.onnx")
    return found


def test_weights_beside_the_graph(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8) + VALUES.tobytes() + VALUES.tobytes())
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "v.bin").write_bytes(VALUES.tobytes())
    tensors = [
        outside(name="a", offset=8, length=24),
        outside(name="b", offset=32),
        outside("sub/v.bin", "c"),
        outside(name="none", dims=(0,)),
    ]
    found = read(tmp_path, *tensors)
    assert not has_external_data(found)
    for tensor in found.graph.initializer[:3]:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), VALUES)


def test_the_size_counts_what_lies_outside(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "net.onnx").write_bytes(content := model(outside()).SerializeToString())
    file = read_graph(tmp_path / "net.onnx")
    assert file.size == len(content) + 24
    assert has_external_data(file.model)
    assert external_data_files(file.model, tmp_path / "net.onnx") == [tmp_path / "w.bin"]


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../w.bin", "sub/../../w.bin", "", ".", "a\0b", "/", "..", "//etc/passwd", "./../w.bin"],
)
def test_files_out_of_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "graph" / "sub").mkdir(parents=True)
    with pytest.raises(GraphError, match=r"no file of its folder|control characters"):
        read(tmp_path / "graph", outside(location))


@pytest.mark.parametrize("location", ["missing.bin", "*/_ORT_MEM_ADDR_/*", "file:///etc/passwd", "C:\\w.bin"])
def test_files_that_do_not_exist(tmp_path: Path, location: str) -> None:
    with pytest.raises(MissingExternalDataError) as caught:
        read(tmp_path, outside(location))
    assert caught.value.name == location


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "graph").mkdir()
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "graph" / "w.bin").symlink_to("../w.bin")
    (tmp_path / "graph" / "up").symlink_to("..")
    for location in ("w.bin", "up/w.bin"):
        with pytest.raises(GraphError, match="a link out of its folder"):
            read(tmp_path / "graph", outside(location))


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    """Both files of a snapshot are links into one folder of blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1").write_bytes(model(outside("net.onnx_data")).SerializeToString())
    (blobs / "2").write_bytes(VALUES.tobytes())
    (snapshot / "net.onnx").symlink_to("../../blobs/1")
    (snapshot / "net.onnx_data").symlink_to("../../blobs/2")
    found = read_graph(snapshot / "net.onnx").model
    load_external_data(found, snapshot / "net.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(found.graph.initializer[0]), VALUES)


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "w.bin").symlink_to("w.bin")
    with pytest.raises(OSError, match="symbolic links"):
        read(tmp_path, outside())


def test_weights_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 30)
    for name, problem in (("fifo", "a FIFO"), ("folder", "a folder"), ("sparse", "it is sparse")):
        with pytest.raises(OSError, match=problem):
            read(tmp_path, outside(name))


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ([outside(offset=8)], "has 24 bytes; .* needs 24 at 8"),
        ([outside(offset=1 << 62)], "has 24 bytes; .* needs 24 at"),
        ([outside(dims=(1 << 20,))], "has 24 bytes; .* needs 4194304"),
        ([outside(length=20)], "has 24 bytes; .* needs 24"),
        ([outside(length=0)], "has 24 bytes; .* needs 24"),
        ([outside(), outside(name="v")], "beside the other tensors"),
        ([outside(), outside(name="v", dims=(1,), offset=4)], "beside the other tensors"),
        ([outside(offset=-1)], "no position"),
        ([outside(offset="x")], "no position"),
        ([outside(offset="1" * 40)], "no position"),
        ([outside(offset="٣")], "no position"),
        ([outside(length="")], "no position"),
    ],
)
def test_places_that_the_file_does_not_have(tmp_path: Path, tensors: list[TensorProto], problem: str) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    with pytest.raises(GraphError, match=problem):
        read(tmp_path, *tensors)


def test_a_hundred_gigabytes_that_are_not_there(tmp_path: Path) -> None:
    with (tmp_path / "w.bin").open("wb") as stream:
        stream.truncate(100 << 30)
    with pytest.raises(GraphError, match="more than"):
        read(tmp_path, outside(dims=(25 << 30,)))


def test_graphs_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.onnx")
    (tmp_path / "folder.onnx").mkdir()
    for name in ("fifo.onnx", "folder.onnx", "missing.onnx"):
        with pytest.raises(OSError, match=r"a FIFO|a folder|No such file"):
            read_graph(tmp_path / name)
    with pytest.raises(OSError, match="a device"):
        read_graph(Path("/dev/zero"))


def varint(number: int) -> bytes:
    found = b""
    while number > 0x7F:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize("number", [1, 2, 16])
def test_millions_of_empty_parts_are_counted_before_they_are_parsed(tmp_path: Path, number: int) -> None:
    (tmp_path / "net.onnx").write_bytes(field(7, field(number, b"") * (GRAPH_FIELDS + 1)))
    with pytest.raises(GraphError, match=f"more than {GRAPH_FIELDS} fields"):
        read_graph(tmp_path / "net.onnx")


def test_graphs_deep_within_each_other(tmp_path: Path) -> None:
    """Deeper than protobuf parses."""
    content = field(1, field(4, b"Neg") + field(2, b"y"))
    for _ in range(3 * GRAPH_DEPTH):
        content = field(1, field(4, b"If") + field(2, b"y") + field(5, field(1, b"then_branch") + field(6, content)))
    (tmp_path / "net.onnx").write_bytes(field(7, content))
    with pytest.raises(ValueError, match=r"."):
        read_graph(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\x0a",
        b"not a graph",
        field(7, b"")[:-1] + b"\xff\xff\xff\xff\x0f",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x3b\x3c",
        b"\x3a\x05\x0a\x10ab",
        b"\xff" * 100,
        b"\x39\x00",
    ],
)
def test_what_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read_graph(tmp_path / "net.onnx")


def test_changed_bytes_give_graphs_or_errors(tmp_path: Path) -> None:
    content = model(numpy_helper.from_array(VALUES, "w"), outside(name="v")).SerializeToString()
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    for position in range(len(content)):
        for flip in (0x01, 0x08, 0x80, 0xFF):
            changed = bytearray(content)
            changed[position] ^= flip
            (tmp_path / "net.onnx").write_bytes(changed)
            try:
                found = read_graph(tmp_path / "net.onnx").model
                load_external_data(found, tmp_path / "net.onnx")
            except (OSError, ValueError):
                continue
            assert not has_external_data(found)


def test_what_onnx_writes_is_read_as_onnx_reads_it(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.random.default_rng(seed).random((50, 7)), f"w{seed}") for seed in range(3)]
    onnx.save(model(*weights), tmp_path / "net.onnx", save_as_external_data=True, location="data", size_threshold=0)
    found = read_graph(tmp_path / "net.onnx").model
    load_external_data(found, tmp_path / "net.onnx")
    assert found == onnx.load(tmp_path / "net.onnx")
