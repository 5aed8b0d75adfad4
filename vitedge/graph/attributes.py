"""Attributes of convolutions as numpy needs them: padding, strides and dilations, spelled out or by default."""

from __future__ import annotations

import onnx_ir as ir

AUTOMATIC_PADDING = ("SAME_UPPER", "SAME_LOWER")


def spells_padding_out(conv: ir.Node) -> bool:
    """Decide whether a convolution's ``pads`` are its padding, instead of ``auto_pad``."""
    return conv.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"


def pads_with_zeros(node: ir.Node) -> bool:
    """Decide whether an operator reads zeros around its input, as convolutions may."""
    return any(integers(node, "pads", 0, 0)) or node.attributes.get_string("auto_pad", "NOTSET") in AUTOMATIC_PADDING


def integers(node: ir.Node, name: str, default: int, count: int) -> tuple[int, ...]:
    """Read an attribute that is a list of integers.

    Args:
        node: the operator.
        name: of the attribute.
        default: of each integer, where the attribute is absent.
        count: how many there are by default.
    """
    found = node.attributes.get_ints(name)
    return (default,) * count if found is None else tuple(found)
