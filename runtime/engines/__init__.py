"""Engines: each runs a compiled graph of a bundle, in one thread, after a self-test against the golden vectors.

``vitedge.runtime.load`` imports it, and converters do to verify a bundle. Start with ``base``, which holds the
Protocol, and ``open``, the table of engines; ``openvino``, ``onnxruntime`` and ``tensorrt`` implement it, ``self_test``
tests them.
"""
