"""The conversion of a checkpoint into a bundle: the stages, in order."""

from __future__ import annotations

from vitedge.bundle.bundle import Bundle
from vitedge.converters.interrupts import Watched, interruptible
from vitedge.converters.publish import BUNDLE_NAMES, publish, staged
from vitedge.converters.request import Request
from vitedge.converters.stages.auditing import audited
from vitedge.converters.stages.choosing import choose_precision
from vitedge.converters.stages.datasets import find_datasets
from vitedge.converters.stages.drafting import draft
from vitedge.converters.stages.manifest import draft_manifest
from vitedge.converters.stages.verifying import verified
from vitedge.converters.stages.writing import write_files
from vitedge.progress import Progress, reporting


def run(request: Request, progress: Progress) -> Bundle:
    """Convert; nothing is left on the disk unless everything was verified.

    Raises:
        VitedgeError: see ``vitedge.convert``.
    """
    with (
        interruptible() as interrupts,
        reporting(progress),
        staged(request.output, overwrite=request.overwrite, names=BUNDLE_NAMES) as folder,
    ):
        watched = Watched(progress, interrupts)
        datasets = find_datasets(request)
        drafted = draft(request, datasets, watched)
        datasets = datasets.of(drafted.card)
        if request.contract is not None and datasets.selection is not None:
            drafted = choose_precision(folder, drafted, request.contract, datasets.selection, watched)
        watched.step(f"writing {drafted.backend.WRITES}")
        golden = write_files(folder, drafted)
        watched.step(f"comparing {drafted.backend.COMPARES} with its graph, and with fp32")
        unverified = Bundle(folder, draft_manifest(folder, drafted, golden))
        manifest = verified(unverified, drafted, golden, datasets.evaluation, watched)
        manifest = audited(Bundle(folder, manifest), drafted, watched)
        watched.step(f"publishing {request.output}")
        return publish(folder, request.output, manifest, overwrite=request.overwrite)
