"""One model: converted to every precision, compared with its source and with its peers, timed."""

from __future__ import annotations

import json
import os
import statistics
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import vitedge
from common.children import conversion_arguments, first_line, link_photos, versions
from common.families import Listed
from common.matrix.comparison import REFERENCE
from common.matrix.peers import compared_logits, timed
from common.matrix.rows import PACKAGES, PRECISIONS, ROUNDS, Conversion, Row, failed_row
from common.taken import taken_now
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.targets import Precision
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.files import write_atomic

CONVERTED = "converted.json"
"""The row of a model before its peers run, in its folder: what ends their process takes nothing away."""
HELD_OUT = 64
"""Number of photos that nothing was calibrated on, to compare the logits of ours and of the peers on."""


def prepared(listed: Listed, data: Path, images: int, folder: Path) -> Row:
    """Convert a model to every precision, and compare with its peers; what is to be timed stays in the folder."""
    calib = link_photos(data / "flowers/calib", folder / "calib", images)
    bundles: dict[str, Bundle] = {}
    found: dict[str, Conversion] = {}
    for precision in PRECISIONS:
        sys.stderr.write(f"  {precision}\n")
        found[precision] = converted(listed, precision, data, calib, folder, bundles)
    if "fp32" not in bundles:
        return replace(failed_row(listed, ""), conversions=found)
    preprocessing = bundles["fp32"].manifest.model.preprocessing
    parameters, macs = counts(listed, data, preprocessing.input_size)
    row = Row(
        listed.name,
        listed.family,
        listed.trained,
        preprocessing.input_size,
        parameters,
        macs,
        found,
        versions(PACKAGES),
        taken=taken_now(),
    )
    write_atomic(folder / CONVERTED, json.dumps(asdict(row)))
    photos = (ImageFolder.open(calib), ImageFolder.open(data / "flowers/val", limit=HELD_OUT))
    calibration, held_out = (each.load(preprocessing).frames for each in photos)
    return replace(row, comparison=compared_logits(listed, data, folder, bundles, (calibration, held_out)))


def converted(
    listed: Listed, precision: Precision, data: Path, calib: Path, folder: Path, bundles: dict[str, Bundle]
) -> Conversion:
    """Convert; the bundle goes into ``bundles`` if there is one."""
    begun = cpu_seconds()
    try:
        bundle = vitedge.convert(
            **conversion_arguments(listed, data, folder),
            target="cpu",
            precision=precision,
            calib=calib,
            output=folder / precision,
        )
    except Exception as error:  # noqa: BLE001  # a library may raise anything; the other precisions go on
        traceback.print_exc()
        return Conversion(failed=first_line(error))
    spent = cpu_seconds() - begun
    bundles[precision] = bundle
    verified, ran, calibration = bundle.manifest.verification, bundle.manifest.precision, bundle.manifest.calibration
    assert verified.fp32_against_source is not None
    return Conversion(
        cpu_seconds=round(spent, 1),
        megabytes=round(bundle.size_bytes / 1e6, 2),
        ran_in=ran.effective if ran.effective == ran.rest else f"{ran.effective}, rest {ran.rest}",
        quantizer="" if calibration is None else calibration.recipe.split(":")[0],
        float_layers=() if calibration is None else calibration.float_layers,
        source_sqnr_db=round(verified.fp32_against_source.sqnr_db, 1),
        sqnr_db=round(verified.precision_against_fp32.sqnr_db, 1),
        agreement=round(verified.precision_against_fp32.agreement, 2),
    )


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def counts(listed: Listed, data: Path, size: tuple[int, int]) -> tuple[int, int]:
    """Count parameters and multiply-accumulates of the PyTorch module; the latter are half of torch's operations."""
    import timm
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from common.untrained import build_classifier
    from vitedge.converters.sources.cswin_pvt.build import build
    from vitedge.converters.sources.cswin_pvt.variants import VARIANTS

    if listed.name in VARIANTS:
        module: Any = build(listed.name)
    elif listed.transformers:
        module = build_classifier(listed)
    elif listed.trained:
        module = timm.create_model(f"local-dir:{data / 'models' / listed.name}", pretrained=True)
    else:
        sized = {"img_size": listed.input_size} if listed.input_size else {}
        classes = {"num_classes": listed.num_classes} if listed.num_classes else {}
        module = timm.create_model(listed.name, exportable=True, **sized, **classes)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the counter does not see into the fused kernel
        module.eval()(torch.zeros(1, 3, *size))
    return sum(each.numel() for each in module.parameters()), counter.get_total_flops() // 2


def timed_row(row: Row, folder: Path) -> Row:
    """Time what ``prepared`` left in the folder; a row without anything to time stays as it is."""
    if row.comparison is None or row.comparison.refused:
        return row
    converts = [precision for precision in PRECISIONS if not row.conversions[precision].failed]
    bundles = {precision: Bundle.open(folder / precision) for precision in converts}
    compared = timed(row.comparison, bundles, folder, ROUNDS)
    conversions = {
        name: replace(each, **speed(compared.rounds(name), compared.rounds(REFERENCE)))
        for name, each in row.conversions.items()
    }
    return replace(row, conversions=conversions, comparison=compared, taken=taken_now())


def speed(rounds: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Return the timing fields of a conversion; none without times."""
    if not rounds:
        return {}
    ratios = [theirs / ours for theirs, ours in zip(reference, rounds, strict=True)]
    return {
        "p50_ms": round(statistics.median(rounds), 2),
        "speedup": round(statistics.median(ratios), 2),
        "speedup_range": (round(min(ratios), 2), round(max(ratios), 2)),
    }
