"""What ``vitedge run`` tells on standard error: the last prediction, changes of state, and the summary."""

from __future__ import annotations

import math
import shutil
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from vitedge.cli import output
from vitedge.counts import counted
from vitedge.prediction import AgeBasis, Prediction
from vitedge.progress import REPORT_SECONDS
from vitedge.progress_bars import CLEAR_LINE
from vitedge.runtime.outputs.overlay import RateMeter
from vitedge.runtime.stream.states import StateChange, StreamState
from vitedge.runtime.stream.stats import DropCause, StreamStats
from vitedge.safety.escape import terminal, terminal_lines

REDRAW_SECONDS = 0.1
REMEMBERED = 100_000
LABELS_SHOWN = 5
DROPS: dict[DropCause, str] = {"too_old": "too old", "at_end": "at the end"}
NOTES_A_MINUTE = 10


class _Status(ABC):
    """Tells the last prediction from time to time.

    Args:
        stream: what is told is written there; if that fails, the stream of predictions goes on.
        seconds: least time between two.
    """

    def __init__(self, stream: TextIO, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds
        self._rate = RateMeter()
        self._told = -math.inf
        self._dropped = 0

    def write(self, prediction: Prediction) -> None:
        """Tell the prediction, unless another was told just before."""
        rate = self._rate.tick()
        self._dropped += prediction.dropped
        now = time.monotonic()
        if now - self._told < self._seconds:
            return
        self._told = now
        fps = f"{rate:.1f} fps" if rate else "-"
        source = "" if prediction.source is None else f"{prediction.source}  "
        text = terminal(
            f"{source}frame {prediction.frame}  {_named(prediction)} {100 * prediction.score:.1f} %  {fps}  "
            f"age {prediction.age_ms:.0f} ms  dropped {self._dropped}"
        )
        self._tell(text)

    @abstractmethod
    def _tell(self, text: str) -> None:
        """Show the text."""

    def _put(self, text: str) -> None:
        with suppress(OSError):  # a terminal or log that has gone ends no stream
            self._stream.write(text)
            self._stream.flush()


class StatusLine(_Status):
    """The last prediction on one line of a terminal, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream, REDRAW_SECONDS)

    def close(self) -> None:
        """Clear the line."""
        self._tell("")

    def _tell(self, text: str) -> None:
        self._put(f"{CLEAR_LINE}{text[: shutil.get_terminal_size().columns - 1]}")


class StatusLog(_Status):
    """The first prediction, and then one every ``REPORT_SECONDS``, each on a line of its own, as in a service's log."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream, REPORT_SECONDS)

    def close(self) -> None:
        """Leave the lines."""

    def _tell(self, text: str) -> None:
        self._put(f"{text}\n")


def _named(prediction: Prediction) -> str:
    if prediction.abstained:
        return f"unsure: {prediction.label}"
    return " + ".join(prediction.labels) if prediction.accepted else prediction.label


class StateNotes:
    """Writes a line on standard error when a source stops delivering, and one when it delivers again.

    Args:
        name: name of a source that has none, without secrets.
        clears_line: whether a ``StatusLine`` is on the same terminal.
    """

    def __init__(self, name: str, *, clears_line: bool) -> None:
        self._name = name
        self._begin = CLEAR_LINE if clears_line else ""
        self._told: dict[str, StreamState] = {}
        self._times: dict[str, deque[float]] = {}

    def __call__(self, change: StateChange) -> None:
        """Note a change of state."""
        source = self._name if change.source is None else change.source
        text = self._text(change, self._told.get(source))
        if text and self._is_due(source):
            self._told[source] = change.state
            output.inform(f"{self._begin}{terminal(f'{source}: {text}')}\n")

    @staticmethod
    def _text(change: StateChange, told: StreamState | None) -> str:
        cause = "" if change.cause is None else f" ({change.cause})"
        if change.state == told:
            return ""
        if change.state == "online":
            return "online again" if told is not None else ""
        return {
            "stalled": "stalled: no frame comes",
            "reconnecting": f"lost{cause}, connecting again",
            "offline": f"offline{cause}, trying again",
        }.get(change.state, "")

    def _is_due(self, source: str) -> bool:
        """Decide whether to print a line: not if a source had too many in a minute, as with a loose cable."""
        times = self._times.setdefault(source, deque(maxlen=NOTES_A_MINUTE))
        now = time.monotonic()
        if len(times) == NOTES_A_MINUTE and now - times[0] < 60.0:
            return False
        times.append(now)
        return True


class Tally:
    """Counts and times of a stream, for the summary at its end; times are of the last 100 000 predictions."""

    def __init__(self) -> None:
        self._labels: Counter[str] = Counter()
        self._times: deque[tuple[float, ...]] = deque(maxlen=REMEMBERED)
        self._ages: dict[str | None, deque[float]] = {}
        self._bases: Counter[AgeBasis] = Counter()
        self._counts: Counter[str | None] = Counter()
        self._dropped = self._abstained = 0
        self._first = self._last = 0.0

    @property
    def count(self) -> int:
        """Return the number of predictions."""
        return self._counts.total()

    def write(self, prediction: Prediction) -> None:
        """Count the prediction."""
        self._last = time.monotonic()
        if not self._times:
            self._first = self._last
        stages = prediction.stages_ms
        self._times.append((prediction.age_ms, stages.preprocess, stages.infer, stages.postprocess))
        self._ages.setdefault(prediction.source, deque(maxlen=REMEMBERED)).append(prediction.age_ms)
        self._bases[prediction.age_basis] += 1
        self._counts[prediction.source] += 1
        self._labels.update([prediction.label] if prediction.accepted is None else prediction.labels)
        self._abstained += prediction.abstained
        self._dropped += prediction.dropped

    def close(self) -> None:
        """Do nothing: there is nothing to finish."""

    def summary(
        self,
        notices: tuple[str, ...] = (),
        stats: StreamStats | None = None,
        sources: Mapping[str, StreamStats] | None = None,
    ) -> str:
        """Render the lines at the end of a run.

        Args:
            notices: problems that did not end the stream.
            stats: counts of the whole stream.
            sources: counts of each source by its name, in a stream of several.
        """
        lines = [*self._lines(), *(() if stats is None else _stats_lines(stats))]
        lines += [self._source_line(name, each) for name, each in (sources or {}).items()]
        return terminal_lines([*lines, *(f"note: {notice}" for notice in notices)])

    def _lines(self) -> Iterator[str]:
        frames = self.count
        if frames == 0:
            yield "no predictions"
            return
        elapsed = self._last - self._first
        rate = f", {(frames - 1) / elapsed:.1f} fps" if elapsed > 0 else ""
        yield f"{counted(frames, 'prediction')}{rate}, {counted(self._dropped, 'frame')} dropped"
        columns = np.array(self._times).T
        for name, values in zip(("age", "preprocess", "infer", "postprocess"), columns, strict=True):
            yield f"  {name:<12} {_percentiles(values)}"
        yield f"  {'age from':<12} {', '.join(basis for basis, _ in self._bases.most_common())}"
        shares = (f"{label} {100 * count / frames:.1f} %" for label, count in self._labels.most_common(LABELS_SHOWN))
        yield f"  {'labels':<12} {', '.join(shares)}"
        if self._abstained:
            yield f"  {'unsure':<12} {self._abstained} below the threshold, {100 * self._abstained / frames:.1f} %"

    def _source_line(self, name: str, stats: StreamStats) -> str:
        ages = self._ages.get(name)
        age = f", age {_percentiles(np.array(ages))}" if ages else ""
        rest = "".join(f", {text}" for text in (*_drops(stats), *_connection(stats)))
        return f"  {name:<12} {counted(stats.predicted, 'prediction')}{age}{rest}"


def _stats_lines(stats: StreamStats) -> Iterator[str]:
    drops, connection = _drops(stats), _connection(stats)
    if drops:
        yield f"  {'dropped':<12} of {counted(stats.captured, 'frame')}: {', '.join(drops)}"
    if connection:
        yield f"  {'source':<12} {', '.join(connection)}"


def _drops(stats: StreamStats) -> list[str]:
    """Return the drops by cause."""
    return [f"{count} {DROPS.get(cause, cause)}" for cause, count in stats.dropped.items() if count]


def _connection(stats: StreamStats) -> list[str]:
    counts = {
        "stall": stats.stalls,
        "reconnect": stats.reconnects,
        "corrupt frame": stats.corrupt,
        "late frame": stats.late,
        "hanging thread": stats.left_behind,
    }
    return [counted(count, name) for name, count in counts.items() if count]


def _percentiles(values: NDArray[np.float64]) -> str:
    p50, p99 = np.percentile(values, (50, 99))
    return f"p50 {p50:8.2f} ms   p99 {p99:8.2f} ms"
