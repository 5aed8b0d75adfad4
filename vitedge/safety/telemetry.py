"""Turn off usage reports of libraries before vitedge imports them.

ONNX Runtime 1.32 queues events with a device ID and looks up a collector's host. OpenVINO's and NNCF's Python packages
report to Google Analytics. Hugging Face's libraries add the caller's versions to each request.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

VARIABLES: Mapping[str, str] = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def disable() -> None:
    """Set the environment variables that turn reports off, unless the application has set them.

    ``openvino_telemetry`` obeys no variable; it becomes unavailable to this process, unless it was imported before.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
