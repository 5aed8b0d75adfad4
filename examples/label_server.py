"""Serve what the camera sees now as JSON over HTTP, for a dashboard or a home-automation hub.

The stream runs in the main thread; the server answers from its own threads with the last prediction, so that no
client, however slow, holds up the camera.

    python examples/label_server.py deit.bundle 0 [--port 8080]
    curl localhost:8080
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import vitedge


class LabelServer(ThreadingHTTPServer):
    """Answers every GET with the last prediction, or 503 while there is none.

    Attributes:
        last: the prediction; replaced as a whole, so that readers need no lock.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), LabelHandler)
        self.last: vitedge.Prediction | None = None


class LabelHandler(BaseHTTPRequestHandler):
    """One request."""

    server: LabelServer
    timeout = 10.0  # seconds that a client may take for its request

    def do_GET(self) -> None:
        """Answer with the last prediction."""
        prediction = self.server.last
        body = json.dumps(None if prediction is None else prediction.to_json()).encode()
        self.send_response(503 if prediction is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Content-Type-Options", "nosniff")  # labels are text, whatever a browser sees in them
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


def main() -> int:
    """Serve until the source ends or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("source", help="camera number, video, folder or address")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    arguments = parser.parse_args()
    with (
        vitedge.load(arguments.bundle) as classifier,
        LabelServer(arguments.port) as server,
        classifier.stream(arguments.source, policy="latest") as predictions,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        for prediction in predictions:
            server.last = prediction
        server.shutdown()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except vitedge.VitedgeError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
