"""The choice of a precision: what is tried, in which order, held to what. Latencies are given here, never taken."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import layers as graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from browsers import check_layout
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vitedge
from vitedge.bundle.bundle import Bundle
from vitedge.bundle.precision_records import AutoRecord, CandidateRecord, ContractRecord
from vitedge.bundle.preprocessing import Preprocessing
from vitedge.bundle.targets import Precision
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.calib.quantization.ptq import quantize
from vitedge.calib.sensitivity.paired_graphs import PairedGraphs, pair_graphs
from vitedge.calib.sensitivity.result import Effect, LayerSensitivity, Sensitivity
from vitedge.converters.precision import half_weights
from vitedge.converters.precision_search import search as auto
from vitedge.converters.precision_search.loss import Loss
from vitedge.converters.precision_search.search import (
    FP16,
    FP32,
    INT8,
    CandidateLatency,
    PrecisionConfig,
    SelectionImages,
    candidates,
    choose,
    select,
)
from vitedge.converters.request import Contract
from vitedge.converters.stages.choosing import missed_losses
from vitedge.errors import CalibrationError, ConversionError, EngineError, UsageError
from vitedge.progress import Silent, Terminal
from vitedge.report.precision_search import pareto, to_html, to_json
from vitedge.runtime.bench.timing import Samples
from vitedge.runtime.classifier import Classifier
from vitedge.testing import FakeEngine


def reduce(graph: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """Halve the weights for fp16, as OpenVINO's backend does."""
    return half_weights(graph) if precision == "fp16" else graph


TINY = Preprocessing(input_size=(graphs.SIDE, graphs.SIDE), resize_size=(graphs.SIDE, graphs.SIDE))
LABELS = tuple("abcde")

figures = st.floats(0.1, 10.0)
losses = st.floats(-1.0, 3.0)


class TestChoose:
    @given(
        st.lists(st.tuples(figures, figures, losses), min_size=1, max_size=8),
        st.floats(0.0, 2.0),
        st.none() | figures,
    )
    def test_it_is_the_fastest_of_those_that_keep_the_contract(
        self, measured: list[tuple[float, float, float]], max_drop: float, max_p99: float | None
    ) -> None:
        tried = [PrecisionConfig(str(at), "int8", (str(at),)) for at in range(len(measured))]
        lost = {each: loss for each, (_, _, loss) in zip(tried, measured, strict=True)}
        latencies = [CandidateLatency(p50, p99) for p50, p99, _ in measured]
        asked: list[PrecisionConfig] = []

        def loss(candidate: PrecisionConfig) -> Loss:
            asked.append(candidate)
            return Loss(0.0, lost[candidate])

        trials, chosen = choose(list(zip(tried, latencies, strict=True)), loss, Contract(max_drop, max_p99))
        keeping = [
            (latency.p50_ms, candidate)
            for candidate, latency in zip(tried, latencies, strict=True)
            if lost[candidate] <= max_drop and (max_p99 is None or latency.p99_ms <= max_p99)
        ]
        if keeping:
            assert chosen is not None
            assert {each: p50 for p50, each in keeping}[chosen] == min(p50 for p50, _ in keeping)
        else:
            assert chosen is None
        assert {each.candidate for each in trials} == set(tried)
        assert [each.candidate for each in trials if each.loss is not None] == asked
        assert [each.latency.p50_ms for each in trials] == sorted(each.p50_ms for each in latencies)

    def test_nothing_slower_than_the_choice_is_asked_for_its_loss(self) -> None:
        measured = [(INT8, CandidateLatency(1, 2)), (FP16, CandidateLatency(2, 3)), (FP32, CandidateLatency(4, 5))]
        asked = []

        def loss(candidate: PrecisionConfig) -> Loss:
            asked.append(candidate)
            return Loss(0.2, 0.4)

        trials, chosen = choose(measured, loss, Contract(0.5, None))
        assert (chosen, asked) == (INT8, [INT8])
        assert [each.loss for each in trials] == [
            Loss(0.2, 0.4),
            None,
            Loss(0.0, 0.0),
        ]  # fp32 is what all are held against

    def test_a_contract_that_only_fp32_keeps_says_what_the_others_lose(self) -> None:
        measured = [(INT8, CandidateLatency(1, 2)), (FP16, CandidateLatency(2, 3)), (FP32, CandidateLatency(4, 5))]
        trials, chosen = choose(measured, lambda _: Loss(0.2, 0.8), Contract(0.5, None))
        assert chosen == FP32
        contract = ContractRecord(0.5, None, "top1_drop", 600, "", 0)
        record = AutoRecord(contract, FP32.name, tuple(auto._recorded(each) for each in trials))
        assert missed_losses(record) == "int8 may lose 0.80 points, fp16 may lose 0.80 points"
        assert missed_losses(replace(record, contract=replace(contract, max_drop=1.0))) == ""

    def test_what_is_too_late_is_not_asked_either(self) -> None:
        measured = [(INT8, CandidateLatency(1, 9)), (FP16, CandidateLatency(2, 3)), (FP32, CandidateLatency(4, 5))]
        trials, chosen = choose(measured, lambda _: Loss(0.0, 0.1), Contract(0.5, 4.0))
        assert chosen == FP16
        assert trials[0].loss is None


