"""The limits of control groups, in trees as containers and services have them, and in a group of our own."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from vitedge.runtime.system import machine
from vitedge.runtime.system.cgroups import CpuLimit, MemoryLimit, cpu_limit, memory_limit
from vitedge.runtime.system.machine import Memory, read_memory, threads_for_engine, usable_cpus

MIB = 1 << 20
V2 = "0::/system.slice/app.service\n"
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
SERVICE = "sys/fs/cgroup/system.slice/app.service"

Tree = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Write files below a folder that stands for the root."""

    def write(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


class TestCpus:
    @pytest.mark.parametrize(
        ("files", "quota"),
        [
            ({f"{SERVICE}/cpu.max": "150000 100000\n"}, 1.5),
            ({f"{SERVICE}/cpu.max": "max 100000\n"}, None),
            ({f"{SERVICE}/cpu.max": "max 100000\n", "sys/fs/cgroup/system.slice/cpu.max": "50000 100000\n"}, 0.5),
            ({f"{SERVICE}/cpu.max": "50000 100000\n", "sys/fs/cgroup/system.slice/cpu.max": "400000 100000\n"}, 0.5),
            ({f"{SERVICE}/cpu.max": "garbage\n"}, None),
            ({f"{SERVICE}/cpu.max": "100000 0\n"}, None),
            ({f"{SERVICE}/cpu.max": ""}, None),
            ({}, None),
        ],
    )
    @pytest.mark.parametrize("mounts", [V2_MOUNT, ""])
    def test_the_tightest_quota_of_the_path(
        self, tree: Tree, files: dict[str, str], quota: float | None, mounts: str
    ) -> None:
        root = tree({"proc/self/cgroup": V2, "proc/self/mountinfo": mounts, **files})
        assert cpu_limit(root) == CpuLimit(quota, None)

    @pytest.mark.parametrize("quota", [("-1", None), ("250000", 2.5), ("50000", 0.5)])
    @pytest.mark.parametrize("mounted", ["cpu,cpuacct", "cpu"])
    def test_version_1(self, tree: Tree, quota: tuple[str, float | None], mounted: str) -> None:
        group = f"sys/fs/cgroup/{mounted}/docker/abc"
        root = tree(
            {
                "proc/self/cgroup": f"5:{mounted}:/docker/abc\n4:memory:/other\n",
                "proc/self/mountinfo": f"33 31 0:30 / /sys/fs/cgroup/{mounted} rw - cgroup cgroup rw,{mounted}\n",
                f"{group}/cpu.cfs_quota_us": f"{quota[0]}\n",
                f"{group}/cpu.cfs_period_us": "100000\n",
            }
        )
        assert cpu_limit(root).quota == quota[1]

    def test_a_container_sees_its_own_group_at_the_mount_point(self, tree: Tree) -> None:
        root = tree(
            {
                "proc/self/cgroup": "5:cpu:/docker/abc\n",
                "proc/self/mountinfo": "33 31 0:30 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
            }
        )
        assert cpu_limit(root).quota == 2.0

    def test_a_hybrid_system(self, tree: Tree) -> None:
        root = tree(
            {
                "proc/self/cgroup": "1:cpu:/a\n0::/b\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/unified/b/cpu.max": "300000 100000\n",
            }
        )
        assert cpu_limit(root).quota == 1.0

    @pytest.mark.parametrize("name", ["cpuset.cpus.effective", "cpuset.cpus"])
    def test_the_set_of_processors(self, tree: Tree, name: str) -> None:
        root = tree({"proc/self/cgroup": V2, f"{SERVICE}/{name}": "0-2,7\n"})
        assert cpu_limit(root).cpus == 4

    @pytest.mark.parametrize(
        ("quota", "affinity", "usable"),
        [("max", 8, 8), ("250000", 8, 2), ("50000", 8, 1), ("1600000", 8, 8), ("400000", 3, 3)],
    )
    def test_the_least_is_usable_and_never_less_than_one(
        self, tree: Tree, monkeypatch: pytest.MonkeyPatch, quota: str, affinity: int, usable: int
    ) -> None:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(affinity)), raising=False)
        root = tree({"proc/self/cgroup": V2, f"{SERVICE}/cpu.max": f"{quota} 100000\n"})
        assert usable_cpus(root) == usable

    @pytest.mark.parametrize(
        ("usable", "asked", "given"), [(8, None, None), (8, 3, 3), (2, None, 2), (2, 3, 3), (6, None, 4)]
    )
    def test_an_engine_gets_what_is_allowed_unless_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usable: int, asked: int | None, given: int | None
    ) -> None:
        for cpu in range(8):
            siblings = tmp_path / f"cpu{cpu}/topology/thread_siblings_list"
            siblings.parent.mkdir(parents=True)
            siblings.write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
        monkeypatch.setattr(machine, "CPUFREQ", tmp_path)
        monkeypatch.setattr(machine, "usable_cpus", lambda: usable)
        monkeypatch.setattr("os.cpu_count", lambda: 8)
        assert threads_for_engine(asked) == given


