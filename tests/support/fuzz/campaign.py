"""Start workers, give them cases, and count the outcomes; a case that hangs ends its worker."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

WORKER = Path(__file__).with_name("worker.py")
SECONDS = 10.0
PATIENCE = 6.0
"""No answer in so many times ``SECONDS`` is a hang, however busy the machine is."""
MEGABYTES = 1024
START_SECONDS = 180.0
GOOD = ("refused", "answered")

SHARES: Mapping[str, int] = {
    "manifest.json": 225,
    "golden.npz": 150,
    "IR, XML": 60,
    "IR, weights": 25,
    "ONNX in a bundle": 40,
    "ONNX": 60,
    "safetensors": 110,
    "PyTorch checkpoint": 50,
    ".pt2": 20,
    "timm config.json": 60,
    "Transformers config.json": 50,
    "preprocessor_config.json": 50,
    "--preprocessing": 60,
    "labels": 60,
    "images": 130,
    "videos": 50,
    "what is no file": 50,
}
"""How a number of cases is spread over the formats: those with the most readers of vitedge's own get the most."""


@dataclass
class Tally:
    """What became of the cases of a format.

    Attributes:
        kinds: how many of each kind.
        findings: those that are neither refused nor answered rightly, a line each.
        megabytes: the most that a case took.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    megabytes: int = 0

    @property
    def cases(self) -> int:
        """How many were run."""
        return sum(self.kinds.values())


class WorkerError(Exception):
    """A worker cannot get ready for a format: vitedge refuses its good file, or the worker ended."""


class Worker:
    """A worker process; a new one takes its place where a case ended it.

    Args:
        seed: of all randomness.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._start()

    def _start(self) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
        with (self._scratch / "stderr").open("w") as words:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER), str(self._seed), str(self._scratch)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                cwd=self._scratch,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_forward, args=(self._process.stdout, self._lines), daemon=True).start()

    def prepare(self, name: str) -> None:
        """Get ready for a format.

        Raises:
            WorkerError: that failed.
        """
        if not self._ask([name], START_SECONDS):
            said = (self._scratch / "stderr").read_text(encoding="utf-8", errors="replace")
            raise WorkerError(f"{name}: {said[-2_000:]}")

    def run(self, name: str, case: int, seconds: float) -> dict[str, Any]:
        """The outcome of a case; ``hang`` or ``crash`` where the worker gives none."""
        answer = self._ask([name, case], PATIENCE * seconds)
        if answer:
            (found,) = json.loads(answer)
            slow = {"kind": "slow", "what": f"{found['seconds']:.1f} s"} if found["seconds"] > seconds else {}
            return {**found, **slow}
        if answer is None:
            return {"kind": "hang", "what": f"more than {PATIENCE * seconds:g} s", "megabytes": 0}
        return {"kind": "crash", "what": f"the process ended with {self._process.wait()}", "megabytes": 0}

    def _ask(self, question: list[Any], seconds: float) -> str | None:
        """The answer; empty where the process has ended, None where it takes too long."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return None

    def keep(self, path: Path) -> None:
        """Copy the mutated file of the case that was run last."""
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._scratch / "current", path)

    def restart(self) -> None:
        """End the process, whatever it does, and start another one."""
        self.close()
        self._start()

    def close(self) -> None:
        """End the process and remove its files."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _forward(stream: IO[str], lines: queue.Queue[str]) -> None:
    with contextlib.suppress(ValueError):  # closed meanwhile
        for line in stream:
            lines.put(line.strip())
    lines.put("")


def fuzz(worker: Worker, name: str, cases: int, kept: Path | None = None, *, seconds: float = SECONDS) -> Tally:
    """Run the cases of a format.

    Args:
        worker: runs them.
        name: of the format.
        cases: how many.
        kept: folder for the mutated files of findings; None to keep none.
        seconds: of time and of processor time both, after which a case is too slow.
    """
    tally = Tally()
    worker.prepare(name)
    for case in range(cases):
        outcome = worker.run(name, case, seconds)
        too_much = outcome["kind"] in GOOD and outcome["megabytes"] > MEGABYTES
        kind = "memory" if too_much else outcome["kind"]
        tally.kinds[kind] += 1
        tally.megabytes = max(tally.megabytes, outcome["megabytes"])
        if kind in GOOD:
            continue
        tally.findings.append(f"{name}, case {case}: {kind}: {outcome['what']} ({outcome['megabytes']} MB)")
        if kept is not None:
            worker.keep(kept / f"{_plain(name)}-{case}")
        if kind in ("hang", "crash"):
            worker.restart()
            worker.prepare(name)
    return tally


def _plain(name: str) -> str:
    return "".join(each if each.isalnum() else "_" for each in name)


def shares(cases: int) -> dict[str, int]:
    """How many cases each format gets of so many; at least one."""
    whole = sum(SHARES.values())
    return {name: max(1, round(cases * share / whole)) for name, share in SHARES.items()}


def campaign(cases: int, seed: int, kept: Path | None = None, *, workers: int = 2) -> Iterator[tuple[str, Tally]]:
    """Run cases of all formats, a few workers at a time; each format's tally, in order."""

    def alone(name: str, count: int) -> Tally:
        with Worker(seed) as worker:
            return fuzz(worker, name, count, kept)

    with ThreadPoolExecutor(workers) as pool:
        running = {name: pool.submit(alone, name, count) for name, count in shares(cases).items()}
        for name, each in running.items():
            yield name, each.result()
