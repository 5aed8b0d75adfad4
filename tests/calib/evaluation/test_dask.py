"""A real Dask cluster of processes: the same predictions as on one machine, even when a worker is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

distributed = pytest.importorskip("distributed")
pytest.importorskip("PIL")

import photos  # noqa: E402

from vitedge.bundle.bundle import Bundle  # noqa: E402
from vitedge.calib.data.image_folder import ImageFolder  # noqa: E402
from vitedge.calib.data.video import VideoFrames  # noqa: E402
from vitedge.calib.evaluation import dask as cluster  # noqa: E402
from vitedge.calib.evaluation import predictions  # noqa: E402
from vitedge.calib.evaluation.accuracy import collect_predictions, predict  # noqa: E402
from vitedge.calib.evaluation.dask import BundleLocation, RemoteModel, cluster_predictor  # noqa: E402
from vitedge.calib.evaluation.predictions import Predictions  # noqa: E402
from vitedge.errors import BundleError, CalibrationError, UsageError  # noqa: E402
from vitedge.progress import Silent  # noqa: E402
from vitedge.runtime.load import load  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    """Two workers, a process each."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", host="127.0.0.1"
    ) as running:
        yield running


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """A scheduler without workers, a process of its own."""
    described = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen([*command, "--no-dashboard", "--scheduler-file", str(described)]) as running:
        try:
            yield scheduler_address(described, running)
        finally:
            running.kill()


def scheduler_address(described: Path, running: subprocess.Popen[bytes]) -> str:
    """Wait for the file in which a scheduler writes its address."""
    while True:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return str(json.loads(described.read_text())["address"])
        assert running.poll() is None, "the scheduler has ended"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    folder = photos.write_photos(tmp_path_factory.mktemp("photos") / "colours", each=20)
    (folder / "red" / "broken.png").write_bytes(b"no image")
    return ImageFolder.open(folder)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "BATCH_IMAGES", 4)


def here(bundle: Bundle, images: ImageFolder) -> tuple[Predictions, ...]:
    with load(bundle) as one, load(bundle) as other:
        return predict([one, other], images)


def spread(address: str, bundle: Bundle, images: ImageFolder, progress: Any = Silent()) -> tuple[Predictions, ...]:  # noqa: B008
    models = [RemoteModel.of(bundle)] * 2
    return collect_predictions(models, images, cluster_predictor(address, [bundle, bundle], images), progress)


def assert_same(ours: tuple[Predictions, ...], theirs: tuple[Predictions, ...]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for name in ("indices", "scores", "divergences"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.files, one.skipped, one.sha256) == (other.files, other.skipped, other.sha256)


class Killer(Silent):
    """Kills a worker after some results have arrived."""

    def __init__(self, local: Any) -> None:
        self.local = local
        self.killed: int | None = None

    def track(self, items: Any, *, total: int, unit: str) -> Iterator[Any]:
        for done, item in enumerate(items):
            if done == 8:
                self.killed = next(iter(self.local.workers.values())).pid
                os.kill(self.killed, signal.SIGKILL)
            yield item


def test_a_cluster_predicts_as_one_machine_even_when_a_worker_is_killed(
    local: Any, tiny_bundle: Bundle, images: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "IN_FLIGHT", 6)  # so that there is work for the others when one dies
    expected = here(tiny_bundle, images)
    assert (len(expected[0]), expected[0].skipped) == (60, ("red/broken.png",))
    assert_same(spread(local.scheduler_address, tiny_bundle, images), expected)
    killer = Killer(local)
    assert_same(spread(local.scheduler_address, tiny_bundle, images, killer), expected)
    assert killer.killed is not None


def test_what_a_worker_does_not_find_is_one_clear_error(
    local: Any, tiny_bundle: Bundle, images: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos.write_photos(tmp_path / "some")
    gone = ImageFolder.open(folder)
    gone.files[1].path.unlink()
    with pytest.raises(CalibrationError, match=r"the worker on .* has no .*png"):
        spread(local.scheduler_address, tiny_bundle, gone)
    monkeypatch.setattr(BundleLocation, "of", lambda bundle: BundleLocation(str(bundle.path), "0" * 64))
    with pytest.raises(BundleError, match="is another bundle") as caught:
        spread(local.scheduler_address, tiny_bundle, images)
    assert "same bundle at the same path" in caught.value.expected


def test_no_scheduler(tiny_bundle: Bundle, images: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    for address in ("tcp://127.0.0.1:1", "no address"):
        with pytest.raises(UsageError, match="no scheduler answers at"):
            spread(address, tiny_bundle, images)


def test_no_workers(scheduler: str, tiny_bundle: Bundle, images: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 1)
    with pytest.raises(UsageError, match="has no workers"):
        spread(scheduler, tiny_bundle, images)


def test_a_video_stays_here(tmp_path: Path, tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="is a video"):
        cluster_predictor("tcp://127.0.0.1:1", [tiny_bundle], VideoFrames(tmp_path / "clip.mp4", ()))


class TestTheModelsOfAWorker:
    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
        """What a worker has loaded."""
        opened: list[Any] = []

        def remembered(*arguments: Any, **options: Any) -> Any:
            opened.append(load(*arguments, **options))
            return opened[-1]

        monkeypatch.setattr(cluster, "load", remembered)
        cluster._opened.cache_clear()
        yield opened
        cluster._opened.cache_clear()

    def test_are_closed_if_one_does_not_open(self, tiny_bundle: Bundle, tmp_path: Path, opened: list[Any]) -> None:
        good = BundleLocation.of(tiny_bundle)
        with pytest.raises(BundleError):
            cluster._worker_pool((good, BundleLocation(str(tmp_path / "none"), "0")), None)
        assert [each._engine for each in opened] == [None]

    def test_are_closed_when_nobody_uses_them_any_more(self, tiny_bundle: Bundle, opened: list[Any]) -> None:
        good = BundleLocation.of(tiny_bundle)
        used = cluster._worker_pool((good,), None)
        cluster._worker_pool((good, good), None)
        assert opened[0]._engine is not None
        del used
        assert [each._engine is None for each in opened] == [True, False, False]
