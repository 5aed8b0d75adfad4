"""Faults of OpenVINO's CPU plug-in, a minimal graph each, and the search that finds them and works around them.

A test of this table fails when a version of OpenVINO computes the graph rightly: the form is then no longer needed for
that version, and goes when the oldest version that vitedge supports is a mended one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import openvino
import pytest
from numpy.typing import NDArray

from vitedge.bundle.targets import Precision
from vitedge.converters.openvino import faults
from vitedge.converters.openvino.faults import work_around
from vitedge.converters.openvino.forms import FORMS, Form, Shapes
from vitedge.converters.openvino.parts import cuts_of, engine_outputs, part_of, values_at
from vitedge.converters.reference import graph_logits
from vitedge.converters.rewrites.apply import apply_rewrites, is_exact
from vitedge.converters.verify import check_explained
from vitedge.errors import ConversionError
from vitedge.graph.rounding import rounded
from vitedge.metrics import parity, sqnr_db
from vitedge.progress import Silent
from vitedge.runtime.engines.openvino import native_float

SIDE = graphs.SIDE
FRAMES = graphs.noise()
SEEN_IN = ("2026.4.1",)
"""Versions of OpenVINO in which every fault of the table was seen."""


@dataclass(frozen=True)
class Fault:
    """A fault, the name of the form that works around it, and a minimal classifier that has it.

    Attributes:
        form: name of the form.
        operator: what the record names.
        body: from the image ``x``, (1,3,12,12), to ``maps``.
        constants: of the body.
        float_type: in which the engine is wrong.
    """

    form: str
    body: str
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    float_type: str = "f32"

    @property
    def precision(self) -> Precision:
        """A precision of a bundle whose engine computes in the type."""
        return "fp32" if self.float_type == "f32" else "fp16"

    @property
    def right_db(self) -> float:
        """What a right engine reaches."""
        return faults.EXACT_DB if self.float_type == "f32" else 30.0

    def skip_where_it_cannot_show(self) -> None:
        """Skip a test where this CPU does not compute in the type."""
        if self.float_type not in ("f32", native_float(openvino.Core())):
            pytest.skip(f"this CPU does not compute in {self.float_type}")

    def graph(self) -> onnx.ModelProto:
        """A graph that takes frames."""
        classifier = graphs.classifier(self.body, **self.constants)
        return apply_rewrites(classifier, FRAMES, graphs.PHOTOS).graph


def attention(heads: int, tokens: int, width: int) -> tuple[str, dict[str, NDArray[Any]]]:
    """Attention over patches: its queries are computed, and heads and tokens are swapped at the end."""
    channels = heads * width
    side = int(tokens**0.5)
    body = f"""
    c = Conv<kernel_shape = [{SIDE // side}, {SIDE // side}], strides = [{SIDE // side}, {SIDE // side}]>(x, patches)
    s1 = Constant<value = int64[4] {{1, {heads}, {width}, {tokens}}}>() heads = Reshape(c, s1)
    q0 = Transpose<perm = [0, 1, 3, 2]>(heads) q = Relu(q0) v = Tanh(q0) k = Sigmoid(heads)
    scores = MatMul(q, k) p = Softmax<axis = -1>(scores) o = MatMul(p, v)
    t = Transpose<perm = [0, 2, 1, 3]>(o)
    s2 = Constant<value = int64[4] {{1, {channels}, {side}, {side}}}>() r = Reshape(t, s2) maps = Conv(r, head)"""
    return body, {
        "patches": graphs.random(channels, 3, SIDE // side, SIDE // side),
        "head": graphs.random(5, channels, 1, 1),
    }


def masked(heads: int, tokens: int, width: int, mask: NDArray[Any]) -> tuple[str, dict[str, NDArray[Any]]]:
    """Attention whose scores a mask is added to."""
    body, constants = attention(heads, tokens, width)
    softmax = "p = Softmax<axis = -1>"
    return body.replace(f"{softmax}(scores)", f"hidden = Add(scores, mask) {softmax}(hidden)"), {
        **constants,
        "mask": mask,
    }


def table() -> dict[str, Fault]:
    body, constants = attention(heads=4, tokens=4, width=8)
    mask = np.where(np.arange(16) < 10, 0, -24).astype(np.float32).reshape(1, 1, 1, 16)
    factors = np.linspace(0.5, 2, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    return {
        "as many heads as tokens": Fault("heads and tokens swapped in five dimensions", body, constants),
        "a mask for all heads": Fault("a mask with all heads and rows", *masked(4, 16, 16, mask), float_type="bf16"),
        "factors of the size of the kernel": Fault(
            "a constant with all channels",
            "r = Relu(x) m = Mul(r, factors) maps = Conv<pads = [5, 5, 6, 6]>(m, w)",
            {"factors": factors, "w": graphs.random(5, 3, SIDE, SIDE)},
        ),
        "nearest pixels at half pixels": Fault(
            "pixels gathered by their indices",
            """s = Constant<value = float[4] {1.0, 1.0, 1.3, 1.3}>()
            pads = Constant<value = int64[8] {0, 0, 12, 12, 0, 0, 0, 0}>() p = Pad(x, pads)
            u = Resize<mode = "nearest", coordinate_transformation_mode = "half_pixel">(p, , s)
            maps = Conv<strides = [3, 3]>(u, w)""",
            {"w": graphs.random(5, 3, 5, 5)},
        ),
        "pooling that counts padding": Fault(
            "padding before the pooling",
            """u = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1,
            count_include_pad = 1>(x) maps = Conv(u, w)""",
            {"w": graphs.random(5, 3, 1, 1)},
        ),
    }


@pytest.mark.parametrize("name", table())
def test_a_version_has_not_mended_it(name: str) -> None:
    """A failure with a new version says that it has mended the fault: note it in the docs, and drop the form later."""
    fault = table()[name]
    fault.skip_where_it_cannot_show()
    graph = fault.graph()
    reached = np.concatenate(engine_outputs(graph, [frame[None] for frame in FRAMES], fault.float_type))
    difference = sqnr_db(graph_logits(graph, FRAMES, graphs.PHOTOS), reached)
    version = openvino.__version__.partition("-")[0]
    if version not in SEEN_IN and difference >= fault.right_db:
        pytest.fail(f"OpenVINO {version} has mended: {name} ({difference:.0f} dB)")
    assert difference < fault.right_db


@pytest.mark.parametrize("name", table())
def test_it_is_found_and_gone_round(name: str) -> None:
    fault = table()[name]
    fault.skip_where_it_cannot_show()
    graph = fault.graph()
    mended = work_around(graph, FRAMES, graphs.PHOTOS, fault.precision, Silent())
    (record,) = mended.workarounds
    assert record.form == fault.form
    assert (record.engine.split()[0], record.precision, record.places) == ("OpenVINO", fault.float_type, 1)
    assert record.sqnr_before_db + 20 < record.sqnr_after_db
    expected = graph_logits(graph, FRAMES, graphs.PHOTOS)
    assert is_exact(parity(expected, graph_logits(mended.graph, FRAMES, graphs.PHOTOS)))
    onnx.checker.check_model(mended.graph, full_check=True)
    reached = np.concatenate(engine_outputs(mended.graph, [frame[None] for frame in FRAMES], fault.float_type))
    assert sqnr_db(expected, reached) > fault.right_db


def test_a_right_engine_leaves_the_graph_as_it_is(small_graph: Any) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    mended = work_around(small_graph.graph, frames, graphs.PHOTOS, "fp16", Silent())
    assert mended.graph is small_graph.graph
    assert mended.workarounds == ()


@pytest.mark.skipif(native_float(openvino.Core()) != "bf16", reason="this CPU does not compute in bfloat16")
def test_the_logits_in_bfloat16_are_of_the_mended_graph(small_graph: Any) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    half = work_around(small_graph.graph, frames, graphs.PHOTOS, "int8", Silent()).half_logits
    assert half is not None
    assert 25 < sqnr_db(graph_logits(small_graph.graph, frames, graphs.PHOTOS), half) < 70
    assert work_around(small_graph.graph, frames, graphs.PHOTOS, "fp32", Silent()).half_logits is None


def test_a_fault_that_no_form_mends_names_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FORMS", ())
    graph = table()["pooling that counts padding"].graph()
    with pytest.raises(ConversionError, match=r"first in AveragePool") as caught:
        work_around(graph, FRAMES, graphs.PHOTOS, "fp32", Silent())
    assert "OpenVINO" in str(caught.value)


def test_a_fault_in_16_bits_is_found_where_rounding_does_not_explain_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that is wrong in 16 bits alone."""
    native = native_float(openvino.Core())
    if native == "f32":
        pytest.skip("this CPU has no 16-bit numbers")
    body, constants = attention(heads=2, tokens=9, width=8)
    graph = Fault("", body, constants).graph()
    real = faults.engine_outputs

    def wrong(part: onnx.ModelProto, images: list[NDArray[Any]], float_type: str) -> list[NDArray[Any]]:
        outputs = real(part, images, float_type)
        softmaxes = {node.output[0] for node in part.graph.node if node.op_type == "Softmax"}
        fused = any(node.op_type == "MatMul" and node.input[0] in softmaxes for node in part.graph.node)
        return [each * np.float32(1.5) for each in outputs] if float_type != "f32" and fused else outputs

    monkeypatch.setattr(faults, "engine_outputs", wrong)
    (record,) = work_around(graph, FRAMES, graphs.PHOTOS, "fp16", Silent()).workarounds
    assert record.form == "attention in five dimensions, which is not fused"
    assert record.precision == native


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_form_is_exact(form: Form) -> None:
    """In ONNX Runtime, on graphs that have its operator, whether the engine is wrong there or not."""
    bodies = [*table().values(), Fault("", *masked(2, 9, 8, graphs.random(1, 1, 1, 9)))]
    tried = 0
    for graph in (fault.graph() for fault in bodies):
        shapes: Shapes = faults._shapes(graph)
        model = ir.from_proto(graph)
        sites = list(form.sites(model, shapes))
        for node in sites:
            form.rewrite(model, node, shapes)
        tried += len(sites)
        after = ir.to_proto(model)
        expected = graph_logits(graph, FRAMES, graphs.PHOTOS)
        assert is_exact(parity(expected, graph_logits(after, FRAMES, graphs.PHOTOS)))
    assert tried


def test_the_cuts_of_a_residual_network() -> None:
    graph = graphs.classifier("a = Relu(x) b = Conv(a, w) c = Add(a, b) maps = Relu(c)", w=graphs.random(3, 3, 1, 1))
    names = [cut.name for cut in cuts_of(graph)]
    assert names[:4] == ["x", "a", "c", "maps"]
    assert "b" not in names


def test_a_part_computes_what_the_whole_does() -> None:
    graph = graphs.classifier("a = Relu(x) b = Conv(a, w) c = Add(a, b) maps = Relu(c)", w=graphs.random(3, 3, 1, 1))
    cuts = {cut.name: cut for cut in cuts_of(graph)}
    values = values_at(graph, ["x", "a", "c"], graphs.random(1, 3, SIDE, SIDE))
    part = part_of(graph, cuts["a"], cuts["c"], values["a"])
    np.testing.assert_allclose(values_at(part, ["c"], values["a"])["c"], values["c"], rtol=1e-6)


def test_rounded_values_are_of_16_bits() -> None:
    graph = graphs.classifier("maps = Relu(x)")
    image = graphs.random(1, 3, SIDE, SIDE)
    plain, half = (values_at(each, ["maps"], image)["maps"] for each in (graph, rounded(graph, "bf16")))
    whole = values_at(rounded(graph, "bf16"), ["maps_rounded"], image)["maps_rounded"]
    np.testing.assert_array_equal(plain, half)
    assert not np.any(whole.view(np.uint32) & 0xFFFF)
    assert 40 < sqnr_db(plain, whole) < 60


def test_16_bits_explain_no_more_than_their_rounding() -> None:
    golden = graphs.random(4, 10)
    noise = graphs.random(4, 10, seed=1)
    check_explained(golden, golden + noise * np.float32(0.02), golden + noise * np.float32(0.01))
    check_explained(golden, golden + noise * np.float32(0.005), golden)
    with pytest.raises(ConversionError, match="by more than 16-bit rounding explains"):
        check_explained(golden, golden + noise * np.float32(0.1), golden + noise * np.float32(0.01))
