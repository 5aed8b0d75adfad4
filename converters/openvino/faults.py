"""Find operators that OpenVINO computes otherwise than ONNX says, and work around them with another exact form.

The graph is compiled and compared with its reference, first in float32, where nothing but rounding may differ, then in
the CPU's 16-bit type, where the difference must be one that rounding explains. If it differs, a binary search over the
values through which everything flows finds the first part that is wrong. Its operators get their other forms, one at a
time, until the part is right. Adding outputs would be simpler, but an output can switch off the fusion that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import openvino
from onnx_ir.passes.common import NameFixPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.targets import Precision
from vitedge.bundle.verification_records import WorkaroundRecord
from vitedge.converters.backends import Mended
from vitedge.converters.openvino.forms import FORMS, Form, Shapes, signature
from vitedge.converters.openvino.parts import Array, CutPoint, cuts_of, engine_outputs, part_of, place_of, values_at
from vitedge.converters.reference import Frames, graph_logits
from vitedge.converters.rewrites.apply import check_export
from vitedge.converters.verify import ROUNDED_DB, UNEXPLAINED_DB
from vitedge.errors import ConversionError
from vitedge.graph.rounding import described, rounded
from vitedge.metrics import parity, sqnr_db
from vitedge.progress import Progress
from vitedge.runtime.engines.openvino import native_float

FLOAT32 = "f32"
EXACT_DB = 80.0
"""An engine that computes in float32 and reaches less is searched for a wrong operator; rounding leaves 100 dB."""
WRONG_DB = 50.0
"""An engine that computes in float32 and reaches less is wrong, whether the search finds the operator or not."""
MOST_FAULTS = 16


@dataclass(frozen=True)
class _Part:
    """A part of a graph, with what it must compute.

    Attributes:
        begin, end: its input and output.
        image: its input.
        expected: its output, of ONNX Runtime in float32.
    """

    begin: CutPoint
    end: CutPoint
    image: Array
    expected: Array


def work_around(
    graph: onnx.ModelProto, frames: Frames, preprocessing: Preprocessing, precision: Precision, progress: Progress
) -> Mended:
    """Compare the engine with a graph, and give operators that it computes wrongly another exact form.

    Args:
        graph: FP32; one uint8 ``frame`` in, ``logits`` out.
        frames: ``(N,H,W,3)`` uint8 to compare on.
        preprocessing: of the frames.
        precision: of the bundle.
        progress: told of each change.

    Returns:
        The graph, changed if it had to be. Its logits in ONNX Runtime were compared with those before.

    Raises:
        ConversionError: the engine is wrong, and no form mends it; names the place.
    """
    progress.step("comparing OpenVINO with the fp32 graph")
    reference = graph_logits(graph, frames, preprocessing)
    native = native_float(openvino.Core())
    types = [FLOAT32, *([native] if precision != "fp32" and native != FLOAT32 else [])]
    workarounds: list[WorkaroundRecord] = []
    logits: dict[str, Array] = {}
    for float_type in types:
        for _ in range(MOST_FAULTS):
            logits[float_type] = _engine_logits(graph, frames, float_type)
            found = _next_fault(graph, frames, float_type, reference, logits[float_type])
            if found is None:
                break
            changed, record = found
            check_export(parity(reference, graph_logits(changed, frames, preprocessing)))
            progress.step(record.summary)
            graph = changed
            workarounds.append(record)
    return Mended(graph, tuple(workarounds), logits.get("bf16"))


def _engine_logits(graph: onnx.ModelProto, frames: Frames, float_type: str) -> Array:
    """Return the logits ``(N, classes)`` that the engine computes in a type."""
    return np.concatenate(engine_outputs(graph, [frame[None] for frame in frames], float_type))


def _next_fault(
    graph: onnx.ModelProto, frames: Frames, float_type: str, reference: Array, logits: Array
) -> tuple[onnx.ModelProto, WorkaroundRecord] | None:
    """Find the first fault and work around it; None if the engine is right.

    Args:
        graph: to search.
        frames: ``(N,H,W,3)`` uint8.
        float_type: that the engine computes in.
        reference: right logits.
        logits: of the engine.

    Raises:
        ConversionError: no form mends it.
    """
    reached = sqnr_db(reference, logits)
    if reached >= (EXACT_DB if float_type == FLOAT32 else ROUNDED_DB):
        return None
    if float_type != FLOAT32 and reached >= _explained(graph, frames, float_type, reference) - UNEXPLAINED_DB:
        return None
    part = _first_wrong_part(graph, frames[:1], float_type)
    mended = None if part is None else _mended(graph, part, float_type)
    if part is None or mended is None:
        if (
            float_type == FLOAT32
            and reached >= WRONG_DB
            and (part is None or _reached(graph, part, float_type) >= WRONG_DB)
        ):
            return None  # no single operator is wrong: rounding adds up
        raise _unmended(graph, part, float_type, reached)
    changed, form, places, node = mended
    after = sqnr_db(reference, _engine_logits(changed, frames, float_type))
    return changed, WorkaroundRecord(
        engine=_engine(),
        precision=float_type,
        operator=form.operator,
        place=place_of(graph, node),
        places=places,
        fault=form.fault,
        form=form.name,
        sqnr_before_db=reached,
        sqnr_after_db=after,
    )


def _engine() -> str:
    return f"OpenVINO {openvino.__version__.partition('-')[0]}"


def _explained(graph: onnx.ModelProto, frames: Frames, float_type: str, reference: Array) -> float:
    """Return the SQNR that a graph reaches with every value rounded to 16 bits, on some of the frames."""
    emulated = rounded(graph, float_type)
    entry = graph.graph.input[0].name
    output = graph.graph.output[0].name
    logits = [values_at(emulated, [entry, output], frame[None])[output] for frame in frames[:2]]
    return sqnr_db(reference[:2], np.concatenate(logits))


def _first_wrong_part(graph: onnx.ModelProto, image: Array, float_type: str) -> _Part | None:
    """Search for the shortest part that the engine computes wrongly, after a beginning that it computes rightly.

    Returns:
        The part; None if the engine computes every beginning of the graph rightly on this image.
    """
    cuts = cuts_of(graph)
    values = values_at(graph, [cut.name for cut in cuts], image)

    def wrong(begin: int, end: int) -> bool:
        part = _Part(cuts[begin], cuts[end], values[cuts[begin].name], values[cuts[end].name])
        return _is_wrong(graph, part, float_type)

    floats = [0, *(index for index, cut in enumerate(cuts) if index and values[cut.name].dtype == np.float32)]
    end = _first(lambda index: wrong(0, floats[index]), 1, len(floats))
    if end == len(floats):
        return None
    begin = _first(lambda index: not wrong(floats[index], floats[end]), 1, end) - 1
    return _Part(
        cuts[floats[begin]], cuts[floats[end]], values[cuts[floats[begin]].name], values[cuts[floats[end]].name]
    )


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the first index in ``low`` to ``high`` for which something holds that keeps holding; ``high`` if none."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _is_wrong(graph: onnx.ModelProto, part: _Part, float_type: str) -> bool:
    reached = _reached(graph, part, float_type)
    if float_type == FLOAT32:
        return reached < EXACT_DB
    if reached >= ROUNDED_DB:
        return False
    emulated = rounded(part_of(graph, part.begin, part.end, part.image), float_type)
    explained = values_at(emulated, [part.end.name], part.image)[part.end.name]
    return reached < sqnr_db(part.expected, explained) - UNEXPLAINED_DB


def _reached(graph: onnx.ModelProto, part: _Part, float_type: str) -> float:
    """Return the SQNR of the engine's output of a part."""
    (output,) = engine_outputs(part_of(graph, part.begin, part.end, part.image), [part.image], float_type)
    return sqnr_db(part.expected, output)


