"""``vitedge convert``: from a checkpoint to a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vitedge.bundle.bundle import MODEL_ONNX, REPORT_HTML, Bundle
from vitedge.bundle.manifest import Manifest
from vitedge.bundle.targets import TARGETS, target_named
from vitedge.cli import output
from vitedge.cli.flags import THREADS_HELP, Flag, add_flags, call
from vitedge.cli.inspect import (
    format_confidence,
    format_gate,
    format_label_accuracy,
    format_precision,
    format_thresholds,
)
from vitedge.converters.convert import convert
from vitedge.counts import counted
from vitedge.report.next_steps import watch_command
from vitedge.runtime.engines.tensorrt.build.trtexec import build_command
from vitedge.safety.escape import shell, terminal_lines

MOST_DIGITS = 9

EPILOG = """\
SOURCE is timm:NAME (a bare name means timm, or a CSWin or PVT that vitedge has), hf:OWNER/NAME[@REVISION] of the
Hugging Face hub, a folder with config.json and model.safetensors as timm or Transformers save them, an ONNX file, a
.pt2 file of torch.export, or package.module:factory.

--precision auto tries int8, int8 with the most harmful layers in 16 bits, fp16 and fp32 on this machine, and keeps the
fastest that loses no more than --max-drop. If none does, it says by how much each fails.

The bundle appears when it is whole and verified. An existing one is kept, unless --overwrite replaces it then.

examples:
  vitedge convert timm:deit_tiny_patch16_224 --target cpu --precision int8 --calib images/ -o deit.bundle
  vitedge convert deit_tiny_patch16_224 --target cpu --precision auto --calib images/ --eval val/ --max-drop 0.5
  vitedge convert mobilevit_s --target cpu --precision auto --calib images/ --max-drop 1 --max-p99 20
  vitedge convert my-finetuned-vit/ --target cpu --precision fp16
  vitedge convert hf:google/vit-base-patch16-224 --target cpu --precision int8 --calib images/
  vitedge convert mobilevit_s --weights mine.safetensors --labels labels.txt --target cpu --precision fp32
  vitedge convert model.onnx --target cpu --precision int8 --calib images/ --eval val/
  vitedge convert my-finetuned-vit/ --target cpu --precision fp16 --eval val/ --abstain-error 0.05
  vitedge convert vit_base_patch16_224 --random-weights --target cpu --precision fp16
  vitedge convert cswin_tiny_224 --weights cswin_tiny_224.pth --target cpu --precision fp16
  vitedge convert vit_small_patch16_224 --weights mine.pth --input-size 288x384 --target cpu --precision fp16
  vitedge convert net.pt2 --preprocessing timm:deit_tiny_patch16_224 --target cpu --precision fp16
  vitedge convert my_models.net:build --preprocessing preprocessing.json --target cpu --precision fp16
  vitedge convert tags.onnx --activation sigmoid --target cpu --precision fp16
"""


def input_size(text: str) -> tuple[int, int]:
    """Parse ``HxW``, or one number for both, as (height, width).

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) <= MOST_DIGITS for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no size: expected HxW, such as 256x320, or one number")
    return (int(sides[0]), int(sides[-1]))


DEVICES = [target.name for target in TARGETS if target.precisions]
PRECISIONS = list(dict.fromkeys(precision for target in TARGETS for precision in target.precisions))
FLAGS = {
    "source": Flag("checkpoint: a name, a folder, a .onnx or .pt2 file, or module:factory, see below", "SOURCE"),
    "target": Flag(f"{', '.join(DEVICES)}; vitedge targets describes them", "NAME"),
    "precision": Flag(f"{', '.join(PRECISIONS)}; or auto, which tries them, see below", "NAME"),
    "weights": Flag(".safetensors or .pth file with the weights, if SOURCE is a name or a factory", "FILE"),
    "random_weights": Flag("random weights, for a name or a factory: enough to measure latency"),
    "calib": Flag(
        "images like those the camera will see: a folder, a list (.txt), or a video; int8 needs about 300", "IMAGES"
    ),
    "eval_data": Flag(
        "measure accuracy and calibrate scores on these images: one folder a label, or a label file (.jsonl)",
        "DIR",
        ("--eval",),
    ),
    "abstain_error": Flag(
        "with --eval: abstain from low scores, so that at most this share of the other predictions is wrong, such as "
        "0.05",
        "SHARE",
    ),
    "max_drop": Flag(
        "required with --precision auto: what may be lost against fp32, in points of top-1 on --eval; or in percent of "
        "images with another best class, if they have no classes. Without --eval, a quarter of --calib is held back "
        "for this",
        "LOSS",
    ),
    "max_p99_ms": Flag(
        "with --precision auto: the longest p99, in milliseconds, as vitedge bench measures it", "MS", ("--max-p99",)
    ),
    "activation": Flag(
        "if the source does not say it: softmax for one class an image, sigmoid for any number of labels", "NAME"
    ),
    "labels": Flag("text file with one label a line, instead of the checkpoint's labels", "FILE"),
    "logits": Flag("output with the logits, if an ONNX file has several outputs", "NAME"),
    "preprocessing": Flag(
        "if the source does not say it: a JSON file with timm's keys, a preprocessor_config.json, a bundle's "
        "manifest.json, or timm:NAME",
        "SPEC",
    ),
    "num_classes": Flag("number of classes of a named model, if it differs from the pretraining", "N"),
    "input_size": Flag(
        "height and width in pixels, or one number for both, if it differs from the training", "HxW", parse=input_size
    ),
    "output": Flag("folder to write (default: NAME-PRECISION.bundle)", "BUNDLE", ("-o", "--output")),
    "overwrite": Flag("replace a bundle of that name, once the new one is verified"),
    "threads": Flag(THREADS_HELP, "N"),
}
COSTLY = 0.02
"""Share of all time from which reference kernels, precision switches and layout changes are named."""


