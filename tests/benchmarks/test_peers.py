"""The peers of the matrix: what counts as faster, as collapsed and as a quiet round, and how the page shows it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from vitedge.audit import Audit, AuditedLayer, Overhead
from vitedge.bundle.preprocessing import Preprocessing

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def peers() -> Iterator[Any]:
    yield from imported("common.peers")


@pytest.fixture(scope="module")
def peer_page() -> Iterator[Any]:
    yield from imported("common.peer_page")


@pytest.fixture(scope="module")
def timing() -> Iterator[Any]:
    yield from imported("common.timing")


def imported(name: str) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module(name)


@pytest.fixture
def compared(peers: Any) -> Any:
    """Int8 that is slower than NNCF without SmoothQuant, and faster than NNCF's default, which collapsed."""
    ours = peers.Kernels(48, 46, {"a": "why", "b": "why"}, 1000.0, {"reference kernel": 200.0, "layout change": 40.0})
    theirs = peers.Kernels(48, 48, {}, 700.0, {"reference kernel": 10.0, "layout change": 35.0})

    def contender(sqnr_db: float, *rounds: float, kernels: Any = None) -> Any:
        return peers.Contender("", sqnr_db, 98.0, rounds, kernels)

    contenders = {
        "fp32": contender(118.0, 4.0, 4.0, 4.0),
        "fp16": contender(38.0, 2.2, 2.2, 2.2),
        "int8": contender(33.0, 1.0, 2.0, 4.0, kernels=ours),
        peers.NNCF: contender(7.3, 2.0, 2.0, 8.0, kernels=theirs),
        peers.NNCF_UNSMOOTHED: contender(24.9, 0.5, 1.6, 2.0, kernels=theirs),
        peers.OPENVINO: contender(38.5, 2.0, 2.0, 2.0),
        peers.REFERENCE: contender(0.0, 5.0, 5.0, 5.0),
    }
    return peers.Comparison(contenders, 64, discarded=3)


def with_sqnr(peers: Any, compared: Any, ours: float, theirs: float) -> Any:
    changed = {"int8": ours, peers.NNCF: theirs}
    contenders = {name: replace(compared.contenders[name], sqnr_db=value) for name, value in changed.items()}
    return replace(compared, contenders={**compared.contenders, **contenders})


def test_ratios_are_taken_within_each_round(peers: Any, compared: Any) -> None:
    assert compared.ratios(peers.NNCF) == [0.5, 1.0, 0.5]
    assert compared.ratios(peers.NNCF_UNSMOOTHED) == [2.0, 1.25, 2.0]
    assert compared.ratios(peers.OPENVINO) == pytest.approx([1.1, 1.1, 1.1])


@pytest.mark.parametrize(
    ("ours", "theirs", "collapsed"),
    [(33.0, 14.9, True), (33.0, 15.1, False), (10.0, 7.1, False), (10.0, 6.9, True), (8.0, 14.0, False)],
)
def test_a_peer_collapsed_if_it_is_bad_and_far_behind_ours(
    peers: Any, compared: Any, ours: float, theirs: float, collapsed: bool
) -> None:
    assert with_sqnr(peers, compared, ours, theirs).collapsed(peers.NNCF) is collapsed


def test_sixteen_bits_never_collapse(peers: Any, compared: Any) -> None:
    low = replace(compared.contenders[peers.OPENVINO], sqnr_db=1.0)
    assert not replace(compared, contenders={**compared.contenders, peers.OPENVINO: low}).collapsed(peers.OPENVINO)


def test_a_peer_that_collapsed_is_neither_the_fastest_nor_faster(peers: Any, compared: Any) -> None:
    assert compared.fastest_int8() == peers.NNCF_UNSMOOTHED
    assert compared.faster_peers() == (peers.NNCF_UNSMOOTHED, peers.OPENVINO)
    rounds = (0.1, 0.1, 0.1)
    fast = replace(compared.contenders[peers.NNCF], rounds=rounds)
    faster = replace(compared, contenders={**compared.contenders, peers.NNCF: fast})
    assert faster.fastest_int8() == peers.NNCF_UNSMOOTHED
    assert peers.NNCF not in faster.faster_peers()
    kept = with_sqnr(peers, faster, 33.0, 20.0)
    assert kept.fastest_int8() == peers.NNCF
    assert peers.NNCF in kept.faster_peers()


