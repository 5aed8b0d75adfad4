"""ONNX files that strangers made: read within bounds, checked, run first in a sandbox.

``vitedge.converters.pipeline`` imports ``models``, which is where to start; ``worker`` is the sandboxed child.
"""
