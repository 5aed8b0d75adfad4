"""Download from the Hugging Face hub the files that a conversion needs, of one commit.

huggingface_hub does the work, with its cache, its tokens (``hf auth login``, ``HF_TOKEN``) and its environment
variables (``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``). It resumes interrupted downloads and keeps complete files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors
from tqdm import tqdm

from vitedge.converters.quiet import quiet
from vitedge.converters.sources.parse import HubRepo
from vitedge.converters.sources.timm.config import CONFIG
from vitedge.converters.sources.transformers.processors import NESTED_PROCESSOR_CONFIG, PROCESSOR_CONFIG
from vitedge.converters.sources.weights.checkpoints import HUB_LAYOUT, WHOLE_FILES, weight_files
from vitedge.errors import CheckpointError, class_and_first_line
from vitedge.progress import Progress
from vitedge.safety.limits import CHECKPOINT_BYTES, JSON_BYTES

TIMEOUT_SECONDS = 5.0
"""Timeout of the first request, which shows whether there is a network."""
SHOWN_DIGITS = 12
MEGABYTE = 1_000_000

Choice = Callable[[Collection[str], HubRepo], tuple[str, ...]]


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository on this machine.

    Attributes:
        folder: folder in the hub's cache; do not write to it.
        revision: commit of the files, 40 hexadecimal digits.
    """

    folder: Path
    revision: str


def download_snapshot(source: HubRepo, progress: Progress, *, choose: Choice | None = None) -> Snapshot:
    """Download the chosen files, by default configuration and weights, unless the cache has them.

    Without a network, a complete copy of the same revision in the cache is used.

    Args:
        source: the repository, and a branch, tag or commit of it.
        progress: told which files are downloaded, and how many bytes have arrived.
        choose: selects files from the repository's files; raises CheckpointError if some are missing.

    Raises:
        CheckpointError: there is neither a network nor a copy, the repository or revision does not exist or this user
            may not read it, or it holds no model. The message says what to do.
    """
    choose = choose or needed_files
    progress.step(f"looking up {source} on the hub")
    try:
        with quiet():
            info = huggingface_hub.HfApi().model_info(
                source.repo, revision=source.revision or None, timeout=TIMEOUT_SECONDS
            )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise _refused(source, error) from error
    except Exception as error:  # errors of the HTTP library, which huggingface_hub has changed before
        cached = _cached(source, choose)
        if cached is None:
            raise _unreachable(source, error) from error
        progress.step(f"the hub cannot be reached: using the copy of commit {cached.revision[:SHOWN_DIGITS]}")
        return cached
    first, *rest = choose({each.rfilename for each in info.siblings or ()}, source)
    progress.step(f"downloading {', '.join((first, *rest))} of commit {str(info.sha)[:SHOWN_DIGITS]}")
    try:
        with quiet():
            folder = _download(source.repo, first, source.revision or None, progress).parent
            for name in rest:
                _download(source.repo, name, folder.name, progress)
    except TooLargeError as error:
        raise CheckpointError(f"{source} is not downloaded: {error}", expected="a checkpoint of a model") from error
    except Exception as error:  # as above
        raise _unreachable(source, error) from error
    return Snapshot(folder, folder.name)


def needed_files(names: Collection[str], source: HubRepo) -> tuple[str, ...]:
    """Select the files that a conversion needs: ``config.json``, the processor's configuration, then the weights.

    Raises:
        CheckpointError: there is no ``config.json``, or there are no weights.
    """
    if CONFIG not in names:
        raise _no_model(source)
    processors = (name for name in (NESTED_PROCESSOR_CONFIG, PROCESSOR_CONFIG) if name in names)
    return (CONFIG, *processors, *only_weights(names, source))


def only_weights(names: Collection[str], source: HubRepo) -> tuple[str, ...]:
    """Select the files of the weights.

    Raises:
        CheckpointError: there are no weights.
    """
    weights = weight_files(names)
    if not weights:
        raise _no_model(source)
    return weights


def _no_model(source: HubRepo) -> CheckpointError:
    return CheckpointError(
        f"{source} holds no model that vitedge reads",
        expected=f"{CONFIG}, and {HUB_LAYOUT}, as timm and Transformers save them",
    )


