"""Streams: the threads between a source of frames and the code that consumes their predictions.

The classifier imports it. Start with ``stream``; ``queue`` is the bounded queue between two threads.
"""
