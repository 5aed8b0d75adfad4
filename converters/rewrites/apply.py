"""Exact rewrites of the FP32 graph, one a file, proved on the golden frames, or not kept.

The graph is compared after all of them, because a comparison costs more than a rewrite; if that fails, after each.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from vitedge.bundle.bundle import INPUT_NAME
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
from vitedge.errors import ConversionError, class_and_first_line
from vitedge.metrics import Parity, parity
from vitedge.safety.limits import MIB

MAX_RELATIVE_ERROR = 1e-4
MIN_SQNR_DB = 80.0
COLLECTED_BYTES = 64 * MIB
"""Weights from which on a model is collected at once. That takes half a second beside PyTorch, whatever the weights."""


@dataclass(frozen=True)
class Rewrite:
    """A change of the graph that leaves its outputs as they are, up to rounding.

    Attributes:
        name: for people.
        check: gives the reason why it does not apply to a graph; empty if it applies.
        rewrite: changes the graph in place; says in how many places.
        requires: names of earlier rewrites; it does not run where one of them applied and was left out.
        needed: whether a bundle cannot do without it where it applies.
        fix: what to do where a needed rewrite is not exact.
    """

    name: str
    check: Callable[[ir.Model, Preprocessing], str]
    rewrite: Callable[[ir.Model, Preprocessing], Places]
    requires: tuple[str, ...] = ()
    needed: bool = False
    fix: str = "please report this model"


UPGRADE, TIDY, FUSE_LAYERNORM = "upgrade opset", "tidy", "fuse LayerNorm"

REWRITES: tuple[Rewrite, ...] = (
    Rewrite(
        "upgrade old opset",
        upgrade_opset.check_old,
        upgrade_opset.rewrite,
        needed=True,
        fix="export the model again with opset_version=20",
    ),
    Rewrite(UPGRADE, upgrade_opset.check, upgrade_opset.rewrite),
    Rewrite(TIDY, tidy.check, tidy.rewrite),
    Rewrite(FUSE_LAYERNORM, fuse_layernorm.check, fuse_layernorm.rewrite, requires=(UPGRADE, TIDY)),
    Rewrite("fuse GELU", fuse_gelu.check, fuse_gelu.rewrite, requires=(UPGRADE, TIDY)),
    Rewrite("drop mask guards", mask_guards.check, mask_guards.rewrite, requires=(TIDY,)),
    Rewrite("fold BatchNorm", fold_batchnorm.check, fold_batchnorm.rewrite, requires=(TIDY,)),
    Rewrite("one head", distilled_heads.check, distilled_heads.rewrite, requires=(TIDY,)),
    Rewrite("class token only", class_token_only.check, class_token_only.rewrite, requires=(TIDY,)),
    Rewrite("fold attention scale", attention_scale.check, attention_scale.rewrite, requires=(TIDY,)),
    Rewrite("fold LayerNorm affine", layernorm_affine.check, layernorm_affine.rewrite, requires=(TIDY, FUSE_LAYERNORM)),
    Rewrite("merge layout operators", merge_layout_operators.check, merge_layout_operators.rewrite, requires=(TIDY,)),
    Rewrite("fold normalization", fold_normalization.check, fold_normalization.rewrite, requires=(TIDY,)),
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
        unproved: the rewrites that were left out, and why: they raised an error or changed the outputs, or they require
            a rewrite that was left out.
    """

    graph: onnx.ModelProto
    logits: Logits
    applied: dict[str, Places]
    refused: dict[str, str]
    unproved: dict[str, str]


@dataclass(frozen=True)
class _Reference:
    """The logits that every rewritten graph is compared with, and their inputs."""

    logits: Logits
    frames: Frames
    preprocessing: Preprocessing


def apply_rewrites(
    graph: onnx.ModelProto,
    frames: Frames,
    preprocessing: Preprocessing,
    rewrites: Sequence[Rewrite] = REWRITES,
    *,
    reference: Logits | None = None,
) -> Rewritten:
    """Apply rewrites in order, and compare the graph with the reference; leave out those that change the outputs.

    Args:
        graph: float32, one image in, logits out.
        frames: ``(N,H,W,3)`` uint8 to prove them on.
        preprocessing: mean and std to fold in.
        rewrites: which, in which order.
        reference: ``(N, classes)`` logits of the framework; by default, ``graph`` in ONNX Runtime gives them.

    Raises:
        ConversionError: the logits are not finite or all equal, the graph differs from the reference, or a rewrite that
            is needed is not exact.
    """
    logits = graph_logits(graph, frames, preprocessing)
    check_reference(logits if reference is None else reference, "the model")
    if reference is not None:
        check_export(parity(reference, logits))
    compared = _Reference(logits if reference is None else reference, frames, preprocessing)
    together = _together(rewrites, Rewritten(graph, logits, {}, {}, {}), compared)
    return together or _one_by_one(rewrites, Rewritten(graph, logits, {}, {}, {}), compared)


