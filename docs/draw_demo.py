"""Draws docs/images/demo.png from a demo's annotated video: ``python docs/draw_demo.py demo-out``."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from PIL import Image

from vitedge.demo.clip import read_frames

FRAME = 90
WIDTH = 820
COLORS = 200


def main() -> None:
    """Take one frame, shrink it, and reduce its colours to keep the repository small."""
    frame = next(itertools.islice(read_frames(Path(sys.argv[1]) / "annotated.mp4"), FRAME, None), None)
    if frame is None:
        raise SystemExit(f"{sys.argv[1]}/annotated.mp4 has no frame {FRAME}; run make demo first")
    picture = Image.fromarray(frame[..., ::-1])
    small = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    output = Path(__file__).parent / "images" / "demo.png"
    output.parent.mkdir(exist_ok=True)
    small.quantize(COLORS, dither=Image.Dither.NONE).save(output, optimize=True)


if __name__ == "__main__":
    main()
