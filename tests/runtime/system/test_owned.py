"""What is owned is closed once, and works in one process alone."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.errors import EngineError, UsageError
from vitedge.runtime.engines.open import open_engine
from vitedge.runtime.load import load
from vitedge.runtime.system.owned import Owned, close_all

ENGINES = ("openvino", "onnxruntime")

FORKS = """
import os, signal, sys
import numpy as np
import vitedge

bundle, engine, clip = sys.argv[1:]
frame = np.full((48, 64, 3), 90, np.uint8)
main = os.getpid()


def child(act):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        act()
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def refused(act):
    def checked():
        try:
            act()
        except vitedge.VitedgeError as error:
            assert "before this process was forked" in error.problem, error
            assert "in the child" in error.fix and "spawn" in error.fix, error
        else:
            os._exit(4)
    return checked


def load_anew():
    with vitedge.load(bundle, engine=engine) as own:
        os._exit(0 if own.classify(frame).label == expected else 5)


with vitedge.load(bundle, engine=engine) as classifier:
    expected = classifier.classify(frame).label
    prepared = classifier.prepare(frame)
    waiting = classifier.stream(clip)
    with classifier.stream(clip, policy="latest") as running:
        next(running)
        for name, act in {
            "classify": lambda: classifier.classify(frame),
            "logits": lambda: classifier.logits(frame),
            "infer": lambda: classifier.infer(prepared),
            "prepare": lambda: classifier.prepare(frame),
            "workers": classifier.workers,
            "close": classifier.close,
            "engine run": classifier._engine.run,
            "engine close": classifier._engine.close,
            "a stream that runs": lambda: next(running),
            "a stream that waits": lambda: next(waiting),
            "close of a stream that runs": running.close,
            "close of a stream that waits": waiting.close,
            "frames of its source": lambda: next(iter(running.source)),
            "close of its source": running.source.close,
        }.items():
            code = child(refused(act))
            print(name, code)
        print("leaving", child(lambda: None))
        print("loading anew", child(load_anew))
        assert os.getpid() == main
    waiting.close()
    assert classifier.classify(frame).label == expected
print("parent", 0)
"""

POOLS = """
import multiprocessing, sys
import numpy as np
import vitedge

bundle, method, how = sys.argv[1:]
frame = np.full((48, 64, 3), 90, np.uint8)
classifier = None


def load():
    global classifier
    classifier = vitedge.load(bundle)


def work(number):
    try:
        return classifier.classify(frame).label
    except vitedge.VitedgeError as error:
        return error.problem


if __name__ == "__main__":
    if how == "inherited":
        load()
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(set(pool.map(work, range(4))))
        print(classifier.classify(frame).label)
        classifier.close()
    else:
        with multiprocessing.get_context(method).Pool(2, initializer=load) as pool:
            print(set(pool.map(work, range(4))))
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short video."""
    pytest.importorskip("av")
    from clips import write_clip

    return write_clip(tmp_path_factory.mktemp("clips") / "clip.avi", 20)


def run_script(folder: Path, script: str, *arguments: object) -> str:
    path = folder / "script.py"
    path.write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(path), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("engine", ENGINES)
def test_a_forked_child_is_refused_and_ends(tmp_path: Path, tiny_bundle: Bundle, clip: Path, engine: str):
    lines = run_script(tmp_path, FORKS, tiny_bundle.path, engine, clip).splitlines()
    assert len(lines) == 17
    assert [line for line in lines if not line.endswith(" 0")] == []


def test_a_forked_pool_is_refused(tmp_path: Path, tiny_bundle: Bundle):
    refusals, label = run_script(tmp_path, POOLS, tiny_bundle.path, "fork", "inherited").splitlines()
    assert refusals == "{'the classifier was opened before this process was forked'}"
    assert label in tiny_bundle.manifest.model.labels


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_whose_workers_load_works(tmp_path: Path, tiny_bundle: Bundle, method: str):
    (labels,) = run_script(tmp_path, POOLS, tiny_bundle.path, method, "own").splitlines()
    assert "fork" not in labels


def test_what_cannot_be_sent_to_another_process_says_so(tiny_bundle: Bundle):
    import pickle

    with load(tiny_bundle) as classifier, pytest.raises(UsageError, match="cannot be sent") as refused:
        pickle.dumps(classifier.classify)
    assert "load" in refused.value.fix


ABANDONED = """
import atexit, sys, threading

