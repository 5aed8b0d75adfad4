"""Lines of JSON can be read back, and what cannot be written is one clear error."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import pytest

from vitedge.errors import OutputError, UsageError
from vitedge.prediction import ClassScore
from vitedge.runtime.outputs.base import deliver
from vitedge.runtime.outputs.jsonl import JsonLines

pytest.importorskip("av")
pytest.importorskip("PIL.Image")

from predictions import prediction


class TestJsonLines:
    def test_a_hostile_name_is_one_line_of_strict_json(self, tmp_path: Path):
        hostile = dataclasses.replace(
            prediction(0), topk=(ClassScore("\x1b[2J\n\u2028{", 0, float("nan")),), file="photo\udcff.png"
        )
        deliver([hostile], [JsonLines(tmp_path / "out.jsonl")])
        (line,) = (tmp_path / "out.jsonl").read_text(encoding="ascii").splitlines()
        read = json.loads(line, parse_constant=pytest.fail)
        assert (read["label"], read["score"], read["file"]) == ("\x1b[2J\n\u2028{", None, r"photo\udcff.png")

    def test_a_line_for_each_prediction(self, tmp_path: Path):
        path = tmp_path / "out.jsonl"
        deliver([prediction(0), prediction(1)], [JsonLines(path)])
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert lines == [prediction(0).to_json(), prediction(1).to_json()]
        assert lines[0]["topk"][1]["label"] == "Gänseblümchen"

    def test_lines_are_there_at_once(self, tmp_path: Path):
        output = JsonLines(tmp_path / "out.jsonl")
        output.write(prediction(0))
        assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").endswith("}\n")
        output.close()
        output.close()

    def test_a_stream_stays_open(self):
        stream = io.StringIO()
        deliver([prediction(0)], [JsonLines(stream)])
        assert json.loads(stream.getvalue())["frame"] == 0

    def test_no_prediction_makes_no_file(self, tmp_path: Path):
        deliver([], [JsonLines(tmp_path / "out.jsonl")])
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_file_is_refused_and_kept(self, tmp_path: Path):
        path = tmp_path / "out.jsonl"
        path.write_text("kept")
        with pytest.raises(UsageError, match="exists"):
            JsonLines(path)
        assert path.read_text() == "kept"

    def test_nobody_is_told_to_remove_a_device(self):
        with pytest.raises(UsageError, match="/dev/null exists") as raised:
            JsonLines("/dev/null")
        assert "remove" not in (raised.value.fix or "")

    def test_a_file_that_appeared_meanwhile_is_kept(self, tmp_path: Path):
        path = tmp_path / "out.jsonl"
        output = JsonLines(path)
        path.write_text("kept")
        with pytest.raises(UsageError, match="cannot be written"):
            output.write(prediction(0))
        assert path.read_text() == "kept"

    def test_a_missing_folder_is_an_error(self, tmp_path: Path):
        with pytest.raises(UsageError, match="is not a folder") as raised:
            JsonLines(tmp_path / "no" / "out.jsonl")
        assert raised.value.fix.startswith("mkdir")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
    def test_a_full_disk_is_an_error(self):
        with Path("/dev/full").open("w") as full:
            with pytest.raises(OutputError, match="No space left"):
                JsonLines(full).write(prediction(0))
            os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())

    def test_a_reader_that_left_is_a_broken_pipe(self):
        reading, writing = os.pipe()
        os.close(reading)
        stream = os.fdopen(writing, "w")
        with pytest.raises(BrokenPipeError):
            JsonLines(stream).write(prediction(0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.close()
