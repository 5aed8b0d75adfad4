"""Predictions reach every output, and every output is closed on every way out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vitedge.errors import VitedgeError
from vitedge.prediction import Prediction
from vitedge.runtime.outputs.base import ViewerClosed, deliver
from vitedge.runtime.outputs.callback import Callback

pytest.importorskip("av")
pytest.importorskip("PIL.Image")

from predictions import RecordingOutput, prediction


class TestDeliver:
    def test_every_output_gets_every_prediction_and_is_closed(self):
        first, second = RecordingOutput(), RecordingOutput()
        deliver([prediction(number) for number in range(3)], [first, second])
        assert first.frames == second.frames == [0, 1, 2]
        assert (first.closed, second.closed) == (1, 1)

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_an_error_of_a_output_closes_all_and_the_stream(self, error: type[BaseException]):
        left: list[str] = []

        def predictions() -> Iterator[Prediction]:
            try:
                yield from (prediction(number) for number in range(9))
            finally:
                left.append("closed")

        before, failing, after = RecordingOutput(), RecordingOutput(fails_at=2, error=error), RecordingOutput()
        held = predictions()
        with pytest.raises(error):
            deliver(held, [before, failing, after])
        assert (before.frames, after.frames) == ([0, 1, 2], [0, 1])
        assert (before.closed, failing.closed, after.closed) == (1, 1, 1)
        assert left == ["closed"]

    def test_an_error_of_the_stream_closes_all(self):
        def predictions() -> Iterator[Prediction]:
            yield prediction(0)
            raise OSError("unplugged")

        output = RecordingOutput()
        with pytest.raises(OSError, match="unplugged"):
            deliver(predictions(), [output])
        assert (output.frames, output.closed) == ([0], 1)

    def test_a_closed_viewer_is_a_normal_end(self):
        output = RecordingOutput()
        deliver([prediction(0), prediction(1)], [RecordingOutput(fails_at=1, error=ViewerClosed), output])
        assert (output.frames, output.closed) == ([0], 1)

    def test_one_output_that_cannot_finish_does_not_keep_the_others_open(self):
        class Broken(RecordingOutput):
            def close(self) -> None:
                raise VitedgeError("disk full")

        first, last = RecordingOutput(), RecordingOutput()
        with pytest.raises(VitedgeError, match="disk full"):
            deliver([prediction(0)], [first, Broken(), last])
        assert (first.closed, last.closed) == (1, 1)

    def test_callback(self):
        frames: list[int] = []
        deliver([prediction(4)], [Callback(lambda each: frames.append(each.frame))])
        assert frames == [4]
