from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.onnx_export import export
from vitedge.converters.openvino import rewrites as openvino_rewrites
from vitedge.converters.reference import graph_logits, module_logits
from vitedge.converters.rewrites import apply as rewrites
from vitedge.converters.rewrites.apply import REWRITES, Rewrite, Rewritten, apply_rewrites, is_exact
from vitedge.converters.rewrites.places import ONE, Places
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import ConversionError
from vitedge.metrics import parity

Frames = NDArray[np.uint8]


def kinds(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


def test_the_contract(small_graph: Rewritten) -> None:
    (frame,), (logits,) = small_graph.graph.graph.input, small_graph.graph.graph.output
    assert (frame.name, frame.type.tensor_type.elem_type) == ("frame", onnx.TensorProto.UINT8)
    assert [dim.dim_value for dim in frame.type.tensor_type.shape.dim] == [1, 32, 32, 3]
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    assert [dim.dim_value for dim in logits.type.tensor_type.shape.dim] == [1, 5]
    onnx.checker.check_model(small_graph.graph, full_check=True)


def test_the_whole_is_exact(small_graph: Rewritten, small_model: TorchModel, frames: Frames) -> None:
    source = module_logits(small_model.module, frames, small_model.card.preprocessing)
    assert is_exact(parity(source, small_graph.logits))
    assert parity(source, small_graph.logits).sqnr_db > 100


def test_a_graph_that_takes_frames_already_is_only_tidied(
    small_graph: Rewritten, small_model: TorchModel, frames: Frames
) -> None:
    again = apply_rewrites(small_graph.graph, frames, small_model.card.preprocessing)
    assert [*again.applied] == ["tidy"]
    assert set(again.refused) == {rewrite.name for rewrite in REWRITES} - {"tidy"}
    assert Counter(kinds(again.graph)) == Counter(kinds(small_graph.graph))
    np.testing.assert_array_equal(again.logits, small_graph.logits)


def test_names_that_are_taken_are_no_obstacle() -> None:
    graph = graphs.classifier(
        "frame = Conv(x, frame_mean) frame_planes = Relu(frame) maps = Identity(frame_planes)",
        frame_mean=graphs.random(4, 3, 3, 3),
    )
    result = apply_rewrites(graph, graphs.noise(), graphs.PHOTOS)
    assert result.graph.graph.input[0].name == "frame"
    onnx.checker.check_model(result.graph, full_check=True)


LAST = {
    "fold BatchNorm": "bn = BatchNormalization(f, ones, b, b, ones) y = MatMul(bn, w)",
    "fuse LayerNorm": """mean = ReduceMean(f, last) d = Sub(f, mean) squares = Pow(d, two)
        variance = ReduceMean(squares, last) v = Add(variance, epsilon) s = Sqrt(v)
        n = Div(d, s) scaled = Mul(n, ones) y = Add(scaled, b)""",
    "merge layout operators": """h = MatMul(f, w) r = Reshape(h, grid) t = Transpose<perm = [0, 2, 1]>(r)
        again = Reshape(t, grid) u = Transpose<perm = [0, 2, 1]>(again) y = Reshape(u, row)""",
    "gather pixels": """h = MatMul(f, w) left = Slice(h, zero, three, one) right = Slice(h, three, eight, one)
        y = Concat<axis = 1>(left, right)""",
    "tidy": "h = MatMul(f, w) r = Squeeze(h, zero) y = Gather(r, table)",
}
"""Ends of a graph of 8 features, by the rewrite that gives it another last operator."""
END_CONSTANTS: dict[str, Any] = {
    "kernel": graphs.random(8, 3, 3, 3),
    "w": graphs.random(8, 8),
    "b": graphs.random(8),
    "ones": np.ones(8),
    "two": np.float32(2),
    "epsilon": np.float32(1e-5),
    "grid": np.array([1, 4, 2]),
    "row": np.array([1, 8]),
    "table": np.arange(8)[None, ::-1].copy(),
    **{
        name: np.array([number]) for name, number in (("last", -1), ("zero", 0), ("one", 1), ("three", 3), ("eight", 8))
    },
}


@pytest.mark.parametrize("rewrite", LAST)
def test_the_output_keeps_its_name(rewrite: str) -> None:
    body = f"maps = Conv(x, kernel) pooled = GlobalAveragePool(maps) f = Flatten(pooled) {LAST[rewrite]}"
    graph = ir.to_proto(graphs.model((1, 3, 12, 12), body, **END_CONSTANTS))
    result = apply_rewrites(graph, graphs.noise(), graphs.PHOTOS, (*REWRITES, *openvino_rewrites.REWRITES))
    assert rewrite in result.applied
    assert not result.unproved
    assert [each.name for each in result.graph.graph.output] == ["y"]
    onnx.checker.check_model(result.graph, full_check=True)


def rename_input(model: ir.Model) -> None:
    model.graph.inputs[0].name = "picture"


def add_output(model: ir.Model) -> None:
    model.graph.outputs.append(model.graph[0].outputs[0])


def add_class(model: ir.Model) -> None:
    values = model.graph.outputs[0]
    wider = ir.node("Concat", [values, values], {"axis": 1})
    model.graph.append(wider)
    model.graph.outputs[0] = wider.outputs[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rename_input, r"takes \['picture'\] and gives \['y'\], not \['x'\] and"),
        (add_output, r"gives \['y', 'maps'\]"),
        (add_class, "logits of shape"),
    ],
)
def test_one_that_changes_inputs_or_outputs_is_left_out(change: Callable[[ir.Model], None], said: str) -> None:
    def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:
        change(model)
        return ONE

    graph = graphs.classifier("maps = Conv(x, w)", w=graphs.random(4, 3, 3, 3))
    result = apply_rewrites(graph, graphs.noise(), graphs.PHOTOS, (Rewrite("other", untouched, rewrite),))
    assert re.search(said, result.unproved["other"])
    assert result.graph is graph


