"""Int8 on trained models: vitedge's quantizer against NNCF's recipes, ONNX Runtime's static quantization and 16 bits.

All start from the graph of vitedge's FP32 bundle, are calibrated on the same photos, run on OpenVINO with the same
hints, and are compared with that bundle on photos that calibration has not seen. NNCF's best recipe runs on OpenVINO's
own IR of the model as well: that is all it has without vitedge. Agreement is the share of equal top-1, SQNR is of
the logits; latencies are taken in turns, and their ratio within each round. The demo's model is measured on the demo's
digits, the others on photos of flowers. The table goes between the page's markers. With --no-latency accuracy alone is
measured, which other work on the machine does not change. A way that fails has a row that says why. A model that --json
holds with these versions and as many rounds is not measured again, so an interrupted run goes on where it ended.

    python benchmarks/quantization.py [--data ../shared/data] [--model NAME …] [--rounds 10 | --no-latency]
        [--json FILE] [--page PAGE]
    python benchmarks/quantization.py --no-latency --ours --json FILE  measure vitedge again, keep the others' rows
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common.baselines import check_compiles, compiled, from_frame, nncf_quantized, onnxruntime_quantized, own_ir
from common.children import first_line, versions
from common.pages import write_between
from common.taken import Taken, taken_now
from common.timing import Call, in_turns, median_ms
from numpy.typing import NDArray

import vitedge
from vitedge.bundle.bundle import MODEL_ONNX, Bundle
from vitedge.calib.data.dataset import CALIBRATION_IMAGES
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.converters.onnx_export import export
from vitedge.converters.reference import normalized
from vitedge.converters.rewrites.apply import apply_rewrites
from vitedge.converters.sources.parse import HubFolder
from vitedge.converters.sources.timm.models import load_timm_folder
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.converters.verify import GOLDEN_FRAMES
from vitedge.counts import counted
from vitedge.demo.demo import CALIBRATION, CHECKPOINT, HELD_OUT, write_all_photos
from vitedge.demo.digits import load_split
from vitedge.extras import require
from vitedge.files import write_atomic
from vitedge.metrics import Parity, parity, wilson_interval
from vitedge.progress import Silent
from vitedge.runtime.engines.open import open_engine

DEMO = "digits_vit"
OURS, FULL, HALF, STATIC = "vitedge int8", "vitedge fp32", "vitedge fp16", "ONNX Runtime static QDQ"
ON_OWN_IR = ", on OpenVINO's own IR"
ALPHAS: Mapping[str, float | None] = {
    "NNCF default": None,
    "NNCF, SmoothQuant off": -1.0,
    "NNCF, SmoothQuant 0.15": 0.15,
    "NNCF, SmoothQuant 0.5": 0.5,
    "NNCF, SmoothQuant 0.95": 0.95,
}
COLUMNS = ("", "top-1 %", "agreement with fp32 % [95 %]", "logit SQNR dB", "p50 ms", "times vitedge int8")
PACKAGES = ("vitedge", "torch", "timm", "onnxruntime", "openvino", "nncf")
LARGEST_RATIO = 1.02
ONE_PHOTO = 1.001
"""A photo by which agreement may be behind NNCF's, with room for rounding."""
CALLS = 20
MET_WITHOUT_LATENCY = "All targets of accuracy met; no latency was measured."
REASON_LENGTH = 100
"""Characters of a reason in a table."""

Frames = NDArray[np.uint8]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class AccuracyTarget:
    """What vitedge's int8 must reach on a model, beside being better than NNCF's best recipe at no more latency.

    Attributes:
        drop: top-1 that it may cost, in points.
        agreement: with fp32, in percent.
        sqnr_db: of the logits.
    """

    drop: float = 0.3
    agreement: float = 98.5
    sqnr_db: float = 0.0


