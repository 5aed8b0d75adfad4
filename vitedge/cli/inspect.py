"""``vitedge inspect``: the contents of a bundle, or the layers of any graph as they run here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.audit import Audit
from vitedge.bundle.accuracy_records import ConfidenceRecord, LabelAccuracyRecord, ThresholdsRecord
from vitedge.bundle.manifest import Manifest
from vitedge.bundle.model_card import LABEL_THRESHOLD
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.targets import target_named
from vitedge.bundle.verification_records import GATE_INPUTS
from vitedge.cli.build import record_lines
from vitedge.cli.reports import add_json_flag, write_result
from vitedge.cli.trust import add_trust_options, trusted
from vitedge.converters.openvino.audit_file import GRAPH_SUFFIXES
from vitedge.counts import counted
from vitedge.errors import UsageError
from vitedge.metrics import Parity
from vitedge.progress import reporting
from vitedge.safety import escape
from vitedge.verbs.engine_state import EngineState
from vitedge.verbs.inspect import GraphInspection, Inspection, inspect, inspect_graph

if TYPE_CHECKING:
    from vitedge.converters.graph_summary import GraphSummary

EPILOG = """\
examples:
  vitedge inspect deit.bundle
  vitedge inspect deit.bundle --json | jq .manifest.precision
  vitedge inspect model.xml             which int8 layers of an OpenVINO IR or ONNX file run in int8 here
"""
SHOWN_LABELS = 5


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "inspect",
        help="the contents of a bundle",
        description="Check the hashes of a bundle, and show its manifest, files and operators; or compile any other "
        "graph with OpenVINO, and show in which precision its layers run on this machine.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", help="folder that vitedge convert wrote; or a graph, an .xml or .onnx file"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads for a graph (default: the engine decides)"
    )
    add_json_flag(parser, "everything")
    add_trust_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the inspection."""
    keys = trusted(arguments)
    if Path(arguments.bundle).suffix.lower() in GRAPH_SUFFIXES and not Path(arguments.bundle).is_dir():
        if keys:
            raise UsageError(f"--trust is for bundles, and {arguments.bundle} is a graph", fix="leave --trust out")
        with reporting(arguments.progress, f"compiling {arguments.bundle}"):
            graph = inspect_graph(arguments.bundle, threads=arguments.threads)
        write_result(arguments.json, graph.to_json, lambda: graph_text(graph))
    else:
        if arguments.threads is not None:
            raise UsageError("--threads is for graphs: the inspection of a bundle runs nothing", fix="leave it out")
        inspection = inspect(arguments.bundle, trust=keys)
        write_result(arguments.json, inspection.to_json, lambda: as_text(inspection))
    return 0


def graph_text(inspection: GraphInspection) -> str:
    """Render the audit of a graph for people."""
    audit = inspection.audit
    return escape.terminal_lines([f"{inspection.path}, compiled by {audit.engine} on {audit.device}", *audit.lines()])