def test_the_reason_names_what_the_peer_does_not_pay(peers: Any, peer_page: Any, compared: Any) -> None:
    assert peer_page.reason(compared, peers.NNCF_UNSMOOTHED) == (
        "2 of 48 int8 layers fall back (a, b: why); 46 layers in int8, the peer 48; "
        "reference kernels 200 µs, the peer 10 µs; all operators 1000 µs, the peer 700 µs"
    )
    assert peer_page.reason(compared, peers.OPENVINO) == "not audited"


def test_an_audit_is_shortened_to_what_a_row_needs(peers: Any) -> None:
    layers = (
        AuditedLayer("a", "MatMul", True, "int8"),
        AuditedLayer("b", "MatMul", True, "bf16", reason="no kernel"),
        AuditedLayer("c", "MatMul", False, "bf16"),
    )
    overheads = tuple(
        Overhead("layout change", "Reorder", kernel, "bf16", ("x",), time) for kernel, time in (("k", 2.0), ("l", 3.0))
    )
    found = peers.kernels(Audit("openvino 1", "cpu", layers, overheads, 50.0, 30))
    assert found == peers.Kernels(2, 1, {"b": "no kernel"}, 50.0, {"layout change": 5.0})


def test_a_page_without_peers_says_so(peer_page: Any) -> None:
    assert peer_page.table({"some": None}, "") == ["## Beside OpenVINO and NNCF", "", "Not measured yet.", ""]
    assert peer_page.geometric_means({"some": None}) == []


def test_the_table_marks_faster_peers_and_names_what_is_missing(peers: Any, peer_page: Any, compared: Any) -> None:
    refused = replace(
        compared,
        contenders={name: replace(each, rounds=()) for name, each in compared.contenders.items()},
        refused="9 rounds had a load above 3.0",
    )
    text = "\n".join(peer_page.table({"one": compared, "two": refused, "three": None}, "images/models.svg"))
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert set(lines) == {"one", "two"}
    columns = dict(zip(peer_page.HEADINGS, (each.strip() for each in lines["one"].strip("|").split("|")), strict=True))
    assert columns["int8 ÷ NNCF default"] == "0.50 (0.50-1.00)"
    assert columns["int8 ÷ fp16"] == "0.91 (0.45-1.82)"
    assert "at 0.85 or less, for 0 of 1 models" in text
    assert columns["NNCF default"] == "7.3 dB, 98 %, collapsed"
    assert columns["int8"] == "33.0 dB, 98 %"
    assert columns["faster peer, and why"].startswith("**NNCF, SmoothQuant off**: 2 of 48 int8 layers fall back")
    assert "A peer that did not collapse is faster for 1 of 1 models." in text
    assert "6 rounds with a load above 1.5 times the threads were thrown away" in text
    assert "- Times of `two` refused: 9 rounds had a load above 3.0." in text
    assert "- Not measured yet: `three`." in text
    assert "(images/models.svg)" in text


def test_geometric_means_leave_out_what_collapsed_from_the_fastest(peers: Any, peer_page: Any, compared: Any) -> None:
    other = replace(
        compared,
        contenders={
            **compared.contenders,
            peers.NNCF_UNSMOOTHED: replace(compared.contenders[peers.NNCF_UNSMOOTHED], rounds=(2.0, 4.0, 8.0)),
        },
    )
    text = "\n".join(peer_page.geometric_means({"one": compared, "two": other, "three": None}))
    assert "| int8 ÷ the fastest NNCF that did not collapse | 2 | 1.00 | 0.50-2.00 |" in text
    assert "| int8 ÷ NNCF default | 2 | 0.50 | 0.50-0.50 |" in text


def test_the_picture_has_a_dot_for_each_way_and_fits_a_telephone(peer_page: Any, compared: Any) -> None:
    drawn = list(peer_page.dots({"one": compared, "two": compared, "three": None}, frozenset({"two"})))
    root = ElementTree.fromstring(peer_page.picture(drawn))
    circles = root.findall(f"{SVG}circle")
    assert len(drawn) == 2 * len(peer_page.SERIES)
    assert len(circles) == len(drawn) + len(peer_page.SERIES)  # and the legend
    assert int(root.attrib["width"]) <= 390
    assert all(0 < float(each.attrib["cx"]) < 390 for each in circles)
    assert [each.attrib["r"] for each in circles[-5:]] == ["6"] * 5


