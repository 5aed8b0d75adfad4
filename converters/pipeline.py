"""The road from a checkpoint to a bundle, in order; each stage has its module."""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from vitedge.bundle.bundle import GOLDEN, LABELS, MODEL_FP16_ONNX, MODEL_ONNX, Bundle, Golden
from vitedge.bundle.manifest import (
    SCHEMA_VERSION,
    AccuracyRecord,
    ConfidenceRecord,
    GoldenRecord,
    Manifest,
    PrecisionRecord,
    VerificationRecord,
)
from vitedge.bundle.model_card import ModelCard
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.targets import Precision
from vitedge.calib.data.dataset import CALIBRATION_IMAGES, CalibrationImages, ImageDataset, ImageFile
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.data.leakage import count_shared_images
from vitedge.calib.data.open import open_dataset
from vitedge.calib.evaluation.accuracy import Evaluation, evaluate
from vitedge.calib.evaluation.score_calibration import MIN_IMAGES, calibrate_scores, check_image_count
from vitedge.calib.sensitivity.paired_graphs import find_twins
from vitedge.calib.sensitivity.sensitivity import LAYER_IMAGES
from vitedge.converters.backends import Backend, Material, Reduced, backend_of
from vitedge.converters.convert import Contract, Request
from vitedge.converters.interrupts import Watched, interruptible
from vitedge.converters.onnx_export import export
from vitedge.converters.precision_search.search import Candidate, Choice, Judged, select, split
from vitedge.converters.publish import CANDIDATES, file_records, publish, staged
from vitedge.converters.reference import graph_logits, module_logits
from vitedge.converters.rewrites.apply import REWRITES, Rewrite, Rewritten, apply_rewrites
from vitedge.converters.sources.cswin_pvt.models import load_variant
from vitedge.converters.sources.factory import load_factory
from vitedge.converters.sources.hub import fetch
from vitedge.converters.sources.labels import check_label_count
from vitedge.converters.sources.onnx.models import OnnxModel, load_onnx
from vitedge.converters.sources.parse import Factory, HubFolder, HubRepo, OnnxFile, ProgramFile, TimmName, VariantName
from vitedge.converters.sources.timm.models import TorchModel, load_folder, load_named
from vitedge.converters.sources.torch_export.programs import ProgramModel, load_program
from vitedge.converters.sources.transformers.models import is_transformers_folder, load_transformers
from vitedge.converters.verify import (
    Frames,
    Logits,
    check_precision,
    check_source,
    demanded_sqnr,
    golden_frames,
    synthetic_frames,
)
from vitedge.metrics import Parity, parity
from vitedge.progress import Progress
from vitedge.report.precision_search import write as write_auto_report
from vitedge.runtime.classifier import Classifier
from vitedge.runtime.system.machine import processor_name
from vitedge.safety.escape import terminal_lines
from vitedge.version import VERSION