TARGETS: Mapping[str, AccuracyTarget] = {
    "vit_flowers": AccuracyTarget(),
    "mobilevit_xxs_flowers": AccuracyTarget(),
    "deit_tiny_imagenet": AccuracyTarget(agreement=96.5, sqnr_db=31.8),
    "swin_flowers": AccuracyTarget(),
    "efficientvit_b0_flowers": AccuracyTarget(),
    "mobilevitv2_050_flowers": AccuracyTarget(),
    DEMO: AccuracyTarget(),
}


@dataclass(frozen=True)
class Case:
    """A trained model and its photos.

    Attributes:
        source: the checkpoint.
        calibration: folder of photos to calibrate on.
        validation: folder of photos to measure on.
    """

    source: Path
    calibration: Path
    validation: Path


@dataclass(frozen=True)
class Runner:
    """One way to run a model.

    Attributes:
        logits: of every frame.
        call: one run, on the last of them.
    """

    logits: Logits
    call: Call


@dataclass(frozen=True)
class Outcome:
    """How one way did.

    Attributes:
        name: the way.
        top1: percent; None where the photos' classes are not the model's.
        against_fp32: agreement and SQNR; None if it failed.
        p50_ms: median of the rounds' medians; None where no latency was measured.
        ratio: of its latency to vitedge int8's, the median of the rounds; None likewise.
        failed: first line of the error; empty if it runs.
    """

    name: str
    top1: float | None
    against_fp32: Parity | None
    p50_ms: float | None
    ratio: float | None
    failed: str = ""

    def cells(self) -> list[str]:
        """Format the cells of its line; the last two only where a latency was measured."""
        found = self.against_fp32
        if found is None:
            reason = textwrap.shorten(self.failed, REASON_LENGTH, placeholder=" …").replace("|", "\\|")
            return [self.name, "", f"failed: {reason}", ""]
        interval = wilson_interval(round(found.agreement * found.images / 100), found.images)
        top1 = "" if self.top1 is None else f"{self.top1:.2f}"
        agreement = f"{found.agreement:.2f} [{interval.low:.1f}, {interval.high:.1f}]"
        sqnr = "" if self.name == FULL else f"{found.sqnr_db:.1f}"
        times = [f"{each:.2f}" for each in (self.p50_ms, self.ratio) if each is not None]
        return [self.name, top1, agreement, sqnr, *times]


def bundle_runner(bundle: Bundle, frames: Frames, opened: ExitStack) -> Runner:
    """Run a bundle on its own engine."""
    engine = open_engine(bundle)
    opened.callback(engine.close)

    def answers() -> Iterator[Logits]:
        for frame in frames:
            engine.frame[...] = frame
            yield engine.run().copy()

    return Runner(np.stack(list(answers())), engine.run)


def model_runner(model: Any, frames: Frames) -> Runner:
    """Run an OpenVINO model, or a file that OpenVINO reads."""
    request = compiled(model)

    def answer(frame: Frames) -> Logits:
        return np.array(request.infer([frame[np.newaxis]])[0][0])

    def run() -> None:
        request.start_async()
        request.wait()

    return Runner(np.stack([answer(frame) for frame in frames]), run)


def peers(source: Path, graph: Path, full: Logits, calibration: Frames, frames: Frames) -> dict[str, Runner | str]:
    """Make every other way to run one model; the text is the error of one that failed.

    Args:
        source: the checkpoint.
        graph: of the FP32 bundle.
        full: what that bundle answers.
        calibration: frames to calibrate on.
        frames: to measure on.
    """
    recipes = {name: attempted(name, nncf_runner, graph, calibration, frames, alpha) for name, alpha in ALPHAS.items()}
    run = {name: each for name, each in recipes.items() if isinstance(each, Runner)}
    best = best_of({name: parity(full, each.logits) for name, each in run.items()})
    model = load_timm_folder(HubFolder(source), labels=None)
    name, own = f"{best}{ON_OWN_IR}", dict[str, Runner | str]()
    if best is not None:
        own[name] = attempted(name, runner_on_own_ir, model, calibration, frames, ALPHAS[best])
    return {**recipes, **own, STATIC: attempted(STATIC, static_runner, model, calibration, frames)}


