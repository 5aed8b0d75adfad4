from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitedge.converters import publish
from vitedge.converters.interrupts import EXIT_TERMINATED, Interrupts, Watched, interruptible, postponed, undisturbed
from vitedge.errors import ConversionError
from vitedge.progress import Silent

pytestmark = pytest.mark.alone

EXCEPTIONS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}


def swallow(number: signal.Signals) -> None:
    """What a careless library does."""
    with contextlib.suppress(BaseException):
        signal.raise_signal(number)


@pytest.mark.parametrize("number", EXCEPTIONS)
class TestSignals:
    def test_it_raises_where_it_arrives(self, number: signal.Signals) -> None:
        with pytest.raises(EXCEPTIONS[number]), interruptible():
            signal.raise_signal(number)

    def test_a_swallowed_one_is_raised_at_the_next_step(self, number: signal.Signals) -> None:
        def work() -> None:
            with interruptible() as interrupts:
                progress = Watched(Silent(), interrupts)
                progress.step("first")
                swallow(number)
                progress.step("second")
                pytest.fail("it went on")

        with pytest.raises(EXCEPTIONS[number]):
            work()

    def test_and_at_the_next_item(self, number: signal.Signals) -> None:
        seen = []

        def work() -> None:
            with interruptible() as interrupts:
                for item in Watched(Silent(), interrupts).track(range(5), total=5, unit="images"):
                    seen.append(item)
                    if item == 1:
                        swallow(number)

        with pytest.raises(EXCEPTIONS[number]):
            work()
        assert seen == [0, 1]

    def test_an_error_that_it_was_turned_into_is_replaced(self, number: signal.Signals) -> None:
        def work() -> None:
            with interruptible():
                swallow(number)
                raise ConversionError("the library failed")

        with pytest.raises(EXCEPTIONS[number]):
            work()

    def test_the_handler_comes_back(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        with interruptible():
            assert signal.getsignal(number) != before
            with undisturbed():
                assert signal.getsignal(number) == signal.SIG_IGN
        assert signal.getsignal(number) == before

    def test_it_takes_effect_at_the_end_of_what_is_not_divided(self, number: signal.Signals) -> None:
        done = []

        def work() -> None:
            signal.raise_signal(number)
            done.append("the rest")

        with pytest.raises(EXCEPTIONS[number]), interruptible(), postponed():
            work()
        assert done == ["the rest"]

    def test_a_folder_that_was_just_made_is_removed(
        self, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = tempfile.mkdtemp

        def interrupted(**options: Any) -> str:
            folder = made(**options)
            signal.raise_signal(number)
            return folder

        monkeypatch.setattr(publish.tempfile, "mkdtemp", interrupted)
        with pytest.raises(EXCEPTIONS[number]), interruptible(), publish.staged(tmp_path / "net.bundle"):
            raise AssertionError("the signal was lost")
        assert not list(tmp_path.iterdir())

    def test_an_applications_own_handler_stays(self, number: signal.Signals) -> None:
        def own(number: int, frame: object) -> None:
            pass

        before = signal.signal(number, own)
        try:
            with interruptible(), undisturbed():
                assert signal.getsignal(number) is own
        finally:
            signal.signal(number, before)


def test_errors_without_a_signal_are_as_they_were() -> None:
    with pytest.raises(ConversionError, match="broken"), interruptible():
        raise ConversionError("broken")


def test_other_threads_are_left_alone() -> None:
    seen: list[bool] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with interruptible(), undisturbed():
            seen.append(signal.getsignal(signal.SIGINT) == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_steps_and_items_pass_through() -> None:
    steps: list[str] = []

    class Recorder(Silent):
        def step(self, text: str) -> None:
            steps.append(text)

    watched = Watched(Recorder(), Interrupts())
    watched.step("exporting")
    assert list(watched.track([1, 2, 3], total=3, unit="images")) == [1, 2, 3]
    assert steps == ["exporting"]


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], list[str]]:
    """A conversion that writes half a bundle, says so, and then does what it is told."""

    def make(then: str) -> list[str]:
        text = f"""
            import sys, time
            from pathlib import Path
            from vitedge.converters.interrupts import interruptible
            from vitedge.converters.publish import staged
            with interruptible() as interrupts, staged(Path({str(tmp_path)!r}) / "new.bundle") as partial:
                (partial / "model.onnx").write_bytes(b"half")
                print("started", flush=True)
                {then}
                interrupts.check()
        """
        return [sys.executable, "-c", textwrap.dedent(text)]

    return make


@pytest.mark.parametrize(
    "then", ["time.sleep(60)", "[sys.stdin.read() for _ in range(1)]"], ids=["while it computes", "while it waits"]
)
def test_sigterm_removes_what_was_written(program: Callable[[str], list[str]], tmp_path: Path, then: str) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program(then), text=True, **pipes) as process:  # type: ignore[call-overload]
        started = process.stdout.readline()
        written = list(tmp_path.iterdir())
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        errors = process.stderr.read()
    assert (started, errors) == ("started\n", "")
    assert process.returncode == EXIT_TERMINATED
    assert written
    assert not list(tmp_path.iterdir())
