"""Sources of frames: cameras, network streams, videos, images, pipelines, iterables.

The stream, the command line and ``vitedge.calib.data`` import it. Start with ``base``, which defines a source, and
``open``, which opens a source by what it is given. ``decoder`` turns what PyAV has opened into frames; ``v4l2``,
``network``, ``video_file`` and ``gstreamer`` open it. ``clock`` dates the frames of a live source, and ``causes``
describes the errors of FFmpeg. ``images`` decodes image files.
"""
