"""Fixtures that all rooms share."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import platform
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vitedge.bundle.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent
REQUIRE_ALL = os.environ.get("VITEDGE_REQUIRE_ALL") == "1"
PATIENCE = float(os.environ.get("VITEDGE_PATIENCE", "1"))
"""What the time limits of tests are multiplied by, for machines that are emulated."""
X86_64_ONLY = ("tensorrt", "cuda", "make references", "chromium", "xvfb")
"""What the reason of a skip names where nothing is published for other processors, or not every version of it, or where
an emulated one is too slow for it."""
MACHINE_MAY_REFUSE = (
    "not root with writable control groups",
    "not root with a mount namespace",
    "needs two processors",
    "no v4l2loopback device of this kernel",
    "this CPU ",
)
"""What the reason of a skip names where a processor, a container or an ordinary user cannot do what the test needs."""
OTHER_ENVIRONMENT = ("optimum-intel",)
"""What the reason of a skip names where a package demands another version of Transformers than the project's."""
sys.path.insert(0, str(ROOT / "tests" / "support"))
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # no test reports usage


def pytest_configure() -> None:
    """Refuse to test another copy of vitedge than this tree; undo what a shell does to jobs in the background.

    Hypothesis measures no time: a busy or emulated machine is slow.
    """
    with contextlib.suppress(ImportError):
        from hypothesis import HealthCheck, settings

        settings.register_profile("vitedge", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("vitedge")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # tests and their children count on Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for package, folder in (("vitedge", ROOT / "vitedge"), ("vitedge.runtime", ROOT / "runtime")):
        try:
            found = importlib.util.find_spec(package)
        except ImportError:
            found = None
        if found is None or found.origin is None or Path(found.origin).resolve().parent != folder:
            raise pytest.UsageError(
                f"{package} is imported from {found.origin if found else 'nowhere'}, not from {folder}: "
                'a wheel shadows this tree. fix: pip uninstall vitedge; pip install -e ".[dev]"'
            )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give a test that has a time limit of its own ``PATIENCE`` times as long."""
    limit = item.get_closest_marker("timeout")
    if limit is not None and PATIENCE != 1:
        item.add_marker(pytest.mark.timeout(limit.args[0] * PATIENCE), append=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the slow files to the front: one that begins last keeps a single worker busy at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Spare the garbage collector the suite's modules: every rewrite calls it, and with them it takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With VITEDGE_REQUIRE_ALL=1, as in CI, a skipped test has failed unless it is marked ``gpu``, or can only skip."""
    report = yield
    if REQUIRE_ALL and item.get_closest_marker("gpu") is None:
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself as a whole."""
    report = yield
    if REQUIRE_ALL:
        _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if platform.machine() != "x86_64" and any(name in reason for name in X86_64_ONLY):
            return
        if any(name in reason for name in (*MACHINE_MAY_REFUSE, *OTHER_ENVIRONMENT)):
            return
        report.outcome = "failed"
        report.longrepr = f"VITEDGE_REQUIRE_ALL=1 and this was skipped: {reason}"


def find_shared_data() -> Path | None:
    """The folder of trained models, photos and clips, or None where it is absent."""
    named = os.environ.get("VITEDGE_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if (folder / "models").is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Trained models, photos and clips outside the repository."""
    folder = find_shared_data()
    if folder is None:
        pytest.skip("no test data: put it at ../shared/data, or name its folder in VITEDGE_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-test results of one test must not spare another test its self-test."""
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Bundle]:
    """``make_bundle(path, **changes)`` writes a small real bundle; ``tests/support/bundles.py`` lists the changes."""
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    import bundles

    return bundles.make_bundle


@pytest.fixture(scope="session")
def tiny_bundle(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An fp32 bundle whose labels are ``red``, ``green`` and ``blue``, for 32×32 frames; do not write into it."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny.bundle")


@pytest.fixture(scope="session")
def colour_frame() -> Callable[..., NDArray[np.uint8]]:
    """``colour_frame("red", height=32, width=32, order="BGR", seed=0)``: a noisy frame in which it dominates."""
    import bundles

    return bundles.colour_frame


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    """``pyproject.toml``."""
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    found: dict[str, Any] = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found
