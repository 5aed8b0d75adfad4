"""ONNX files from untrusted sources: read within limits, checked, and first run in a sandbox.

The converters import it. Start with ``models``; ``worker`` is the sandboxed child, ``graph_check`` and ``files`` check
what it may see.
"""
