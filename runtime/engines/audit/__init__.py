"""The audit of what runs: in which precision and with which kernel an engine computes each layer of a bundle's graph.

The benchmark, the front door and the converters import it. Start with ``openvino``, which reads the runtime model of a
compiled graph; ``openvino_ir`` finds the layers that the graph itself makes int8. The results are ``vitedge.audit``.
"""
