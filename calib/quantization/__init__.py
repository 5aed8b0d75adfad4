"""Post-training quantization: an FP32 graph and images become a Q/DQ graph.

The converters and ``vitedge.calib.sensitivity`` import it. Start with ``ptq``, which is the algorithm from top to
bottom; each other module is one step of it.
"""