@given(st.lists(st.tuples(figures, st.none() | losses), max_size=8))
def test_the_front_is_what_nothing_beats(measured: list[tuple[float, float | None]]) -> None:
    trials = [CandidateRecord(str(at), "int8", (), p50, p50, loss) for at, (p50, loss) in enumerate(measured)]
    front = pareto(trials)
    for each in trials:
        beaten = any(
            other.loss is not None
            and each.loss is not None
            and other.p50_ms <= each.p50_ms
            and other.loss <= each.loss
            and (other.p50_ms, other.loss) != (each.p50_ms, each.loss)
            for other in trials
        )
        assert (each in front) == (each.loss is not None and not beaten)


def samples(milliseconds: Sequence[float]) -> Samples:
    times = (np.array(milliseconds) * 1e6).astype(np.int64)
    nothing = np.zeros(len(times))
    return Samples(np.zeros_like(times), times, nothing, nothing, nothing)


def test_a_machine_that_slows_down_between_rounds_changes_no_order() -> None:
    """The second engine takes 10 % longer; rounds are slow and fast in turns, and the first one is disturbed once."""
    pace = [1.0, 3.0, 1.0, 3.0, 1.0]
    first = [samples([each, each, 8 * each]) for each in pace]
    second = [samples([1.1 * each] * 3) for each in pace]
    first[2] = samples([9.0, 9.0, 9.0])
    one, other = auto.latencies_of([first, second])
    assert other.p50_ms / one.p50_ms == pytest.approx(1.1, rel=1e-3)
    assert one.p50_ms == pytest.approx(np.median([1.05, 3.15, 5.05, 3.15, 1.05]) / 1.05, rel=1e-3)
    assert one.p99_ms == pytest.approx(24.0, rel=1e-3)
    assert other.p99_ms == pytest.approx(3.3, rel=1e-3)


def sensitivity(layers: dict[str, tuple[float, int]]) -> Sensitivity:
    """Of layers with these SQNRs and multiplications."""
    nothing = Effect(200.0, 0, 0.0)
    found = [
        LayerSensitivity(name, "MatMul", products, sqnr, Effect(sqnr, 0, 0.0), nothing)
        for name, (sqnr, products) in layers.items()
    ]
    return Sensitivity(16, nothing, tuple(found))


@pytest.mark.timeout(200)
def test_the_page_shows_the_front_and_names_what_was_left_out(tmp_path: Path) -> None:
    contract = ContractRecord(0.5, 9.0, "top1_drop", 376, "0" * 64, 0)
    tried = (
        CandidateRecord("int8", "int8", (), 4.0, 5.0, 0.8),
        CandidateRecord("int8 & <i>", "int8", ("<a>",), 4.5, 5.5, 0.2),
        CandidateRecord("fp16", "fp16", (), 6.0, 7.0, None),
        CandidateRecord("fp32", "fp32", (), 9.0, 10.0, 0.0),
    )
    record = AutoRecord(contract, tried[1].name, tried)
    layers = sensitivity({"<a>": (20.0, 10), "b": (40.0, 10)})
    text = to_html("<b>", record, layers)
    front, *_ = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    drawn = {title.text: circle.attrib["class"] for circle in ET.fromstring(front).iter("circle") for title in circle}
    assert drawn == {
        "int8": "dot series0",
        "int8 & <i>": "dot series1",
        "fp16": "hollow series0",  # only its latency is known
        "fp32": "dot series0",
    }
    assert "<strong>Chosen:</strong> int8 &amp; &lt;i&gt;: top-1 0.20 points lower" in text
    assert "fp32 takes 2.00 times as long" in text
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    check_layout(tmp_path / "page.html")
    (line,) = re.findall(r'<polyline class="line series0" points="([^"]+)"', front)
    assert len(line.split()) == 3
    assert "not measured" in text
    assert not re.search("<[abi]>", text)
    assert [each["pareto"] for each in to_json(record, layers)["candidates"]] == [True, True, False, True]