def attempted(name: str, make: Callable[..., Runner], *arguments: Any) -> Runner | str:
    """Make a way to run a model; the text is the first line of the error."""
    sys.stderr.write(f"  {name}\n")
    try:
        return make(*arguments)
    except Exception as error:  # noqa: BLE001  # a library may raise anything; the other ways go on
        traceback.print_exc()
        return first_line(error)


def nncf_runner(graph: Path, calibration: Frames, frames: Frames, alpha: float | None) -> Runner:
    """Quantize the graph of the FP32 bundle with a recipe of NNCF's."""
    openvino = require("openvino", extra="openvino", purpose="this benchmark")
    return model_runner(nncf_quantized(openvino.Core().read_model(graph), calibration, alpha), frames)


def static_runner(model: TorchModel, calibration: Frames, frames: Frames) -> Runner:
    """Quantize a model's portable graph with ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        onnx.save(portable_graph(model, calibration), plain)
        static = onnxruntime_quantized(plain, calibration, Path(folder) / "static.onnx")
        check_compiles(static)
        return model_runner(static, frames)


def portable_graph(model: TorchModel, calibration: Frames) -> onnx.ModelProto:
    """Export without OpenVINO's rewrites: ONNX Runtime quantizes the scores that hide padding tokens."""
    preprocessing = model.card.preprocessing
    exported = export(model.module, preprocessing.input_size)
    return apply_rewrites(exported, calibration[:GOLDEN_FRAMES], preprocessing).graph


def runner_on_own_ir(model: TorchModel, calibration: Frames, frames: Frames, alpha: float | None) -> Runner:
    """Run a recipe of NNCF's on OpenVINO's own IR of a model."""
    preprocessing = model.card.preprocessing
    quantized = nncf_quantized(own_ir(model.module, preprocessing), normalized(calibration, preprocessing), alpha)
    return model_runner(from_frame(quantized, preprocessing), frames)


def best_of(found: Mapping[str, Parity]) -> str | None:
    """Return the recipe that keeps most answers; among equals, the one with the least noise; None if none runs."""
    return max(found, key=lambda name: (found[name].agreement, found[name].sqnr_db), default=None)


def case_of(model: str, data: Path, folder: Path) -> Case:
    """Locate a model and its photos; draw the photos of the demo into ``folder``."""
    if model != DEMO:
        return Case(data / "models" / model, data / "flowers/calib", data / "flowers/val")
    write_all_photos(folder, load_split(), Silent())
    return Case(CHECKPOINT, folder / CALIBRATION, folder / HELD_OUT)


def rows(case: Case, rounds: int, folder: Path, kept: Sequence[Outcome] = ()) -> list[Outcome]:
    """Measure how every way does on one model.

    Args:
        case: the model.
        rounds: of latency; 0 measure none.
        folder: for bundles.
        kept: rows of the others, instead of measuring them.
    """
    kinds = {FULL: "fp32", OURS: "int8", HALF: "fp16"}
    bundles = {
        name: vitedge.convert(
            case.source,
            target="cpu",
            precision=precision,
            calib=case.calibration,
            output=folder / f"{precision}.bundle",
        )
        for name, precision in kinds.items()
    }
    model = bundles[FULL].manifest.model
    calibration = ImageFolder.open(case.calibration, limit=CALIBRATION_IMAGES).load(model.preprocessing)
    validation = ImageFolder.open(case.validation)
    photos = validation.load(model.preprocessing)
    truth = None
    if validation.is_labelled(model.labels):
        targets = validation.class_to_idx(model.labels)
        truth = np.array([targets[file.class_name] for file in photos.files])
    with ExitStack() as opened:
        ours = {name: bundle_runner(bundle, photos.frames, opened) for name, bundle in bundles.items()}
        reference, graph = ours[FULL].logits, bundles[FULL].path / MODEL_ONNX
        others = {} if kept else peers(case.source, graph, reference, calibration.frames, photos.frames)
        made: dict[str, Runner | str] = {**ours, **others}
        run = {name: each for name, each in made.items() if isinstance(each, Runner)}
        calls = {name: each.call for name, each in run.items()}
        times = in_turns(calls, partial(median_ms, calls=CALLS), rounds=rounds) if rounds else {}
    measured_now = [
        Outcome(name, None, None, None, None, failed=each)
        if isinstance(each, str)
        else row(name, each.logits, reference, truth, times)
        for name, each in made.items()
    ]
    return [*measured_now, *kept]


