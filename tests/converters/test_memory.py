"""A conversion that does not fit into memory is refused before it begins, with its estimate."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import vitedge
from vitedge.bundle.targets import Precision
from vitedge.converters.stages import drafting, memory
from vitedge.converters.stages.memory import BASE_BYTES, estimated_peak
from vitedge.errors import ConversionError
from vitedge.runtime.system.machine import Memory

MIB = 1 << 20
GIB = 1 << 30


class Steps:
    """A ``Progress`` that remembers its steps."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def track(self, items, *, total, unit):
        yield from items


@pytest.fixture
def convert(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Convert up to the stage behind the check, with so much memory; return the steps."""

    def reach(*_: object, **__: object) -> None:
        raise RuntimeError("reached the export")

    monkeypatch.setattr(drafting, "full_graph", reach)

    def converted(given: Memory, folder: Path = small_folder) -> list[str]:
        monkeypatch.setattr(memory, "read_memory", lambda: given)
        steps = Steps()
        with pytest.raises(RuntimeError, match="reached the export"):
            vitedge.convert(folder, target="cpu", precision="fp32", output=tmp_path / "b", progress=steps)
        return steps.steps

    return converted


def test_too_little_is_refused_with_estimate_and_remedy(convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: 0)
    with pytest.raises(ConversionError) as caught:
        convert(Memory(total=8 * GIB, available=200 * MIB, limit=512 * MIB))
    assert "MiB of memory at its peak" in caught.value.problem
    assert "200 MiB are available; the control group's limit is 512 MiB" in caught.value.problem
    assert "this is an estimate" in caught.value.expected
    assert "docker --memory" in caught.value.fix
    assert not list(tmp_path.glob("*"))


def test_enough_is_not_mentioned(convert):
    assert not [step for step in convert(Memory(64 * GIB, 64 * GIB)) if "memory" in step]


def test_a_machine_that_does_not_say_what_is_available_is_not_refused(convert):
    assert not [step for step in convert(Memory(None, None)) if "memory" in step]


def test_scarce_memory_is_a_warning(convert, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: 0)
    warned = [step for step in convert(Memory(8 * GIB, BASE_BYTES + 300 * MIB)) if step.startswith("warning: ")]
    assert warned
    assert "MiB are available" in warned[0]


def test_swap_counts_where_nothing_limits_the_process(convert, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: 0)
    steps = convert(Memory(8 * GIB, 100 * MIB, swap=8 * GIB))
    assert [step for step in steps if step.startswith("warning: ") and f"{8 * 1024 + 100} MiB are available" in step]


@pytest.mark.parametrize("name", ["model.safetensors", "net.onnx"])
def test_a_file_of_weights_is_judged_before_it_is_read(convert, small_folder: Path, tmp_path: Path, name: str):
    folder = shutil.copytree(small_folder, tmp_path / "large")
    path = folder / name
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(8 * GIB)  # takes no space on the disk
    with pytest.raises(ConversionError, match="takes about 8"):
        convert(Memory(16 * GIB, 16 * GIB), path if name.endswith(".onnx") else folder)


@pytest.mark.parametrize(
    ("weights", "side", "precision", "peak"),
    [
        (21.8, 224, "fp32", 1115),
        (84.1, 224, "fp32", 1668),
        (84.7, 384, "fp32", 1667),
        (330.2, 224, "fp32", 4051),
        (21.8, 224, "int8", 1233),
    ],
    ids=["deit_tiny", "vit_small", "vit_small at 384", "vit_base", "deit_tiny in int8"],
)
def test_the_estimate_is_near_what_was_measured(weights: float, side: int, precision: Precision, peak: int):
    """Peaks of ``vitedge convert`` on x86-64, in MiB."""
    estimate = estimated_peak(round(weights * MIB), (side, side), precision) / MIB
    assert 0.9 * peak < estimate < 1.1 * peak