def _together(rewrites: Sequence[Rewrite], start: Rewritten, reference: _Reference) -> Rewritten | None:
    """Apply rewrites, and compare the graph with the reference once; None where one of them must be left out."""
    model = ir.from_proto(start.graph)
    try:
        for rewrite in rewrites:
            places = _rewritten(rewrite, model, start, reference.preprocessing)
            if places is not None:
                start.applied[rewrite.name] = places
        if not start.applied:
            return start
        graph = ir.to_proto(model)
        del model
        _collect(graph)
        logits = graph_logits(graph, reference.frames, reference.preprocessing)
        difference = parity(reference.logits, logits)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - one by one, the rewrite at fault is found and named
        return None
    return replace(start, graph=graph, logits=logits) if is_exact(difference) else None


def _one_by_one(rewrites: Sequence[Rewrite], start: Rewritten, reference: _Reference) -> Rewritten:
    """Apply rewrites, and compare the graph with the reference after each of them."""
    result = start
    for rewrite in rewrites:
        missing = next((name for name in rewrite.requires if name in result.unproved), None)
        if missing is not None:
            result.unproved[rewrite.name] = f"it requires {missing}"
            continue
        result = _try(rewrite, result, reference)
    return result


def _try(rewrite: Rewrite, before: Rewritten, reference: _Reference) -> Rewritten:
    """Keep a rewrite where it is exact; otherwise leave it out, and say why."""
    try:
        model = ir.from_proto(before.graph)
        places = _rewritten(rewrite, model, before, reference.preprocessing)
        if places is None:
            return before
        graph = ir.to_proto(model)
        del model
        _collect(graph)
        logits = graph_logits(graph, reference.frames, reference.preprocessing)
        difference = parity(reference.logits, logits)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a rule meets graphs that its author has not seen
        before.unproved[rewrite.name] = _left_out(rewrite, "raised", class_and_first_line(error), error)
        return before
    if is_exact(difference):
        before.applied[rewrite.name] = places
        return replace(before, graph=graph, logits=logits)
    change = f"error {difference.relative_error:.1e} of the logit range, SQNR {difference.sqnr_db:.1f} dB"
    before.unproved[rewrite.name] = _left_out(rewrite, "changed the outputs:", change, None)
    return before


def _rewritten(rewrite: Rewrite, model: ir.Model, before: Rewritten, preprocessing: Preprocessing) -> Places | None:
    """Change a model in place, and return the places; None where the rewrite does not apply."""
    reason = rewrite.check(model, preprocessing)
    if reason:
        before.refused[rewrite.name] = reason
        return None
    places = rewrite.rewrite(model, preprocessing)
    _keep_interface(model, before.graph)
    return places


def _collect(graph: onnx.ModelProto) -> None:
    """Free the models before a graph: they are reference cycles, and each holds the weights that it was made of."""
    if _weight_bytes(graph) >= COLLECTED_BYTES:
        gc.collect()


def _keep_interface(model: ir.Model, before: onnx.ModelProto) -> None:
    """Give the outputs the names that they had before a rewrite; other values that still have these get new ones.

    Raises:
        ConversionError: the number of outputs changed, or the input is neither the former one nor the frame.
    """
    inputs, outputs = _names(before.graph.input), _names(before.graph.output)
    for output, name in zip(model.graph.outputs, outputs, strict=False):
        output.name = name
    NameFixPass()(model)
    found = _names(model.graph.inputs), _names(model.graph.outputs)
    if found[1] != outputs or found[0] not in (inputs, [INPUT_NAME]):
        raise ConversionError(f"the graph takes {found[0]} and gives {found[1]}, not {inputs} and {outputs}")


def _names(values: Iterable[ir.Value | onnx.ValueInfoProto]) -> list[str]:
    return [str(each.name) for each in values]


def _weight_bytes(graph: onnx.ModelProto) -> int:
    return sum(int(ir.from_proto(tensor).nbytes) for tensor in graph.graph.initializer)


def _left_out(rewrite: Rewrite, what: str, said: str, error: Exception | None) -> str:
    """Say why a rewrite is left out.

    Raises:
        ConversionError: a bundle cannot do without it.
    """
    if rewrite.needed:
        raise ConversionError(
            f"the rewrite {rewrite.name!r} {what} {said}",
            expected=f"at most {MAX_RELATIVE_ERROR:.0e} of the logit range, at least {MIN_SQNR_DB:.0f} dB",
            fix=rewrite.fix,
        ) from error
    return f"it {what} {said}"


def check_export(difference: Parity) -> None:
    """Refuse a graph that differs from its reference by more than the rounding of float32.

    Raises:
        ConversionError: it does.
    """
    if not is_exact(difference):
        raise ConversionError(
            f"the exported graph differs from the model: error {difference.relative_error:.1e} of the logit range, "
            f"SQNR {difference.sqnr_db:.1f} dB",
            expected=f"at most {MAX_RELATIVE_ERROR:.0e}, at least {MIN_SQNR_DB:.0f} dB",
            fix="please report this model",
        )


def is_exact(difference: Parity) -> bool:
    """Decide whether two sets of logits differ by no more than the rounding of float32."""
    return difference.relative_error <= MAX_RELATIVE_ERROR and difference.sqnr_db >= MIN_SQNR_DB
