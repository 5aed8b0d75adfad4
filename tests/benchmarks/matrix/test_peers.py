"""The peers of a model: they give the module's logits, and times that contradict each other are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vitedge.audit import Audit, AuditedLayer, Overhead
from vitedge.bundle.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def peers(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.matrix.peers")


@pytest.fixture(scope="module")
def timing(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("common.timing")


def test_an_audit_is_shortened_to_what_a_row_needs(peers: Any, comparison: Any) -> None:
    layers = (
        AuditedLayer("a", "MatMul", True, "int8"),
        AuditedLayer("b", "MatMul", True, "bf16", reason="no kernel"),
        AuditedLayer("c", "MatMul", False, "bf16"),
    )
    overheads = tuple(
        Overhead("layout change", "Reorder", kernel, "bf16", ("x",), time) for kernel, time in (("k", 2.0), ("l", 3.0))
    )
    found = peers.kernels(Audit("openvino 1", "cpu", layers, overheads, 50.0, 30))
    assert found == comparison.Kernels(2, 1, {"b": "no kernel"}, 50.0, {"layout change": 5.0})


def test_times_that_contradict_each_other_are_refused(
    peers: Any, comparison: Any, timing: Any, compared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = replace(compared, contenders={name: replace(each, rounds=()) for name, each in compared.contenders.items()})
    times = {name: [1.0, 1.0, 1.0] for name in blank.contenders}

    def taken(found: dict[str, list[float]]) -> Any:
        monkeypatch.setattr(peers, "in_quiet_turns", lambda *_, **__: timing.QuietTurns(found, 1))
        return peers.with_times(blank, {}, 3)

    assert taken(times).ratios(comparison.NNCF) == [1.0, 1.0, 1.0]
    refused = taken({**times, "int8": [1.0, 5.0, 9.0], comparison.NNCF: [1.0, 8.0, 4.0]})
    assert refused.refused.startswith("int8 and NNCF default: the medians give")
    assert not any(each.rounds for each in refused.contenders.values())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of OpenVINO's own converter
def test_peers_take_frames_and_give_the_modules_logits(peers: Any, comparison: Any, tmp_path: Path) -> None:
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
    assert list(found) == list(comparison.OPPONENTS)
    assert all(each.sqnr_db > 15.0 and not each.failed for each in found.values())
    kept = {name: peers.of_graph(peers.read_graph(tmp_path, name)) for name in found}
    assert {name: peers.assessed(way, frames, reference) for name, way in kept.items()} == found
    kernels = {name: peers.audited(found[name], way).kernels for name, way in kept.items()}
    assert kernels[comparison.NNCF].quantized == 2
    assert kernels[comparison.OPENVINO].quantized == 0


def test_a_module_that_openvino_cannot_convert_leaves_the_reason(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no operator for this\nmore")

    monkeypatch.setattr(peers, "own_ir", refuse)
    model = SimpleNamespace(module=None, card=SimpleNamespace(preprocessing=None))
    found = {name: peers.assessed(way, None, None) for name, way in peers.peers(model, None, tmp_path).items()}
    assert {each.failed for each in found.values()} == {"no operator for this"}
