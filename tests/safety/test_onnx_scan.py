"""Tensors whose data lies elsewhere are found wherever they are in a graph."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from vitedge.safety import onnx_scan  # noqa: E402
from vitedge.safety.onnx_scan import EXTERNAL, refused_parts  # noqa: E402


def weight() -> TensorProto:
    return numpy_helper.from_array(np.arange(4, dtype=np.float32), "location")


def external(*entries: tuple[str, str]) -> TensorProto:
    tensor = weight()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries or (("location", "weights.bin"),):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(tensor: TensorProto) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    return helper.make_graph([helper.make_node("Identity", ["location"], ["y"])], "g", [], [output], [tensor])


def model(tensor: TensorProto) -> onnx.ModelProto:
    return helper.make_model(graph(tensor))


def sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=tensor, indices=weight(), dims=[4])


def within(node: onnx.NodeProto) -> onnx.ModelProto:
    made = model(weight())
    made.graph.node.append(node)
    return made


def in_function(tensor: TensorProto) -> onnx.ModelProto:
    made = model(weight())
    function = helper.make_function(
        "here", "F", [], ["y"], [helper.make_node("Constant", [], ["y"], value=tensor)], [helper.make_opsetid("", 18)]
    )
    made.functions.append(function)
    return made


def in_training(tensor: TensorProto) -> onnx.ModelProto:
    made = model(weight())
    made.training_info.add().algorithm.CopyFrom(graph(tensor))
    return made


def in_sparse_initializer(tensor: TensorProto) -> onnx.ModelProto:
    made = model(weight())
    made.graph.sparse_initializer.append(sparse(tensor))
    return made


def deep(tensor: TensorProto) -> onnx.ModelProto:
    inner = graph(tensor)
    for _ in range(15):
        outer = graph(weight())
        outer.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=graph(weight())))
        inner = outer
    return helper.make_model(inner)


PLACES: dict[str, Callable[[TensorProto], onnx.ModelProto]] = {
    "an initializer": model,
    "a sparse initializer": in_sparse_initializer,
    "a constant": lambda tensor: within(helper.make_node("Constant", [], ["z"], value=tensor)),
    "a sparse constant": lambda tensor: within(helper.make_node("Constant", [], ["z"], sparse_value=sparse(tensor))),
    "a list of tensors": lambda tensor: within(helper.make_node("X", [], ["z"], many=[weight(), tensor])),
    "a list of sparse tensors": lambda tensor: within(helper.make_node("X", [], ["z"], many=[sparse(tensor)])),
    "a branch": lambda tensor: within(helper.make_node("If", ["c"], ["z"], then_branch=graph(tensor))),
    "a list of graphs": lambda tensor: within(helper.make_node("X", [], ["z"], many=[graph(tensor)])),
    "a function": in_function,
    "a training graph": in_training,
    "deep within branches": deep,
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_external_data_is_found(place: Callable[[TensorProto], onnx.ModelProto]) -> None:
    assert EXTERNAL in refused_parts(place(external()).SerializeToString())


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_tensor_that_is_called_location_is_none(place: Callable[[TensorProto], onnx.ModelProto]) -> None:
    assert EXTERNAL not in refused_parts(place(weight()).SerializeToString())


def test_an_address_in_memory_is_found() -> None:
    """ONNX Runtime's own marker: it would read this process's memory there."""
    tensor = external(("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "140000000000000"), ("length", "16"))
    assert EXTERNAL in refused_parts(model(tensor).SerializeToString())


def test_entries_count_even_where_the_tensor_does_not_say_that_its_data_is_elsewhere() -> None:
    tensor = external()
    tensor.data_location = TensorProto.DEFAULT
    assert EXTERNAL in refused_parts(model(tensor).SerializeToString())


def test_lengths_in_more_bytes_than_they_need_hide_nothing() -> None:
    """Parsers take a varint with needless bytes; ``8`` is ``08`` or ``88 00``."""
    entry = b"\x0a\x88\x00location\x12\x8b\x80\x00weights.bin"
    tensor = b"\x08\x04\x10\x01\x42\x01w\x6a" + bytes([len(entry)]) + entry + b"\xf0\x00\x81\x00"
    assert TensorProto.FromString(tensor).external_data[0].key == "location"
    assert TensorProto.FromString(tensor).data_location == TensorProto.EXTERNAL
    inner = b"\x2a" + bytes([len(tensor)]) + tensor
    content = b"\x3a\xff\x80\x00".replace(b"\xff", bytes([0x80 | len(inner)])) + inner
    assert onnx.ModelProto.FromString(content).graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert EXTERNAL in refused_parts(content)


def test_a_graph_with_more_fields_than_any_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_scan, "GRAPH_FIELDS", 5)
    with pytest.raises(ValueError, match="more than 5 fields"):
        list(refused_parts(model(weight()).SerializeToString()))


@pytest.mark.timeout(60)
def test_damage_of_any_kind_ends_in_an_answer() -> None:
    good, rng = deep(external()).SerializeToString(), random.Random(13)
    for _ in range(2000):
        bad = bytearray(good)
        for _ in range(rng.choice((1, 2, 5))):
            at = rng.randrange(len(bad))
            bad[at : at + rng.randrange(3)] = bytes(rng.randrange(256) for _ in range(rng.randrange(3)))
        try:
            found = list(refused_parts(bytes(bad)))
        except ValueError:
            continue
        assert set(found) <= {EXTERNAL, "a function"}


def graph_with(*nodes: onnx.NodeProto) -> bytes:
    return bytes(onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], [])).SerializeToString())


@pytest.mark.parametrize("kind", ["Loop", "Scan", "SequenceMap", "BeamSearch"])
def test_loops_are_found_within_branches_too(kind: str) -> None:
    inner = onnx.helper.make_graph([onnx.helper.make_node(kind, [], ["x"])], "inner", [], [])
    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    assert set(refused_parts(graph_with(onnx.helper.make_node(kind, [], ["x"])))) == {f"a {kind}"}
    assert set(refused_parts(graph_with(branch))) == {f"a {kind}"}


def test_functions_are_found() -> None:
    model = onnx.ModelProto()
    model.functions.add(name="f")
    assert list(refused_parts(model.SerializeToString())) == ["a function"]


@pytest.mark.parametrize("hidden", [b"\x20\x00", b"\x22\x04Relu", b"\x22\x02If", b"\xa2\x00\x04Relu"])
def test_a_loop_that_another_field_hides_is_found(hidden: bytes) -> None:
    """Of several fields protobuf takes the last; a number in the place of the text it leaves out."""
    node = b"\x22\x84\x00Loop" + hidden
    graph = bytes([0x0A, len(node)]) + node
    assert list(refused_parts(bytes([0x3A, len(graph)]) + graph)) == ["a Loop"]


def test_names_are_no_operators() -> None:
    assert not list(refused_parts(graph_with(onnx.helper.make_node("Relu", ["Loop"], ["Scan"], name="Loop"))))


@pytest.mark.parametrize("content", [b"\xff", b"no graph at all", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_graph_ends_nowhere(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off|no ONNX graph|wire type"):
        list(refused_parts(content))


@pytest.mark.parametrize(
    ("entries", "refused"),
    [
        ([("location", "g.onnx.data")], False),
        ([("location", "g.onnx.data"), ("offset", "4096"), ("length", "16")], False),
        ([("location", "other.data")], True),
        ([("location", "../g.onnx.data")], True),
        ([("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "140000000000000"), ("length", "16")], True),
        ([("location", "g.onnx.data"), ("location", "/etc/passwd")], True),
        ([("location", "g.onnx.data"), ("offset", "-1")], True),
        ([("location", "g.onnx.data"), ("offset", "")], True),
        ([("location", "g.onnx.data"), ("basepath", "/")], True),
    ],
)
def test_external_data_may_lie_in_the_only_other_file(entries: list[tuple[str, str]], refused: bool) -> None:
    content = model(external(*entries)).SerializeToString()
    assert (EXTERNAL in refused_parts(content, data="g.onnx.data")) == refused
    assert EXTERNAL in refused_parts(content)