class TestCandidates:
    def test_mixed_ones_take_the_noise_that_is_cheapest_to_take_first(self) -> None:
        # noise of 0.01 each, but for d: a thousandth of that
        layers = {"a": (20.0, 400), "b": (20.0, 100), "c": (20.0, 200), "d": (50.0, 10), "e": (20.0, 300)}
        first, *mixes, half, full = candidates(sensitivity(layers))
        assert (first, half, full) == (INT8, FP16, FP32)
        # half and three quarters of 0.04001 end just behind the second and third; the next shares take all but d
        assert [each.float_layers for each in mixes] == [("b", "c", "e"), ("b", "c", "e", "a")]
        assert [each.name for each in mixes] == ["int8, 3 layers in 16 bits", "int8, 4 layers in 16 bits"]
        assert [each.precision for each in mixes] == ["int8"] * len(mixes)

    def test_a_single_layer_that_makes_all_noise_makes_one_mixed_candidate(self) -> None:
        tried = candidates(sensitivity({"a": (60.0, 10), "b": (10.0, 1000), "c": (60.0, 10)}))
        assert [each.name for each in tried] == ["int8", "int8, 1 layer in 16 bits", "fp16", "fp32"]
        assert tried[1].float_layers == ("b",)

    def test_a_graph_of_one_layer_has_no_mixed_candidate(self) -> None:
        assert candidates(sensitivity({"a": (30.0, 10)})) == (INT8, FP16, FP32)