def as_text(inspection: Inspection) -> str:
    """Render an inspection for people, a fact a line."""
    bundle, graph, manifest = inspection.bundle, inspection.graph, inspection.bundle.manifest
    facts = {
        "bundle": f"{bundle.path}, {bundle.size_bytes / 1e6:.1f} MB, hashes ok",
        **({} if manifest.slim_of is None else {"slim": f"made from a full bundle, manifest {manifest.slim_of[:16]}…"}),
        "signature": _signature(inspection),
        "model": _model(manifest),
        "classes": _labels(manifest.model.labels),
        "scores": _scores(manifest),
        "input": _input(manifest.model.preprocessing),
        "target": f"{manifest.target}, converted on {manifest.host}",
        "precision": f"{manifest.precision.asked}, which that host {format_precision(manifest)}",
        **({} if manifest.against_fp16 is None else {"against fp16": manifest.against_fp16.verdict("that host")}),
        **({} if manifest.auto is None else {"chosen": manifest.auto.summary}),
        "calibration": _calibration(manifest),
        "fp32 graph": _against_source(manifest.verification.fp32_against_source),
        **({"workaround": "; ".join(each.summary for each in manifest.workarounds)} if manifest.workarounds else {}),
        manifest.precision.asked: f"against the fp32 graph: {format_gate(manifest)}",
        "self-test": f"{manifest.golden.count} {manifest.golden.inputs}, at least {manifest.golden.min_sqnr_db:.1f} dB",
        "accuracy": _accuracy(manifest),
        "confidence": _confidence(manifest),
        "layers": _layers(graph, slim=manifest.slim_of is not None),
        "operators": _operators(graph),
        "made": f"{manifest.created_at} by vitedge {manifest.vitedge_version}",
        "tools": ", ".join(f"{name} {version}" for name, version in manifest.tools.items()),
    }
    lines = [f"{name:<12} {text}" for name, text in facts.items()]
    lines += [] if manifest.audit is None else _audit(manifest.audit)
    lines += [] if inspection.engine is None else _engine(inspection.engine)
    lines += [f"{record.bytes:>12} {name}  {record.sha256[:16]}…" for name, record in manifest.files.items()]
    return escape.terminal_lines(lines)


def _engine(engine: EngineState) -> list[str]:
    built = [] if engine.record is None else record_lines(engine.record)
    reason = f": {engine.reason}" if engine.reason else ""
    return [f"{'engine':<12} {engine.state}{reason}", *(f"{'':<12} {line}" for line in built)]


def _audit(audit: Audit) -> list[str]:
    on = f"on that host, {audit.engine}: " if audit.engine else ""
    first, *others = audit.lines()
    return [f"{'ran':<12} {on}{first}", *(f"{'':<12} {line}" for line in others)]


def format_precision(manifest: Manifest) -> str:
    """Describe how the converting host ran the precision, in a phrase that begins with a verb."""
    precision = manifest.precision
    if target_named(manifest.target).tensorrt is not None:
        return f"emulated in {precision.effective}, every value rounded as on the device"
    rest = "" if precision.rest == precision.effective else f", with the rest in {precision.rest}"
    return f"ran in {precision.effective}{rest}"


def format_confidence(record: ConfidenceRecord) -> str:
    """Describe the fitted temperature and threshold in a phrase."""
    fitted = (
        f"temperature {record.temperature:.3f}, calibration error {record.ece_before:.2f} → {record.ece_after:.2f} % "
        f"on {counted(record.images, 'image')}"
    )
    if record.abstain_error is None:
        return fitted
    return (
        f"{fitted}; abstains below a score of {record.threshold:.3f}, which accepts {record.accepted:.1f} %, of them "
        f"{record.accepted_top1:.1f} % right"
    )


def format_thresholds(record: ThresholdsRecord) -> str:
    """Describe the fitted thresholds in a phrase."""
    goal = "the highest F1" if record.abstain_error is None else f"{100 * record.abstain_error:g} % wrong"
    return (
        f"thresholds {min(record.thresholds):.3f} to {max(record.thresholds):.3f}, fitted to {goal} for "
        f"{record.fitted} of {counted(len(record.thresholds), 'label')}, macro F1 {record.macro_f1_before:.2f} → "
        f"{record.macro_f1_after:.2f} % on {counted(record.images, 'image')}"
    )


def _scores(manifest: Manifest) -> str:
    if manifest.model.is_multilabel:
        return "sigmoid: any number of labels an image, each with a score of its own"
    return "softmax: one class an image"


def _confidence(manifest: Manifest) -> str:
    if manifest.thresholds is not None:
        return format_thresholds(manifest.thresholds)
    if manifest.model.is_multilabel:
        return f"a label counts from a score of {LABEL_THRESHOLD:g} on"
    return "scores as the model gives them" if manifest.confidence is None else format_confidence(manifest.confidence)


def _model(manifest: Manifest) -> str:
    model = manifest.model
    weights = f"weights {model.weights_sha256[:16]}…" if model.pretrained else "random weights: for latency only"
    commit = f" at commit {model.revision[:12]}" if model.revision else ""
    return f"{model.name} ({model.architecture}) from {model.source}{commit}, {weights}"


