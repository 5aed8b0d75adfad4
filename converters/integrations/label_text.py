"""Labels in the text files of other tools, which have no escapes."""

from __future__ import annotations

from collections.abc import Sequence

from vitedge.errors import UsageError
from vitedge.safety.escape import terminal

NAMES_SHOWN = 4


def label_text(labels: Sequence[str], *, separator: str, tool: str) -> str:
    """Write labels exactly as they are, with a separator between them and a line break at the end.

    Args:
        labels: one label for each logit.
        separator: of the tool.
        tool: name of the tool, for the error.

    Raises:
        UsageError: a label is empty, begins or ends with white space, or has the separator, a line break or a control
            character.
    """
    unfit = [f"{index} {label!r}" for index, label in enumerate(labels) if not _fits(label, separator)]
    if unfit:
        more = f" and {len(unfit) - NAMES_SHOWN} more" if len(unfit) > NAMES_SHOWN else ""
        raise UsageError(
            f"labels cannot be written for {tool}: {', '.join(unfit[:NAMES_SHOWN])}{more}",
            expected=f"labels without {separator!r}, line breaks and control characters, and none that is empty",
            fix="convert the model again with labels=FILE, one label a line",
        )
    return separator.join(labels) + "\n"


def _fits(label: str, separator: str) -> bool:
    return bool(label) and label == label.strip() and separator not in label and terminal(label) == label
