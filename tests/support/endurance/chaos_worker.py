"""The program that runs seeds: ``python chaos_worker.py FIRST COUNT SECONDS``; a line of JSON for each run.

Each run is a forked process, which ends as programs do. One that takes longer is asked where it is, and killed.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import select
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import IO

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # in the place of this folder

from endurance.chaos import Run, drawn  # noqa: E402

left_open: list[object] = []
"""What is still open when the program ends."""


def main() -> None:
    """Run the seeds."""
    first, count, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    logging.disable()
    warnings.simplefilter("ignore", ResourceWarning)
    for seed in range(first, first + count):
        with tempfile.TemporaryFile("w+") as said:
            result = watch(seed, seconds, said)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


def watch(seed: int, seconds: float, said: IO[str]) -> dict[str, object]:
    """Fork a process for a seed, and return what became of it."""
    begun = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        run(seed, writing, said)  # raises SystemExit: the interpreter ends as that of any program
    os.close(writing)
    problems, killed = answered(child, reading, seconds)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    code = os.waitstatus_to_exitcode(status)
    if killed:
        problems.append(f"it took longer than {seconds:g} s")
    elif code != 0:
        problems.append(f"it ended with {code}")
    said.seek(0)
    text = said.read()
    if problems and text:
        problems.append(text[-4000:])
    return {"seed": seed, "problems": problems, "seconds": round(time.monotonic() - begun, 3)}


def run(seed: int, writing: int, said: IO[str]) -> None:
    """Run a seed in this process, and end it."""
    os.dup2(said.fileno(), 2)
    faulthandler.enable(said)
    faulthandler.register(signal.SIGUSR1, said, all_threads=True)
    chaos = Run(drawn(seed))
    left_open.append(chaos.go())
    signal.setitimer(signal.ITIMER_REAL, 0.0)  # the interpreter takes its handler away before it ends
    os.write(writing, json.dumps(chaos.problems).encode())
    sys.exit(0)


def answered(child: int, reading: int, seconds: float) -> tuple[list[str], bool]:
    """Wait for the answer and the end of a child; return its problems, and whether it had to be killed."""
    deadline, text = time.monotonic() + seconds, b""
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        data = os.read(reading, 65536)
        if not data:  # the child has ended
            return json.loads(text or "[]"), False
        text += data
    os.kill(child, signal.SIGUSR1)
    time.sleep(0.5)
    os.kill(child, signal.SIGKILL)
    return json.loads(text or "[]"), True


if __name__ == "__main__":
    main()
