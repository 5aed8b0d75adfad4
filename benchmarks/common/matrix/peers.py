"""A model's bundles beside OpenVINO and NNCF without vitedge: accuracy against PyTorch, kernels, times in turns."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.baselines import PURPOSE, compiled, from_frame, nncf_quantized, own_ir
from common.children import conversion_arguments, first_line
from common.families import Listed
from common.matrix.comparison import OPPONENTS, REFERENCE, SMOOTHING, Contender, Kernels, PeerComparison
from common.timing import MOST_LOAD, BusyMachineError, Call, contradiction, in_quiet_turns, median_ms
from vitedge.audit import Audit
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.reference import module_logits, normalized
from vitedge.converters.request import ModelOptions
from vitedge.converters.sources.parse import parse_source
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.stages.loading import load_model
from vitedge.extras import require
from vitedge.metrics import parity
from vitedge.progress import Silent
from vitedge.runtime.engines.audit.openvino import audit, audit_model
from vitedge.runtime.engines.open import open_engine
from vitedge.runtime.engines.openvino import configuration
from vitedge.runtime.system.machine import usable_cpus

CALLS = 8
FRAME = "frame.npy"
"""The frame that is timed, in the folder of a model."""
SAME_NETWORK_DB = 60.0
"""The fp32 bundle and the PyTorch module are the same network above this."""
Frames = NDArray[np.uint8]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Way:
    """A compiled model.

    Attributes:
        infer: logits of one frame.
        run: one run, on the last frame.
        audit: finds its layers in the engine.
    """

    infer: Callable[[Frames], Logits]
    run: Call
    audit: Callable[[], Audit | None]


def compared_logits(
    listed: Listed, data: Path, folder: Path, bundles: Mapping[str, Bundle], photos: tuple[Frames, Frames]
) -> PeerComparison:
    """Compare the logits of a model's bundles and of its peers with PyTorch's, and keep what is needed to time them.

    Args:
        listed: the model.
        data: folder of the test data.
        folder: folder that a checkpoint with random weights was written to; the peers' IR and a frame go there.
        bundles: by precision; fp32 is one of them.
        photos: ``(N,H,W,3)`` frames to calibrate on, and others to compare on.

    Returns:
        The comparison without times; a refused one if the PyTorch module is not the network of the bundles.
    """
    calibration, held_out = photos
    model = loaded(listed, data, folder)
    reference = module_logits(model.module, held_out, model.card.preprocessing)
    np.save(folder / FRAME, held_out[-1])
    with ExitStack() as opened:
        ways: dict[str, Way | str] = {name: of_bundle(bundle, opened) for name, bundle in bundles.items()}
        ways |= peers(model, calibration, folder)
        found = {name: assessed(way, held_out, reference) for name, way in ways.items()}
    if found["fp32"].sqnr_db < SAME_NETWORK_DB:
        return PeerComparison({}, 0, refused=f"the fp32 bundle is {found['fp32'].sqnr_db:.0f} dB from PyTorch's module")
    return PeerComparison(found, len(held_out))


def timed(found: PeerComparison, bundles: Mapping[str, Bundle], folder: Path, rounds: int) -> PeerComparison:
    """Audit every contender that runs, and time all in the same rounds.

    Args:
        found: from ``compared_logits``.
        bundles: by precision; fp32 is one of them.
        folder: where ``compared_logits`` wrote the peers' IR.
        rounds: number of rounds.

    Returns:
        The comparison; times of a busy machine, and times that contradict each other, are refused.
    """
    frame = np.load(folder / FRAME)
    with ExitStack() as opened:
        contenders, calls = dict(found.contenders), dict[str, Call]()
        for name, contender in found.contenders.items():
            if contender.failed:
                continue
            way = of_bundle(bundles[name], opened) if name in bundles else of_graph(read_graph(folder, name))
            contenders[name], calls[name] = audited(contender, way), way.run
            way.infer(frame)
        reference = of_bundle(bundles["fp32"], opened, "onnxruntime")
        reference.infer(frame)
        calls[REFERENCE] = reference.run
        return with_times(replace(found, contenders={**contenders, REFERENCE: Contender()}), calls, rounds)


def loaded(listed: Listed, data: Path, folder: Path) -> TorchModel:
    """Load the PyTorch module that ``vitedge.convert`` exports, with the same weights."""
    given = conversion_arguments(listed, data, folder)
    size = given.get("input_size")
    options = ModelOptions(
        weights=None,
        random_weights=given.get("random_weights", False),
        labels=None,
        preprocessing=None,
        num_classes=given.get("num_classes"),
        input_size=(size, size) if isinstance(size, int) else size,
    )
    model = load_model(parse_source(str(given["source"])), options, Silent())
    assert isinstance(model, TorchModel)
    return model


def of_bundle(bundle: Bundle, opened: ExitStack, name: str = "openvino") -> Way:
    """Open a bundle."""
    engine = open_engine(bundle, name)
    opened.callback(engine.close)

    def infer(frame: Frames) -> Logits:
        engine.frame[...] = frame
        return engine.run().copy()

    return Way(infer, engine.run, partial(audit, bundle))


def peers(model: TorchModel, calibration: Frames, folder: Path) -> dict[str, Way | str]:
    """Make the peers from OpenVINO's own IR of a module, as files; the text is the error of one that failed."""
    preprocessing = model.card.preprocessing
    try:
        graph = own_ir(model.module, preprocessing)
    except Exception as error:  # noqa: BLE001  # the model's own code runs here
        traceback.print_exc()
        return dict.fromkeys(OPPONENTS, first_line(error))
    pixels = normalized(calibration, preprocessing)
    return {name: peer(name, graph.clone(), pixels, preprocessing, folder) for name in OPPONENTS}