def test_nothing_of_the_exporter_is_left(small_graph: Rewritten) -> None:
    graph = small_graph.graph
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
    assert not any(value.metadata_props for value in graph.graph.value_info)
    assert not graph.metadata_props
    assert graph.producer_name == "vitedge"
    assert b"/" + b"site-packages" not in graph.SerializeToString()


def test_equal_modules_give_equal_bytes(small_model: TorchModel, frames: Frames) -> None:
    preprocessing = small_model.card.preprocessing
    one, other = (apply_rewrites(export(small_model.module, (32, 32)), frames, preprocessing).graph for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


@pytest.mark.parametrize("factor", [2.0, 0.0, 1.001])
def test_a_rewrite_that_changes_the_outputs_is_left_out(
    factor: float,
    small_export: onnx.ModelProto,
    small_model: TorchModel,
    frames: Frames,
) -> None:
    def scale_head(model: ir.Model, preprocessing: Preprocessing) -> Places:
        head = model.graph.initializers["head.weight"]  # the bias is 0
        head.const_value = ir.tensor(head.const_value.numpy() * np.float32(factor), name=head.name)
        return ONE

    wrong = Rewrite("wrong", lambda model, preprocessing: "", scale_head)
    result = apply_rewrites(small_export, frames, small_model.card.preprocessing, (wrong, *REWRITES))
    right = apply_rewrites(small_export, frames, small_model.card.preprocessing)
    assert list(result.unproved) == ["wrong"]
    assert "SQNR" in result.unproved["wrong"]
    assert result.graph.SerializeToString(deterministic=True) == right.graph.SerializeToString(deterministic=True)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[onnx.ModelProto]:
    """The graphs that were run."""
    ran: list[onnx.ModelProto] = []

    def counted(graph: onnx.ModelProto, *arguments: Any) -> Any:
        ran.append(graph)
        return graph_logits(graph, *arguments)

    monkeypatch.setattr(rewrites, "graph_logits", counted)
    return ran


def test_a_graph_runs_before_and_after_all_rewrites(runs: list[onnx.ModelProto]) -> None:
    graph = graphs.classifier("maps = Conv(x, w)", w=graphs.random(4, 3, 3, 3))
    result = apply_rewrites(graph, graphs.noise(), graphs.PHOTOS)
    assert len(result.applied) > 1
    assert [each is graph for each in runs] == [True, False]
    assert runs[1] is result.graph
    np.testing.assert_array_equal(result.logits, graph_logits(result.graph, graphs.noise(), graphs.PHOTOS))


def test_a_graph_that_nothing_applies_to_runs_once(runs: list[onnx.ModelProto]) -> None:
    graph = graphs.classifier("maps = Conv(x, w)", w=graphs.random(4, 3, 3, 3))
    result = apply_rewrites(graph, graphs.noise(), graphs.PHOTOS, (Rewrite("never", lambda *_: "no", raises),))
    assert (len(runs), result.graph, result.refused) == (1, graph, {"never": "no"})


def test_rewrites_are_compared_one_by_one_where_one_of_them_fails(runs: list[onnx.ModelProto]) -> None:
    graph = graphs.classifier("maps = Conv(x, w)", w=graphs.random(4, 3, 3, 3))
    result = apply_rewrites(graph, graphs.noise(), graphs.PHOTOS, (*REWRITES, Rewrite("broken", untouched, raises)))
    assert len(runs) == 1 + len(result.applied)
    alone = apply_rewrites(graph, graphs.noise(), graphs.PHOTOS)
    assert (result.applied, result.refused) == (alone.applied, alone.refused)
    assert onnx.checker.check_model(result.graph) is None


def test_one_that_a_bundle_needs_ends_the_conversion(
    small_export: onnx.ModelProto, small_model: TorchModel, frames: Frames
) -> None:
    def double_head(model: ir.Model, preprocessing: Preprocessing) -> Places:
        head = model.graph.initializers["head.weight"]
        head.const_value = ir.tensor(head.const_value.numpy() * np.float32(2), name=head.name)
        return ONE

    wrong = Rewrite("wrong", lambda model, preprocessing: "", double_head, needed=True)
    with pytest.raises(ConversionError, match="'wrong' changed the outputs"):
        apply_rewrites(small_export, frames, small_model.card.preprocessing, (wrong,))


def test_a_model_without_finite_logits_is_named() -> None:
    graph = graphs.classifier("maps = Conv(x, w)", w=np.full((2, 3, 2, 2), 3e38))
    with pytest.raises(ConversionError, match="NaN or infinite logits"):
        apply_rewrites(graph, graphs.noise(), graphs.PHOTOS)


def test_every_rewrite_says_why_it_does_not_apply(small_graph: Rewritten, small_model: TorchModel) -> None:
    model = ir.from_proto(small_graph.graph)
    reasons = {rewrite.name: rewrite.check(model, small_model.card.preprocessing) for rewrite in REWRITES}
    assert [name for name, reason in reasons.items() if not reason] == ["tidy"]
    assert reasons["fold normalization"] == reasons["prepend normalization"] == "the graph takes uint8 frames already"


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.01, 0.0), (1.0, 0.5), (2.0, 0.0), (0.0, 0.0)])
def test_is_exact_fails_on_anything_but_rounding(scale: float, shift: float) -> None:
    logits = np.random.default_rng(0).standard_normal((8, 10)).astype(np.float32)
    assert is_exact(parity(logits, logits * scale + shift)) == (scale == 1 and shift == 0)


