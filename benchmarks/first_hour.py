"""What lies between an empty machine and a result: time, size and commands of vitedge, Ultralytics and Optimum Intel.

    python benchmarks/first_hour.py --page docs/first-hour.md
    python benchmarks/first_hour.py --only ultralytics --page docs/first-hour.md

Each tool starts in an empty folder with an empty home, makes its own virtual environment, and follows its own
documentation: to a demo, to an int8 model from a checkpoint of one's own, to the first label of a camera (RTSP on this
machine), and to a latency. No model is downloaded: vitedge and Optimum Intel get a ViT with the sizes of DeiT-Tiny in
Transformers' layout, Ultralytics builds yolov8n-cls from its YAML; all have random weights. pip takes its index from
the environment, the same for all.

The whole run needs 14 GB of disk at a time, where TMPDIR is, and most of an hour. WORK/first-hour.json has the results
after each tool, and WORK/TOOL-STEP.log what each step printed; `--only` measures one tool again, and keeps the others.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.first_hour_tools import GOALS, LABELS, TOOLS, Tool
from common.pages import write_between
from common.taken import taken_now
from common.walkthrough import Outcome, Step, walk

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from camera_servers.encoding import encode, moving_pictures  # noqa: E402
from camera_servers.servers import missing_packages, rtsp_server  # noqa: E402

from vitedge.files import write_atomic  # noqa: E402
from vitedge.runtime.system.machine import machine_state  # noqa: E402

LIMIT_SECONDS = 3600.0
CAMERA = "CAMERA"


@dataclass(frozen=True)
class Walked:
    """A tool's way.

    Attributes:
        taken: when, UTC.
        machine: processor, CPUs, Python, and how busy it was before.
        outcomes: of its steps, in their order.
    """

    taken: str
    machine: str
    outcomes: tuple[Outcome, ...]

    def leading_to(self, tool: Tool, goal: str) -> list[Outcome]:
        """Return what leads from an empty machine to a goal."""
        return [each for each in self.outcomes if each.step in tool.steps_to(goal)]


def walked(tool: Tool, work: Path, data: Path, *, keep: bool) -> Walked:
    """Follow a tool's documentation in a new folder outside every checkout, which is removed unless it is kept."""
    now, load = taken_now(), machine_state().load_average
    load = load if isinstance(load, str) else round(load, 1)
    folder = Path(tempfile.mkdtemp(prefix=f"first-hour-{tool.name}-"))
    work.mkdir(parents=True, exist_ok=True)
    lay_out(folder, data)
    outcomes: list[Outcome] = []
    for step in tool.steps:
        if not tool.can_go_on(step.name, {each.step for each in outcomes if each.exit_code}):
            continue
        sys.stderr.write(f"{tool.name}: {step.commands[-1]}\n")
        outcomes.append(taken(step, tool, folder, work))
        sys.stderr.write(f"  {outcomes[-1].exit_code}, {outcomes[-1].seconds} s {outcomes[-1].error}\n")
    if keep:
        sys.stderr.write(f"{tool.name}: kept in {folder}\n")
    else:
        shutil.rmtree(folder)
    machine = f"{now.processor}, {now.cpus} CPUs, Python {now.python}; load average before: {load}"
    return Walked(now.date, machine, tuple(outcomes))


def taken(step: Step, tool: Tool, folder: Path, work: Path) -> Outcome:
    """Take a step, with a camera if it wants one."""
    texts = [*step.commands, *step.files.values()]
    with camera(work) if any(CAMERA in text for text in texts) else nullcontext("") as address:
        return walk(
            step,
            folder,
            activate=tool.activate,
            names={"ADDRESS": str(ROOT), CAMERA: address},
            limit=LIMIT_SECONDS,
            log=work / f"{tool.name}-{step.name}.log",
        )


@contextmanager
def camera(folder: Path) -> Iterator[str]:
    """Serve a moving picture by RTSP, in H.264 with 30 frames a second, and give its address."""
    clip = encode(folder / "camera.clip", moving_pictures(90), "h264")
    with rtsp_server(folder, {"/camera": [clip]}) as server:
        yield server.url("/camera")


