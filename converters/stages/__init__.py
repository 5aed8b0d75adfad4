"""The stages of a conversion, one module each, with typed input and output; no stage reaches back.

``vitedge.converters.pipeline``, which calls them in order, is the only importer, and the place to start reading.
"""