reader = []
atexit.register(lambda: print(reader[0].is_alive()))  # registered first, called last
import vitedge

classifier = vitedge.load(sys.argv[1])
stream = classifier.stream(sys.argv[2], policy="latest")
next(stream)
reader += [thread for thread in threading.enumerate() if thread.name == "vitedge-reader"]
"""


def test_a_program_that_ends_with_a_running_stream_ends_its_threads(tmp_path: Path, tiny_bundle: Bundle, clip: Path):
    """Python would stop them inside a library of C++, which aborts the process."""
    assert run_script(tmp_path, ABANDONED, tiny_bundle.path, clip) == "False\n"


CONSUMED_BY_A_DAEMON = """
import itertools, sys, threading
import vitedge

def consume():
    for _ in classifier.stream(frames(), policy=sys.argv[3]):
        ready.set()

def frames():
    while True:
        yield image

import numpy as np
image = np.zeros((64, 64, 3), dtype=np.uint8)
ready = threading.Event()
classifier = vitedge.load(sys.argv[1])
threading.Thread(target=consume, daemon=True).start()
ready.wait(30)
print("ends")
"""


@pytest.mark.parametrize("policy", ["latest", "every"])
def test_a_program_ends_while_a_daemon_thread_consumes_a_stream(tmp_path: Path, tiny_bundle: Bundle, policy: str):
    assert run_script(tmp_path, CONSUMED_BY_A_DAEMON, tiny_bundle.path, "", policy) == "ends\n"


LEFT_OPEN = """
import asyncio, os, signal, sys, threading, time
import vitedge
from vitedge import FrameIterable

how, bundle = sys.argv[1:]
CAMERA = "test://?fps=200&size=160x120"


def consume_with(act, source=CAMERA, **options):
    with vitedge.load(bundle) as classifier:
        for prediction in classifier.stream(source, **options):
            act(prediction)


def in_the_background(*arguments, **options):
    ready = threading.Event()
    threading.Thread(target=consume_with, args=(lambda _: ready.set(), *arguments), kwargs=options, daemon=True).start()
    assert ready.wait(60)


def raise_key_error(_):
    raise KeyError("of the app")


def blocked():
    import numpy as np
    yield np.zeros((64, 64, 3), np.uint8)
    os.read(os.pipe()[0], 1)


async def consume():
    stream = classifier.stream(CAMERA)
    async for _ in stream:
        break
    globals()["kept"] = stream


if how == "a module variable":
    classifier = vitedge.load(bundle)
    stream = classifier.stream(CAMERA)
    next(stream)
elif how == "a module variable that nobody asked":
    classifier = vitedge.load(bundle)
    stream = classifier.stream(CAMERA)
elif how == "a daemon thread":
    in_the_background()
elif how == "a daemon thread with workers":
    in_the_background(policy="every")
elif how == "a daemon thread that waits":
    in_the_background(FrameIterable(blocked(), live=True))
elif how == "a reader in a system call":
    classifier = vitedge.load(bundle)
    stream = classifier.stream(blocked())
    next(stream)
elif how == "a source that nobody read and that does not close":
    class Source(vitedge.FrameSource):
        name = "a source"

        def __iter__(self):
            return iter(())

        def close(self):
            os.read(os.pipe()[0], 1)

    classifier = vitedge.load(bundle)
    stream = classifier.stream(Source)
elif how == "an event loop":
    classifier = vitedge.load(bundle)
    asyncio.run(consume())
elif how == "an error of the app":
    consume_with(raise_key_error)