def lay_out(folder: Path, data: Path) -> None:
    """Give a new user photos and a checkpoint of their own; ``photos/train`` is ``photos/calib`` by another name."""
    photos = folder / "photos"
    for part, source in (("calib", "calib"), ("train", "calib"), ("val", "val")):
        for label in LABELS:
            shutil.copytree(data / "flowers" / source / label, photos / part / label, copy_function=shutil.copyfile)
    write_checkpoint(folder / "my-model")


def write_checkpoint(folder: Path) -> None:
    """Write a ViT with the sizes of DeiT-Tiny and random weights, as ``save_pretrained`` does."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
    from transformers.utils import logging as transformers_logging

    names = dict(enumerate(LABELS))
    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, id2label=names)
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)


def kept(path: Path) -> dict[str, Walked]:
    """Read what was measured before."""
    if not path.is_file():
        return {}
    read: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Walked(each["taken"], each["machine"], tuple(outcome(step) for step in each["outcomes"]))
        for name, each in read.items()
    }


def outcome(fields: Mapping[str, Any]) -> Outcome:
    """Build an outcome from its JSON."""
    return Outcome(**{**fields, "commands": tuple(fields["commands"])})


def page(measured: Mapping[str, Walked]) -> str:
    """Return both tables and the errors as Markdown."""
    tools = [tool for tool in TOOLS if tool.name in measured]
    lines = [f"- {tool.title}: {measured[tool.name].taken}, {measured[tool.name].machine}." for tool in tools]
    lines += ["", "| from an empty machine to | with | commands | seconds | MB | packages | lines of Python |"]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [goal_row(goal, tool, measured[tool.name]) for goal in GOALS for tool in tools]
    lines += ["", "| with | commands | seconds | MB | error |", "|---|---|---|---|---|"]
    lines += [step_row(tool, each) for tool in tools for each in measured[tool.name].outcomes]
    return "\n".join(lines)


def goal_row(goal: str, tool: Tool, walked: Walked) -> str:
    """Return the line of a goal."""
    if goal in tool.absent:
        return f"| {goal} | {tool.title} | none: {tool.absent[goal]} | | | | |"
    steps = walked.leading_to(tool, goal)
    failed = [each for each in steps if each.exit_code]
    seconds = f"{sum(each.seconds for each in steps):.0f}"
    cells = [
        str(sum(len(each.commands) for each in steps)),
        f"failed after {seconds}" if failed else seconds,
        f"{sum(each.megabytes for each in steps):.0f}",
        str(sum(each.packages for each in steps)),
        str(sum(each.lines_of_code for each in steps)),
    ]
    return f"| {' | '.join([goal, tool.title, *cells])} |"


def step_row(tool: Tool, taken: Outcome) -> str:
    """Return the line of a step."""
    commands = "<br>".join(f"`{command}`" for command in taken.commands)
    error = f"{taken.exit_code}: `{taken.error}`" if taken.exit_code else ""
    cells = [tool.title, commands, f"{taken.seconds:.0f}", f"{taken.megabytes:.0f}", error]
    return f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep the results, and write the page if there is one; 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/first-hour"))
    parser.add_argument("--only", choices=[tool.name for tool in TOOLS], help="measure this tool alone")
    parser.add_argument("--keep", action="store_true", help="leave the folders of the tools, of some GB each")
    parser.add_argument("--page", type=Path)
    given = parser.parse_args(arguments)
    if missing_packages():
        print(f"no RTSP server: {missing_packages()}", file=sys.stderr)
        return 1
    results = given.work.resolve() / "first-hour.json"
    measured = kept(results)
    for tool in TOOLS:
        if given.only in (None, tool.name):
            measured[tool.name] = walked(tool, results.parent, given.data.resolve(), keep=given.keep)
            write_atomic(results, json.dumps({name: asdict(each) for name, each in measured.items()}, indent=1) + "\n")
    if given.page is not None:
        write_between(given.page, "first hour", page(measured))
    print(page(measured))
    return int(any(each.exit_code for one in measured.values() for each in one.outcomes))


if __name__ == "__main__":
    sys.exit(main())