def row(
    name: str, logits: Logits, reference: Logits, truth: NDArray[np.int64] | None, times: Mapping[str, Sequence[float]]
) -> Outcome:
    """Sum up the accuracy and latency of one way; no latency without times."""
    top1 = None if truth is None else 100.0 * float(np.mean(logits.argmax(axis=1) == truth))
    if not times:
        return Outcome(name, top1, parity(reference, logits), None, None)
    ratios = [mine / ours for mine, ours in zip(times[name], times[OURS], strict=True)]
    return Outcome(name, top1, parity(reference, logits), statistics.median(times[name]), statistics.median(ratios))


def missed(found: Sequence[Outcome], target: AccuracyTarget) -> Iterator[str]:
    """Yield the targets that a model misses."""
    by_name = {each.name: each for each in found}
    against = {each.name: each.against_fp32 for each in found if each.against_fp32 is not None}
    ours, full = by_name[OURS], by_name[FULL]
    best = best_of({name: each for name, each in against.items() if name in ALPHAS})
    agreement, sqnr = against[OURS].agreement, against[OURS].sqnr_db
    theirs = 0.0 if best is None else against[best].agreement
    if agreement < max(theirs - ONE_PHOTO * 100 / against[OURS].images, target.agreement):
        beside = "" if best is None else f" or more than a photo below {best}'s"
        yield f"agreement {agreement:.2f} %, below {target.agreement} %{beside}"
    quietest = max((each.sqnr_db for name, each in against.items() if name.startswith("NNCF")), default=0.0)
    if sqnr <= max(target.sqnr_db, quietest):
        yield f"logit SQNR {sqnr:.1f} dB, below {target.sqnr_db} dB or the best of NNCF's recipes"
    if full.top1 is not None and ours.top1 is not None and full.top1 - ours.top1 > target.drop:
        yield f"top-1 falls by {full.top1 - ours.top1:.2f} points, more than {target.drop}"
    ratio = None if best is None else by_name[best].ratio
    if ratio is not None and ratio * LARGEST_RATIO < 1:
        yield f"takes {1 / ratio:.2f} of the time of {best}"


@dataclass(frozen=True)
class Result:
    """What was measured on one model.

    Attributes:
        taken: when and where.
        versions: of the packages that took part.
        rounds: number of rounds of the latencies; 0 where none was measured.
        rows: how every way did.
    """

    taken: Taken
    versions: Mapping[str, str]
    rounds: int
    rows: tuple[Outcome, ...]

    def circumstances(self) -> str:
        """Say when, where and with which packages it was measured."""
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.taken.date} on {self.taken.processor}, {counted(self.taken.cpus, 'CPU')}; {packages}"


def result_from(value: Mapping[str, Any]) -> Result:
    """Read a result as JSON holds it."""
    found = [
        Outcome(**{**each, "against_fp32": Parity(**each["against_fp32"]) if each["against_fp32"] else None})
        for each in value["rows"]
    ]
    return Result(**{**value, "taken": Taken(**value["taken"]), "rows": tuple(found)})


def read_results(path: Path | None) -> dict[str, Result]:
    """Read the results of earlier runs."""
    if path is None or not path.is_file():
        return {}
    report = json.loads(path.read_text(encoding="utf-8"))
    return {model: result_from(each) for model, each in report["models"].items()}


def write_results(path: Path, results: Mapping[str, Result]) -> None:
    """Write what was measured, as JSON."""
    report = {"version": 2, "models": {model: asdict(each) for model, each in results.items()}}
    write_atomic(path, json.dumps(report, indent=1) + "\n")


