"""From a camera's frame to the network's input, equal to timm's evaluation transform, with numpy alone.

The classifier and ``vitedge.calib.data`` import it. Start with ``preprocessor``.
"""
