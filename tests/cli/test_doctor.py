from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitedge.cli import main
from vitedge.cli.doctor import as_text
from vitedge.runtime.system.cameras import Camera
from vitedge.runtime.system.machine import Memory
from vitedge.verbs import doctor
from vitedge.verbs.doctor import Diagnosis, OpenVino, read_opencv_build

DISTRIBUTIONS = {
    "cv2": "opencv-python",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "cuda.bindings": "cuda-bindings",
    "tensorrt_rtx": "tensorrt-rtx",
}


def test_json_is_complete_and_versioned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == 1
    assert set(found) == {
        "version", "vitedge", "python", "system", "numpy", "packages", "processor", "memory", "openvino", "pyav",
        "gstreamer", "opencv", "nvidia", "cameras", "recommendation",
    }  # fmt: skip
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert [each["name"] for each in found["packages"]] == list(doctor.PACKAGES)


def test_text_has_a_line_for_every_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name in doctor.PACKAGES:
        assert re.search(rf"^  {name:<15} \S", printed, re.MULTILINE)


def test_table_names_every_optional_package_of_pyproject(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    listed = {
        (re.split(r"[><=\[;]", requirement)[0], extra)
        for extra, requirements in extras.items()
        for requirement in requirements
        if extra != "dev" and not requirement.startswith(("vitedge[", "opencv-python-headless"))  # listed with windows
    }
    shown = {(DISTRIBUTIONS.get(name, name), extra) for name, extra in doctor.PACKAGES.items()}
    assert shown <= listed
    assert {name for name, _ in shown} == {name for name, _ in listed}


def test_a_missing_package_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else find(name))
    lacking = doctor.doctor()
    packages = {each.name: each for each in lacking.packages}
    assert packages["timm"].version is None
    assert 'timm            not installed: pip install "vitedge[convert]"' in as_text(lacking)
    assert packages["onnx"].version is not None


def test_a_build_without_a_distribution_says_its_own_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jetpack_build.py").write_text("__version__ = '4.8.0'\n")
    (tmp_path / "mute_build.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._version("jetpack_build", []) == "4.8.0"
    assert doctor._version("mute_build", []) == "unavailable"


@pytest.fixture(scope="module")
def diagnosis() -> Diagnosis:
    return doctor.doctor()


def test_what_cannot_be_read_is_unavailable(diagnosis: Diagnosis) -> None:
    blind = replace(
        diagnosis,
        memory=Memory(total=None, available=None),
        openvino=OpenVino(devices=(), capabilities=(), problem="no libopenvino"),
        recommendation=None,
        processor=replace(diagnosis.processor, features=None),
    )
    printed = as_text(blind)
    for line in (
        "memory         unavailable",
        "OpenVINO       unavailable: no libopenvino",
        "instructions   unavailable",
    ):
        assert line in printed
    assert "precision      unavailable" in printed


def test_what_pyav_can_do(diagnosis: Diagnosis) -> None:
    av = pytest.importorskip("av")
    pyav = diagnosis.pyav
    assert (pyav.version, pyav.ffmpeg, pyav.h264_encoder) == (av.__version__, av.ffmpeg_version_info, "libx264")
    assert f"PyAV           {pyav.version}, FFmpeg {pyav.ffmpeg}, writes H.264 with libx264" in as_text(diagnosis)
    without = replace(diagnosis, pyav=replace(pyav, h264_encoder=None))
    assert "has no H.264 encoder" in as_text(without)


def test_the_program_that_reads_csi_cameras(diagnosis: Diagnosis) -> None:
    assert "GStreamer      /usr/bin/gst" in as_text(replace(diagnosis, gstreamer="/usr/bin/gst"))
    lacking = as_text(replace(diagnosis, gstreamer=None))
    assert "GStreamer      not installed, for csi:// and gst: sudo apt-get install gstreamer1.0-tools" in lacking


def test_windows_come_from_opencv(diagnosis: Diagnosis) -> None:
    lacking = replace(diagnosis.opencv, problem="asking OpenCV needs cv2, which is not installed")
    assert "windows        asking OpenCV needs cv2" in as_text(replace(diagnosis, opencv=lacking))
    for gui, said in (("QT5", "OpenCV with QT5"), ("NONE", "none: this OpenCV was built without them")):
        printed = as_text(replace(diagnosis, opencv=replace(lacking, gui=gui, problem="")))
        assert f"windows        {said}" in printed


def test_opencv_build() -> None:
    found = read_opencv_build("  GUI:     GTK3\n\n  Video I/O:\n    FFMPEG:    YES\n    GStreamer:   YES (1.20.3)\n")
    assert (found.gui, found.ffmpeg, found.gstreamer) == ("GTK3", "YES", "YES (1.20.3)")
    assert read_opencv_build("").gstreamer == "unavailable"


def test_cameras_are_listed_with_their_state(diagnosis: Diagnosis) -> None:
    seen = (
        Camera("/dev/video0", "HD Webcam", usable=True, problem=""),
        Camera("/dev/video1", "", usable=False, problem="delivers no video (metadata or output node)"),
    )
    printed = as_text(replace(diagnosis, cameras=seen))
    assert "/dev/video0    HD Webcam: opens" in printed
    assert "/dev/video1    delivers no video" in printed


def test_works_with_numpy_alone() -> None:
    code = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {tuple(doctor.PACKAGES)!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name: None if name in {tuple(doctor.PACKAGES)!r} else find(name)\n"
        "from vitedge.cli import main\n"
        "sys.exit(main(['doctor']))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("not installed: pip install") == len(doctor.PACKAGES)
    assert "OpenVINO       unavailable" in result.stdout
    assert "PyAV           unavailable" in result.stdout


def test_what_there_is_to_run_tensorrt_with() -> None:
    pytest.importorskip("tensorrt_rtx")
    found = doctor.doctor()
    assert any("for RTX" in name for name in found.nvidia.libraries)
    seen = replace(
        found, nvidia=doctor.Nvidia(("TensorRT 10.3.0",), "Orin, compute capability 8.7", "12.6", "36.4.3", ())
    )
    printed = as_text(seen)
    for line in ("TensorRT       TensorRT 10.3.0", "GPU            Orin", "driver         for CUDA 12.6"):
        assert line in printed
    assert "Jetson Linux   36.4.3" in printed
    lacking = as_text(replace(found, nvidia=doctor.Nvidia((), "", "", None, ("no NVIDIA driver",))))
    assert "GPU            unavailable" in lacking
    assert "problem        no NVIDIA driver" in lacking
    assert "this is no Jetson" in lacking


@pytest.mark.parametrize(
    ("quota", "limit", "shown"),
    [
        (1.5, 512 << 20, ["1 usable of 4; the control group's quota is 1.5", "the control group's limit is 512 MiB"]),
        (None, None, ["1 usable of 4\n"]),
    ],
)
def test_the_limits_of_a_container_are_shown(quota: float | None, limit: int | None, shown: list[str]) -> None:
    found = doctor.doctor()
    processor = replace(found.processor, usable_cpus=1, cpus=4, quota=quota)
    text = as_text(replace(found, processor=processor, memory=Memory(8 << 30, 256 << 20, limit)))
    assert [line for line in shown if line not in text] == []
    assert ("control group" in text) == (quota is not None)
