"""The ONNX graph library, on onnx_ir: layers with weights, channel tracing, bounds of what operators read.

``vitedge.calib`` and ``vitedge.converters`` read and change graphs through it; the runtime must not import it. Start
with ``layers``.
"""
