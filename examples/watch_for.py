"""Say when a class comes into view and when it is gone.

A class counts as there once it has led with a sufficient score for a while, and as gone once it has not for as long:
single frames, which every classifier gets wrong now and then, change nothing.

    python examples/watch_for.py deit.bundle 0 "water bottle" [--score 0.5] [--seconds 0.5]
"""

from __future__ import annotations

import argparse
import sys
import time

import vitedge


class Presence:
    """Whether a class is in view, slow to change its mind.

    Args:
        label: the class.
        score: least probability that counts.
        seconds: for how long a change must last.
    """

    def __init__(self, label: str, *, score: float, seconds: float) -> None:
        self.there = False
        self._label = label
        self._score = score
        self._seconds = seconds
        self._differs_since: int | None = None

    def update(self, prediction: vitedge.Prediction) -> bool:
        """Take one prediction; True where ``there`` has just changed."""
        moment = prediction.captured_ns or 0  # monotonic: the wall clock of a board may jump
        seen = prediction.label == self._label and prediction.score >= self._score
        if seen == self.there:
            self._differs_since = None
            return False
        if self._differs_since is None:
            self._differs_since = moment
        if moment - self._differs_since < self._seconds * 1e9:
            return False
        self.there, self._differs_since = seen, None
        return True


def main() -> int:
    """Watch until the source ends or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("source", help="camera number, video, folder or address")
    parser.add_argument("label")
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=0.5)
    arguments = parser.parse_args()
    presence = Presence(arguments.label, score=arguments.score, seconds=arguments.seconds)
    with vitedge.load(arguments.bundle) as classifier:
        if arguments.label not in classifier.labels:
            parser.error(f"this model does not know {arguments.label!r}")
        # "latest": what is in view now matters, and a video is played at its own speed.
        with classifier.stream(arguments.source, policy="latest") as predictions:
            for prediction in predictions:
                if presence.update(prediction):
                    moment = time.strftime("%H:%M:%S", time.localtime(prediction.captured_at))
                    print(f"{moment} {arguments.label} {'came' if presence.there else 'went'}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except vitedge.VitedgeError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
