"""A child that loads a ``.pt2`` as it is, as if no check stood before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.export


def serve(request: dict[str, Any], folder: Path) -> str:
    """Load the program at ``path``."""
    torch.export.load(request["path"]).module(check_guards=False)
    return str(folder)
