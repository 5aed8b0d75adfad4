"""Bring every source to logits: cut off its activation, and give a head of one logit two answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass

from vitedge.bundle.bundle import OUTPUT_NAME
from vitedge.bundle.model_card import Activation
from vitedge.converters.reference import graph_logits
from vitedge.converters.sources.head_activation import Cut, NoLogitsError, find_activation
from vitedge.converters.sources.onnx.models import OnnxModel
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.stages.loading import Model
from vitedge.converters.verify import Frames, Logits
from vitedge.counts import counted
from vitedge.errors import CheckpointError, UsageError

ONE_LOGIT = "logit_of_second_answer"


@dataclass(frozen=True)
class Head:
    """A graph that gives logits, and their meaning.

    Attributes:
        graph: one image in, ``logits`` ``(1,classes)`` out.
        reference: ``(N, classes)`` logits that the graph must give.
        activation: makes scores of the logits.
    """

    graph: onnx.ModelProto
    reference: Logits
    activation: Activation


def read_head(
    model: Model, graph: onnx.ModelProto, reference: Logits, frames: Frames, given: Activation | None
) -> Head:
    """Find the activation that the checkpoint, the graph or the user states, and bring the graph to logits.

    A head of one logit becomes a head of two logits, 0 and the logit: the softmax of these is the sigmoid of the logit
    and its complement.

    Args:
        model: the source.
        graph: of the source, with the output ``logits``.
        reference: ``(N, classes)`` outputs of the source.
        frames: ``(N,H,W,3)`` uint8, the inputs of the reference.
        given: activation that the user named; None if they named none.

    Raises:
        CheckpointError: the output is computed from logits in a way that vitedge does not know.
        UsageError: the user contradicts the checkpoint, or nothing says what the outputs mean.
    """
    stated = model.activation
    known = isinstance(model, (TorchModel, OnnxModel)) and model.gives_logits
    if stated is None and not known and not isinstance(model, OnnxModel):  # the loader of ONNX files has cut it off
        graph, reference, stated = _cut(model, graph, reference, frames)
        known = stated is not None
    activation = _agreed(model, stated, given)
    if given is None and not known:
        _check_logits(model, reference)
    if reference.shape[1] > 1:
        return Head(graph, reference, activation or "softmax")
    _check_one_logit(model, activation)
    return Head(_two_logits(graph), np.concatenate([np.zeros_like(reference), reference], axis=1), "softmax")


def _cut(
    model: Model, graph: onnx.ModelProto, reference: Logits, frames: Frames
) -> tuple[onnx.ModelProto, Logits, Activation | None]:
    """Return the graph and its logits without the activation, and the activation; None if the graph has none."""
    whole = ir.from_proto(graph)
    try:
        cut = find_activation(whole)
    except NoLogitsError as error:
        raise _no_logits(model, error.node.op_type) from error
    if cut is None:
        return graph, reference, None
    logits_graph = _without_scores(whole, cut)
    logits = graph_logits(logits_graph, frames, model.card.preprocessing)
    if not cut.is_proved(logits, reference):
        raise _no_logits(model, cut.node.op_type)
    return logits_graph, logits, cut.activation


def _without_scores(model: ir.Model, cut: Cut) -> onnx.ModelProto:
    model.graph.outputs[0] = cut.logits
    RemoveUnusedNodesPass()(model)
    cut.logits.name = OUTPUT_NAME
    NameFixPass()(model)
    return ir.to_proto(model)


def _no_logits(model: Model, operator: str) -> CheckpointError:
    return CheckpointError(
        f"{model.card.source} ends in {operator}: its outputs are no logits, and no softmax or sigmoid of all of them",
        expected="logits, their softmax over all classes, or their sigmoid",
        fix="leave out what comes after the logits",
    )


def _agreed(model: Model, stated: Activation | None, given: Activation | None) -> Activation | None:
    if given is not None and stated is not None and given != stated:
        raise UsageError(
            f"activation={given!r} contradicts {model.card.source}, whose activation is {stated}",
            fix="leave out activation=",
        )
    return given or stated


def _check_logits(model: Model, outputs: Logits) -> None:
    """Refuse outputs that look like scores, if nothing says what they are."""
    if outputs.min() >= 0.0 and outputs.max() <= 1.0:
        raise UsageError(
            f"every output of {model.card.source} lies in 0…1 for {counted(len(outputs), 'image')}, as scores do, and "
            "nothing says how they are made",
            expected="logits, which may be negative",
            fix="leave out what comes after the logits; if they are logits, activation='softmax' or 'sigmoid'",
        )


def _check_one_logit(model: Model, activation: Activation | None) -> None:
    if activation is None:
        raise UsageError(
            f"{model.card.source} gives one number, and nothing says what it means",
            expected="the logit of a sigmoid, which gives two answers",
            fix="activation='sigmoid', if it was trained with binary cross-entropy; vitedge converts no regression",
        )
    if activation == "softmax":
        raise UsageError(
            f"{model.card.source} gives one logit, and the softmax of one logit is always 1",
            expected="the logit of a sigmoid, which gives two answers",
            fix="activation='sigmoid', if it was trained with binary cross-entropy",
        )


def _two_logits(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that gives ``(0, logit)`` instead of ``(logit)``."""
    two = onnx.ModelProto()
    two.CopyFrom(graph)
    for node in two.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = ONE_LOGIT if name == OUTPUT_NAME else name
    zero = numpy_helper.from_array(np.zeros((1, 1), np.float32), f"{ONE_LOGIT}_zero")
    two.graph.initializer.append(zero)
    concat = onnx.helper.make_node("Concat", [zero.name, ONE_LOGIT], [OUTPUT_NAME], name=OUTPUT_NAME, axis=1)
    two.graph.node.append(concat)
    two.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, [1, 2]))
    return two
