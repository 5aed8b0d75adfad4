"""Checks of an IR that OpenVINO does not make: without them, a hostile IR may end the process instead of failing.

They were found by giving every operator of OpenVINO 2026.4 too few inputs, and constants sizes that wrap around: its
reader then follows an invalid pointer. OpenVINO itself checks types, shapes and offsets into the weights.

The text is searched, not parsed, which takes a hundredth of the time of compiling. The IR must therefore be in the form
that OpenVINO writes. Anything that its parser might read in another way than the search is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from vitedge.counts import counted
from vitedge.safety.limits import GRAPH_NODES

_LAYER = re.compile(r'<layer id="\d+" name="[^"]*" type="(\w+)" version="\w+"(?: \w+="[^"]*")*>\s*')
_DATA = re.compile(r'<data((?: \w+="[^"<>&]*")*) />')
_ATTRIBUTE = re.compile(r' (\w+)="([^"]*)"')
_INPUTS = re.compile(r"<input>\s*<port |</layer>|<layer ")
_END = re.compile(r"</input>|<layer ")
_PORT = "<port "
_RT_INFO = "<rt_info"
_SOURCES = ("Const", "Parameter")
_LEAST_INPUTS: Mapping[str, int] = {"Broadcast": 2, "Slice": 4}
_REFUSED: Mapping[str, str] = {
    "Loop": "need not end",
    "ReadValue": "keeps a state from frame to frame",
    "Assign": "keeps a state from frame to frame",
    "Mod": "ends the process where it divides an integer by 0",
}
_BITS = 8


def check_ir(xml: str) -> None:
    """Check that an IR cannot crash OpenVINO's reader.

    Args:
        xml: contents of ``model.xml``.

    Raises:
        ValueError: the IR is not in the form that OpenVINO writes; an operator has too few inputs, keeps a state
            between frames, need not end or may end the process; a constant is larger than its bytes; or there are too
            many layers.
    """
    if "<!" in xml or xml.count("<?") > 1:
        raise ValueError("it has a document type, a comment or CDATA, which OpenVINO does not write")
    layers = list(_LAYER.finditer(xml))
    if not 0 < len(layers) <= GRAPH_NODES:
        raise ValueError(f"it has {counted(len(layers), 'layer')}; expected 1 to {GRAPH_NODES}")
    if xml.count("<layer") != len(layers) + xml.count("<layers>"):
        raise ValueError("a layer is not in the form in which OpenVINO writes it")
    for layer in layers:
        _check_layer(layer[1], xml, layer.end())


def _check_layer(kind: str, xml: str, position: int) -> None:
    if kind in _REFUSED:
        raise ValueError(f"its layer of type {kind} {_REFUSED[kind]}")
    if kind == "Const":
        _check_constant(_DATA.match(xml, position))
    elif kind not in _SOURCES:
        _check_inputs(kind, xml, position)


def _check_inputs(kind: str, xml: str, position: int) -> None:
    begin = _INPUTS.search(xml, position)
    if begin is None or not begin[0].startswith("<input>") or _is_within_rt_info(xml, position, begin.start()):
        raise ValueError(f"its layer of type {kind:.40} has no inputs")
    least = _LEAST_INPUTS.get(kind, 1)
    if least > 1:
        end = _END.search(xml, begin.end())
        inputs = 0 if end is None else xml.count(_PORT, begin.start(), end.start())
        if inputs < least:
            raise ValueError(f"its layer of type {kind:.40} has {counted(inputs, 'input')}; it takes {least} or more")


def _is_within_rt_info(xml: str, begin: int, end: int) -> bool:
    opened = xml.count(_RT_INFO, begin, end)
    return opened > 0 and opened != xml.count("</rt_info", begin, end)


def _check_constant(data: re.Match[str] | None) -> None:
    """Check a constant's size; OpenVINO multiplies in 64 bits and would read beyond its bytes after an overflow."""
    pairs = [] if data is None else _ATTRIBUTE.findall(data[1])
    attributes = dict(pairs)
    if len(attributes) != len(pairs) or not {"shape", "size"} <= set(attributes):
        raise ValueError("a constant is not in the form in which OpenVINO writes it")
    try:
        axes = [int(axis) for axis in attributes["shape"].split(",") if axis]
        size = int(attributes["size"])
    except ValueError as error:
        raise ValueError(f"a constant has a shape or size that is no number: {error}") from error
    if min(axes, default=0) < 0 or math.prod(axes) > _BITS * size:
        raise ValueError(f"a constant of {size} bytes has the shape {attributes['shape']!r:.80}")
