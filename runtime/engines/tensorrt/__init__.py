"""The engine for TensorRT and TensorRT for RTX: plans are built, kept and run on the device, without torch and onnx.

``vitedge.runtime.engines.open`` opens it by name. Start with ``open``, then ``engine``; ``plan_store`` keeps plans on
disk and ``build`` makes them.
"""