def peer(name: str, graph: Any, pixels: NDArray[np.float32], preprocessing: Preprocessing, folder: Path) -> Way | str:
    """Make one peer from an ``openvino.Model``, which is changed, and write it; the text is the error."""
    sys.stderr.write(f"  {name}\n")
    openvino = require("openvino", extra="openvino", purpose=PURPOSE)
    try:
        quantized = nncf_quantized(graph, pixels, SMOOTHING[name]) if name in SMOOTHING else graph
        whole = from_frame(quantized, preprocessing)
        openvino.save_model(whole, graph_file(folder, name), compress_to_fp16=False)
        return of_graph(whole)
    except Exception as error:  # noqa: BLE001  # a library may raise anything; the others go on
        traceback.print_exc()
        return first_line(error)


def graph_file(folder: Path, name: str) -> Path:
    """Return where the IR of a peer is."""
    return folder / f"{name}.xml"


def read_graph(folder: Path, name: str) -> Any:
    """Read the ``openvino.Model`` of a peer."""
    return require("openvino", extra="openvino", purpose=PURPOSE).Core().read_model(graph_file(folder, name))


def of_graph(graph: Any) -> Way:
    """Compile an ``openvino.Model`` that takes frames."""
    openvino = require("openvino", extra="openvino", purpose=PURPOSE)
    core, request = openvino.Core(), compiled(graph)

    def infer(frame: Frames) -> Logits:
        return np.array(request.infer([frame[np.newaxis]])[0][0])

    def run() -> None:
        request.start_async()
        request.wait()

    options = configuration(core, "int8", "LATENCY", threads=None)
    return Way(infer, run, partial(audit_model, openvino, core, graph, options))


def assessed(way: Way | str, frames: Frames, reference: Logits) -> Contender:
    """Compare a way's logits with PyTorch's."""
    if isinstance(way, str):
        return Contender(failed=way)
    try:
        against = parity(reference, np.stack([way.infer(frame) for frame in frames]))
    except Exception as error:  # noqa: BLE001  # a library may raise anything; the other ways go on
        traceback.print_exc()
        return Contender(failed=first_line(error))
    return Contender(sqnr_db=round(against.sqnr_db, 1), agreement=round(against.agreement, 2))


def audited(contender: Contender, way: Way) -> Contender:
    """Add what the engine made of the graph."""
    found = way.audit()
    return contender if found is None else replace(contender, kernels=kernels(found))


def kernels(found: Audit) -> Kernels:
    """Shorten an audit."""
    overheads: dict[str, float] = {}
    for each in found.overheads:
        overheads[each.kind] = round(overheads.get(each.kind, 0.0) + (each.microseconds or 0.0), 1)
    return Kernels(
        quantized=len(found.quantized),
        executed=len(found.executed),
        fallbacks={each.name: each.reason for each in found.fallbacks},
        microseconds=None if found.microseconds is None else round(found.microseconds, 1),
        overheads=overheads,
    )


def with_times(found: PeerComparison, calls: Mapping[str, Call], rounds: int) -> PeerComparison:
    """Time all in the same rounds; times of a busy machine, and times that contradict each other, are refused."""
    most = MOST_LOAD * usable_cpus()
    try:
        quiet = in_quiet_turns(calls, partial(median_ms, calls=CALLS), rounds=rounds, most_load=most)
    except BusyMachineError as error:
        return replace(found, refused=str(error), discarded=error.discarded)
    for peer, ours in OPPONENTS.items():
        reason = contradiction(quiet.times.get(ours, ()), quiet.times.get(peer, ()))
        if reason:
            return replace(found, refused=f"{ours} and {peer}: {reason}", discarded=quiet.discarded)
    contenders = {
        name: replace(each, rounds=tuple(round(time, 4) for time in quiet.times.get(name, ())))
        for name, each in found.contenders.items()
    }
    return replace(found, contenders=contenders, discarded=quiet.discarded)
