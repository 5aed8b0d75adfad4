"""Sources of frames: images, videos, cameras, network streams, iterables.

The stream, the command line and ``vitedge.calib.data`` import it. Start with ``base``, which defines a source, and
``open``, which opens a source by what it is given. ``capture`` reads cameras, videos and network streams with OpenCV;
``images`` decodes image files.
"""
