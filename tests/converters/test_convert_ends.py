"""Nothing is left wherever the road ends early."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vitedge
from vitedge.errors import ConversionError

pytestmark = pytest.mark.slow

STAGES = (
    "stages.loading.load_timm_folder",
    "stages.datasets.ImageFolder.load",
    "stages.exporting.export",
    "stages.exporting.apply_rewrites",
    "stages.exporting.module_logits",
    "openvino.backend.check_operators",
    "backends.quantize",
    "openvino.backend.write_ir",
    "stages.writing.graph_logits",
    "stages.writing.Golden.write",
    "openvino.backend.open_engine",
    "stages.verifying.judge",
    "stages.verifying.evaluate",
    "pipeline.publish",
)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ConversionError),
    ],
    ids=["ctrl-c", "full disk"],
)
def test_a_road_that_ends_early_leaves_nothing(
    stage: str,
    error: BaseException,
    raised: type[BaseException],
    quick: None,
    small_folder: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = []

    def end(*arguments: object, **options: object) -> None:
        reached.append(stage)
        raise error

    monkeypatch.setattr(f"vitedge.converters.{stage}", end)
    precision = "int8" if stage == "backends.quantize" else "fp32"
    with pytest.raises(raised):
        vitedge.convert(
            small_folder, target="cpu", precision=precision, calib=photos, eval_data=photos, output=tmp_path / "b"
        )
    assert reached == [stage]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", ["dump_manifest", "_flush", "check_output"])
def test_an_interrupt_while_publishing_leaves_nothing(
    moment: str, quick: None, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitedge.converters import publish

    original: Callable[..., Any] = getattr(publish, moment)

    def end(*arguments: Any, **options: Any) -> Any:
        if moment != "check_output" or any(tmp_path.iterdir()):
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(publish, moment, end)
    with pytest.raises(KeyboardInterrupt):
        vitedge.convert(small_folder, target="cpu", precision="fp32", output=tmp_path / "b")
    assert not list(tmp_path.iterdir())
