"""The version of vitedge. ``pyproject.toml`` repeats it, and a test compares both."""

VERSION = "0.1.0"
