"""A window shows the frames, and closing it ends the stream."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from vitedge.errors import VitedgeError
from vitedge.runtime.outputs import window
from vitedge.runtime.outputs.base import deliver
from vitedge.runtime.outputs.window import Window

cv2 = pytest.importorskip("cv2")
pytest.importorskip("av")
pytest.importorskip("PIL.Image")

from predictions import RecordingOutput, prediction  # noqa: E402 - needs PyAV


class FakeScreen:
    """The windows of OpenCV, on no screen."""

    WND_PROP_VISIBLE, WINDOW_NORMAL = cv2.WND_PROP_VISIBLE, cv2.WINDOW_NORMAL
    WINDOW_KEEPRATIO, WINDOW_GUI_NORMAL = cv2.WINDOW_KEEPRATIO, cv2.WINDOW_GUI_NORMAL

    error = cv2.error

    def __init__(self, *, keys: str = "", visible: bool | None = True) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.shown: list[np.ndarray] = []
        self.destroyed = 0
        self._keys = list(keys)
        self._visible = visible

    def namedWindow(self, title: str, flags: int) -> None:  # noqa: N802
        assert not flags & cv2.WINDOW_AUTOSIZE
        self.title = title

    def resizeWindow(self, title: str, width: int, height: int) -> None:  # noqa: N802
        self.sizes.append((width, height))

    def imshow(self, title: str, image: np.ndarray) -> None:
        self.shown.append(image)

    def getWindowProperty(self, title: str, name: int) -> float:  # noqa: N802
        if self._visible is None:
            raise cv2.error("NULL guiReceiver")
        return 1.0 if self._visible else 0.0

    def waitKey(self, milliseconds: int) -> int:  # noqa: N802
        return ord(self._keys.pop(0)) if self._keys else -1

    def destroyAllWindows(self) -> None:  # noqa: N802
        self.destroyed += 1


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch):
    """Open a ``Window`` on a fake screen."""

    def opened(screen: FakeScreen, **arguments: str) -> Window:
        monkeypatch.setattr(window, "require", lambda *_, **__: screen)
        monkeypatch.setattr(window, "check_window", lambda _: None)
        return Window(**arguments)

    return opened


class TestWindow:
    @pytest.mark.parametrize("key", ["q", "\x1b"])
    def test_q_and_escape_end_the_stream(self, key: str, show):
        screen, rest = FakeScreen(keys=f"a{key}"), RecordingOutput()
        deliver([prediction(number) for number in range(5)], [show(screen), rest])
        assert (len(screen.shown), rest.frames, screen.destroyed) == (2, [0], 1)

    def test_a_title_holds_no_control_characters(self, show):
        screen = FakeScreen()
        deliver([prediction(0)], [show(screen, title="door\0\x1b[2J\udcff")])
        assert screen.title == r"door\x00\x1b[2J\udcff"

    @pytest.mark.parametrize("visible", [False, None], ids=["GTK", "Qt"])
    def test_closing_the_window_ends_the_stream(self, visible: bool | None, show):
        screen, rest = FakeScreen(visible=visible), RecordingOutput()
        deliver([prediction(number) for number in range(5)], [show(screen), rest])
        assert (len(screen.shown), rest.frames, screen.destroyed) == (1, [0], 1)

    @pytest.mark.parametrize(
        ("height", "width", "expected"),
        [(480, 640, (640, 480)), (2160, 3840, (1280, 720)), (1920, 1080, (405, 720))],
    )
    def test_the_window_fits_the_screen(self, height: int, width: int, expected: tuple[int, int], show):
        screen = FakeScreen()
        deliver([prediction(number, height=height, width=width) for number in range(2)], [show(screen)])
        assert screen.sizes == [expected]

    def test_a_build_without_windows_is_one_clear_error(self):
        if "GUI:                           NONE" not in cv2.getBuildInformation():
            pytest.skip("this OpenCV has windows")
        with pytest.raises(VitedgeError, match="built without windows") as raised:
            Window()
        assert 'pip install "vitedge[window]"' in raised.value.fix

    @pytest.mark.parametrize("failure", [{"returncode": -6}, {"error": subprocess.TimeoutExpired("python", 20)}])
    def test_no_screen_is_one_clear_error(self, failure: dict[str, object], monkeypatch: pytest.MonkeyPatch):
        def probe(*_: object, **__: object) -> object:
            if "error" in failure:
                raise failure["error"]
            return subprocess.CompletedProcess([], failure["returncode"])

        monkeypatch.setattr(subprocess, "run", probe)
        monkeypatch.setenv("DISPLAY", ":77")
        with pytest.raises(VitedgeError, match=r"cannot open a window \(DISPLAY is :77\)"):
            window.check_window(type("Build", (), {"getBuildInformation": lambda: "GUI: QT5"}))
