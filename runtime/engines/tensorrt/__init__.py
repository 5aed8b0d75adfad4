"""Engines of TensorRT and TensorRT for RTX: kept and run on the device. Needs neither torch nor onnx.

``vitedge.runtime.engines`` opens it by name. Start with ``open``, then ``engine``; ``build`` compiles plans.
"""
