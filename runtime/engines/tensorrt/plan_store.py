"""The folder that holds a plan: ``tensorrt/`` in the bundle or, if the bundle is read-only, in the user's cache.

model.plan     the serialized engine
timing.cache   timings of kernels, which make the next build faster
build.json     what the plan was built from and for, with its hash: ``BuildRecord``

A folder appears whole or not at all. A plan is executable code, and TensorRT does not detect tampering. A plan is
therefore run only if this user built it on this machine: each build is registered in the user's own cache, under the
hash of its record, with the hash of the plan. A bundle that was built elsewhere is built again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vitedge.bundle.bundle import MODEL_FP16_ONNX, MODEL_ONNX, TENSORRT, Bundle, data_of
from vitedge.bundle.folder import BUILDING
from vitedge.bundle.manifest import FileRecord
from vitedge.bundle.targets import TensorrtDevice, target_named
from vitedge.errors import BundleIntegrityError, BundleSchemaError, EngineError, UsageError
from vitedge.progress import Progress
from vitedge.runtime.engines.tensorrt.build_record import BuildRecord, dump_record, parse_record
from vitedge.runtime.engines.tensorrt.fingerprint import Fingerprint, difference
from vitedge.runtime.system import cache
from vitedge.runtime.system.cache import cache_folder, make_private
from vitedge.safety.files import read_bytes, read_text
from vitedge.safety.limits import MANIFEST_BYTES, PLAN_BYTES, TIMINGS_BYTES

MODEL_PLAN = "model.plan"
TIMING_CACHE = "timing.cache"
BUILD_JSON = "build.json"
BUILDS = "tensorrt-builds"
"""Kind of the cache entries that register builds."""
NOTHING_YET = "it has no engine yet"
FOLDER_MODE = 0o755

_PREVIOUS = f"{BUILDING}previous"

_built_in_this_process: dict[str, dict[str, str]] = {}
"""Builds by the key of their record: this process may run its own plans even without a cache."""


@dataclass(frozen=True)
class StoredPlan:
    """A plan on disk.

    Attributes:
        folder: folder that holds it.
        record: contents of ``build.json``.
    """

    folder: Path
    record: BuildRecord

    @property
    def path(self) -> Path:
        """Return the path of the plan."""
        return self.folder / MODEL_PLAN

    @property
    def is_built_here(self) -> bool:
        """Return whether this user built the plan on this machine."""
        return _registered(self.record).get("plan_sha256") == self.record.plan_sha256

    def read(self) -> bytes:
        """Read the plan and check the bytes that are returned against the hash in its record.

        Raises:
            BundleIntegrityError: the plan is missing, truncated or altered.
        """
        fix = "if you did not change it, distrust the copy; build it again from the graph with overwrite=True"
        try:
            content = read_bytes(self.path, limit=PLAN_BYTES)
        except (OSError, ValueError) as error:
            raise BundleIntegrityError(f"{self.path} cannot be read: {error}", fix=fix) from error
        if len(content) != self.record.plan_bytes:
            raise BundleIntegrityError(
                f"{self.path} has {len(content)} bytes", expected=f"{self.record.plan_bytes} bytes", fix=fix
            )
        if hashlib.sha256(content).hexdigest() != self.record.plan_sha256:
            raise BundleIntegrityError(
                f"{self.path} was altered: its SHA-256 differs from {BUILD_JSON}",
                expected=self.record.plan_sha256,
                fix=fix,
            )
        return content

    def timings(self) -> bytes:
        """Read the timing cache; empty unless this user built the plan here, because TensorRT parses it."""
        content = timings_in(self.folder)
        expected = _registered(self.record).get("timings_sha256")
        return content if hashlib.sha256(content).hexdigest() == expected else b""


def timings_in(folder: Path) -> bytes:
    """Read the timing cache of a folder, whoever wrote it; empty if there is none."""
    try:
        return read_bytes(folder / TIMING_CACHE, limit=TIMINGS_BYTES)
    except (OSError, ValueError):
        return b""


def register_build(record: BuildRecord, timings: bytes) -> bool:
    """Register that this user built a plan on this machine.

    Args:
        record: record of the build.
        timings: contents of its timing cache.

    Returns:
        Whether other processes will know of it; this process always does.
    """
    hashes = {"plan_sha256": record.plan_sha256, "timings_sha256": hashlib.sha256(timings).hexdigest()}
    _built_in_this_process[_key(record)] = hashes
    return cache.put(BUILDS, _key(record), hashes)


def _registered(record: BuildRecord) -> dict[str, str]:
    key = _key(record)
    return _built_in_this_process.get(key) or cache.get(BUILDS, key) or {}


def _key(record: BuildRecord) -> str:
    """Return the hex SHA-256 of the whole record, so that no part of it can be altered."""
    return hashlib.sha256(dump_record(record).encode()).hexdigest()


def tensorrt_of(bundle: Bundle) -> TensorrtDevice:
    """Return which TensorRT the bundle's target runs.

    Raises:
        UsageError: the bundle is for another backend.
    """
    target = target_named(bundle.manifest.target)
    if target.tensorrt is None:
        raise UsageError(
            f"{bundle.path} is for the target {target.name}, which TensorRT does not run",
            expected="a bundle that was converted for a Jetson, nvidia-gpu or rtx",
            fix=f"{target.name} needs no build: vitedge run compiles when it loads",
        )
    return target.tensorrt


def graphs_of(bundle: Bundle) -> dict[str, str]:
    """Return the SHA-256 of each graph to build, by name; the graph in the requested precision comes first.

    For a graph beyond 2 GB, whose weights are in a second file, it is the hash of both hashes.
    """
    files = bundle.manifest.files
    return {name: _graph_hash(files, name) for name in (MODEL_ONNX, MODEL_FP16_ONNX) if name in files}


def _graph_hash(files: Mapping[str, FileRecord], name: str) -> str:
    data = files.get(data_of(name))
    if data is None:
        return files[name].sha256
    return hashlib.sha256(f"{files[name].sha256} {data.sha256}".encode()).hexdigest()


def plan_dirs(bundle: Bundle) -> tuple[Path, ...]:
    """Return the folders that may hold the bundle's plan, the bundle's own folder first."""
    inside = bundle.path / TENSORRT
    try:
        cached = cache_folder() / TENSORRT / bundle.digest
    except RuntimeError:
        return (inside,)
    return (inside, cached)


def writable_plan_dir(bundle: Bundle) -> Path:
    """Return the first of the bundle's plan folders that can be written.

    Raises:
        EngineError: none can be written.
    """
    inside, *cached = plan_dirs(bundle)
    if os.access(inside.parent, os.W_OK):
        return inside
    for folder in cached:
        with contextlib.suppress(OSError):
            if os.access(make_private(TENSORRT), os.W_OK):
                return folder
    raise EngineError(
        f"the engine of {bundle.path} can be written nowhere",
        expected="a bundle or a cache folder that can be written",
        fix="set VITEDGE_CACHE to a folder of your own that you may write to",
    )


def stored_plans(bundle: Bundle) -> list[StoredPlan | BundleSchemaError]:
    """Return every plan in the bundle's plan folders, whoever built it; an error for each record that is unreadable."""
    found: list[StoredPlan | BundleSchemaError] = []
    for folder in plan_dirs(bundle):
        path = folder / BUILD_JSON
        try:
            found.append(StoredPlan(folder, parse_record(read_text(path, limit=MANIFEST_BYTES), where=str(path))))
        except BundleSchemaError as error:
            found.append(error)
        except UnicodeDecodeError as error:
            found.append(
                BundleSchemaError(f"{path} is not UTF-8 text: {error}", fix="build it again with overwrite=True")
            )
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            found.append(BundleSchemaError(f"{path} cannot be read: {error}", fix="build it again with overwrite=True"))
    return found