def _signature(inspection: Inspection) -> str:
    if inspection.bundle.signed_by is not None:
        return f"verified: signed by {inspection.bundle.signed_by}"
    signers = ", ".join(inspection.signed_by)
    return f"signed by {signers}, not verified: --trust KEYS does that" if signers else "none"


def _labels(labels: tuple[str, ...]) -> str:
    more = ", …" if len(labels) > SHOWN_LABELS else ""
    return f"{len(labels)}: {', '.join(labels[:SHOWN_LABELS])}{more}"


def _input(preprocessing: Preprocessing) -> str:
    height, width = preprocessing.input_size
    resized = "x".join(map(str, preprocessing.resize_size))
    shown = "turned by EXIF orientation" if preprocessing.exif_orientation else "EXIF orientation ignored"
    return (
        f"{height}x{width} {preprocessing.channel_order}; {shown}; resize {preprocessing.resize_mode} to {resized}, "
        f"{preprocessing.interpolation}; mean {preprocessing.mean}, std {preprocessing.std} are in the graph"
    )


def _calibration(manifest: Manifest) -> str:
    record = manifest.calibration
    if record is None:
        return "none"
    skipped = f"; skipped {', '.join(record.skipped)}" if record.skipped else ""
    return f"{counted(record.images, 'image')}, {record.recipe}{skipped}"


def _against_source(parity: Parity | None) -> str:
    if parity is None:
        return "not compared: the source is the graph"
    return f"SQNR {parity.sqnr_db:.1f} dB against its source, on {counted(parity.images, 'frame')} of the self-test"


def format_gate(manifest: Manifest) -> str:
    """Describe in a phrase how close the bundle is to fp32; the best class of synthetic frames means nothing."""
    parity, gate = manifest.verification.precision_against_fp32, manifest.verification.gate
    if manifest.golden.inputs == "synthetic":
        return f"SQNR {parity.sqnr_db:.1f} dB on {parity.images} synthetic frames, whose best class means nothing"
    images = f"{parity.images} {'images' if gate is None else GATE_INPUTS[gate.inputs]}"
    agreement = parity.agreement if gate is None else 100 * (1 - gate.flips / parity.images)
    answer = "labels" if manifest.model.is_multilabel and gate is not None else "best class"
    return f"SQNR {parity.sqnr_db:.1f} dB, the same {answer} on {agreement:.1f} % of {images}"


def format_label_accuracy(record: LabelAccuracyRecord) -> str:
    """Describe the accuracy of a multi-label model in a phrase."""
    return (
        f"mAP {record.mean_average_precision:.2f} %, micro F1 {record.micro_f1:.2f} %, macro F1 {record.macro_f1:.2f} "
        f"%, exact match {record.exact_match:.2f} % on {counted(record.images, 'image')}"
    )


def _accuracy(manifest: Manifest) -> str:
    if manifest.label_accuracy is not None:
        return f"{format_label_accuracy(manifest.label_accuracy)}{_shared(manifest.label_accuracy.calibration_images)}"
    record = manifest.accuracy
    if record is None:
        return "not measured"
    figures = f"top-1 {record.top1:.2f} %, top-5 {record.top5:.2f} % on {counted(record.images, 'image')}"
    return f"{figures}{_shared(record.calibration_images)}"


def _shared(images: int) -> str:
    return f", {images} of them used in calibration" if images else ""


def _layers(graph: GraphSummary | None, *, slim: bool) -> str:
    if slim:
        return "unknown: this bundle is slim, without its graph; inspect the full bundle on the host"
    if graph is None:
        return 'unknown: pip install "vitedge[convert]" to read the graph'
    return f"{graph.weight_layers} with weights, {graph.quantized_layers} of them quantized"


def _operators(graph: GraphSummary | None) -> str:
    return "unknown" if graph is None else ", ".join(f"{count} {kind}" for kind, count in graph.operators.items())
