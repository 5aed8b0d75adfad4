"""Exports of a bundle for other inference servers and pipelines: DeepStream, Triton and optimum-intel.

``vitedge.export`` is ``export.export``, the place to start; each other module writes one format, or a part of one.
"""
