"""Frames in, predictions out: the threads between a source and the code that consumes its predictions.

The classifier imports it. Start with ``stream``; ``queue`` is the bounded queue between two threads.
"""
