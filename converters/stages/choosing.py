"""Choose the precision where the request asks for ``auto``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from vitedge.audit import Audit
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.precision_records import AutoRecord, CalibrationRecord, CandidateRecord
from vitedge.bundle.targets import Precision
from vitedge.calib.data.dataset import ImageDataset
from vitedge.calib.sensitivity.paired_graphs import pair_graphs
from vitedge.calib.sensitivity.sensitivity import LAYER_IMAGES
from vitedge.converters.backends import Reduced
from vitedge.converters.precision_search.search import FP32, PrecisionConfig, SelectionImages, select
from vitedge.converters.publish import CANDIDATES
from vitedge.converters.request import Contract
from vitedge.converters.stages.drafting import Draft, count_shared
from vitedge.converters.stages.manifest import draft_manifest
from vitedge.converters.stages.writing import write_files
from vitedge.progress import Progress, Silent
from vitedge.runtime.classifier import Classifier


def choose_precision(
    folder: Path, draft: Draft, contract: Contract, selection: ImageDataset, progress: Progress
) -> Draft:
    """Try the int8 graph, the FP32 graph and mixes of both, and keep the fastest that meets the contract.

    Args:
        folder: of the new bundle; candidates are compiled in a temporary folder inside it.
        draft: in int8.
        contract: to keep.
        selection: images to measure the losses on.
        progress: receives the steps.

    Returns:
        The draft with the chosen graph.

    Raises:
        ConversionError: no candidate meets the contract.
    """
    shared = count_shared(draft, selection, progress)
    audits: dict[str, Audit | None] = {}
    with tempfile.TemporaryDirectory(prefix=CANDIDATES, dir=folder) as scratch:

        def reduce(graph: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
            return draft.backend.reduce(replace(draft.inputs, graph=graph), precision, Silent()).graph

        def opened(candidate: PrecisionConfig, graph: onnx.ModelProto) -> Classifier:
            candidate_folder = Path(tempfile.mkdtemp(dir=scratch))
            tried = replace(draft, precision=candidate.precision, reduced=Reduced(graph, None))
            manifest = draft_manifest(candidate_folder, tried, write_files(candidate_folder, tried))
            bundle = Bundle(candidate_folder, manifest)
            audits[candidate.name] = draft.backend.audit(bundle) if candidate.precision == "int8" else None
            engine = draft.backend.open_host_engine(bundle)
            card = draft.card
            return Classifier(engine, card.preprocessing, card.labels, activation=card.activation)

        pair = pair_graphs(draft.full.graph, draft.reduced.graph)
        frames = draft.probes.frames[:LAYER_IMAGES]
        images, activation = SelectionImages(selection, shared), draft.card.activation
        choice = select(pair, frames, images, contract, reduce, opened, progress, activation=activation)
    choice = replace(choice, record=_counted(choice.record, audits))
    progress.step(f"chosen: {choice.record.summary}")
    if choice.candidate == FP32 and (missed := missed_losses(choice.record)):
        progress.step(f"note: only fp32 keeps the contract, because {missed}")
    calibration = _calibration(draft.reduced.calibration, choice.candidate)
    reduced = Reduced(choice.graph, calibration)
    return replace(draft, precision=choice.candidate.precision, reduced=reduced, choice=choice)


def _counted(record: AutoRecord, audits: Mapping[str, Audit | None]) -> AutoRecord:
    """Add to each candidate how many int8 layers its graph has, and how many of them its engine computed in int8."""
    return replace(record, candidates=tuple(_audited(each, audits.get(each.name)) for each in record.candidates))


def _audited(candidate: CandidateRecord, audit: Audit | None) -> CandidateRecord:
    if audit is None:
        return candidate
    executed = None if audit.unknown else len(audit.executed)
    return replace(candidate, int8_layers=len(audit.quantized), int8_executed=executed)


def missed_losses(record: AutoRecord) -> str:
    """List what faster candidates may lose, which was too much; empty where none of them was measured."""
    contract = record.contract
    return ", ".join(
        f"{each.name} may lose {each.loss_bound:.2f} {contract.unit}"
        for each in record.candidates
        if each.loss_bound is not None and each.loss_bound > contract.max_drop
    )


def _calibration(record: CalibrationRecord | None, chosen: PrecisionConfig) -> CalibrationRecord | None:
    """Keep the record of an int8 graph, and name the layers that stayed in floating point."""
    if record is None or chosen.precision != "int8":
        return None
    if not chosen.float_layers:
        return record
    recipe = f"{record.recipe}; in floating point again: {', '.join(chosen.float_layers)}"
    return replace(record, recipe=recipe, float_layers=(*record.float_layers, *chosen.float_layers), gap_db=None)