class TestMemory:
    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            ({}, MemoryLimit(None, None)),
            ({"memory.max": "max\n", "memory.current": "5\n"}, MemoryLimit(None, None)),
            ({"memory.max": f"{512 * MIB}\n", "memory.current": f"{100 * MIB}\n"}, MemoryLimit(512 * MIB, 412 * MIB)),
            (
                {
                    "memory.max": f"{512 * MIB}\n",
                    "memory.current": f"{100 * MIB}\n",
                    "memory.stat": f"anon 5\ninactive_file {60 * MIB}\n",
                },
                MemoryLimit(512 * MIB, 472 * MIB),
            ),
            ({"memory.max": f"{8 * MIB}\n", "memory.high": f"{4 * MIB}\n"}, MemoryLimit(4 * MIB, 4 * MIB)),
            ({"memory.max": f"{4 * MIB}\n", "memory.current": f"{5 * MIB}\n"}, MemoryLimit(4 * MIB, 0)),
        ],
    )
    def test_version_2(self, tree: Tree, files: dict[str, str], expected: MemoryLimit) -> None:
        root = tree({"proc/self/cgroup": V2, **{f"{SERVICE}/{name}": text for name, text in files.items()}})
        assert memory_limit(root) == expected

    def test_the_first_limit_that_is_reached_counts(self, tree: Tree) -> None:
        above = "sys/fs/cgroup/system.slice"
        root = tree(
            {
                "proc/self/cgroup": V2,
                f"{SERVICE}/memory.max": f"{100 * MIB}\n",
                f"{SERVICE}/memory.current": f"{10 * MIB}\n",
                f"{above}/memory.max": f"{400 * MIB}\n",
                f"{above}/memory.current": f"{370 * MIB}\n",
            }
        )
        assert memory_limit(root) == MemoryLimit(100 * MIB, 30 * MIB)

    @pytest.mark.parametrize(
        ("limit", "expected"),
        [(9223372036854771712, MemoryLimit(None, None)), (64 * MIB, MemoryLimit(64 * MIB, 44 * MIB))],
    )
    def test_version_1(self, tree: Tree, limit: int, expected: MemoryLimit) -> None:
        group = "sys/fs/cgroup/memory/a b"
        root = tree(
            {
                "proc/self/cgroup": "4:memory:/a b\n",
                f"{group}/memory.limit_in_bytes": f"{limit}\n",
                f"{group}/memory.usage_in_bytes": f"{24 * MIB}\n",
                f"{group}/memory.stat": f"inactive_file 1\ntotal_inactive_file {4 * MIB}\n",
            }
        )
        assert memory_limit(root) == expected

    def test_what_is_available_is_the_least(self, tree: Tree) -> None:
        root = tree(
            {
                "proc/meminfo": "MemTotal: 2048 kB\nMemAvailable: 1024 kB\n",
                "proc/self/cgroup": V2,
                f"{SERVICE}/memory.max": "1000000\n",
                f"{SERVICE}/memory.current": "400000\n",
            }
        )
        assert read_memory(root) == Memory(total=2 * MIB, available=600_000, limit=1_000_000)


@pytest.fixture
def own_group() -> Iterator[Callable[[str], Path]]:
    """Make a group of a controller of this machine, in either version."""
    made: list[Path] = []

    def make(controller: str) -> Path:
        first = Path("/sys/fs/cgroup") / controller
        parent = first if first.is_dir() else Path("/sys/fs/cgroup")
        group = parent / f"vitedge-{uuid.uuid4().hex}"
        try:
            group.mkdir()
        except OSError as error:
            pytest.skip(f"not root with writable control groups: {error}")
        made.append(group)
        return group

    yield make
    for group in made:
        group.rmdir()


def run_inside(group: Path, code: str) -> str:
    """Run code in a process of a group."""
    done = subprocess.run(
        [sys.executable, "-c", f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n{code}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def set_limit(group: Path, files: Mapping[str, str]) -> None:
    """Write the first of the files that the group has; skip where it has none of them."""
    for name, text in files.items():
        if (group / name).exists():
            (group / name).write_text(text)
            return
    pytest.skip(f"not root with writable control groups: {group.parent} has no {' or '.join(files)}")


def test_a_real_quota(own_group: Callable[[str], Path]) -> None:
    group = own_group("cpu")
    set_limit(group, {"cpu.max": "100000 100000", "cpu.cfs_quota_us": "100000"})
    shown = run_inside(group, "from vitedge.runtime.system.machine import usable_cpus; print(usable_cpus())")
    assert shown == "1"


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")
def test_a_real_quota_reaches_the_engines(own_group: Callable[[str], Path], tiny_bundle) -> None:
    group = own_group("cpu")
    set_limit(group, {"cpu.max": "100000 100000", "cpu.cfs_quota_us": "100000"})
    code = f"""
import vitedge
with vitedge.load({str(tiny_bundle.path)!r}) as classifier:
    compiled = classifier._engine._request.get_compiled_model()
    print(compiled.get_property("INFERENCE_NUM_THREADS"), len(classifier.workers()))
with vitedge.load({str(tiny_bundle.path)!r}, engine="onnxruntime") as classifier:
    print(classifier._engine._session.get_session_options().intra_op_num_threads)
"""
    assert run_inside(group, code).split() == ["1", "0", "1"]


def test_a_real_memory_limit(own_group: Callable[[str], Path]) -> None:
    group = own_group("memory")
    set_limit(group, {"memory.max": str(512 * MIB), "memory.limit_in_bytes": str(512 * MIB)})
    code = "from vitedge.runtime.system.machine import read_memory; m = read_memory(); print(m.limit, m.available)"
    limit, available = map(int, run_inside(group, code).split())
    assert limit == 512 * MIB
    assert 0 < available < 512 * MIB
