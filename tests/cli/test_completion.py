"""Scripts for shells, tried in an interactive bash."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitedge.cli import EXIT_ERROR, EXIT_USAGE, VERBS, main

pytestmark = pytest.mark.timeout(120)
PATIENCE = 60.0


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("shtab")
    path = tmp_path_factory.mktemp("completion") / "vitedge.bash"
    command = [sys.executable, "-m", "vitedge", "completion", "bash"]
    path.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return path


class Bash:
    """An interactive bash on a terminal, without vitedge on its path."""

    def __init__(self, script: Path) -> None:
        child, self._terminal = pty.fork()
        if child == 0:
            os.environ.update(PS1="$ ", TERM="dumb", INPUTRC="/dev/null", HISTFILE="/dev/null")
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
        self.child = child
        self.type(f"cd {script.parent}; source {script}; echo loa''ded\n")
        self.read_until("loaded")

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def read_until(self, pattern: str) -> str:
        shown, end = "", time.monotonic() + PATIENCE
        while re.search(pattern, shown) is None:
            ready, _, _ = select.select([self._terminal], [], [], end - time.monotonic())
            assert ready, f"{pattern!r} is not in {shown!r}"
            shown += os.read(self._terminal, 4096).decode(errors="replace")
        return shown

    def close(self) -> None:
        os.close(self._terminal)
        os.waitpid(self.child, 0)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("vitedge conv", "vitedge convert "),
        ("vitedge run --pol", "vitedge run --policy "),
        ("vitedge run --policy la", "--policy latest "),
        ("vitedge convert --target jetson-orin-na", "--target jetson-orin-nano "),
        ("vitedge convert --precision au", "--precision auto "),
        ("vitedge inspect a-bun", "vitedge inspect a-bundle/"),
        ("vitedge help dem", "vitedge help demo "),
    ],
)
def test_bash_completes(typed: str, completed: str, script: Path) -> None:
    (script.parent / "a-bundle").mkdir(exist_ok=True)
    bash = Bash(script)
    try:
        bash.type(f"{typed}\t")
        bash.read_until(re.escape(completed))
    finally:
        bash.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_knows_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert [verb for verb in VERBS if verb not in script] == []


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["completion", "bsh"])
    assert stopped.value.code == EXIT_USAGE
    assert "did you mean bash" in capsys.readouterr().err


def test_without_shtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == EXIT_ERROR
    assert 'pip install "vitedge[completion]"' in capsys.readouterr().err
