from __future__ import annotations

import errno
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.converters.openvino.backend import write_ir
from vitedge.converters.publish import BUNDLE_NAMES, check_output, file_records, publish, staged
from vitedge.converters.rewrites.apply import Rewritten
from vitedge.converters.sources.torch_model import TorchModel
from vitedge.errors import BundleSchemaError, ConversionError, UsageError
from vitedge.safety.limits import MANIFEST_BYTES

FULL = Path("/dev/full")


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def copy_of(bundle: Bundle, partial: Path) -> None:
    for name in bundle.manifest.files:
        (partial / name).parent.mkdir(exist_ok=True)
        shutil.copy(bundle.path / name, partial / name)


def test_a_bundle_appears_whole(tmp_path: Path, tiny_bundle: Bundle) -> None:
    output = tmp_path / "new.bundle"
    with staged(output) as partial:
        assert partial.parent == tmp_path
        assert partial.name.startswith(".new.bundle.partial-")
        copy_of(tiny_bundle, partial)
        assert not output.exists()
        published = publish(partial, output, tiny_bundle.manifest)
    assert published == Bundle.open(output)
    assert names(tmp_path) == ["new.bundle"]
    assert output.stat().st_mode & 0o777 == 0o755


STAGING = """
import os, signal, sys
from pathlib import Path
from vitedge.converters.publish import staged
with staged(Path(sys.argv[1])) as partial:
    (partial / "model.onnx").write_bytes(b"half")
    (partial / "openvino").mkdir()
    (partial / "candidates-abc").mkdir()
    print(partial.name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process amid a conversion, and the name of its folder."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", STAGING, str(tmp_path / "other.bundle")]
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        yield process, process.stdout.readline().strip()
        process.kill()


def test_what_a_killed_conversion_left_is_removed_by_the_next(
    tmp_path: Path, staging: tuple[subprocess.Popen[str], str]
) -> None:
    process, left = staging
    process.kill()
    process.wait()
    assert names(tmp_path) == [left]
    with staged(tmp_path / "new.bundle") as partial:
        assert names(tmp_path) == [partial.name]


def test_what_a_running_conversion_writes_stays(tmp_path: Path, staging: tuple[subprocess.Popen[str], str]) -> None:
    process, written = staging
    for _ in range(2):
        with staged(tmp_path / "other.bundle"):
            assert (tmp_path / written / "model.onnx").read_bytes() == b"half"
    assert process.poll() is None


def test_hidden_folders_of_others_stay(tmp_path: Path) -> None:
    """Only what has the name of a partial bundle, and holds what one does, is taken for one."""
    for name in (".new.bundle.partial-abcdefgh", ".download.partial-0123", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / ".file.partial-abcdefgh").write_text("mine", encoding="utf-8")
    before = sorted(names(tmp_path))
    with staged(tmp_path / "new.bundle"):
        pass
    assert sorted(names(tmp_path)) == before


def test_a_folder_that_is_taken_for_abandoned_before_it_is_held_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, list[str]()

    def overtaken(**arguments: Any) -> str:
        made.append(make(**arguments))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr("vitedge.converters.publish.tempfile.mkdtemp", overtaken)
    with staged(tmp_path / "new.bundle") as partial:
        assert str(partial) == made[1]
        assert partial.is_dir()


def test_a_manifest_that_could_not_be_read_again_is_not_published(tmp_path: Path, tiny_bundle: Bundle) -> None:
    output = tmp_path / "new.bundle"
    verification = tiny_bundle.manifest.verification
    broken = replace(verification.precision_against_fp32, sqnr_db=math.nan)
    manifest = replace(tiny_bundle.manifest, verification=replace(verification, precision_against_fp32=broken))
    with staged(output) as partial:
        copy_of(tiny_bundle, partial)
        with pytest.raises(BundleSchemaError, match="sqnr_db"):
            publish(partial, output, manifest)
    assert not output.exists()


def test_labels_that_make_the_manifest_too_large_are_refused(tmp_path: Path, tiny_bundle: Bundle) -> None:
    model = replace(tiny_bundle.manifest.model, labels=("x" * MANIFEST_BYTES, "y", "z"))
    with staged(tmp_path / "new.bundle") as partial, pytest.raises(UsageError, match="for 3 labels") as caught:
        publish(partial, tmp_path / "new.bundle", replace(tiny_bundle.manifest, model=model))
    assert "labels=" in caught.value.fix


def test_records_are_of_all_files_but_the_manifest(tiny_bundle: Bundle) -> None:
    assert file_records(tiny_bundle.path) == tiny_bundle.manifest.files


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, ConversionError("bad")])
def test_nothing_is_left_after_an_error(tmp_path: Path, error: type[BaseException] | BaseException) -> None:
    def fail() -> None:
        with staged(tmp_path / "new.bundle") as partial:
            (partial / "model.onnx").write_bytes(b"half")
            raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_an_existing_output_is_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    output = tmp_path / "old.bundle"
    make(output)
    with pytest.raises(UsageError, match="exists already"), staged(output):
        pytest.fail("it must not start")
    assert names(tmp_path) == ["old.bundle"]


def test_an_output_that_appears_meanwhile_is_left_alone(tmp_path: Path, tiny_bundle: Bundle) -> None:
    output = tmp_path / "new.bundle"

    def convert() -> None:
        with staged(output) as partial:
            copy_of(tiny_bundle, partial)
            output.mkdir()
            publish(partial, output, tiny_bundle.manifest)

    with pytest.raises(UsageError, match="exists already"):
        convert()
    assert [path.name for path in tmp_path.rglob("*")] == ["new.bundle"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing does not exist") as caught:
        check_output(tmp_path / "missing" / "new.bundle")
    assert "mkdir" in caught.value.fix


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**arguments: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("vitedge.converters.publish.tempfile.mkdtemp", refuse)
    with pytest.raises(UsageError, match="cannot write into"), staged(tmp_path / "new.bundle"):
        pytest.fail("it must not start")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(tmp_path: Path, number: int) -> None:
    def fill() -> None:
        with staged(tmp_path / "new.bundle"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(ConversionError, match="is full"):
        fill()
    assert not list(tmp_path.iterdir())


def test_other_errors_of_the_disk_keep_their_name(tmp_path: Path) -> None:
    def fail() -> None:
        with staged(tmp_path / "new.bundle"):
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        fail()


@pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")
def test_a_device_that_is_full(tmp_path: Path) -> None:
    def fill() -> None:
        with staged(tmp_path / "new.bundle") as partial:
            (partial / "model.onnx").symlink_to(FULL)
            (partial / "model.onnx").write_bytes(bytes(1 << 20))

    with pytest.raises(ConversionError, match="is full"):
        fill()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_openvino_says_nothing_of_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_graph: Rewritten, small_model: TorchModel, name: str
) -> None:
    def fill() -> None:
        with staged(tmp_path / "new.bundle") as partial:
            (partial / "model.onnx").write_bytes(small_graph.graph.SerializeToString())
            (partial / "openvino").mkdir()
            (partial / "openvino" / name).symlink_to(FULL)
            write_ir(partial / "model.onnx", partial / "openvino" / "model.xml", small_model.card, "fp32")

    with pytest.raises(ConversionError, match="OpenVINO cannot convert the graph"):
        fill()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    with pytest.raises(ConversionError, match="is full"):
        fill()
    assert not list(tmp_path.iterdir())


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_impatient_signal_does_not_stop_the_cleaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    remove = shutil.rmtree

    def disturbed(path: Path, **options: bool) -> None:
        signal.raise_signal(number)
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", disturbed)

    def fail() -> None:
        with staged(tmp_path / "new.bundle"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


def test_other_threads_can_convert(tmp_path: Path) -> None:
    seen = []

    def convert() -> None:
        with staged(tmp_path / "new.bundle") as partial:
            seen.append(partial.is_dir())

    thread = threading.Thread(target=convert)
    thread.start()
    thread.join()
    assert seen == [True]


class TestOverwrite:
    def test_a_bundle_replaces_another_when_it_is_whole(self, tmp_path: Path, tiny_bundle: Bundle) -> None:
        output = tmp_path / "old.bundle"
        (output / "tensorrt").mkdir(parents=True)
        (output / "manifest.json").write_text("damaged")
        with staged(output, overwrite=True, names=BUNDLE_NAMES) as partial:
            copy_of(tiny_bundle, partial)
            assert (output / "manifest.json").read_text() == "damaged"
            publish(partial, output, tiny_bundle.manifest, overwrite=True)
        assert Bundle.open(output).manifest == tiny_bundle.manifest
        assert names(tmp_path) == ["old.bundle"]

    def test_a_failure_leaves_the_old_one(self, tmp_path: Path) -> None:
        (tmp_path / "old.bundle").mkdir()
        (tmp_path / "old.bundle" / "manifest.json").write_text("old")
        with pytest.raises(ConversionError), staged(tmp_path / "old.bundle", overwrite=True, names=BUNDLE_NAMES):
            raise ConversionError("no")
        assert (tmp_path / "old.bundle" / "manifest.json").read_text() == "old"
        assert names(tmp_path) == ["old.bundle"]

    def test_files_of_others_are_not_lost(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(UsageError, match=r"would be lost: thesis\.tex"):
            check_output(tmp_path, overwrite=True, names=BUNDLE_NAMES)

    @pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
    def test_only_a_folder_is_replaced(self, tmp_path: Path, make: Callable[[Path], None]) -> None:
        make(tmp_path / "old.bundle")
        with pytest.raises(UsageError, match="is no folder"):
            check_output(tmp_path / "old.bundle", overwrite=True)


def test_nothing_is_published_into_a_bundle(tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="lies in the bundle"):
        check_output(tiny_bundle.path / "inner.bundle")
