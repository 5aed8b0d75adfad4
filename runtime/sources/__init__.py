"""Sources of frames: images, videos, cameras, network streams, iterables.

The stream, the command line and applications import it. Start with ``open``, which decides by what it is given;
``base`` holds the Protocol.
"""
