"""Commands to go on with, which run on this machine as they are printed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from vitedge.errors import VitedgeError
from vitedge.extras import require
from vitedge.runtime.outputs.window import check_window
from vitedge.runtime.system.cameras import list_cameras
from vitedge.safety.escape import shell

TEST_PICTURE = "test://?frames=100"


def watch_command(bundle: Path, recorded: str | Path = TEST_PICTURE) -> str:
    """Return the command that classifies the first camera, in a window where one opens.

    Args:
        bundle: path of the bundle.
        recorded: source that takes the place of a camera if this machine has none.
    """
    camera = next((each.path for each in list_cameras() if each.usable), None)
    command = f"vitedge run {shell(str(bundle))} --source {shell(str(recorded if camera is None else camera))}"
    return f"{command} --show" if camera is not None and _opens_windows() else command


def activate_command() -> str:
    """Return the command after which a shell finds ``vitedge``; empty if it does already, or if nothing helps."""
    script = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("vitedge") is not None or not script.is_file():
        return ""
    return f". {shell(os.path.relpath(script))}"


def _opens_windows() -> bool:
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        check_window(require("cv2", extra="window", purpose="showing a window"))
    except VitedgeError:
        return False
    return True
