"""The child process of ``sandbox``: ``python -m vitedge.safety.sandbox_child``, with an order on standard input."""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from vitedge.errors import VitedgeError
from vitedge.safety import confinement

RESULT = "sandbox-result.json"
OUT_OF_MEMORY = ("allocate memory", "bad_alloc", "bad allocation", "out of memory", "Cannot allocate")


def main() -> None:
    """Carry out one order, write its result, and exit."""
    order = json.load(sys.stdin)
    confinement.die_with(order["parent"])
    folder = Path(order["folder"])
    landlocked = confinement.forbid_writing(folder)
    serve = importlib.import_module(order["module"]).serve
    confinement.restrict(
        [folder, *map(Path, order["readable"])],
        **{name: order[name] for name in ("memory_bytes", "seconds", "file_bytes")},
    )
    _tell(order["ready"], {"memory": confinement.anonymous_bytes(), "landlock": landlocked})
    written = json.dumps(_outcome(serve, order["request"], folder), allow_nan=False)
    (folder / RESULT).write_text(written, encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # the libraries' own clean-up may crash or wait


def _tell(descriptor: int, message: dict[str, Any]) -> None:
    with os.fdopen(descriptor, "w") as stream:
        json.dump(message, stream)


def _outcome(serve: Any, request: Any, folder: Path) -> dict[str, Any]:
    try:
        return {"result": serve(request, folder)}
    except VitedgeError as error:
        return {"error": {"kind": type(error).__name__, **_texts(error)}}
    except MemoryError:
        return {"limit": "memory"}
    except Exception as error:  # noqa: BLE001  # libraries raise anything on an untrusted file
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            return {"limit": "file"}
        if any(words in str(error) for words in OUT_OF_MEMORY):
            return {"limit": "memory"}
        return {"crash": f"{type(error).__name__}: {error}"[:1000]}


def _texts(error: VitedgeError) -> dict[str, str]:
    return {"problem": error.problem, "expected": error.expected, "fix": error.fix}


if __name__ == "__main__":
    main()