def _download(repo: str, name: str, revision: str | None, progress: Progress) -> Path:
    """Download a file into the folder of its commit in the hub's cache, and return its path."""
    return Path(
        huggingface_hub.hf_hub_download(
            repo, name, revision=revision, etag_timeout=TIMEOUT_SECONDS, tqdm_class=_bar_for(progress, name)
        )
    )


def _cached(source: HubRepo, choose: Choice) -> Snapshot | None:
    """Return the copy in the cache, if it has all chosen files."""
    found = (
        huggingface_hub.try_to_load_from_cache(source.repo, name, revision=source.revision or None)
        for name in (CONFIG, *WHOLE_FILES)
    )
    folder = next((Path(each).parent for each in found if isinstance(each, str)), None)
    if folder is None:
        return None
    try:
        choose({path.name for path in folder.iterdir()}, source)
    except CheckpointError:
        return None
    return Snapshot(folder, folder.name)


def _refused(source: HubRepo, error: Exception) -> CheckpointError:
    """Translate a refusal by the hub."""
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{source} is gated: its authors ask you to accept their terms first",
            fix=f"accept them on the page of {source.repo}, then hf auth login on this machine, or set HF_TOKEN",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(
            f"{source.repo} has no revision {source.revision!r} on the hub", expected="a branch, a tag or a commit"
        )
    if isinstance(error, errors.HFValidationError):
        return CheckpointError(
            f"{source.repo!r} is not a name of the hub: {class_and_first_line(error)}", expected="OWNER/NAME"
        )
    return CheckpointError(
        f"the hub has no repository {source.repo}, or you may not read it",
        expected="hf:OWNER/NAME",
        fix="check the name; if it is private: hf auth login on this machine, or set HF_TOKEN",
    )


def _unreachable(source: HubRepo, error: Exception) -> CheckpointError:
    offline = isinstance(error, errors.OfflineModeIsEnabled)
    why = "HF_HUB_OFFLINE is set" if offline else class_and_first_line(error.__cause__ or error)
    return CheckpointError(
        f"{source} cannot be downloaded: {why}",
        expected="a network, or a complete copy in the hub's cache",
        fix=f"where there is a network: hf download {source.repo} --local-dir FOLDER; then convert that FOLDER here",
    )


class TooLargeError(Exception):
    """A file of the hub is larger than the limit, or larger than the hub announced."""


def _bar_for(progress: Progress, name: str) -> type[Any]:
    """Return a progress bar class for huggingface_hub, which draws nothing and reports to ``progress``.

    huggingface_hub reports every chunk before it is written; the bar stops the download of a file that is too large.
    """
    most = JSON_BYTES if name.endswith(".json") else CHECKPOINT_BYTES

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self._most = min(most, int(self.total or most))
            if int(self.total or 0) > most:
                raise TooLargeError(f"{name} has {self.total} bytes; the limit is {most}")
            self._meter = Meter(progress, int(self.total or 0))
            self._meter.add(int(options.get("initial") or 0))

        def update(self, n: float | None = 1) -> None:
            self._meter.add(int(n or 0))
            if self._meter.bytes > self._most:
                raise TooLargeError(f"{name} is longer than the {self._most} bytes that were announced or allowed")

        def close(self) -> None:
            super().close()
            if hasattr(self, "_meter"):
                self._meter.close()

    return Bar


class Meter:
    """Counts arriving bytes, and reports megabytes to a ``Progress``.

    Attributes:
        bytes: number of bytes that have arrived.

    Args:
        progress: receives the megabytes.
        total: expected number of bytes; 0 if unknown.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._items: Iterator[int] = iter(())
        if total >= MEGABYTE:
            megabytes = math.ceil(total / MEGABYTE)
            self._items = progress.track(range(megabytes), total=megabytes, unit="MB")
        self.bytes = 0
        self._shown = 0

    def add(self, count: int) -> None:
        """Add to the number of bytes; a negative count takes discarded bytes away."""
        self.bytes += count
        while self._shown <= self.bytes // MEGABYTE and next(self._items, None) is not None:
            self._shown += 1

    def close(self) -> None:
        """Stop reporting."""
        if isinstance(self._items, Generator):
            self._items.close()