def measured(model: str, data: Path, rounds: int, kept: Sequence[Outcome] = ()) -> Result:
    """Measure one model; the rows of the others may be kept from an earlier run."""
    sys.stderr.write(f"{model}\n")
    with tempfile.TemporaryDirectory() as folder:
        found = rows(case_of(model, data, Path(folder)), rounds, Path(folder), kept)
    return Result(taken_now(), versions(PACKAGES), rounds, tuple(found))


def page_text(results: Mapping[str, Result]) -> str:
    """Return the tables, and the targets that were missed."""
    taken: dict[str, list[str]] = {}
    for model, result in results.items():
        taken.setdefault(result.circumstances(), []).append(f"`{model}`")
    lines = [f"- Taken {text}: {', '.join(models)}." for text, models in taken.items()]
    intro = (
        f"Calibrated on {CALIBRATION_IMAGES} photos of flowers/calib and measured on flowers/val, {DEMO} on the demo's "
        "training digits and its held-out ones."
    )
    notes = [f"- Target missed: {model}: {note}" for model, each in results.items() for note in notes_of(model, each)]
    tables = [f"### {model}\n\n{table(result.rows)}" for model, result in results.items()]
    met = "All targets met." if all(each.rounds for each in results.values()) else MET_WITHOUT_LATENCY
    return "\n\n".join([intro, "\n".join(lines), stated(TARGETS), *tables, "\n".join(notes) or met])


def stated(targets: Mapping[str, AccuracyTarget]) -> str:
    """Say what int8 must reach."""
    usual = AccuracyTarget()
    others = [
        f"; {model} at least {each.agreement:g} % and {each.sqnr_db:g} dB"
        for model, each in targets.items()
        if each != usual
    ]
    return (
        f"Targets of int8: top-1 at most {usual.drop:g} points below fp32, agreement at least {usual.agreement:g} % "
        f"and at most one photo below NNCF's best recipe, SQNR above all of NNCF's rows{''.join(others)}; a latency of "
        f"at most {LARGEST_RATIO:g} x NNCF's best recipe."
    )


def notes_of(model: str, result: Result) -> list[str]:
    """Say which targets a model misses."""
    return list(missed(result.rows, TARGETS[model]))


def table(found: Sequence[Outcome]) -> str:
    """Format the table of a model, without columns of latency where none was measured."""
    lines = [each.cells() for each in found]
    head = list(COLUMNS[: len(lines[0])])
    whole = [each + [""] * (len(head) - len(each)) for each in lines]
    return "\n".join(f"| {' | '.join(each)} |" for each in (head, ["---"] * len(head), *whole))


def main() -> int:
    """Measure, print, and write where asked; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", nargs="*", default=tuple(TARGETS), choices=tuple(TARGETS))
    rounds = parser.add_mutually_exclusive_group()
    rounds.add_argument("--rounds", type=int, default=10)
    rounds.add_argument("--no-latency", dest="rounds", action="store_const", const=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--ours", action="store_true", help="measure vitedge again, keep the others' rows of --json")
    arguments = parser.parse_args()
    if arguments.ours and arguments.rounds:
        parser.error("--ours wants --no-latency: latencies of all ways are taken in the same rounds")
    results = read_results(arguments.json)
    for model in arguments.model:
        kept = results.get(model)
        if kept is None or (kept.versions, kept.rounds) != (versions(PACKAGES), arguments.rounds):
            results[model] = measured(model, arguments.data, arguments.rounds)
        elif arguments.ours:
            others = [each for each in kept.rows if each.name not in (FULL, OURS, HALF)]
            results[model] = measured(model, arguments.data, arguments.rounds, others)
        if arguments.json is not None:
            write_results(arguments.json, results)
    text = page_text({model: results[model] for model in TARGETS if model in results})
    print(text)
    if arguments.page is not None:
        write_between(arguments.page, "measured", text)
    return 1 if any(notes_of(model, results[model]) for model in arguments.model) else 0


if __name__ == "__main__":
    sys.exit(main())
