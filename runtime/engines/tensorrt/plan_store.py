"""Where plans are kept: ``tensorrt/`` in the bundle, or, where that cannot be written, the user's cache.

model.plan     the engine
timing.cache   what was timed for it; makes the next build faster
build.json     what it was built of and for, with its hash: ``records.BuildRecord``

A folder appears whole or not at all. Plans are executable, and TensorRT does not tell one that was tampered with, so a
plan is run only if this user built it here: the build is remembered in the user's own cache, by the hash of its record,
with the hash of the plan. A bundle that was built elsewhere is built again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vitedge.bundle.bundle import MODEL_FP16_ONNX, MODEL_ONNX, TENSORRT, Bundle
from vitedge.bundle.folder import BUILDING
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
"""Kind of the cache in which builds are remembered."""
NOTHING_YET = "it has no engine yet"
READABLE = 0o755

_PREVIOUS = f"{BUILDING}previous"

_built_here: dict[str, dict[str, str]] = {}
"""What this process built, by the key of its record: it may run it even where there is no cache."""


@dataclass(frozen=True)
class Stored:
    """A plan on disk.

    Attributes:
        folder: where it lies.
        record: its ``build.json``.
    """

    folder: Path
    record: BuildRecord

    @property
    def path(self) -> Path:
        """The plan."""
        return self.folder / MODEL_PLAN

    @property
    def is_remembered(self) -> bool:
        """Whether this user built it, on this machine."""
        return _remembered(self.record).get("plan_sha256") == self.record.plan_sha256

    def read(self) -> bytes:
        """The plan, checked; what is returned is what was hashed.

        Raises:
            BundleIntegrityError: it is missing, cut off or altered.
        """
        fix = "if you did not do that, distrust the copy; vitedge build --force builds it anew from the graph"
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
        """What was timed for it; nothing where this user did not build it here, as TensorRT parses that too."""
        content = timings_in(self.folder)
        expected = _remembered(self.record).get("timings_sha256")
        return content if hashlib.sha256(content).hexdigest() == expected else b""


def timings_in(folder: Path) -> bytes:
    """The timing cache of a folder, whoever wrote it; empty where there is none."""
    try:
        return read_bytes(folder / TIMING_CACHE, limit=TIMINGS_BYTES)
    except (OSError, ValueError):
        return b""


def remember_build(record: BuildRecord, timings: bytes) -> bool:
    """Remember that this user built a plan here.

    Args:
        record: of the build.
        timings: its timing cache.

    Returns:
        Whether other processes will know; this one does.
    """
    known = {"plan_sha256": record.plan_sha256, "timings_sha256": hashlib.sha256(timings).hexdigest()}
    _built_here[_key(record)] = known
    return cache.put(BUILDS, _key(record), known)


def _remembered(record: BuildRecord) -> dict[str, str]:
    key = _key(record)
    return _built_here.get(key) or cache.get(BUILDS, key) or {}


def _key(record: BuildRecord) -> str:
    """Hex SHA-256 over all that is said of a build: none of it can be altered."""
    return hashlib.sha256(dump_record(record).encode()).hexdigest()


def tensorrt_of(bundle: Bundle) -> TensorrtDevice:
    """What the bundle's target needs of TensorRT.

    Raises:
        UsageError: it is for another backend.
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
    """SHA-256 of each graph that is built, by its name; that which was asked for comes first."""
    files = bundle.manifest.files
    return {name: files[name].sha256 for name in (MODEL_ONNX, MODEL_FP16_ONNX) if name in files}


def places(bundle: Bundle) -> tuple[Path, ...]:
    """The folders that may hold its plan, the bundle's own first."""
    inside = bundle.path / TENSORRT
    try:
        cached = cache_folder() / TENSORRT / bundle.digest
    except RuntimeError:
        return (inside,)
    return (inside, cached)


def place_to_write(bundle: Bundle) -> Path:
    """The first of its places that takes files.

    Raises:
        EngineError: none does.
    """
    inside, *cached = places(bundle)
    if os.access(inside.parent, os.W_OK):
        return inside
    for place in cached:
        with contextlib.suppress(OSError):
            if os.access(make_private(TENSORRT), os.W_OK):
                return place
    raise EngineError(
        f"the engine of {bundle.path} can be written nowhere",
        expected="a bundle or a cache folder that takes files",
        fix="set VITEDGE_CACHE to a folder of your own that you may write to",
    )


def stored_plans(bundle: Bundle) -> list[Stored | BundleSchemaError]:
    """What lies in its places, whoever built it for whatever; an error for a record that cannot be read."""
    found: list[Stored | BundleSchemaError] = []
    for place in places(bundle):
        path = place / BUILD_JSON
        try:
            found.append(Stored(place, parse_record(read_text(path, limit=MANIFEST_BYTES), where=str(path))))
        except BundleSchemaError as error:
            found.append(error)
        except UnicodeDecodeError as error:
            found.append(BundleSchemaError(f"{path} is not UTF-8 text: {error}", fix="vitedge build --force"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            found.append(BundleSchemaError(f"{path} cannot be read: {error}", fix="vitedge build --force"))
    return found


def find_plan(bundle: Bundle, here: Fingerprint) -> Stored | str:
    """The plan of the bundle that this user built for this device; or why there is none, as a phrase."""
    reasons = []
    for found in stored_plans(bundle):
        if isinstance(found, BundleSchemaError):
            reasons.append(found.problem)
            continue
        changed = difference(found.record.fingerprint, here)
        if changed:
            reasons.append(f"its engine was built for something else: {changed}")
        elif not found.is_remembered:
            reasons.append("its engine is not one that this user built on this machine, and is not run")
        else:
            return found
    return reasons[0] if reasons else NOTHING_YET


def known_timings(place: Path, bundle: Bundle) -> bytes:
    """What earlier builds of a bundle in that place timed; nothing if this user did not build them here."""
    plans = (found for found in stored_plans(bundle) if isinstance(found, Stored) and found.folder == place)
    return next((found.timings() for found in plans), b"")


@contextmanager
def building(place: Path, progress: Progress) -> Iterator[Path]:
    """Have the place to oneself, while others wait; a folder beside it to work in, which is removed at the end.

    The lock is on the folder that holds the place, so that nothing is left in it. Where the file system has no locks,
    two may build at once, and the last keeps its plan.
    """
    descriptor = os.open(place.parent, os.O_RDONLY)
    try:
        if _lock(descriptor, place, progress):
            _recover(place)
        work = Path(tempfile.mkdtemp(prefix=BUILDING, dir=place.parent))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, place: Path, progress: Progress) -> bool:
    """Whether the file system has locks; then this process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress.step(f"another process is building {place}: waiting for it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _recover(place: Path) -> None:
    """Put back what a process that was killed while it published had moved away; remove what killed ones left."""
    previous = place.parent / _PREVIOUS
    if previous.is_dir() and not place.exists():
        previous.rename(place)
    for left in place.parent.glob(f"{BUILDING}*"):
        shutil.rmtree(left, ignore_errors=True)


def publish(whole: Path, place: Path) -> None:
    """Put a folder in the place of another one; whatever happens, one of the two is there, or ``_recover`` finds it."""
    previous = place.parent / _PREVIOUS
    whole.chmod(READABLE)
    replaced = place.exists()
    if replaced:
        place.rename(previous)
    try:
        whole.rename(place)
    except BaseException:
        if replaced:
            previous.rename(place)
        raise
    shutil.rmtree(previous, ignore_errors=True)
