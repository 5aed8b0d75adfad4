"""Load, export, rewrite and reduce: from a request to everything that a bundle is written from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.targets import Precision
from vitedge.bundle.verification_records import WorkaroundRecord
from vitedge.calib.data.dataset import ImageDataset, ImageFile, some_names
from vitedge.calib.data.leakage import count_shared_images
from vitedge.converters.backends import Backend, BackendInputs, Reduced, backend_of
from vitedge.converters.precision_gate import GateFrames
from vitedge.converters.precision_search.loss import check_decidable
from vitedge.converters.precision_search.search import Choice
from vitedge.converters.request import Request
from vitedge.converters.rewrites.apply import REWRITES
from vitedge.converters.sources.labels import identified
from vitedge.converters.stages.datasets import (
    Datasets,
    Probes,
    check_evaluation_images,
    choose_gate_frames,
    choose_probes,
    is_calibrated,
    note_few_images,
    read_photos,
)
from vitedge.converters.stages.exporting import FullGraph, full_graph
from vitedge.converters.stages.loading import load_model
from vitedge.converters.stages.memory import check_files, check_model
from vitedge.counts import share_of
from vitedge.progress import Progress


@dataclass(frozen=True)
class Draft:
    """Everything that a bundle is written from.

    Attributes:
        request: what was asked for.
        precision: of the bundle.
        backend: compiles for the target.
        card: the model.
        full: the FP32 graph.
        reduced: the bundle's graph.
        probes: the inputs that graphs are compared on.
        gate: the inputs that the bundle is compared with fp32 on.
        calibration: the images that were used; empty if none were.
        choice: how the precision was chosen; None if the user named it.
        workarounds: operators that have another form, because the engine computes them wrongly.
    """

    request: Request
    precision: Precision
    backend: Backend
    card: ModelCard
    full: FullGraph
    reduced: Reduced
    probes: Probes
    gate: GateFrames
    calibration: tuple[ImageFile, ...]
    choice: Choice | None = None
    workarounds: tuple[WorkaroundRecord, ...] = ()

    @property
    def inputs(self) -> BackendInputs:
        """Return the FP32 graph for ``Backend.reduce``, without photos, because calibration is over."""
        return BackendInputs(self.full.graph, self.card, self.probes.frames, self.probes.golden, photos=None)


def draft(request: Request, datasets: Datasets, progress: Progress) -> Draft:
    """Load the model, make its FP32 graph, and reduce that to the precision of the request.

    Raises:
        VitedgeError: see ``vitedge.convert``.
    """
    backend = backend_of(request.target)
    progress.step(f"loading {request.source.name}")
    check_files(request, progress)
    model = load_model(request.source, request.model, progress)
    check_model(request, model, progress)
    card = identified(model.card)
    changed = [label for label, given in zip(card.labels, model.card.labels, strict=True) if label != given]
    if changed:
        progress.step(f"note: labels of several classes are told apart: {some_names(changed)}")
    datasets = datasets.of(card)
    progress.step(f"its images: {_described(card.preprocessing)}")
    evaluation = datasets.evaluation if request.contract is None or request.abstain_error is not None else None
    if evaluation is not None and all(file.labels is None for file in evaluation.files):
        check_evaluation_images(evaluation, replace(card, activation=request.activation or card.activation))
    if request.contract is not None and datasets.selection is not None:
        labelled = not card.is_multilabel and datasets.selection.is_labelled(card.labels)
        check_decidable(len(datasets.selection), request.contract.max_drop, labelled=labelled)
    if is_calibrated(request):
        note_few_images(datasets, progress)
    photos = read_photos(datasets.calibration, card.preprocessing, progress)
    probes = choose_probes(photos, card.preprocessing)
    gate = choose_gate_frames(datasets, photos, probes, card.preprocessing, progress, calibrated=is_calibrated(request))
    full = full_graph(model, probes, (*REWRITES, *backend.REWRITES), progress, activation=request.activation)
    card = replace(card, activation=full.activation)
    if evaluation is not None:
        check_evaluation_images(evaluation, card)
    backend.check_operators(full.graph)
    del model  # its weights are in the graph now; calibration needs the memory
    inputs = BackendInputs(full.graph, card, probes.frames, probes.golden, photos)
    mended = backend.mend(inputs, request.precision, progress)
    full = replace(full, graph=mended.graph)
    inputs = replace(inputs, graph=mended.graph, half_logits=mended.half_logits)
    reduced = backend.reduce(inputs, request.precision, progress)
    calibration = () if photos is None else photos.files
    return Draft(
        request,
        request.precision,
        backend,
        card,
        full,
        reduced,
        probes,
        gate,
        calibration,
        workarounds=mended.workarounds,
    )


def count_shared(draft: Draft, images: ImageDataset, progress: Progress) -> int:
    """Count the images that calibration used as well, and warn if there are some."""
    if draft.reduced.calibration is None:
        return 0
    shared = count_shared_images(draft.calibration, images.files)
    if shared:
        progress.step(
            f"warning: {share_of(shared, len(images), 'image')} to measure on served calibration too: what is "
            "measured on them flatters"
        )
    return shared


def _described(preprocessing: Preprocessing) -> str:
    height, width = preprocessing.input_size
    return (
        f"{preprocessing.interpolation} resize ({preprocessing.resize_mode}) to "
        f"{'x'.join(map(str, preprocessing.resize_size))}, crop {height}x{width}, mean {preprocessing.mean}, "
        f"std {preprocessing.std}{', turned by EXIF orientation' if preprocessing.exif_orientation else ''}"
    )
