"""The short form of ``benchmarks/soak.py`` with a real camera, which is switched off and on."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("av")

from camera_servers.servers import RtspServer
from endurance.soak import soak_camera

from vitedge.runtime.sources.options import NetworkOptions

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_thread_survives")]

SECONDS = 10.0


def test_a_camera_that_is_switched_off_and_on_leaves_nothing(camera: RtspServer) -> None:
    def switch() -> None:
        camera.kill()
        camera.start()

    timer = threading.Timer(SECONDS / 3, switch)
    timer.start()
    soaked = soak_camera(camera.url("/cam"), SECONDS, samples=20, options=NetworkOptions(read_timeout=2.0))
    timer.join()
    first, last = soaked.footprints[0], soaked.footprints[-1]
    assert soaked.is_exact
    assert soaked.stats.reconnects == 1
    assert last.threads <= first.threads
    assert last.descriptors <= first.descriptors