def test_rounds_of_a_busy_machine_are_thrown_away_counted_and_repeated(timing: Any) -> None:
    loads = iter([1.0, 1.0, 1.0, 9.0, 9.0, 1.0, 1.0, 1.0])
    times = iter(range(100))
    pauses: list[float] = []
    found = timing.in_quiet_turns(
        {"one": lambda: None},
        lambda call: float(next(times)),
        rounds=2,
        most_load=3.0,
        load=lambda: next(loads),
        wait=pauses.append,
    )
    assert found == timing.QuietTurns({"one": [2.0, 5.0]}, 2)  # after two of warm-up; the second and third were busy
    assert len(pauses) == 2


def test_a_machine_that_stays_busy_is_an_error(timing: Any) -> None:
    with pytest.raises(timing.BusyMachineError, match=r"7 rounds had a load above 3\.0") as raised:
        timing.in_quiet_turns(
            {"one": lambda: None}, lambda call: 1.0, rounds=2, most_load=3.0, load=lambda: 4.0, wait=lambda _: None
        )
    assert raised.value.discarded == 7


def test_medians_and_ratios_that_disagree_are_noticed(timing: Any) -> None:
    assert timing.contradiction([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == ""
    assert timing.contradiction([], [1.0]) == ""
    assert timing.contradiction([1.0, 5.0, 9.0], [1.0, 8.0, 4.0]) == (
        "the medians give a ratio of 1.25, the rounds one of 1.00"
    )


def test_times_that_contradict_each_other_are_refused(
    peers: Any, timing: Any, compared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = replace(compared, contenders={name: replace(each, rounds=()) for name, each in compared.contenders.items()})
    times = {name: [1.0, 1.0, 1.0] for name in blank.contenders}

    def taken(found: dict[str, list[float]]) -> Any:
        monkeypatch.setattr(peers, "in_quiet_turns", lambda *_, **__: timing.QuietTurns(found, 1))
        return peers.with_times(blank, {}, 3)

    assert taken(times).ratios(peers.NNCF) == [1.0, 1.0, 1.0]
    refused = taken({**times, "int8": [1.0, 5.0, 9.0], peers.NNCF: [1.0, 8.0, 4.0]})
    assert refused.refused.startswith("int8 and NNCF default: the medians give")
    assert not any(each.rounds for each in refused.contenders.values())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of OpenVINO's own converter
def test_peers_take_frames_and_give_the_modules_logits(peers: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("nncf")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 64, 5)
    ).eval()
    preprocessing = Preprocessing(input_size=(32, 32), resize_size=(32, 32))
    model = SimpleNamespace(module=module, card=SimpleNamespace(preprocessing=preprocessing))
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    reference = peers.module_logits(module, frames, preprocessing)
    found = {name: peers.assessed(way, frames, reference) for name, way in peers.peers(model, frames, tmp_path).items()}
    assert list(found) == list(peers.OPPONENTS)
    assert all(each.sqnr_db > 15.0 and not each.failed for each in found.values())
    kept = {name: peers.of_graph(peers.read_graph(tmp_path, name)) for name in found}
    assert {name: peers.assessed(way, frames, reference) for name, way in kept.items()} == found
    kernels = {name: peers.audited(found[name], way).kernels for name, way in kept.items()}
    assert kernels[peers.NNCF].quantized == 2
    assert kernels[peers.OPENVINO].quantized == 0


def test_a_module_that_openvino_cannot_convert_leaves_the_reason(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no operator for this\nmore")

    monkeypatch.setattr(peers, "own_ir", refuse)
    model = SimpleNamespace(module=None, card=SimpleNamespace(preprocessing=None))
    found = {name: peers.assessed(way, None, None) for name, way in peers.peers(model, None, tmp_path).items()}
    assert {each.failed for each in found.values()} == {"no operator for this"}


def test_an_error_of_openvino_is_shortened_to_what_is_wrong() -> None:
    children = next(imported("common.children"))
    text = "Exception from src/inference/src/cpp/core.cpp:117:\nException from src/plugin.cpp:54:\nno kernel\n\n"
    assert children.first_line(RuntimeError(text)) == "no kernel"
    assert children.first_line(RuntimeError("")) == "RuntimeError"
