"""``docs/jetson.md`` says of JetPack and of the targets what the code knows."""

from __future__ import annotations

import re
from pathlib import Path

from vitedge.bundle.targets import TARGETS
from vitedge.cli.targets import release_rows

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "jetson.md").read_text(encoding="utf-8")


def test_the_table_of_jetpacks() -> None:
    start = PAGE.splitlines().index("| JetPack | L4T | TensorRT | CUDA | Python | targets |") + 2
    known = list(release_rows())
    lines = PAGE.splitlines()[start : start + len(known)]
    assert [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines] == known


def test_every_target_that_it_names_is_one() -> None:
    names = {target.name for target in TARGETS}
    assert set(re.findall(r"jetson-[a-z]+(?:-[a-z]+)?", PAGE)) <= names


def test_its_python_is_python() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        compile(block, "jetson.md", "exec")
