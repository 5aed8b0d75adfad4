"""A bundle in the form that other inference servers and pipelines read: DeepStream, Triton.

The command line imports ``export``, which is where to start; each other module writes one format or a part of one.
"""
