"""What the machine says of itself; what it does not say is unavailable."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitedge.runtime.system import machine
from vitedge.runtime.system.cgroups import CpuLimit
from vitedge.runtime.system.machine import UNAVAILABLE, Memory, machine_state, processor_name, read_memory


def set_governors(folder: Path, *governors: str) -> None:
    for number, governor in enumerate(governors):
        path = folder / f"cpu{number}" / "cpufreq" / "scaling_governor"
        path.parent.mkdir(parents=True)
        path.write_text(governor + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("governors", "expected"),
    [
        (["performance", "performance"], "performance"),
        (["schedutil", "performance"], "performance, schedutil"),
        ([""], UNAVAILABLE),
        ([], UNAVAILABLE),
    ],
)
def test_governors_are_those_of_all_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, governors: list[str], expected: str
) -> None:
    set_governors(tmp_path, *governors)
    monkeypatch.setattr(machine, "CPUFREQ", tmp_path)
    assert machine_state().governors == expected


def test_a_load_that_the_system_does_not_tell_is_unavailable_and_not_0(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError

    monkeypatch.setattr("os.getloadavg", refuse)
    assert machine_state().load_average == UNAVAILABLE


def test_the_load_and_the_cpus_are_the_system_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (1.5, 0.0, 0.0))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3}, raising=False)
    monkeypatch.setattr(machine, "cpu_limit", lambda _: CpuLimit(None, None))
    state = machine_state()
    assert (state.load_average, state.cpus) == (1.5, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Other\n", "Some CPU @ 2 GHz"),
        ("processor : 0\nHardware : BCM2835\nModel : Raspberry Pi 5\n", "Raspberry Pi 5"),
    ],
)
def test_the_processor_is_named_as_the_kernel_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(machine, "CPUINFO", path)
    assert processor_name() == expected


def test_a_processor_without_a_name_is_known_by_its_instruction_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert processor_name() == "aarch64"


def test_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "proc" / "meminfo"
    assert read_memory(tmp_path) == Memory(None, None)
    meminfo.parent.mkdir()
    meminfo.write_text("MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:  1024 kB\n")
    assert read_memory(tmp_path) == Memory(2 << 20, 1 << 20)
