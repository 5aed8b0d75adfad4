"""What FFmpeg decodes, through PyAV: video files, network streams and V4L2 cameras.

``vitedge.runtime.sources.open`` and ``gstreamer`` import it. Start with ``decoder``, which makes frames of ``packets``;
``file``, ``network``, ``rtsp`` and ``v4l2`` open them. ``clock`` finds times of capture, ``causes`` names errors,
``containers`` checks files before FFmpeg sees them.
"""
