"""``Watched``: a stream that is consumed in a thread of its own, while the test breaks its camera."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from camera_servers.number_reader import BurntNumberReader
from vitedge.prediction import Prediction
from vitedge.runtime.stream.cameras.streams import Streams
from vitedge.runtime.stream.states import StateChange
from vitedge.runtime.stream.stream import Stream

PATIENCE = 40.0


class Watched:
    """Consumes the stream of a source, or of several by name, until its end; leaving the context stops it.

    Attributes:
        stream: the ``Stream`` or ``Streams``.
        predictions: what came so far.
        changes: states that were reported so far.
        error: what ended the stream.
    """

    def __init__(self, source: Any, reader: BurntNumberReader | None = None, **options: Any) -> None:
        self.changes: list[StateChange] = []
        self.predictions: list[Prediction] = []
        self.error: BaseException | None = None
        kind = Streams if isinstance(source, Mapping) else Stream
        self.stream = kind(reader or BurntNumberReader(), source, on_state=self.changes.append, **options)
        self._thread = threading.Thread(target=self._consume, name="consumer", daemon=True)
        self._thread.start()

    @property
    def states(self) -> list[str]:
        """The states so far, each with its cause."""
        return [f"{each.state}: {each.cause}" if each.cause else each.state for each in self.changes]

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds; fail where it never does, or where the stream ends before."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            seen = f"{len(self.predictions)} predictions, states {self.states}, error {self.error!r}"
            assert time.monotonic() < deadline, f"{what} never came: {seen}"
            assert self._thread.is_alive() or condition(), f"the stream ended before {what}: {seen}"
            time.sleep(0.01)

    def until_predictions(self, count: int, *, epoch: int = 0) -> None:
        """Wait for more predictions of a connection or a later one."""
        begin = len(self.predictions)
        self.until(
            lambda: sum(each.epoch >= epoch for each in self.predictions[begin:]) >= count,
            f"{count} predictions of connection {epoch}",
        )

    def until_state(self, state: str, *, after: int = 0) -> None:
        """Wait for a state among the changes after some."""
        self.until(lambda: any(each.state == state for each in self.changes[after:]), f"the state {state}")

    def until_end(self) -> None:
        """Wait until the stream has ended, and has told so."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), f"the stream goes on: states {self.states}"
        deadline = time.monotonic() + PATIENCE
        while not any(each.state == "ended" for each in self.changes):
            assert time.monotonic() < deadline, f"the stream does not tell that it has ended: states {self.states}"
            time.sleep(0.01)

    def _consume(self) -> None:
        try:
            for prediction in self.stream:
                self.predictions.append(prediction)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def __enter__(self) -> Watched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.stop()
        self.until_end()
        self.stream.close()
