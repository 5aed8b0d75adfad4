"""From a camera's frame to the network's input, like timm's evaluation transform, with numpy alone.

The classifier, the sources and ``vitedge.calib`` import it. Start with ``preprocessor``; ``pillow_resample`` and
``planar`` resize.
"""
