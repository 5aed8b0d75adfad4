"""Draws docs/images/latency.svg from the table of DeiT-Tiny in docs/benchmarks.md: ``python docs/draw_latency.py``."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
MODEL = "deit_tiny_patch16_224"
NAMES = {
    "vitedge int8": "vitedge int8",
    "NNCF default int8, OpenVINO's own IR, uint8 frame": "NNCF int8, OpenVINO",
    "vitedge fp16": "vitedge fp16",
    "vitedge fp32": "vitedge fp32",
    "ONNX Runtime fp32": "ONNX Runtime fp32",
    "torch.compile": "torch.compile fp32",
}
"""Rows of the table, and what the plot calls them."""

WIDTH, ROW, LEFT, RIGHT, TOP = 820, 30, 176, 60, 40
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1b1f24; } .note { font-size: 12px; fill: #626a74; }
.bar { fill: #9db4cc; } .ours { fill: #0b6bcb; }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9ed; } .note { fill: #9aa3ad; } .bar { fill: #46586b; } .ours { fill: #5aa9f5; } }
"""


def drawing(page: str) -> str:
    """Return the SVG for the text of the page of benchmarks."""
    section = page.split(f"### {MODEL}\n")[1].split("\n#")[0]
    found = dict(re.findall(r"^\| (.+?) \| ([\d.]+) \(", section, re.MULTILINE))
    where = re.search(r"Taken [\d-]+\. [^;\n]+", page.split("## Latency of int8")[1])
    assert where
    times = [(shown, float(found[name])) for name, shown in NAMES.items()]
    longest = max(time for _, time in times)
    height = TOP + ROW * len(times) + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"><style>{STYLE}</style>',
        f"<title>Latency of {MODEL}</title>",
        '<text x="0" y="18">DeiT-Tiny, one image at a time: median latency in ms, shorter is better</text>',
    ]
    for row, (name, time) in enumerate(times):
        y, length = TOP + ROW * row, (WIDTH - LEFT - RIGHT) * time / longest
        kind = "ours" if name.startswith("vitedge") else "bar"
        lines += [
            f'<text x="{LEFT - 10}" y="{y + 16}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{ROW - 8}" rx="2"/>',
            f'<text x="{LEFT + length + 8:.1f}" y="{y + 16}">{time:.1f}</text>',
        ]
    lines.append(f'<text class="note" x="0" y="{height - 6}">{escape(where[0])}; docs/benchmarks.md</text></svg>\n')
    return "\n".join(lines)


def main() -> None:
    """Draw it."""
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    (DOCS / "images" / "latency.svg").write_text(drawing(page), encoding="utf-8")


if __name__ == "__main__":
    main()
