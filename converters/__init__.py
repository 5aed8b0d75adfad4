"""Checkpoint to Bundle."""

if not __name__.startswith("vitedge."):
    raise ImportError("import vitedge.converters: this folder is installed as a part of the vitedge package")
