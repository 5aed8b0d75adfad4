"""Sources of frames: cameras, network streams, videos, images, pipelines, iterables.

The stream, the command line and ``vitedge.calib.data`` import it. Start with ``base``, which defines a source, and
``open``, which opens a source by what it is given. ``video`` decodes with FFmpeg, ``images`` with Pillow, ``gstreamer``
runs pipelines, and ``rtsp`` is a client of network cameras.
"""
