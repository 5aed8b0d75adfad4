"""``convert`` with a number of threads: all that computes takes it, and graphs do not depend on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import photos
import pytest
import torch
from threadpoolctl import threadpool_info

import vitedge
from vitedge.cli import EXIT_USAGE, main
from vitedge.cli.flags import THREADS_HELP
from vitedge.converters import pipeline
from vitedge.converters.stages import exporting
from vitedge.errors import UsageError
from vitedge.threads import allowed_threads


def allowed() -> tuple[int | None, int, set[int]]:
    """What vitedge's engines and workers, PyTorch, and NumPy may take."""
    blas = {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}
    return allowed_threads(), torch.get_num_threads(), blas


def test_all_libraries_take_it_and_get_theirs_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    before, seen = allowed(), []

    def fail(*_: object) -> None:
        seen.append(allowed())
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "run", fail)
    for threads in (1, None):
        with pytest.raises(ZeroDivisionError):
            vitedge.convert("test_vit", target="cpu", precision="fp32", threads=threads, output=tmp_path / "a.bundle")
    assert seen[0] == (1, 1, {1})
    assert seen[1][0] is None
    assert allowed() == (None, seen[1][1], before[2])


def test_graphs_do_not_depend_on_it(
    monkeypatch: pytest.MonkeyPatch, small_folder: Path, small_export: onnx.ModelProto, tmp_path: Path
) -> None:
    monkeypatch.setattr(exporting, "export", lambda module, input_size: small_export)
    for number in range(6):
        photos.write_photo(tmp_path / "photos" / f"{number}.png", "red", seed=number)
    graphs = [
        vitedge.convert(
            small_folder,
            target="cpu",
            precision="int8",
            calib=tmp_path / "photos",
            threads=threads,
            output=tmp_path / f"{threads}.bundle",
        )
        .file("model.onnx")
        .read_bytes()
        for threads in (1, 3)
    ]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_other_numbers_are_refused_before_any_work(threads: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"(?s)threads is .*1 to 1024"):
        vitedge.convert("test_vit", target="cpu", precision="fp32", threads=threads)
    command = ["convert", "test_vit", "--target", "cpu", "--precision", "fp32"]
    assert main([*command, "--threads", str(threads)]) == EXIT_USAGE
    assert "leave it out to let the engine decide" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["convert", "run", "eval", "bench"])
def test_verbs_explain_it_alike(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", verb]) == 0
    assert f"--threads N {THREADS_HELP}" in " ".join(capsys.readouterr().out.split())