@pytest.fixture(scope="module")
def planted() -> PairedGraphs:
    """Two blocks; in the second, which counts thrice, half of a GELU's channels are ten thousand times the others."""
    full = graphs.block()
    scales = np.ones(2 * graphs.WIDTH, np.float32)
    scales[::2] = 10_000.0
    for tensor in full.graph.initializer:
        change = {"first1": scales, "offset1": scales, "second1": 3 / scales[:, None]}.get(tensor.name)
        if change is not None:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * change, tensor.name))
    return pair_graphs(full, quantize(full, graphs.frames(16)).graph)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Two hundred images without classes."""
    folder = tmp_path_factory.mktemp("noise")
    for number, frame in enumerate(graphs.frames(200, seed=1)):
        Image.fromarray(frame).save(folder / f"{number}.png")
    return ImageFolder.open(folder)


@contextmanager
def opened(candidate: PrecisionConfig, graph: Any) -> Iterator[Classifier]:
    """The graph in ONNX Runtime; the logits of its first token."""
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    engine = FakeEngine(
        lambda frame: session.run(None, {"frame": frame[None]})[0][0, 0], input_size=(graphs.SIDE, graphs.SIDE)
    )
    with Classifier(engine, TINY, LABELS) as classifier:
        yield classifier


def by_size(classifiers: Sequence[Classifier], progress: Any) -> list[CandidateLatency]:
    """Every candidate slower than the one before."""
    return [CandidateLatency(1.0 + at, 2.0 + at) for at in range(len(classifiers))]


class TestSelect:
    @pytest.fixture(autouse=True)
    def given_latencies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(auto, "measured_latencies", by_size)

    def test_a_layer_that_int8_destroys_stays_in_floating_point(
        self, planted: PairedGraphs, noise: ImageFolder
    ) -> None:
        choice = select(
            planted, graphs.frames(16), SelectionImages(noise, 0), Contract(5.0, None), reduce, opened, Silent()
        )
        (harmful,) = [layer.name for layer in planted.layers if layer.result == "narrow1"]
        assert harmful in choice.candidate.float_layers
        assert len(choice.candidate.float_layers) < len(planted.layers)
        by_name = {each.name: each for each in choice.record.candidates}
        assert by_name["int8"].loss is not None
        assert by_name["int8"].loss > 10.0
        chosen = by_name[choice.record.chosen]
        assert chosen.loss is not None
        assert chosen.loss <= 5.0
        assert (choice.record.contract.loss, choice.record.contract.images) == ("flip_rate", 200)
        assert by_name["fp16"].loss is None

    def test_a_contract_that_nothing_keeps_says_by_how_much_each_fails(
        self, planted: PairedGraphs, noise: ImageFolder
    ) -> None:
        with pytest.raises(ConversionError, match="no precision meets the contract on 200 images") as caught:
            select(planted, graphs.frames(16), SelectionImages(noise, 0), Contract(0.0, 1.5), reduce, opened, Silent())
        assert "int8: p99 is 2.00 ms, 0.50 ms too long" in caught.value.problem
        assert re.search(r"fp32: p99 is \d\.00 ms, \d\.50 ms too long", caught.value.problem)
        assert caught.value.expected == "a flip rate of at most 0 %, with 95 % confidence and p99 of at most 1.5 ms"
        with pytest.raises(ConversionError) as caught:
            select(planted, graphs.frames(16), SelectionImages(noise, 0), Contract(0.0, 2.5), reduce, opened, Silent())
        said = r"int8: flip rate \d+\.\d\d %, at worst flip rate \d+\.\d\d % with 95 % confidence\n"
        assert re.search(said, caught.value.problem)

    def test_a_candidate_that_computes_no_numbers_is_left_out(self, planted: PairedGraphs, noise: ImageFolder) -> None:
        @contextmanager
        def overflowing(candidate: PrecisionConfig, graph: Any) -> Iterator[Classifier]:
            with opened(candidate, graph) as classifier:
                if candidate == FP16:
                    engine = FakeEngine(lambda _: [np.nan] * 5, input_size=(graphs.SIDE, graphs.SIDE))
                    classifier = Classifier(engine, TINY, LABELS)
                yield classifier

        stream = io.StringIO()
        choice = select(
            planted,
            graphs.frames(4),
            SelectionImages(noise, 0),
            Contract(0.0, None),
            reduce,
            overflowing,
            Terminal(stream),
        )
        assert "fp16" not in [each.name for each in choice.record.candidates]
        assert "fp16 is left out: its logits are not finite" in stream.getvalue()

    def test_the_loss_of_a_multilabel_model_is_the_share_of_images_with_other_labels(self, noise: ImageFolder) -> None:
        def classifier(answer: list[float]) -> Classifier:
            engine = FakeEngine(lambda _: answer, input_size=(graphs.SIDE, graphs.SIDE))
            return Classifier(engine, TINY, LABELS, activation="sigmoid")

        files = tuple(replace(file, class_name="a", labels=("a",)) for file in noise.files[:20])
        images = replace(noise, files=files)  # a class is no set of labels
        meter = auto.LossMeter.of(images, classifier([1.0, 3.0, -1.0, -1.0, -1.0]), Silent())
        assert not meter.labelled
        assert meter.loss(classifier([3.0, 1.0, -2.0, -1.0, -1.0]), Silent()).measured == 0.0  # another best class
        assert meter.loss(classifier([1.0, 3.0, -1.0, 0.1, -1.0]), Silent()).measured == 100.0  # the same best class

    def test_the_judge_takes_an_engine_that_fails_for_all_wrong(self, noise: ImageFolder) -> None:
        right = FakeEngine(lambda _: [1.0, 0, 0, 0, 0], input_size=(graphs.SIDE, graphs.SIDE))
        failing = FakeEngine(lambda _: [np.nan] * 5, input_size=(graphs.SIDE, graphs.SIDE))
        meter = auto.LossMeter.of(noise, Classifier(right, TINY, LABELS), Silent())
        assert meter.loss(Classifier(right, TINY, LABELS), Silent()).measured == 0.0
        assert meter.loss(Classifier(failing, TINY, LABELS), Silent()) == Loss(100.0, 100.0)
        failing.error = EngineError("gone")
        assert meter.loss(Classifier(failing, TINY, LABELS), Silent()) == Loss(100.0, 100.0)


class TestConvert:
    """The whole road, on a small checkpoint."""

    @pytest.fixture(autouse=True)
    def timed_by_size(self, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(auto, "measured_latencies", by_size)

    def test_the_bundle_holds_what_was_chosen_and_what_was_tried(
        self, small_folder: Path, photos: Path, tmp_path: Path
    ) -> None:
        stream = io.StringIO()
        bundle = vitedge.convert(
            small_folder,
            target="cpu",
            precision="auto",
            calib=photos,
            eval_data=photos,
            max_drop=100.0,
            max_p99_ms=3.0,
            output=tmp_path / "b",
            progress=Terminal(stream),
        )
        manifest = Bundle.open(bundle.path).manifest
        assert manifest.precision.asked == "int8"
        assert manifest.auto is not None
        assert manifest.auto.chosen == "int8"
        contract = manifest.auto.contract
        assert (contract.max_drop, contract.max_p99_ms, contract.loss, contract.images) == (100.0, 3.0, "top1_drop", 20)
        assert contract.calibration_images == 20
        assert manifest.accuracy is None  # all images chose the precision
        assert "20 of the 20 images to measure on served calibration too" in stream.getvalue()
        assert "judging by the drop in top-1 on 20 images" in stream.getvalue()
        assert {"report.html", "report.json"} <= set(manifest.files)
        report = json.loads(bundle.file("report.json").read_text(encoding="utf-8"))
        assert (report["version"], report["chosen"]) == (1, "int8")
        assert [each["name"] for each in report["candidates"]] == [each.name for each in manifest.auto.candidates]
        assert {each["name"] for each in report["candidates"] if each["pareto"]} <= {"int8", "fp32"}
        assert len(report["layers"]["layers"]) == 6
        page = bundle.file("report.html").read_text(encoding="utf-8")
        assert page.count("<svg") == 3
        assert not re.search(r"https?://|<script|<link|nan", page)
        assert {path.name for path in bundle.path.iterdir()} == {
            "manifest.json",
            "model.onnx",
            "openvino",
            "labels.txt",
            "golden.npz",
            "report.html",
            "report.json",
        }

    def test_where_nothing_keeps_the_contract_nothing_is_written(
        self, small_folder: Path, photos: Path, tmp_path: Path
    ) -> None:
        stream = io.StringIO()
        with pytest.raises(ConversionError, match="no precision meets the contract on 20 images"):
            vitedge.convert(
                small_folder,
                target="cpu",
                precision="auto",
                calib=photos,
                eval_data=photos,
                max_drop=100.0,
                max_p99_ms=0.001,
                output=tmp_path / "b",
                progress=Terminal(stream),
            )
        assert not list(tmp_path.iterdir())

    def test_too_few_images_for_the_contract_are_refused_before_anything_is_read(
        self, small_folder: Path, photos: Path, tmp_path: Path
    ) -> None:
        problem = "20 images cannot decide whether a loss is at most 0.5 points"
        with pytest.raises(CalibrationError, match=problem) as caught:
            vitedge.convert(
                small_folder,
                target="cpu",
                precision="auto",
                calib=photos,
                eval_data=photos,
                max_drop=0.5,
                output=tmp_path / "b",
            )
        assert caught.value.expected == "at least 539 images to measure losses on"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"precision": "int8", "max_drop": 0.5}, "max_drop= is for precision='auto'"),
        ({"precision": "fp32", "max_p99_ms": 5.0}, "max_p99_ms= is for precision='auto'"),
        ({"precision": "auto"}, "needs to know what may be lost"),
        ({"precision": "auto", "max_drop": -0.1}, "max_drop=-0.1"),
        ({"precision": "auto", "max_drop": float("nan")}, "max_drop=nan"),
        ({"precision": "auto", "max_drop": 1.0, "max_p99_ms": -1.0}, "max_p99_ms=-1.0"),
        ({"precision": "auto", "max_drop": 1.0, "calib": None}, "auto needs images to calibrate with"),
        ({"precision": "autoo", "max_drop": 1.0}, "has no precision 'autoo'"),
        ({"precision": "autoo"}, "has no precision 'autoo'"),
    ],
)
def test_wrong_requests(options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        vitedge.convert("test_vit", target="cpu", output=tmp_path / "b", **{"calib": tmp_path, **options})
