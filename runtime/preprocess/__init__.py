"""From a camera's frame to the network's input, like timm's evaluation transform, with numpy alone.

The classifier, the sources and ``vitedge.calib`` import it. Start with ``preprocessor``. ``pillow_resample`` resizes
pixels, ``swscale`` the frames of FFmpeg's decoders, and ``planar`` planes that come from elsewhere.
"""