def add_parser(verbs: Any) -> None:
    """Add the parser of the verb."""
    parser = verbs.add_parser(
        "convert",
        help="make a bundle from a checkpoint",
        description="Convert a Vision Transformer checkpoint into a verified bundle for a target.",
        epilog=EPILOG,
    )
    add_flags(parser, convert, FLAGS)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert, and describe the bundle."""
    output.tell(summary(call(convert, arguments)))
    return 0


def summary(bundle: Bundle) -> str:
    """Describe a new bundle for people."""
    manifest = bundle.manifest
    on_device, verified = target_named(manifest.target).tensorrt is not None, manifest.verification
    lines = [
        f"{bundle.path}  {bundle.size_bytes / 1e6:.1f} MB",
        f"  model      {manifest.model.name}, {counted(manifest.model.num_classes, 'class', 'classes')}"
        f"{_untrained(bundle)}",
        f"  precision  {manifest.precision.asked}, which this machine {format_precision(manifest)}",
    ]
    lines += _ran(manifest)
    if manifest.auto is not None:
        lines.append(f"  chosen     {manifest.auto.summary}; {REPORT_HTML} shows what else was tried")
    if verified.fp32_against_source is not None:
        lines.append(f"  fp32 graph against the source: SQNR {verified.fp32_against_source.sqnr_db:.1f} dB")
    lines += [f"  workaround: {workaround.summary}" for workaround in manifest.workarounds]
    verified_by = "ONNX Runtime on its graph" if on_device else "compiled engine"
    lines.append(f"  {verified_by} against the fp32 graph: {format_gate(manifest)}")
    if manifest.calibration is not None and manifest.calibration.skipped:
        lines.append(f"  skipped unreadable images: {', '.join(manifest.calibration.skipped)}")
    if manifest.accuracy is not None:
        accuracy = manifest.accuracy
        forecast = ", forecast by ONNX Runtime" if on_device else ""
        lines.append(
            f"  top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} % on {counted(accuracy.images, 'image')}"
            f"{forecast}"
        )
    if manifest.label_accuracy is not None:
        lines.append(f"  {format_label_accuracy(manifest.label_accuracy)}")
    if manifest.thresholds is not None:
        lines.append(f"  {format_thresholds(manifest.thresholds)}")
    if manifest.confidence is not None:
        lines.append(f"  {format_confidence(manifest.confidence)}")
    lines += _to_build(bundle) if on_device else ["try"]
    path = shell(str(bundle.path))
    watch = f"vitedge run {path} --source 0" if on_device else watch_command(bundle.path)
    lines += [f"  {watch}", f"  vitedge bench {path}"]
    if not on_device:
        lines.append(f"  vitedge export {path} --for device  # a bundle of half the size, to copy there")
    return terminal_lines(lines)


def _ran(manifest: Manifest) -> list[str]:
    """Tell what the engine makes of int8: the layers that fell back, and whether it pays."""
    audit, against_fp16 = manifest.audit, manifest.against_fp16
    lines: list[str] = []
    if audit is not None:
        first, *others = audit.lines(least_share=COSTLY)
        lines += [f"  {'warning: ' if audit.fallbacks else ''}{first}", *(f"    {line}" for line in others)]
    if against_fp16 is not None:
        lines.append(f"  {'' if against_fp16.pays else 'warning: '}{against_fp16.verdict('this machine')}")
    return lines


def _to_build(bundle: Bundle) -> list[str]:
    """Tell how to build the engine on the device, with vitedge or with NVIDIA's own tool."""
    target = target_named(bundle.manifest.target)
    return [
        f"  not built: vitedge build {shell(str(bundle.path))} on the device",
        f"  or there:  {build_command(target, bundle.path / MODEL_ONNX, Path('model.plan'))}",
        "then, there",
    ]


def _untrained(bundle: Bundle) -> str:
    return "" if bundle.manifest.model.pretrained else ", random weights: for latency only"