def untouched(model: ir.Model, preprocessing: Preprocessing) -> str:
    return ""


def raises(model: ir.Model, preprocessing: Preprocessing) -> Places:
    raise KeyError("a graph that its author has not seen")


def test_a_rewrite_that_raises_is_left_out_and_named(
    small_export: onnx.ModelProto, small_model: TorchModel, frames: Frames
) -> None:
    result = apply_rewrites(
        small_export, frames, small_model.card.preprocessing, (Rewrite("broken", untouched, raises), *REWRITES)
    )
    assert result.unproved == {"broken": "it raised KeyError: 'a graph that its author has not seen'"}
    assert "prepend normalization" in {*result.applied, *result.refused}


def test_one_whose_graph_does_not_run_is_left_out(
    small_export: onnx.ModelProto, small_model: TorchModel, frames: Frames
) -> None:
    def cut(model: ir.Model, preprocessing: Preprocessing) -> Places:
        model.graph[3].op_type = "Softplus"
        model.graph[3].domain = "nobody"
        return ONE

    result = apply_rewrites(small_export, frames, small_model.card.preprocessing, (Rewrite("cut", untouched, cut),))
    assert result.unproved["cut"].startswith("it raised ConversionError: ONNX Runtime cannot run the graph")
    assert result.graph is small_export


def test_what_requires_a_rewrite_that_was_left_out_does_not_run(
    small_export: onnx.ModelProto, small_model: TorchModel, frames: Frames
) -> None:
    ran = []

    def counted(model: ir.Model, preprocessing: Preprocessing) -> Places:
        ran.append(model)
        return ONE

    rules = (
        Rewrite("first", untouched, raises),
        Rewrite("second", untouched, counted, requires=("first",)),
        Rewrite("third", untouched, counted, requires=("second",)),
        Rewrite("other", untouched, counted),
    )
    result = apply_rewrites(small_export, frames, small_model.card.preprocessing, rules)
    assert len(ran) == 1
    assert result.unproved["second"] == "it requires first"
    assert result.unproved["third"] == "it requires second"
    assert list(result.applied) == ["other"]


def test_a_rewrite_requires_only_earlier_ones() -> None:
    names = [rewrite.name for rewrite in REWRITES]
    for position, rewrite in enumerate(REWRITES):
        assert set(rewrite.requires) <= set(names[:position]), rewrite.name


def test_every_rewrite_is_compared_with_the_reference(
    small_export: onnx.ModelProto, small_model: TorchModel, frames: Frames
) -> None:
    """Small changes do not add up: each is 4e-5 of the range, and the third leaves what is exact."""

    def drift(model: ir.Model, preprocessing: Preprocessing) -> Places:
        head = model.graph.initializers["head.weight"]
        head.const_value = ir.tensor(head.const_value.numpy() * np.float32(1 + 4e-5), name=head.name)
        return ONE

    rules = [Rewrite(f"drift {number}", untouched, drift) for number in range(6)]
    reference = graph_logits(small_export, frames, small_model.card.preprocessing)
    result = apply_rewrites(small_export, frames, small_model.card.preprocessing, rules)
    assert is_exact(parity(reference, result.logits))
    assert 0 < len(result.applied) < 6


def test_a_graph_that_differs_from_the_reference_is_refused(
    small_export: onnx.ModelProto, small_model: TorchModel, frames: Frames
) -> None:
    reference = graph_logits(small_export, frames, small_model.card.preprocessing) * np.float32(1.001)
    with pytest.raises(ConversionError, match="the exported graph differs from the model"):
        apply_rewrites(small_export, frames, small_model.card.preprocessing, reference=reference)
