"""A sandbox that reads an untrusted model: what it cannot do, and how the parent reports its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from vitedge.errors import CheckpointError, ConversionError, VitedgeError
from vitedge.safety import confinement, sandbox
from vitedge.safety.child import code_command, environment
from vitedge.safety.limits import JSON_BYTES, SANDBOX_FILES
from vitedge.safety.sandbox import SandboxLimits, run_sandboxed

SUPPORT = Path(__file__).resolve().parent.parent / "support"
MIB = 1 << 20
SMALL = SandboxLimits(memory_bytes=256 * MIB, seconds=30, file_bytes=32 * MIB)
RESTRICTIONS = confinement.available()
SECCOMP = pytest.mark.skipif(not RESTRICTIONS.seccomp, reason="this kernel has no seccomp filters")
LANDLOCK = pytest.mark.skipif(not RESTRICTIONS.landlock, reason="this kernel has no Landlock")
LIMITS = pytest.mark.skipif(not RESTRICTIONS.limits, reason="this system does not tell a process's memory")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def run(do: str, *arguments: Any, folder: Path, limits: SandboxLimits = SMALL, **options: Any) -> Any:
    return run_sandboxed("misbehaving", {"do": do, "with": arguments}, folder, limits, **options)


def run_in(folder: Path, do: str, *arguments: Any, limits: SandboxLimits = SMALL) -> Any:
    """The same for what writes to its folder."""
    return run_sandboxed("misbehaving", {"do": do, "with": arguments, "folder": True}, folder, limits)


def test_a_result_comes_back(scratch: Path) -> None:
    value = {"a": [1, 2.5, None, True, "é\u2028"], "b": {}}
    assert run("echo", value, folder=scratch) == value


def test_a_child_that_may_write_nothing_has_a_result(scratch: Path) -> None:
    assert run("echo", "x" * 10_000, folder=scratch, limits=SandboxLimits(file_bytes=0)) == "x" * 10_000
    with pytest.raises(CheckpointError, match="wrote more than 0 MiB"):
        run_in(scratch, "write_many", 1, 8, limits=SandboxLimits(file_bytes=0))


def test_libraries_threads_work(scratch: Path) -> None:
    assert run("threads", 20, folder=scratch) == 20


def test_the_environment_has_no_secrets(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-2")
    variables = run("environment", folder=scratch)
    assert not [name for name, value in variables.items() if "secret" in value]
    assert variables["HOME"] == variables["TMPDIR"] == str(scratch)


def test_errors_of_vitedge_travel_with_their_class(scratch: Path) -> None:
    with pytest.raises(ConversionError, match=r"the graph \\x1b\[31mfails") as caught:
        run("raise_own", folder=scratch)
    assert (caught.value.expected, caught.value.fix) == ("one that does not", "mend it")
    with pytest.raises(CheckpointError, match="of a class that the parent does not know"):
        run("raise_unknown", folder=scratch)


@pytest.mark.parametrize(
    ("do", "arguments", "problem"),
    [
        ("raise_other", (), r"net\.pt2 cannot be read: ValueError: nothing\n    works \\x1b"),
        ("segfault", (), r"reads net\.pt2 was ended by SIGSEGV"),
        ("end_itself", (), r"was ended by SIGKILL"),
        ("leave", (7,), "ended with exit code 7"),
        ("leave", (0,), "gave no result"),
        ("sys_exit", (), "gave no result"),
        ("nan", (), "ended with exit code 1.*Out of range float"),
        ("not_json", (), "ended with exit code 1.*not JSON serializable"),
        ("nested", (60,), "gave no result"),
        ("nested", (100_000,), "RecursionError|gave no result|SIGSEGV"),
        ("text_of", (JSON_BYTES + 1,), "gave no result"),
    ],
)
def test_every_other_end_is_one_error(scratch: Path, do: str, arguments: tuple[Any, ...], problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        run(do, *arguments, folder=scratch, subject="net.pt2")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"result": 1, "error": 2}', '{"other": 1}', '{"error": []}', '{"error": {}}',
     '{"error": {"kind": "VitedgeError.mro", "problem": [], "fix": 3}}', '{"limit": []}', "[" * 100_000, "NaN"],
)  # fmt: skip
def test_a_forged_result_is_an_error(scratch: Path, text: str) -> None:
    with pytest.raises(VitedgeError):
        run_in(scratch, "forge", text)


def test_a_module_that_cannot_be_imported(scratch: Path) -> None:
    with pytest.raises(CheckpointError, match="ended with exit code 1 before it began: ModuleNotFoundError"):
        run_sandboxed("no_such_module", {}, scratch, SMALL)


@LIMITS
def test_memory_is_bounded(scratch: Path) -> None:
    assert run("allocate", 200, folder=scratch) == 200 * MIB
    with pytest.raises(CheckpointError, match="took more than 256 MiB of memory"):
        run("allocate", 300, folder=scratch)


@LIMITS
def test_shared_memory_is_bounded(scratch: Path) -> None:
    with pytest.raises(CheckpointError, match="took more than 256 MiB of memory"):
        run("allocate_shared", 1024, folder=scratch)


@pytest.mark.parametrize("do", ["spin", "sleep"])
def test_time_is_bounded(scratch: Path, do: str) -> None:
    limits = SandboxLimits(SMALL.memory_bytes, 1.0, SMALL.file_bytes)
    with pytest.raises(CheckpointError, match="took longer than 1 s"):
        run_sandboxed("misbehaving", {"do": do, "folder": do == "sleep"}, scratch, limits)


@LIMITS
def test_the_kernel_keeps_limits(scratch: Path) -> None:
    kernel = run("limits", folder=scratch)
    assert kernel["RLIMIT_CORE"] == 0
    assert kernel["RLIMIT_FSIZE"] == SMALL.file_bytes
    assert 30 <= kernel["RLIMIT_CPU"] <= 30 * (os.cpu_count() or 1) + 60
    assert 256 * MIB < kernel["RLIMIT_DATA"] < 1024 * MIB
    assert 0 < kernel["RLIMIT_NOFILE"] <= 512


@SECCOMP
def test_limits_cannot_be_raised_nor_privileges_kept(scratch: Path) -> None:
    assert run("raise_limits", folder=scratch) != "done"
    assert int(run("capabilities", folder=scratch), 16) & ~0b110 == 0


def test_a_huge_file_is_bounded(scratch: Path) -> None:
    with pytest.raises(CheckpointError, match="wrote more than 32 MiB"):
        run_in(scratch, "write_one", 64)
    assert (scratch / "big").stat().st_size <= 32 * MIB


@LIMITS
def test_many_files_together_are_bounded(scratch: Path) -> None:
    with pytest.raises(CheckpointError, match="wrote more than 32 MiB"):
        run_in(scratch, "write_many", 10, 16)


def test_the_number_of_files_is_bounded(scratch: Path) -> None:
    with pytest.raises(CheckpointError, match=f"more than {SANDBOX_FILES} files"):
        run_in(scratch, "many_files", SANDBOX_FILES + 1)


@pytest.mark.skipif(not (RESTRICTIONS.seccomp or RESTRICTIONS.landlock), reason="this kernel restricts no child")
def test_it_makes_no_folders(scratch: Path) -> None:
    """Deep ones could not be removed again."""
    assert run_in(scratch, "make_folder") in ("EACCES", "EPERM")


def test_what_it_prints_is_dropped(scratch: Path) -> None:
    assert run("print_much", 40, folder=scratch) == "printed"


@LANDLOCK
def test_nothing_is_written_outside_its_folder(scratch: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine", encoding="utf-8")
    victim.chmod(0o600)
    tried = run("outside", str(victim), folder=scratch, readable=[tmp_path])
    assert set(tried.values()) <= {"EACCES", "EPERM"}, tried
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch", "victim.txt"]
    assert victim.read_text(encoding="utf-8") == "mine"


@LANDLOCK
def test_only_what_is_given_is_read(scratch: Path, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("given", encoding="utf-8")
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    given = [tmp_path / "given", tmp_path / "missing"]
    assert run("read", str(tmp_path / "given"), folder=scratch, readable=given) == "done"
    for path in (tmp_path / "secret", Path("/etc/passwd"), Path(f"/proc/{os.getpid()}/environ")):
        assert run("read", str(path), folder=scratch, readable=given) == "EACCES"
    for path in (tmp_path, Path.home(), Path("/")):
        assert run("listed", str(path), folder=scratch, readable=given) == "EACCES"


@SECCOMP
def test_there_is_no_network(scratch: Path) -> None:
    tried = run("network", folder=scratch)
    assert tried.pop("look-up") == "gaierror"
    assert set(tried.values()) == {"EPERM"}, tried


@SECCOMP
def test_no_program_runs_and_no_process_is_made(scratch: Path) -> None:
    tried = run("programs", folder=scratch)
    assert tried.pop("clone3") == "ENOSYS"
    assert set(tried.values()) == {"EPERM"}, tried


@SECCOMP
def test_a_fork_bomb_has_no_first_fork(scratch: Path) -> None:
    assert run("fork_bomb", 20, folder=scratch) == 0


@SECCOMP
def test_the_parent_is_out_of_reach(scratch: Path) -> None:
    tried = run("in_parent", folder=scratch)
    assert set(tried.values()) <= {"EACCES", "EPERM"}, tried


@SECCOMP
def test_calls_that_the_filter_does_not_know_are_refused(scratch: Path) -> None:
    x32_getpid = 0x40000000 + 39
    assert run("calls", [463, 470, 600, x32_getpid], folder=scratch) == ["ENOSYS"] * 4


def test_a_link_that_it_leaves_is_refused(scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No restriction lets the child make a link, and the parent would not follow it."""
    with pytest.raises(CheckpointError):
        run_in(scratch, "leave_symlink", str(tmp_path / "secret"))
    (scratch / "planted").symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="made a folder, a link or a special file"):
        run("echo", 1, folder=scratch)
    (scratch / "planted").unlink()
    os.mkfifo(scratch / "planted")
    with pytest.raises(CheckpointError, match="made a folder, a link or a special file"):
        run("echo", 1, folder=scratch)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_in(folder: Path) -> int:
    while not (folder / "pid").exists() or not (text := (folder / "pid").read_text(encoding="ascii")):
        time.sleep(0.05)
    return int(text)


def test_an_interrupted_parent_leaves_no_child(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        if (scratch / "pid").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(sandbox, "_check_limits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_in(scratch, "sleep")
    assert not is_alive(pid_in(scratch))


@LIMITS
def test_a_killed_parent_leaves_no_child(scratch: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vitedge.safety.sandbox import *\n"
        "run_sandboxed('misbehaving', {'do': 'sleep', 'folder': True}, Path(sys.argv[1]), SandboxLimits())"
    )
    parent = subprocess.Popen(code_command(code, str(scratch)), env=environment())
    child = pid_in(scratch)
    assert is_alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while is_alive(child):
        time.sleep(0.05)


def test_a_module_of_the_current_folder_is_not_imported(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, scratch):
        (folder / "numpy.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run("echo", 1, folder=scratch) == 1
    assert not (tmp_path / "ran").exists()


def test_the_restrictions_are_told() -> None:
    assert json.dumps(vars(RESTRICTIONS))
    assert set(vars(RESTRICTIONS).values()) <= {True, False}
