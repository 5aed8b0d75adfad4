"""Accuracy of any classifier on a set of images, and the differences between two classifiers.

The converters, the command line and the demo import it. Start with ``accuracy``; ``predictions`` is the table that
``workers`` or a Dask cluster fill and that ``resume_log`` keeps.
"""