def find_plan(bundle: Bundle, here: Fingerprint) -> StoredPlan | str:
    """Find the plan that this user built for this device; if there is none, return the reason as a phrase."""
    reasons = []
    for found in stored_plans(bundle):
        if isinstance(found, BundleSchemaError):
            reasons.append(found.problem)
            continue
        changed = difference(found.record.fingerprint, here)
        if changed:
            reasons.append(f"its engine was built for something else: {changed}")
        elif not found.is_built_here:
            reasons.append("its engine is not one that this user built on this machine, and is not run")
        else:
            return found
    return reasons[0] if reasons else NOTHING_YET


def known_timings(folder: Path, bundle: Bundle) -> bytes:
    """Read the timing cache of an earlier build in a plan folder; empty unless this user built it here."""
    plans = (found for found in stored_plans(bundle) if isinstance(found, StoredPlan) and found.folder == folder)
    return next((found.timings() for found in plans), b"")


@contextmanager
def build_lock(plan_dir: Path, progress: Progress) -> Iterator[Path]:
    """Lock a plan folder while others wait, and yield a temporary folder beside it, which is removed at the end.

    The lock is on the parent folder, so that no lock file is left behind. On a file system without locks two processes
    may build at once; the last one keeps its plan.
    """
    descriptor = os.open(plan_dir.parent, os.O_RDONLY)
    try:
        if _lock(descriptor, plan_dir, progress):
            _recover(plan_dir)
        work = Path(tempfile.mkdtemp(prefix=BUILDING, dir=plan_dir.parent))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, plan_dir: Path, progress: Progress) -> bool:
    """Lock the descriptor, waiting for it; False if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress.step(f"another process is building {plan_dir}: waiting for it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _recover(plan_dir: Path) -> None:
    """Restore the plan folder that a killed process had moved away, and remove the temporary folders it left."""
    previous = plan_dir.parent / _PREVIOUS
    if previous.is_dir() and not plan_dir.exists():
        previous.rename(plan_dir)
    for left in plan_dir.parent.glob(f"{BUILDING}*"):
        shutil.rmtree(left, ignore_errors=True)


def replace_plan_dir(finished: Path, plan_dir: Path) -> None:
    """Move a finished folder over a plan folder; after an interrupt one of them is there or ``_recover`` finds it."""
    previous = plan_dir.parent / _PREVIOUS
    finished.chmod(FOLDER_MODE)
    replaced = plan_dir.exists()
    if replaced:
        plan_dir.rename(previous)
    try:
        finished.rename(plan_dir)
    except BaseException:
        if replaced:
            previous.rename(plan_dir)
        raise
    shutil.rmtree(previous, ignore_errors=True)
