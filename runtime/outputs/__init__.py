"""Outputs of a stream: lines of JSON, an annotated video, a window, a function.

The command line, the demo and applications import it. Start with ``sinks``.
"""
