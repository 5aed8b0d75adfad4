"""What ``vitedge run`` says while it runs, and at its end."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.cli import main, tally
from vitedge.cli.tally import NOTES_A_MINUTE, StateNotes, StatusLine, StatusLog, Tally
from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.runtime.stream.states import StateChange
from vitedge.runtime.stream.stats import StreamStats


def prediction(label: str = "red", *, age: float = 1.0, dropped: int = 0, abstained: bool = False) -> Prediction:
    stages = StageTimes(1.0, 2.0, 3.0)
    return Prediction((ClassScore(label, 0, 0.5),), 0, 0.0, age, stages, dropped, abstained=abstained)


class TestTally:
    def test_percentiles_labels_and_drops(self):
        tally = Tally()
        for number in range(101):
            tally.write(prediction("red" if number else "blue", age=float(number), dropped=2))
        lines = tally.summary(("it is dark",)).splitlines()
        assert lines[0].endswith("202 frames dropped")
        assert lines[1].split() == ["age", "p50", "50.00", "ms", "p99", "99.00", "ms"]
        assert lines[3].split()[:3] == ["infer", "p50", "2.00"]
        assert lines[5].split() == ["age", "from", "arrival"]
        assert "red 99.0 %, blue 1.0 %" in lines[6]
        assert lines[7] == "note: it is dark"

    def test_drops_by_cause_and_what_the_source_did(self):
        tally = Tally()
        tally.write(prediction())
        dropped = {"newer": 4, "max_fps": 0, "too_old": 0, "corrupt": 1, "backlog": 0, "at_end": 2}
        stats = StreamStats(8, 1, dropped, 0, corrupt=1, stalls=1, reconnects=2)
        lines = tally.summary(stats=stats).splitlines()
        assert "  dropped      of 8 frames: 4 newer, 1 corrupt, 2 at the end" in lines
        assert "  source       1 stall, 2 reconnects, 1 corrupt frame" in lines

    def test_several_sources_have_a_line_each(self):
        tally = Tally()
        for number in range(3):
            tally.write(dataclasses.replace(prediction(age=10.0 + number), source="door"))
        silent = {"newer": 0, "at_end": 1}
        door, yard = StreamStats(4, 3, silent, 0), StreamStats(0, 0, {"newer": 0}, 0, stalls=1)
        lines = tally.summary(("yard: dark",), StreamStats(4, 3, silent, 0), {"door": door, "yard": yard}).splitlines()
        assert lines[0].startswith("3 predictions")
        assert lines[-3] == "  door         3 predictions, age p50    11.00 ms   p99    11.98 ms, 1 at the end"
        assert lines[-2] == "  yard         0 predictions, 1 stall"
        assert lines[-1] == "note: yard: dark"

    def test_a_rate_is_intervals_over_time(self, monkeypatch: pytest.MonkeyPatch):
        moments = iter((10.0, 10.5, 11.0))
        monkeypatch.setattr("vitedge.cli.tally.time", SimpleNamespace(monotonic=lambda: next(moments)))
        tally = Tally()
        for _ in range(3):
            tally.write(prediction())
        assert tally.summary(()).startswith("3 predictions, 2.0 fps, ")

    def test_one_prediction_has_no_rate(self):
        tally = Tally()
        tally.write(prediction())
        assert tally.summary(()).startswith("1 prediction, 0 frames")

    def test_abstained_predictions_are_counted(self):
        tally = Tally()
        for number in range(4):
            tally.write(prediction(abstained=number == 2))
        assert "  unsure       1 below the threshold, 25.0 %\n" in tally.summary(())

    def test_nothing_came(self):
        assert Tally().summary(()) == "no predictions\n"


class TestStateNotes:
    @staticmethod
    def told(changes: list[StateChange], capsys: pytest.CaptureFixture[str], **options: bool) -> list[str]:
        notes = StateNotes("camera", **{"clears_line": False, **options})
        for change in changes:
            notes(change)
        return capsys.readouterr().err.splitlines()

    def test_an_outage_is_a_line_each_way(self, capsys: pytest.CaptureFixture[str]):
        lost = StateChange("reconnecting", cause="network")
        down = [StateChange("offline", cause="refused", attempt=attempt) for attempt in range(1, 50)]
        changes = [StateChange("connecting"), StateChange("online"), lost, *down, StateChange("online")]
        assert self.told(changes, capsys) == [
            "camera: lost (network), connecting again",
            "camera: offline (refused), trying again",
            "camera: online again",
        ]

    def test_cameras_are_told_apart(self, capsys: pytest.CaptureFixture[str]):
        changes = [StateChange("stalled", source="door"), StateChange("online", source="yard\x1b[2J")]
        changes.append(StateChange("stalled", source="yard\x1b[2J"))
        assert self.told(changes, capsys) == [
            "door: stalled: no frame comes",
            r"yard\x1b[2J: stalled: no frame comes",
        ]

    def test_a_loose_cable_floods_nothing(self, capsys: pytest.CaptureFixture[str]):
        changes = [StateChange("stalled"), StateChange("online")] * 100
        assert len(self.told(changes, capsys)) == NOTES_A_MINUTE

    def test_a_status_line_is_cleared_first(self, capsys: pytest.CaptureFixture[str]):
        assert self.told([StateChange("stalled")], capsys, clears_line=True)[-1].startswith("\033[K")


class TestStatusLine:
    def test_fits_the_terminal(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("COLUMNS", "40")
        screen = io.StringIO()
        StatusLine(screen).write(prediction("a" * 100))
        assert len(screen.getvalue().removeprefix("\r\033[K")) == 39

    def test_a_hostile_label_moves_no_cursor(self):
        screen = io.StringIO()
        StatusLine(screen).write(prediction("\x1b[2J\nred"))
        assert "\\x1b[2J\\nred 50.0 %" in screen.getvalue()
        assert screen.getvalue().count("\033") == 1

    def test_a_terminal_that_has_gone_ends_no_stream(self):
        attempts = []

        class Gone(io.StringIO):
            def write(self, text: str) -> int:
                attempts.append(text)
                raise OSError(5, "Input/output error")

        status = StatusLine(Gone())
        status.write(prediction())
        status.close()
        assert attempts

    def test_says_that_it_is_unsure(self):
        screen = io.StringIO()
        StatusLine(screen).write(prediction(abstained=True))
        assert "frame 0  unsure: red 50.0 %" in screen.getvalue()

    def test_is_not_redrawn_for_every_prediction_and_cleared_at_the_end(self):
        screen = io.StringIO()
        status = StatusLine(screen)
        for _ in range(50):
            status.write(prediction(dropped=1))
        status.close()
        lines = screen.getvalue().split("\r\033[K")
        assert len(lines) < 20
        assert lines[1].startswith("frame 0  red 50.0 %  -  age 1 ms  dropped 1")
        assert lines[-1] == ""


class TestStatusLog:
    def test_tells_the_first_prediction_and_one_every_half_a_minute(self, monkeypatch: pytest.MonkeyPatch):
        now = [1000.0]
        monkeypatch.setattr(tally.time, "monotonic", lambda: now[0])
        log = io.StringIO()
        status = StatusLog(log)
        for _ in range(61):
            status.write(prediction(dropped=1))
            now[0] += 1.0
        status.close()
        told = log.getvalue().splitlines()
        assert [line.rsplit(" ", 1)[1] for line in told] == ["1", "26", "51"]
        assert told[0].startswith("frame 0  red 50.0 %")

    @pytest.mark.parametrize(
        ("source", "options", "told"),
        [
            ("test://?fps=30", [], True),
            ("test://?fps=30", ["--quiet"], False),
            ("test://?fps=30", ["--jsonl", "-"], False),
            ("clip", [], False),
        ],
    )
    def test_is_for_cameras_without_a_terminal_and_without_lines(
        self,
        source: str,
        options: list[str],
        told: bool,
        tiny_bundle: Bundle,
        clip: Path,
        capsys: pytest.CaptureFixture[str],
    ):
        address = str(clip) if source == "clip" else source
        assert main(["run", str(tiny_bundle.path), "--source", address, "--max-frames", "3", *options]) == 0
        assert bool(re.search(r"^frame \d+  ", capsys.readouterr().err, re.MULTILINE)) is told