elif how == "sys.exit":
    consume_with(lambda _: sys.exit(3))
elif how == "Ctrl-C":
    consume_with(lambda _: os.kill(os.getpid(), signal.SIGINT))
elif how == "sys.exit beside a daemon thread":
    in_the_background()
    sys.exit(5)
print("ends")
"""


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("a module variable", 0),
        ("a module variable that nobody asked", 0),
        ("a daemon thread", 0),
        ("a daemon thread with workers", 0),
        ("a daemon thread that waits", 0),
        ("a reader in a system call", 0),
        ("a source that nobody read and that does not close", 0),
        ("an event loop", 0),
        ("an error of the app", 1),
        ("sys.exit", 3),
        ("Ctrl-C", -2),
        ("sys.exit beside a daemon thread", 5),
    ],
)
def test_a_program_ends_with_the_code_of_the_app(tmp_path: Path, tiny_bundle: Bundle, how: str, code: int):
    script = tmp_path / "script.py"
    script.write_text(LEFT_OPEN, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), how, str(tiny_bundle.path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ("ends\n" if code == 0 else "")
    expected = {1: "KeyError: 'of the app'", -2: "KeyboardInterrupt"}.get(code)
    assert expected in done.stderr if expected else done.stderr == ""


OUTLIVES_ITS_MODULES = """
import sys, time
import vitedge

classifier = vitedge.load(sys.argv[1])
real = time.time
time.time = lambda: real() + 0 * len([classifier])
"""


def test_what_outlives_its_modules_ends_in_silence(tmp_path: Path, tiny_bundle: Bundle):
    assert run_script(tmp_path, f"import os\nos.dup2(1, 2)\n{OUTLIVES_ITS_MODULES}", tiny_bundle.path) == ""


class TestFinalizers:
    @pytest.mark.parametrize("name", ENGINES)
    def test_an_engine_that_nobody_closed_warns(self, tiny_bundle: Bundle, name: str):
        held = [open_engine(tiny_bundle, name)]
        with pytest.warns(ResourceWarning, match="engine was not closed"):
            held.clear()

    def test_a_classifier_that_nobody_closed_warns_once(self, tiny_bundle: Bundle):
        held = [load(tiny_bundle)]
        with pytest.warns(ResourceWarning) as warned:
            held.clear()
        assert [str(each.message) for each in warned] == ["the classifier was not closed"]

    def test_a_stream_that_nobody_started_closes_its_source(self, tiny_bundle: Bundle, clip: Path):
        with load(tiny_bundle) as classifier:
            held = [classifier.stream(str(clip))]
            source = held[0].source
            with pytest.warns(ResourceWarning) as warned:
                held.clear()
        assert source._closed  # type: ignore[attr-defined]
        assert [str(each.message) for each in warned] == ["the stream was not closed"]

    def test_a_stream_that_came_to_its_end_is_silent(self, tiny_bundle: Bundle, clip: Path):
        with load(tiny_bundle) as classifier:
            for _ in classifier.stream(str(clip)):
                pass
            gc.collect()

    def test_what_is_collected_closes_itself(self):
        held = [Held()]
        closed = held[0].closed
        with pytest.warns(ResourceWarning, match="a thing was not closed"):
            held.clear()
        assert closed == ["closed"]


class Held(Owned):
    """Something that is held."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self._acquired("a thing")

    def close(self) -> None:
        self._released()
        self.closed.append("closed")


def test_all_are_closed_and_the_first_error_wins():
    closed: list[str] = []

    def failing(name: str) -> Callable[[], None]:
        def close() -> None:
            closed.append(name)
            raise EngineError(f"{name} does not close")

        return close

    with pytest.raises(EngineError, match="a does not close"):
        close_all([failing("a"), lambda: closed.append("b"), failing("c")])
    assert closed == ["a", "b", "c"]


def test_nothing_to_close_is_no_error():
    close_all([])
    close_all([lambda: np.zeros(1)])
