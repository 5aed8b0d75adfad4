"""The process that runs cases: ``python worker.py SEED SCRATCH``.

It reads JSON from standard input, a line each: ``[FORMAT]`` to get ready for a format, ``[FORMAT, CASE]`` to run one.
It answers each with a line of JSON. Code that a file brings would create a marker file. An audit hook sees programs and
connections. Memory is the peak of the resident set over its value before the case, of this process and of the children
that it waited for.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, TextIO

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # in the place of this folder

from fuzz.mutations import any_bytes  # noqa: E402
from fuzz.subjects import SUBJECTS, Subject, WrongAnswerError, printable  # noqa: E402
from vitedge.errors import VitedgeError  # noqa: E402

EVENTS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
)
MOST_DATA = 6 << 30
KEPT = 500
LEARNED = 0.25


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: its number.
        kind: ``refused`` by a VitedgeError, ``answered`` rightly; or ``raised``, ``wrong``, ``code``, ``connection``.
        what: the error's type and first line, or where another exception was raised.
        megabytes: of memory over the baseline.
        seconds: that it took, or processor time if that is less: a busy machine makes no case slow.
    """

    case: int
    kind: str
    what: str
    megabytes: int
    seconds: float


class Watch:
    """Notes programs that are started and connections that are opened; vitedge's own children are allowed."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS:
            return
        if event == "subprocess.Popen" and _own_child(arguments[1]):
            return
        if event == "os.fork" or (event.startswith("socket") and getattr(arguments[0], "family", None) == 1):
            return
        self.seen.append(f"{event} {arguments!r:.200}")


def _own_child(command: Any) -> bool:
    words = [str(each) for each in command]
    return words[0] == sys.executable and any(each.startswith("vitedge.") for each in words[1:4])


class Corpus:
    """Good files, and mutated ones that were refused at a place where none had been refused before."""

    def __init__(self, seeds: Sequence[bytes]) -> None:
        self._seeds = seeds
        self._learned: list[bytes] = []
        self._places: set[str] = set()

    def choose(self, random: Random) -> bytes:
        """A good file, most often: a file that is refused early hides what comes later."""
        return random.choice(self._learned if self._learned and random.random() < LEARNED else self._seeds)

    def learn(self, content: bytes, place: str) -> None:
        """Keep what was refused at a new place."""
        if place and place not in self._places and len(self._learned) < KEPT:
            self._places.add(place)
            self._learned.append(content)


def peak_megabytes() -> float:
    """Of this process since the peak was last forgotten."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def forget_peak() -> None:
    """Set the peak to what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_megabytes() -> float:
    """What is resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def children_megabytes() -> float:
    """The largest child that was waited for."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def processor_seconds() -> float:
    """Of this process, and of the children that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Runner:
    """Runs cases.

    Args:
        name: of the format.
        seed: of all randomness.
        scratch: folder to make and to work in.
        watch: hears what cases do.
    """

    def __init__(self, name: str, seed: int, scratch: Path, watch: Watch) -> None:
        self._name, self._seed, self._watch = name, seed, watch
        scratch.mkdir()
        self._marker = scratch / "CODE-RAN"
        self._subject: Subject = SUBJECTS[name](scratch, str(self._marker))
        self._corpus = Corpus(self._subject.seeds)
        self._current = scratch.parent / "current"
        self._warm_up()
        self._children = children_megabytes()

    def _warm_up(self) -> None:
        """Import what the first case would, see what children take, and see that the first seed is answered."""
        first, *others = self._subject.seeds
        self._subject.run(first)
        for content in others:
            with contextlib.suppress(Exception):  # those that are meant to be refused count as cases, later
                self._subject.run(content)

    def run(self, case: int) -> Outcome:
        """One case; the same for the same seed and the same cases before it."""
        random = Random(f"{self._seed} {self._name} {case}")
        content = self._mutated(random)
        self._current.write_bytes(content)
        self._watch.seen.clear()
        forget_peak()
        before = resident_megabytes()
        begun = time.monotonic(), processor_seconds()
        kind, what, place = self._attempt(content)
        seconds = min(time.monotonic() - begun[0], processor_seconds() - begun[1])
        self._corpus.learn(content, place)
        own = max(0.0, peak_megabytes() - before)
        children = max(0.0, children_megabytes() - self._children)
        return Outcome(case, *self._judged(kind, what), int(max(own, children)), seconds)

    def _mutated(self, random: Random) -> bytes:
        content = self._corpus.choose(random)
        try:
            return self._subject.mutate(random, content)
        except Exception:  # noqa: BLE001  # a mutation that takes a format apart cannot read what another one has left
            return any_bytes(random, content)

    def _attempt(self, content: bytes) -> tuple[str, str, str]:
        try:
            self._subject.run(content)
        except VitedgeError as error:
            try:
                printable(error)
            except (WrongAnswerError, UnicodeError) as wrong:
                return "wrong", f"{wrong}", ""
            return "refused", f"{type(error).__name__}: {error.problem}"[:200], _place_of(error)
        except WrongAnswerError as error:
            return "wrong", str(error), ""
        except BaseException as error:  # noqa: BLE001  # what must not come is what is looked for
            return "raised", f"{type(error).__name__}: {error} at {_place_of(error)}"[:400], ""
        return "answered", "", ""

    def _judged(self, kind: str, what: str) -> tuple[str, str]:
        if self._marker.exists():
            self._marker.unlink()
            return "code", what
        if self._watch.seen:
            return "connection", "; ".join(self._watch.seen)
        return kind, what


def _place_of(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/fuzz/" not in frame.filename]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))


def serve(seed: int, scratch: Path, asked: TextIO, answers: TextIO) -> None:
    """Answer until nothing more is asked."""
    watch = Watch()
    runners: dict[str, Runner] = {}
    for line in asked:
        name, *cases = json.loads(line)
        if name not in runners:
            runners[name] = Runner(name, seed, scratch / str(len(runners)), watch)
        answer = [asdict(runners[name].run(case)) for case in cases]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve; what libraries print must not get between the answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    scratch = Path(sys.argv[2])
    os.environ["VITEDGE_CACHE"] = str(scratch / "cache")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_DATA, hard))
    serve(int(sys.argv[1]), scratch, sys.stdin, answers)


if __name__ == "__main__":
    main()