def _mended(graph: onnx.ModelProto, part: _Part, float_type: str) -> tuple[onnx.ModelProto, Form, int, str] | None:
    """Try the forms of the part's operators; give the first that mends it to all operators like it.

    Returns:
        The graph, the form, how many operators have it now, and the name of the one that was wrong; None if no form
        mends the part.
    """
    shapes = _shapes(graph)
    alone = part_of(graph, part.begin, part.end, part.image)
    for form, site in _candidates(alone, shapes):
        tried = _with_form(alone, form, shapes, lambda name, site=site: name == site)  # type: ignore[misc]
        begin, end = CutPoint(0, part.begin.name), CutPoint(len(tried[0].graph.node), part.end.name)
        whole = _Part(begin, end, part.image, part.expected)
        if not _is_wrong(tried[0], whole, float_type):
            like = _signatures(graph, form, shapes)
            changed, places = _with_form(graph, form, shapes, lambda name: like.get(name) == like[site])  # noqa: B023
            return changed, form, places, site
    return None


def _candidates(part: onnx.ModelProto, shapes: Shapes) -> Iterator[tuple[Form, str]]:
    """Give each form with each operator that can have it, by the name of its output."""
    model = ir.from_proto(part)
    for form in FORMS:
        yield from ((form, str(node.outputs[0].name)) for node in form.sites(model, shapes))


def _signatures(graph: onnx.ModelProto, form: Form, shapes: Shapes) -> dict[str, tuple[object, ...]]:
    return {str(node.outputs[0].name): signature(node, shapes) for node in form.sites(ir.from_proto(graph), shapes)}


def _with_form(
    graph: onnx.ModelProto, form: Form, shapes: Shapes, chosen: Callable[[str], bool]
) -> tuple[onnx.ModelProto, int]:
    """Give the chosen operators a form; return the graph and their number."""
    model = ir.from_proto(graph)
    nodes = [node for node in form.sites(model, shapes) if chosen(str(node.outputs[0].name))]
    for node in nodes:
        form.rewrite(model, node, shapes)
    NameFixPass()(model)
    return ir.to_proto(model), len(nodes)


def _shapes(graph: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    constants = {each.name: tuple(each.dims) for each in graph.graph.initializer}
    return {**{name: shape for name, (_, shape) in described(graph).items() if shape is not None}, **constants}


def _unmended(graph: onnx.ModelProto, part: _Part | None, float_type: str, reached: float) -> ConversionError:
    where = "; no single part of it is wrong alone"
    if part is not None:
        nodes = graph.graph.node[part.begin.position : part.end.position]
        kinds = ", ".join(dict.fromkeys(node.op_type for node in nodes))
        where = f", first in {kinds} {place_of(graph, nodes[-1].output[0])}"
    return ConversionError(
        f"{_engine()} computes another result than ONNX says in {float_type}, SQNR {reached:.1f} dB{where}",
        expected="what ONNX Runtime computes, up to rounding",
        fix="try another version of OpenVINO, or write that layer with other operators",
    )
