"""Engines of TensorRT and TensorRT for RTX: built, kept and run on the device. Needs neither torch nor onnx."""
