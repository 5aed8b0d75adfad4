"""Exact rewrites of the FP32 graph, one a file; each proves itself on the golden frames, or is not kept."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.reference import Frames, Logits, check_reference, graph_logits
from vitedge.converters.rewrites import (
    attention_scale,
    class_token_only,
    distilled_heads,
    fold_batchnorm,
    fold_normalization,
    fuse_gelu,
    fuse_layernorm,
    layernorm_affine,
    mask_guards,
    merge_layout_operators,
    prepend_normalization,
    tidy,
    upgrade_opset,
)
from vitedge.converters.rewrites.places import Places
from vitedge.errors import ConversionError
from vitedge.metrics import Parity, parity

MAX_RELATIVE_ERROR = 1e-4
MIN_SQNR_DB = 80.0


@dataclass(frozen=True)
class Rewrite:
    """A change of the graph that leaves its outputs as they are, up to rounding.

    Attributes:
        name: for people.
        check: gives the reason why it does not apply to a graph; empty if it applies.
        rewrite: changes the graph in place; says in how many places.
        needed: whether a bundle cannot do without it where it applies.
    """

    name: str
    check: Callable[[ir.Model, Preprocessing], str]
    rewrite: Callable[[ir.Model, Preprocessing], Places]
    needed: bool = False


REWRITES: tuple[Rewrite, ...] = (
    Rewrite("upgrade opset", upgrade_opset.check, upgrade_opset.rewrite),
    Rewrite("tidy", tidy.check, tidy.rewrite),
    Rewrite("fuse LayerNorm", fuse_layernorm.check, fuse_layernorm.rewrite),
    Rewrite("fuse GELU", fuse_gelu.check, fuse_gelu.rewrite),
    Rewrite("drop mask guards", mask_guards.check, mask_guards.rewrite),
    Rewrite("fold BatchNorm", fold_batchnorm.check, fold_batchnorm.rewrite),
    Rewrite("one head", distilled_heads.check, distilled_heads.rewrite),
    Rewrite("class token only", class_token_only.check, class_token_only.rewrite),
    Rewrite("fold attention scale", attention_scale.check, attention_scale.rewrite),
    Rewrite("fold LayerNorm affine", layernorm_affine.check, layernorm_affine.rewrite),
    Rewrite("merge layout operators", merge_layout_operators.check, merge_layout_operators.rewrite),
    Rewrite("fold normalization", fold_normalization.check, fold_normalization.rewrite),
    Rewrite("prepend normalization", prepend_normalization.check, prepend_normalization.rewrite, needed=True),
)


@dataclass(frozen=True)
class Rewritten:
    """A rewritten graph.

    Attributes:
        graph: takes one uint8 ``(1,H,W,3)`` frame named ``frame``.
        logits: of the frames that the rewrites were proved on, ``(N, classes)``.
        applied: the rewrites by name, in order, and what each one did.
        refused: why each other one did not apply.
        unproved: the rewrites that were left out because they changed the outputs, and by how much.
    """

    graph: onnx.ModelProto
    logits: Logits
    applied: dict[str, Places]
    refused: dict[str, str]
    unproved: dict[str, str]


def apply_rewrites(
    graph: onnx.ModelProto,
    frames: Frames,
    preprocessing: Preprocessing,
    rewrites: Sequence[Rewrite] = REWRITES,
) -> Rewritten:
    """Apply rewrites in order.

    Args:
        graph: float32, one image in, logits out.
        frames: ``(N,H,W,3)`` uint8 to prove them on.
        preprocessing: mean and std to fold in.
        rewrites: which, in which order.

    Raises:
        ConversionError: the logits are not finite or all equal, or a rewrite that is needed changed them.
    """
    logits = graph_logits(graph, frames, preprocessing)
    check_reference(logits, "the model")
    applied: dict[str, Places] = {}
    refused: dict[str, str] = {}
    unproved: dict[str, str] = {}
    for rewrite in rewrites:
        model = ir.from_proto(graph)
        reason = rewrite.check(model, preprocessing)
        if reason:
            refused[rewrite.name] = reason
            continue
        places = rewrite.rewrite(model, preprocessing)
        NameFixPass()(model)
        rewritten = ir.to_proto(model)
        del model
        gc.collect()  # models are reference cycles, and each holds the weights of the graph that it was made of
        after = graph_logits(rewritten, frames, preprocessing)
        difference = parity(logits, after)
        if not is_exact(difference):
            unproved[rewrite.name] = _left_out(rewrite, difference)
            continue
        graph, logits, applied[rewrite.name] = rewritten, after, places
    return Rewritten(graph, logits, applied, refused, unproved)


def _left_out(rewrite: Rewrite, difference: Parity) -> str:
    """What the rewrite did to the outputs."""
    change = f"error {difference.relative_error:.1e} of the logit range, SQNR {difference.sqnr_db:.1f} dB"
    if rewrite.needed:
        raise ConversionError(
            f"the rewrite {rewrite.name!r} changed the outputs: {change}",
            expected=f"at most {MAX_RELATIVE_ERROR:.0e}, at least {MIN_SQNR_DB:.0f} dB",
            fix="please report this model",
        )
    return change


def is_exact(difference: Parity) -> bool:
    """Decide whether two sets of logits differ by no more than the rounding of float32."""
    return difference.relative_error <= MAX_RELATIVE_ERROR and difference.sqnr_db >= MIN_SQNR_DB
