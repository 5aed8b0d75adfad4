"""Print the JSON schema of the manifest: ``python -m vitedge.bundle.schema > vitedge/bundle/manifest.schema.json``."""

from __future__ import annotations

import json
import sys

from vitedge.bundle.manifest import manifest_schema


def schema_text() -> str:
    """Return the text of ``vitedge/bundle/manifest.schema.json``."""
    return json.dumps(manifest_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