TOOLS = ("torch", "timm", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy")
COMPARED_IMAGES = 64


@dataclass(frozen=True)
class Images:
    """The images that a request names.

    Attributes:
        calibration: to take ranges and golden vectors from.
        evaluation: to measure accuracy on.
        judging: to judge candidates by, where the precision is to be chosen.
    """

    calibration: ImageDataset | None
    evaluation: ImageFolder | None
    judging: ImageDataset | None


@dataclass(frozen=True)
class Probes:
    """The inputs that everything is compared on.

    Attributes:
        frames: ``(N,H,W,3)`` uint8, preprocessed; the first ``GOLDEN_FRAMES`` of them become golden vectors.
        inputs: ``images`` if they are photos, else ``synthetic``.
    """

    frames: Frames
    inputs: Literal["images", "synthetic"]

    @property
    def golden(self) -> Frames:
        """Those that the bundle keeps."""
        return golden_frames(self.frames)


@dataclass(frozen=True)
class FullGraph:
    """The FP32 graph that all precisions are made from.

    Attributes:
        graph: uint8 ``frame`` in, ``logits`` out.
        against_source: compared with PyTorch on the golden frames; None for ONNX sources.
    """

    graph: onnx.ModelProto
    against_source: Parity | None


@dataclass(frozen=True)
class Draft:
    """All that a bundle is written from.

    Attributes:
        request: its precision is that of the bundle.
        backend: what compiles for its target.
        card: the model.
        full: the FP32 graph.
        reduced: the bundle's graph.
        probes: what engines are compared on.
        calibration: the images that were used; empty if none.
        choice: how the precision was chosen; None if it was named.
    """

    request: Request
    backend: Backend
    card: ModelCard
    full: FullGraph
    reduced: Reduced
    probes: Probes
    calibration: tuple[ImageFile, ...]
    choice: Choice | None = None


def run(request: Request, progress: Progress) -> Bundle:
    """Convert; nothing is left on the disk unless everything was verified.

    Raises:
        VitedgeError: see ``vitedge.convert``.
    """
    with interruptible() as interrupts, staged(request.output) as partial:
        watched = Watched(progress, interrupts)
        images = _find_images(request)
        draft = _draft(request, images, watched)
        if request.contract is not None:
            draft = _chosen(partial, draft, request.contract, images, watched)
        watched.step(f"writing {draft.backend.WRITES}")
        golden = _write_files(partial, draft)
        watched.step(f"comparing {draft.backend.COMPARES} with its graph, and with fp32")
        manifest = _verified(Bundle(partial, _manifest(partial, draft, golden)), draft, golden, images, watched)
        watched.step(f"publishing {request.output}")
        return publish(partial, request.output, manifest)


def _find_images(request: Request) -> Images:
    """List the folders first: a wrong one is known before a model is loaded."""
    limit = CALIBRATION_IMAGES if request.precision in ("int8", "fp8") else COMPARED_IMAGES
    evaluation = None if request.eval_data is None else ImageFolder.open(request.eval_data)
    if request.contract is not None and request.calib is not None and evaluation is None:
        calibration, judging = split(open_dataset(request.calib), limit)
        return Images(calibration, None, judging)
    images = Images(
        calibration=None if request.calib is None else open_dataset(request.calib, limit=limit),
        evaluation=evaluation,
        judging=evaluation if request.contract is not None else None,
    )
    if images.evaluation is not None and request.abstain_error is not None:
        check_image_count(len(images.evaluation))
    return images


def _draft(request: Request, images: Images, progress: Progress) -> Draft:
    backend = backend_of(request.target)
    progress.step(f"loading {request.source.name}")
    model = _load(request, progress)
    card = model.card
    progress.step(f"its images: {describe(card.preprocessing)}")
    if images.evaluation is not None and (request.contract is None or request.abstain_error is not None):
        images.evaluation.class_to_idx(card.labels)
    photos = _photos(images.calibration, card.preprocessing, progress)
    probes = _probes(photos, card.preprocessing)
    full = _full_graph(model, probes, (*REWRITES, *backend.REWRITES), progress)
    backend.check_operators(full.graph)
    del model  # its weights are in the graph now; calibration needs the memory
    material = Material(full.graph, card, probes.frames, probes.golden, photos)
    reduced = backend.reduce(material, request.precision, progress)
    return Draft(request, backend, card, full, reduced, probes, () if photos is None else photos.files)


def _load(request: Request, progress: Progress) -> TorchModel | ProgramModel | OnnxModel:
    source, labels, preprocessing = request.source, request.labels, request.preprocessing
    match source:
        case TimmName() | VariantName():
            return _load_named(source, request, progress)
        case HubFolder():
            return _load_folder(source, request)
        case HubRepo():
            return _load_repo(source, request, progress)
        case OnnxFile():
            return load_onnx(source, labels=labels, preprocessing=preprocessing, progress=progress)
        case ProgramFile():
            return load_program(source, labels=labels, preprocessing=preprocessing)
        case Factory():
            return load_factory(
                source,
                weights=request.weights,
                labels=labels,
                preprocessing=preprocessing,
                input_size=request.input_size,
            )


def _load_named(source: TimmName | VariantName, request: Request, progress: Progress) -> TorchModel:
    load = (
        partial(load_variant, source)
        if isinstance(source, VariantName)
        else partial(load_named, source, progress=progress)
    )
    return load(
        weights=request.weights,
        labels=request.labels,
        random_weights=request.random_weights,
        preprocessing=request.preprocessing,
        num_classes=request.num_classes,
        input_size=request.input_size,
    )


def _load_folder(source: HubFolder, request: Request) -> TorchModel:
    load = load_transformers if is_transformers_folder(source.path) else load_folder
    return load(source, labels=request.labels, preprocessing=request.preprocessing, input_size=request.input_size)


def _load_repo(source: HubRepo, request: Request, progress: Progress) -> TorchModel:
    snapshot = fetch(source, progress)
    model = _load_folder(HubFolder(snapshot.folder), request)
    return replace(model, card=replace(model.card, name=source.name, source=str(source), revision=snapshot.revision))


def describe(preprocessing: Preprocessing) -> str:
    """The preprocessing in a phrase."""
    height, width = preprocessing.input_size
    return (
        f"{preprocessing.interpolation} resize ({preprocessing.resize_mode}) to "
        f"{'x'.join(map(str, preprocessing.resize_size))}, crop {height}x{width}, mean {preprocessing.mean}, "
        f"std {preprocessing.std}"
    )


def _photos(images: ImageDataset | None, preprocessing: Preprocessing, progress: Progress) -> CalibrationImages | None:
    if images is None:
        return None
    progress.step(f"reading {len(images)} images of {images.path}")
    return images.load(preprocessing, progress)


def _probes(photos: CalibrationImages | None, preprocessing: Preprocessing) -> Probes:
    if photos is None:
        return Probes(synthetic_frames(preprocessing.input_size), "synthetic")
    return Probes(photos.frames[:COMPARED_IMAGES], "images")


def _full_graph(
    model: TorchModel | ProgramModel | OnnxModel, probes: Probes, rewrites: Sequence[Rewrite], progress: Progress
) -> FullGraph:
    preprocessing = model.card.preprocessing
    if isinstance(model, OnnxModel):
        progress.step("rewriting the graph")
        rewritten = apply_rewrites(model.graph, probes.golden, preprocessing, rewrites)
        progress.step(_done(rewritten))
        return FullGraph(rewritten.graph, against_source=None)
    progress.step("exporting to ONNX")
    exported, expected = _exported(model, probes.golden)
    progress.step("rewriting the graph, and comparing it with PyTorch")
    rewritten = apply_rewrites(exported, probes.golden, preprocessing, rewrites)
    progress.step(_done(rewritten))
    check_label_count(model.card.labels, rewritten.logits.shape[1], where=model.card.name)
    return FullGraph(rewritten.graph, check_source(expected, rewritten.logits))


def _exported(model: TorchModel | ProgramModel, frames: Frames) -> tuple[onnx.ModelProto, Logits]:
    """The model's graph, and the logits that PyTorch computes."""
    if isinstance(model, ProgramModel):
        return model.export(frames)
    preprocessing = model.card.preprocessing
    return export(model.module, preprocessing.input_size), module_logits(model.module, frames, preprocessing)


def _done(rewritten: Rewritten) -> str:
    """The rewrites that applied, each with the number of places if there are several."""
    applied = (
        name if places.changed == 1 else f"{name} ({places.changed} places)"
        for name, places in rewritten.applied.items()
    )
    left_out = (
        f"; left out {name}, which changed the outputs: {change}" for name, change in rewritten.unproved.items()
    )
    return f"rewritten: {', '.join(applied)}{''.join(left_out)}"


def _chosen(partial: Path, draft: Draft, contract: Contract, images: Images, progress: Progress) -> Draft:
    """Choose between the int8 graph, the FP32 graph and what lies between them."""
    assert images.judging is not None
    shared = _shared(draft, images.judging, progress)
    with tempfile.TemporaryDirectory(prefix=CANDIDATES, dir=partial) as scratch:

        def opened(candidate: Candidate, graph: onnx.ModelProto) -> Classifier:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            tried = replace(_with_precision(draft, candidate.precision), reduced=Reduced(graph, None))
            bundle = Bundle(folder, _manifest(folder, tried, _write_files(folder, tried)))
            return Classifier(draft.backend.open_host_engine(bundle), draft.card.preprocessing, draft.card.labels)

        twins = find_twins(draft.full.graph, draft.reduced.graph)
        frames = draft.probes.frames[:LAYER_IMAGES]
        choice = select(twins, frames, Judged(images.judging, shared), contract, opened, progress)
    progress.step(f"chosen: {choice.record.summary}")
    calibration = draft.reduced.calibration if choice.candidate.precision == "int8" else None
    if calibration is not None and choice.candidate.float_layers:
        kept = ", ".join(choice.candidate.float_layers)
        calibration = replace(calibration, recipe=f"{calibration.recipe}; in floating point again: {kept}")
    return replace(
        _with_precision(draft, choice.candidate.precision), reduced=Reduced(choice.graph, calibration), choice=choice
    )


def _with_precision(draft: Draft, precision: Precision) -> Draft:
    return replace(draft, request=replace(draft.request, precision=precision))


def _shared(draft: Draft, images: ImageDataset, progress: Progress) -> int:
    """How many images calibration used as well; a warning if there are some."""
    if draft.reduced.calibration is None:
        return 0
    shared = count_shared_images(draft.calibration, images.files)
    if shared:
        progress.step(
            f"warning: {shared} of the {len(images)} images to measure on served calibration too: what is measured on "
            "them flatters"
        )
    return shared


def _write_files(partial: Path, draft: Draft) -> Golden:
    """Write all but the manifest; the golden vectors."""
    card, reduced, twin = draft.card, draft.reduced, draft.reduced.twin
    _write_graph(partial / MODEL_ONNX, reduced.graph)
    if twin is not None:
        _write_graph(partial / MODEL_FP16_ONNX, twin.graph)
    draft.backend.write(partial, card, draft.request.precision)
    (partial / LABELS).write_text(terminal_lines(card.labels), encoding="utf-8")
    golden = Golden(
        frames=draft.probes.golden,
        logits=_golden_logits(draft, reduced),
        fp16_logits=None if twin is None else _golden_logits(draft, twin),
    )
    golden.write(partial / GOLDEN)
    if draft.choice is not None:
        write_auto_report(partial, card.name, draft.choice.record, draft.choice.sensitivity)
    return golden


def _write_graph(path: Path, graph: onnx.ModelProto) -> None:
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _golden_logits(draft: Draft, reduced: Reduced) -> Logits:
    return graph_logits(draft.backend.computed(reduced.graph), draft.probes.golden, draft.card.preprocessing)


def _manifest(partial: Path, draft: Draft, golden: Golden) -> Manifest:
    """The manifest before an engine has run; what only an engine can tell is filled in by ``_verified``."""
    precision = draft.request.precision
    return Manifest(
        schema_version=SCHEMA_VERSION,
        vitedge_version=VERSION,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=draft.card,
        precision=PrecisionRecord(asked=precision, effective=precision, rest=precision),
        target=draft.request.target.name,
        calibration=draft.reduced.calibration,
        golden=GoldenRecord(inputs=draft.probes.inputs, count=len(golden.frames), min_sqnr_db=0.0),
        verification=VerificationRecord(draft.full.against_source, parity(golden.logits, golden.logits)),
        accuracy=None,
        tools=_tool_versions(),
        host=processor_name(),
        files=file_records(partial),
        auto=None if draft.choice is None else draft.choice.record,
    )


def _verified(bundle: Bundle, draft: Draft, golden: Golden, images: Images, progress: Progress) -> Manifest:
    """Run the bundle as a device would, or as near to it as this host can, compare, and complete its manifest."""
    manifest, precision = bundle.manifest, draft.request.precision
    full = graph_logits(draft.full.graph, draft.probes.frames, draft.card.preprocessing)
    with Classifier(draft.backend.open_host_engine(bundle), draft.card.preprocessing, draft.card.labels) as classifier:
        reached = np.stack([classifier.infer(frame) for frame in draft.probes.frames])
        difference = check_precision(full, reached, precision)
        half = golden.fp16_logits
        twin = None if half is None else check_precision(full[: len(half)], half, "fp16")
        evaluation = _evaluation(classifier, images.evaluation, progress)
        shared = 0 if evaluation is None or images.evaluation is None else _shared(draft, images.evaluation, progress)
        ran = classifier.info
    return replace(
        manifest,
        precision=PrecisionRecord(asked=precision, effective=ran.effective_precision, rest=ran.rest_precision),
        golden=_demanded(draft, golden, manifest.golden, reached[: len(golden.frames)]),
        verification=VerificationRecord(draft.full.against_source, difference, twin),
        accuracy=None if evaluation is None else _accuracy(evaluation, shared),
        confidence=None if evaluation is None else _confidence(evaluation, draft.request.abstain_error, progress),
    )


def _demanded(draft: Draft, golden: Golden, record: GoldenRecord, reached: Logits) -> GoldenRecord:
    """With what engines must reach against the golden logits."""
    random, reduced, twin = draft.request.random_weights, draft.reduced, draft.reduced.twin
    other = reached if reduced.unrounded is None else reduced.unrounded
    least = demanded_sqnr(golden.logits, other, draft.request.precision, random_weights=random)
    if twin is None or twin.unrounded is None or golden.fp16_logits is None:
        return replace(record, min_sqnr_db=least)
    half = demanded_sqnr(golden.fp16_logits, twin.unrounded, "fp16", random_weights=random)
    return replace(record, min_sqnr_db=least, fp16_min_sqnr_db=half)


def _evaluation(classifier: Classifier, images: ImageFolder | None, progress: Progress) -> Evaluation | None:
    if images is None or not images.is_labelled(classifier.labels):
        return None
    progress.step(f"measuring accuracy on {len(images)} images of {images.folder}")
    return evaluate(classifier, images, progress, keep_logits=True)


def _accuracy(evaluation: Evaluation, shared: int) -> AccuracyRecord:
    return AccuracyRecord(evaluation.top1, evaluation.top5, evaluation.images, evaluation.predictions.sha256, shared)


def _confidence(evaluation: Evaluation, abstain_error: float | None, progress: Progress) -> ConfidenceRecord | None:
    if evaluation.images < MIN_IMAGES and abstain_error is None:
        progress.step(f"scores stay as they are: a temperature needs {MIN_IMAGES} images, not {evaluation.images}")
        return None
    record = calibrate_scores(evaluation, abstain_error)
    progress.step(
        f"fitted temperature {record.temperature:.3f}: calibration error {record.ece_before:.2f} → "
        f"{record.ece_after:.2f} %"
    )
    return record


def _tool_versions() -> dict[str, str]:
    installed = {dist: _version(dist) for dist in TOOLS}
    return {"python": platform.python_version(), **{name: version for name, version in installed.items() if version}}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
