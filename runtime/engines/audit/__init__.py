"""The audit of what runs: in which precision and with which kernel an engine computes each layer of a bundle's graph.

The benchmark and the converters import it. Start with ``engine``, which chooses the reader of an engine: ``openvino``
reads the execution graph, and ``openvino_ir`` finds the layers that an IR makes int8; ``onnxruntime`` reads a profile,
``tensorrt`` the layers of a plan. The results are in ``vitedge.audit``.
"""
